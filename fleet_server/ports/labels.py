"""What turned out to be true of answers, as counts: late labels never arrive as rows to keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.contract.labels import Labels


class DeviceLabels(NamedTuple):
    """A message and whose it is; ``device`` is the device's number in the control database."""

    device: int
    message: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What became of the labels of a batch; all of them may be acknowledged.

    Attributes:
        counted: New.
        duplicates: Counted before: sent twice.
        unknown: Of packages that are not registered here.
        undated: Answered before the retention or more than a day ahead.
        unfit: Of a target, label or class that their package does not answer with.
    """

    counted: int = 0
    duplicates: int = 0
    unknown: int = 0
    undated: int = 0
    unfit: int = 0


class ClassCell(NamedTuple):
    """Labels of one predicted and one true class, both as indices."""

    predicted: int
    label: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPart:
    """Everything labelled of one target or label of an answer, or of an answer that is one.

    Attributes:
        name: Of the target or label; empty of an answer that is one.
        cells: Of a classification; empty of a regression.
        rows: Labels of either.
        absolute_sum: Sum of the absolute errors of a regression.
        squared_sum: Sum of the squared errors.
        error_sum: Sum of predicted minus true values.
    """

    name: str = ""
    cells: Sequence[ClassCell] = ()
    rows: int = 0
    absolute_sum: float = 0.0
    squared_sum: float = 0.0
    error_sum: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledVersion:
    """Everything labelled of one version in a stretch of time.

    Attributes:
        version: Its number.
        devices: How many devices sent labels.
        first_at: Beginning of the first hour with labels.
        last_at: Beginning of the last.
        parts: One at least, by name.
    """

    version: int
    devices: int
    first_at: datetime
    last_at: datetime
    parts: Sequence[LabelledPart]

    @property
    def rows(self) -> int:
        """Labels of all parts."""
        return sum(part.rows for part in self.parts)


class PackageParts(Protocol):
    """Tells what the answers of packages consist of."""

    def find(self, sha256: str) -> tuple[AnswerPart, ...]:
        """Return the parts of a package's answers; none when the package is gone.

        Raises:
            FleetError: It cannot be read now.
        """
        ...


class LabelBook(Protocol):
    """Counts of labels per model, version, device and hour."""

    def add(self, messages: Sequence[DeviceLabels], *, at: datetime) -> Counted:
        """Count each label once, in one transaction.

        Raises:
            FleetError: Nothing was counted; the same messages may be offered again.
        """
        ...

    def drop_before(self, at: datetime) -> int:
        """Forget hours that ended before; return how many rows went."""
        ...

    def read(
        self, model: str, *, since_at: datetime, device: str | None = None
    ) -> list[LabelledVersion]:
        """Add up a model's labels by version, newest version first."""
        ...
