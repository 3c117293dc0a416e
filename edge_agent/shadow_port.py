"""What the agent needs of whatever compares candidates with what answers; kin of ``ports.py``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge_agent.contract.codes import Code

if TYPE_CHECKING:  # most updates come without a shadow
    from edge_agent.contract.shadow import ShadowPolicy, ShadowReport

NO_PLACE = "there is no place for a shadow on this device"


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """A package on this disk; whoever reads it hashes it."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOrder:
    """What is to be compared.

    Attributes:
        attempt: Comes back with everything that is found.
        package: The candidate.
        beside: What answers, or is to answer.
        policy: How much of it.
    """

    attempt: int
    package: BlobPlace
    beside: BlobPlace
    policy: "ShadowPolicy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSight:
    """How the comparing of a candidate goes.

    Attributes:
        attempt: It was begun with.
        report: Counted so far.
        code: What ended it; None while it goes on.
        detail: One sentence beside the code.
    """

    attempt: int
    report: "ShadowReport"
    code: Code | None = None
    detail: str = ""


class ShadowService(Protocol):
    """Compares, one candidate a slot. All methods may be called from any thread."""

    def start(self, slot: str, order: ShadowOrder) -> None:
        """Compare a package, which answers nothing, with what answers; a former shadow ends.

        How it goes, failures included, is asked with ``find``.
        """

    def stop(self, slot: str) -> None:
        """Compare no more; without effect when nothing is compared."""

    def find(self, slot: str) -> ShadowSight | None:
        """Return how it went a moment ago; None when nothing is compared."""


class NoShadows:
    """Says of every wish that it is not granted; the update goes on without."""

    def __init__(self) -> None:
        self._wishes: dict[str, ShadowSight] = {}

    def start(self, slot: str, order: ShadowOrder) -> None:
        """Remember the wish."""
        from edge_agent.contract.shadow import ShadowReport, ShadowState

        report = ShadowReport(sha256=order.package.sha256, state=ShadowState.SKIPPED, note=NO_PLACE)
        self._wishes[slot] = ShadowSight(attempt=order.attempt, report=report)

    def stop(self, slot: str) -> None:
        """Forget it."""
        self._wishes.pop(slot, None)

    def find(self, slot: str) -> ShadowSight | None:
        """Return that it is not granted."""
        return self._wishes.get(slot)
