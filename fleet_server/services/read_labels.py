"""Sum up late labels of a model: live accuracy or error by version, each with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.contract.answer_parts import AnswerPart
from fleet_server.core.live_accuracy import (
    Estimate,
    estimate_mean,
    estimate_over,
    estimate_share,
    recall_by_class,
)
from fleet_server.errors import FleetError
from fleet_server.ports.drift import DriftCatalog
from fleet_server.ports.labels import (
    ClassCell,
    LabelBook,
    LabelledPart,
    LabelledVersion,
    PackageParts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFigures:
    """What the labels of one target or label of an answer say, or of an answer that is one.

    Attributes:
        labelled: The counts.
        accuracy: Of a classification.
        recalls: Per true class, by name.
        absolute_error: Mean absolute error of a regression.
        error: Its mean error, predicted minus true: where it leans to.
        rmse: Root of its mean squared error.
        classes: Names by index; empty when the package cannot be read.
    """

    labelled: LabelledPart
    accuracy: Estimate | None = None
    recalls: Mapping[str, Estimate] = field(default_factory=dict)
    absolute_error: Estimate | None = None
    error: Estimate | None = None
    rmse: float | None = None
    classes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFigures:
    """What the labels of one version say.

    Attributes:
        labelled: The counts.
        parts: Of each target or label that has labels, in the order of the package; of an answer
            that is one it alone.
        names: Of all targets or labels the package answers with; empty when it answers with one,
            or cannot be read.
    """

    labelled: LabelledVersion
    parts: Sequence[PartFigures]
    names: Sequence[str] = ()

    @property
    def has_names(self) -> bool:
        """Whether an answer has several targets or labels."""
        return any(part.labelled.name for part in self.parts)

    @property
    def accuracy(self) -> Estimate | None:
        """Of a classification; of several labels the mean of theirs."""
        return estimate_over([part.accuracy for part in self.parts if part.accuracy])

    @property
    def absolute_error(self) -> Estimate | None:
        """Of a regression; of several targets the mean of theirs, whatever their units."""
        return estimate_over([part.absolute_error for part in self.parts if part.absolute_error])


class LabelReader:
    """Reads counts and names classes."""

    def __init__(self, *, book: LabelBook, catalog: DriftCatalog, parts: PackageParts) -> None:
        self._book, self._catalog, self._parts = book, catalog, parts

    def read(
        self, model: str, *, since_at: datetime, device: str | None = None
    ) -> list[LiveFigures]:
        """Return figures by version, newest first; raises FleetError."""
        found = self._book.read(model, since_at=since_at, device=device)
        return [
            _judge(labelled, find_parts(self._catalog, self._parts, model, labelled.version))
            for labelled in found
        ]


def find_parts(
    catalog: DriftCatalog, parts: PackageParts, model: str, version: int
) -> Sequence[AnswerPart]:
    """Find what a version answers with, in one of its packages; none when all are gone."""
    for package in catalog.list_packages():
        if (package.model, package.version) == (model, version):
            try:
                found = parts.find(package.sha256)
            except FleetError:
                continue
            if found:
                return found
    return ()


def _judge(labelled: LabelledVersion, known: Sequence[AnswerPart]) -> LiveFigures:
    places = {part.name: n for n, part in enumerate(known)}
    ordered = sorted(labelled.parts, key=lambda part: places.get(part.name, len(places)))
    classes = {part.name: part.classes for part in known}
    return LiveFigures(
        labelled=labelled,
        parts=[_judge_part(part, classes.get(part.name, ())) for part in ordered],
        names=[part.name for part in known if part.name],
    )


def _judge_part(labelled: LabelledPart, classes: Sequence[str]) -> PartFigures:
    if labelled.cells:
        right = sum(cell.rows for cell in labelled.cells if cell.predicted == cell.label)
        recalls = recall_by_class(labelled.cells)
        return PartFigures(
            labelled=labelled,
            accuracy=estimate_share(right, sum(cell.rows for cell in labelled.cells)),
            recalls={name_class(n, classes): found for n, found in recalls.items()},
            classes=classes,
        )
    rows, squares = labelled.rows, labelled.squared_sum
    return PartFigures(
        labelled=labelled,
        absolute_error=estimate_mean(labelled.absolute_sum, squares, rows),
        error=estimate_mean(labelled.error_sum, squares, rows),
        rmse=(squares / rows) ** 0.5 if rows else None,
    )


def name_class(index: int, classes: Sequence[str]) -> str:
    """Name a class; its number where the name is not known."""
    return classes[index] if 0 <= index < len(classes) else f"class {index}"


def worst_confusions(cells: Sequence[ClassCell], limit: int) -> list[ClassCell]:
    """Return the mistakes made most often."""
    wrong = [cell for cell in cells if cell.predicted != cell.label]
    return sorted(wrong, key=lambda cell: (-cell.rows, cell.label, cell.predicted))[:limit]
