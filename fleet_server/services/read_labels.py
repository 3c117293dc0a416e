"""Sum up late labels of a model: live accuracy or error by version, each with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.contract.errors import ContractError
from edge_agent.statistics.reference import ClassOutputReference, Reference
from fleet_server.core.live_accuracy import (
    Estimate,
    estimate_mean,
    estimate_share,
    recall_by_class,
)
from fleet_server.errors import FleetError
from fleet_server.ports.drift import DriftCatalog, ReferenceSource
from fleet_server.ports.labels import ClassCell, LabelBook, LabelledVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFigures:
    """What the labels of one version say.

    Attributes:
        labelled: The counts.
        accuracy: Of a classification.
        recalls: Per true class, by name.
        absolute_error: Mean absolute error of a regression.
        error: Its mean error, predicted minus true: where it leans to.
        rmse: Root of its mean squared error.
        classes: Names by index; empty when the package cannot be read.
    """

    labelled: LabelledVersion
    accuracy: Estimate | None = None
    recalls: Mapping[str, Estimate] = field(default_factory=dict)
    absolute_error: Estimate | None = None
    error: Estimate | None = None
    rmse: float | None = None
    classes: Sequence[str] = ()


class LabelReader:
    """Reads counts and names classes."""

    def __init__(
        self, *, book: LabelBook, catalog: DriftCatalog, references: ReferenceSource
    ) -> None:
        self._book, self._catalog, self._references = book, catalog, references

    def read(
        self, model: str, *, since_at: datetime, device: str | None = None
    ) -> list[LiveFigures]:
        """Return figures by version, newest first; raises FleetError."""
        found = self._book.read(model, since_at=since_at, device=device)
        return [_judge(labelled, self._classes(model, labelled.version)) for labelled in found]

    def _classes(self, model: str, version: int) -> Sequence[str]:
        for package in self._catalog.list_packages():
            if (package.model, package.version) == (model, version):
                try:
                    reference = Reference.decode(self._references.read_reference(package.sha256))
                except (ContractError, FleetError):
                    continue
                output = reference.output
                return output.classes if isinstance(output, ClassOutputReference) else ()
        return ()


def _judge(labelled: LabelledVersion, classes: Sequence[str]) -> LiveFigures:
    if labelled.cells:
        right = sum(cell.rows for cell in labelled.cells if cell.predicted == cell.label)
        rows = sum(cell.rows for cell in labelled.cells)
        recalls = recall_by_class(labelled.cells)
        return LiveFigures(
            labelled=labelled,
            accuracy=estimate_share(right, rows),
            recalls={name_class(n, classes): found for n, found in recalls.items()},
            classes=classes,
        )
    rows, squares = labelled.rows, labelled.squared_sum
    return LiveFigures(
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
