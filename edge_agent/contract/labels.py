"""``up/label``: what turned out to be true of answers, one row each, with what was answered.

Rows carry the predicted class or value, so the server needs no join. They are numbered within a
boot and sent in order, one message at a time; the server counts a number once and acknowledges
with ``labels`` ranges in ``down/telack``. Where an answer has several targets or labels a row is of
one of them; a message with such rows is version 2, any other keeps the bytes of version 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.digits import decode_boot
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.outputs import TARGET_CHARS_MAX

LABELS_BYTES_MAX = 65_536
LABEL_ROWS_MAX = 500
LABEL_PACKAGES_MAX = 64
NAMED_VERSION = 2
NAMED_PACKAGES_MAX = LABEL_ROWS_MAX
"""Of version 2, where each target or label of a package is one by itself."""
CLASSES_MAX = 256
_ARTIFACT_DIGITS = 16
_SEQUENCE_MAX = 2**53


class LabelRow(NamedTuple):
    """One label.

    Attributes:
        sequence: Counts the labels of the outbox from 1; gaps are labels that were dropped.
        artifact: First 8 bytes of the sha256 of the package that answered.
        is_class: Whether the numbers are indices of classes, else values of a regression.
        predicted: What was answered.
        label: What turned out to be true.
        at_ms: When it was answered, epoch milliseconds by the device's clock.
        name: Of the target or label; empty where an answer is one class or value.
    """

    sequence: int
    artifact: bytes
    is_class: bool
    predicted: float
    label: float
    at_ms: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """``up/label``: labels of one boot, ascending by sequence."""

    boot: int
    rows: tuple[LabelRow, ...]

    def encode(self) -> bytes:
        """Encode as JSON.

        Raises:
            TooLargeError: More rows, packages or bytes than a message may have.
        """
        packages = sorted({_package_of(row) for row in self.rows})
        is_named = any(name for _, _, name in packages)
        packages_max = NAMED_PACKAGES_MAX if is_named else LABEL_PACKAGES_MAX
        for what, count, limit in (
            ("labels", len(self.rows), LABEL_ROWS_MAX),
            ("packages of labels", len(packages), packages_max),
        ):
            if count > limit:
                raise TooLargeError(what, count, limit)
        place = {package: n for n, package in enumerate(packages)}
        payload = dump_object(
            {
                "v": NAMED_VERSION if is_named else CONTRACT_VERSION,
                "boot": f"{self.boot:016x}",
                "packages": [
                    [artifact, "class" if is_class else "value", *([name] if name else [])]
                    for artifact, is_class, name in packages
                ],
                "rows": [_row_to_json(row, place) for row in self.rows],
            }
        )
        if len(payload) > LABELS_BYTES_MAX:
            raise TooLargeError("labels", len(payload), LABELS_BYTES_MAX)
        return payload

    @classmethod
    def decode(cls, payload: bytes) -> "Labels":
        """Decode; raises ContractError."""
        what = "labels"
        fields = Fields(parse_object(payload, what=what, limit_bytes=LABELS_BYTES_MAX), what=what)
        is_named = fields.version(CONTRACT_VERSION, newest=NAMED_VERSION) == NAMED_VERSION
        boot = decode_boot(fields.text("boot"), what=what)
        packages = fields.items(
            "packages",
            _read_named_package if is_named else _read_package,
            items_max=NAMED_PACKAGES_MAX if is_named else LABEL_PACKAGES_MAX,
        )
        rows = fields.items(
            "rows", lambda item: _read_row(item, packages), items_max=LABEL_ROWS_MAX
        )
        if not rows:
            raise MalformedError("labels: no rows")
        if any(b.sequence <= a.sequence for a, b in pairwise(rows)):
            raise MalformedError("labels: sequences do not ascend")
        return cls(boot=boot, rows=rows)


def _package_of(row: LabelRow) -> tuple[str, bool, str]:
    return row.artifact.hex(), row.is_class, row.name


def _row_to_json(row: LabelRow, place: dict[tuple[str, bool, str], int]) -> list[float]:
    predicted, label = row.predicted, row.label
    if row.is_class:
        predicted, label = int(predicted), int(label)
    return [row.sequence, place[_package_of(row)], predicted, label, row.at_ms]


def _read_package(item: Any) -> tuple[bytes, bool, str]:
    match item:
        case [str(name), "class" | "value" as kind] if len(name) == _ARTIFACT_DIGITS:
            try:
                return bytes.fromhex(name), kind == "class", ""
            except ValueError as error:
                raise MalformedError(f"labels: package {name!r} is not hex") from error
    raise MalformedError(f"labels: a package must be [hex, class|value], got {item!r:.80}")


def _read_named_package(item: Any) -> tuple[bytes, bool, str]:
    match item:
        case [_, _, str(name)] if 1 <= len(name) <= TARGET_CHARS_MAX:
            return *_read_package(item[:2])[:2], name
        case [_, _]:
            return _read_package(item)
    raise MalformedError(
        f"labels: a package must be [hex, class|value, name of 1 to {TARGET_CHARS_MAX}"
        f" characters], got {item!r:.80}"
    )


def _read_row(item: Any, packages: Sequence[tuple[bytes, bool, str]]) -> LabelRow:
    if isinstance(item, list) and len(item) == 5 and not any(isinstance(n, bool) for n in item):
        match item:
            case [int(sequence), int(package), int() | float(), int() | float(), int(at_ms)] if (
                0 < sequence < _SEQUENCE_MAX and 0 <= package < len(packages) and 0 <= at_ms < 2**53
            ):
                artifact, is_class, name = packages[package]
                if not is_class or all(_is_class(n) for n in item[2:4]):
                    return LabelRow(sequence, artifact, is_class, item[2], item[3], at_ms, name)
    raise MalformedError(
        f"labels: a row must be [sequence, package, predicted, label, at_ms], got {item!r:.80}"
    )


def _is_class(value: float) -> bool:
    return isinstance(value, int) and 0 <= value < CLASSES_MAX
