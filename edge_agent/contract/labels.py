"""``up/label``: what turned out to be true of answers, one row each, with what was answered.

Rows carry the predicted class or value, so the server needs no join. They are numbered within a
boot and sent in order, one message at a time; the server counts a number once and acknowledges
with ``labels`` ranges in ``down/telack``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.messages import decode_boot

LABELS_BYTES_MAX = 65_536
LABEL_ROWS_MAX = 500
LABEL_PACKAGES_MAX = 64
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
    """

    sequence: int
    artifact: bytes
    is_class: bool
    predicted: float
    label: float
    at_ms: int


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
        packages = sorted({(row.artifact.hex(), row.is_class) for row in self.rows})
        for what, count, limit in (
            ("labels", len(self.rows), LABEL_ROWS_MAX),
            ("packages of labels", len(packages), LABEL_PACKAGES_MAX),
        ):
            if count > limit:
                raise TooLargeError(what, count, limit)
        place = {package: n for n, package in enumerate(packages)}
        payload = dump_object(
            {
                "v": CONTRACT_VERSION,
                "boot": f"{self.boot:016x}",
                "packages": [[name, "class" if c else "value"] for name, c in packages],
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
        fields.version(CONTRACT_VERSION)
        boot = decode_boot(fields.text("boot"), what=what)
        packages = fields.items("packages", _read_package, items_max=LABEL_PACKAGES_MAX)
        rows = fields.items(
            "rows", lambda item: _read_row(item, packages), items_max=LABEL_ROWS_MAX
        )
        if not rows:
            raise MalformedError("labels: no rows")
        if any(b.sequence <= a.sequence for a, b in pairwise(rows)):
            raise MalformedError("labels: sequences do not ascend")
        return cls(boot=boot, rows=rows)


def _row_to_json(row: LabelRow, place: dict[tuple[str, bool], int]) -> list[float]:
    predicted, label = row.predicted, row.label
    if row.is_class:
        predicted, label = int(predicted), int(label)
    return [row.sequence, place[row.artifact.hex(), row.is_class], predicted, label, row.at_ms]


def _read_package(item: Any) -> tuple[bytes, bool]:
    match item:
        case [str(name), "class" | "value" as kind] if len(name) == _ARTIFACT_DIGITS:
            try:
                return bytes.fromhex(name), kind == "class"
            except ValueError as error:
                raise MalformedError(f"labels: package {name!r} is not hex") from error
    raise MalformedError(f"labels: a package must be [hex, class|value], got {item!r:.80}")


def _read_row(item: Any, packages: Sequence[tuple[bytes, bool]]) -> LabelRow:
    if isinstance(item, list) and len(item) == 5 and not any(isinstance(n, bool) for n in item):
        match item:
            case [int(sequence), int(package), int() | float(), int() | float(), int(at_ms)] if (
                0 < sequence < _SEQUENCE_MAX and 0 <= package < len(packages) and 0 <= at_ms < 2**53
            ):
                artifact, is_class = packages[package]
                if not is_class or all(_is_class(n) for n in item[2:4]):
                    return LabelRow(sequence, artifact, is_class, item[2], item[3], at_ms)
    raise MalformedError(
        f"labels: a row must be [sequence, package, predicted, label, at_ms], got {item!r:.80}"
    )


def _is_class(value: float) -> bool:
    return isinstance(value, int) and 0 <= value < CLASSES_MAX
