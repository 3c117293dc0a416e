"""Take labels of sampled rows that people found out on the server: a filled-in export.

They stand beside the rows in every later export. Live accuracy does not count them: a person
labels rows that were chosen for training, an application those it was asked about.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.contract.answer_parts import AnswerPart
from fleet_server.errors import RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.drift import DriftCatalog
from fleet_server.ports.labels import PackageParts
from fleet_server.ports.samples import (
    LabelLine,
    NewLabel,
    RowKey,
    RowLabel,
    SampleBook,
    SampleFiles,
)
from fleet_server.services.export_samples import WAITING_BYTES_MAX
from fleet_server.services.read_labels import find_parts

FAULTS_KEPT = 20
NAMES_SHOWN = 10


@dataclass(slots=True, kw_only=True)
class Imported:
    """What became of a file.

    Attributes:
        added: Labels that were not known.
        replaced: Labels that were, as something else.
        same: Labels that were known as they are.
        refused: Lines with a label nobody can use; the labels of a line are taken all or none.
        faults: Line and reason of the first of them.
    """

    added: int = 0
    replaced: int = 0
    same: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        """Count a line nobody can use."""
        self.refused += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append((line, reason))

    def count(self, known: float | None, label: float) -> bool:
        """Count a label beside what is known; tell whether there is something to keep."""
        self.added += known is None
        self.replaced += known not in (None, label)
        self.same += known == label
        return known != label


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelImport:
    """Takes files.

    Attributes:
        book: The ledger.
        files: Where rows lie.
        catalog: Registered packages.
        parts: What they answer with.
        clock: For the audit log.
        actor: Who asks.
    """

    book: SampleBook
    files: SampleFiles
    catalog: DriftCatalog
    parts: PackageParts
    clock: Clock
    actor: str

    def take(
        self, model: str, lines: Sequence[LabelLine], *, path: str, is_replacing: bool = False
    ) -> Imported:
        """Keep the labels of lines that can be used; tell which could not.

        Args:
            model: Whose rows.
            lines: Of the file.
            path: Of the file, for the audit log.
            is_replacing: Whether a label that is known as something else gives way.

        Raises:
            RefusedError: More rows wait for their files than are read at once, or labels of a
                device find no room; nothing was kept.
            FleetError: A file is damaged.
        """
        seen = self.book.look_at(model, None, None, bytes_max=WAITING_BYTES_MAX)
        if not seen.is_whole:
            raise RefusedError(
                f"more sampled rows of {model} wait for their files than are read at once; the"
                " gateway files them every few minutes: try again then"
            )
        keys = {line.key for line in lines}
        versions = self.files.find_versions(seen.files, seen.batches, keys)
        parts = {
            version: {p.name: p for p in find_parts(self.catalog, self.parts, model, version)}
            for version in set(versions.values())
        }
        before = {_place(label): label.label for label in self.book.list_labels(model)}
        made, labels, taken = Imported(), list[NewLabel](), set[tuple[RowKey, str]]()
        for line in lines:
            try:
                version = versions.get(line.key)
                if version is None:
                    raise _no_such_row(model, line)
                found = _read_line(line, version, parts[version])
                _check_new(line, found, before, taken, is_replacing=is_replacing)
            except RefusedError as error:
                made.refuse(line.line, str(error))
                continue
            for label in found:
                taken.add((label.key, label.part))
                if made.count(before.get((label.key, label.part)), label.label):
                    labels.append(label)
        if labels:
            now = self.clock.now()
            self.book.add_labels(model, labels, path=path, actor=self.actor, at=now)
        return made


def _place(label: RowLabel) -> tuple[RowKey, str]:
    return (label.device, label.prediction_id, label.row), label.part


def _no_such_row(model: str, line: LabelLine) -> RefusedError:
    return RefusedError(
        f"no sampled row of {model} is row {line.row} of prediction"
        f" {line.prediction_id[:80] or '(none)'} of device {line.device[:80] or '(none)'}; take"
        " the columns of `edgefleet samples export` as they are"
    )


def _read_line(line: LabelLine, version: int, parts: Mapping[str, AnswerPart]) -> list[NewLabel]:
    """Read the labels of a line; raises RefusedError."""
    if not parts:
        raise RefusedError(f"version {version} has no package left that says what it answers")
    found = []
    for name, cell in line.labels.items():
        part = parts.get(name)
        if part is None:
            known = [f"_label_{n}" if n else "_label" for n in parts][:NAMES_SHOWN]
            raise RefusedError(
                f"version {version} answers nothing that column"
                f" {f'_label_{name}'[:80] if name else '_label'} is of; its columns are"
                f" {', '.join(known)}"
            )
        number = _read_cell(name, cell, part)
        found.append(NewLabel(key=line.key, version=version, part=name, label=number))
    return found


def _read_cell(name: str, cell: str | float, part: AnswerPart) -> float:
    what = f"label of {name}" if name else "label"
    if part.is_class:
        named = next((form for form in _forms(cell) if form in part.classes), None)
        if named is None:
            known = ", ".join(part.classes[:NAMES_SHOWN])
            raise RefusedError(f"{what} {str(cell)[:80]!r} is none of {known}")
        return float(part.classes.index(named))
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RefusedError(f"{what} {str(cell)[:80]!r} is no finite number")
    return number


def _forms(cell: str | float) -> list[str]:
    """Give the names a class may have: a table program writes class 3 of a column with gaps as 3.0.

    >>> _forms("3.0"), _forms("storm")
    (['3.0', '3'], ['storm'])
    """
    forms = [str(cell)]
    try:
        number = float(cell)
    except ValueError:
        return forms
    return [*forms, str(int(number))] if number.is_integer() else forms


def _check_new(
    line: LabelLine,
    found: Sequence[NewLabel],
    before: Mapping[tuple[RowKey, str], float],
    taken: set[tuple[RowKey, str]],
    *,
    is_replacing: bool,
) -> None:
    """Refuse a label that is twice in the file, or known as something else."""
    for label in found:
        what = f"{f'{label.part} of ' if label.part else ''}{line.prediction_id}.{line.row}"
        place = label.key, label.part
        if place in taken:
            raise RefusedError(f"{what} has a label in this file already; keep one")
        known = before.get(place)
        if known is not None and known != label.label and not is_replacing:
            raise RefusedError(f"{what} has another label already; --replace takes this one")
