"""One slot through time, told event by event."""

from typing import TYPE_CHECKING, Any

from edge_agent.contract.codes import Code
from edge_agent.contract.shadow import ShadowReport, ShadowState
from edge_agent.core.events import (
    Answering,
    Assigned,
    Booted,
    Event,
    Fetched,
    FetchStarted,
    Observed,
    SelfTested,
    ShadowSeen,
    Ticked,
    Verified,
)
from edge_agent.core.probation import ProbationStats
from edge_agent.core.slot import Slot
from edge_agent.core.update_machine import step
from tests.support.agent import GOOD_STATS

if TYPE_CHECKING:
    from edge_agent.core.effects import Effect


class Story:
    """One slot through time: tells it what happens, keeps the effects of the last step."""

    def __init__(self, slot: Slot | None = None, now: float = 1_000.0) -> None:
        self.slot, self.now = slot or Slot(), now
        self.effects: list[Effect] = []

    def tell(self, event: Event) -> "Story":
        self.slot, self.effects = step(self.slot, event)
        return self

    def assign(self, release: Any) -> "Story":
        return self.tell(Assigned(release, self.now))

    def fetch(self) -> "Story":
        self.tell(FetchStarted(self.slot.attempt, self.now))
        return self.tell(Fetched(self.slot.attempt, self.now))

    def verify(self) -> "Story":
        return self.tell(Verified(self.slot.attempt, self.now))

    def self_test(self, code: Code | None = None) -> "Story":
        return self.tell(SelfTested(self.slot.attempt, code, "row 3", self.now))

    def answer(self, release: Any | None) -> "Story":
        target, sha256 = (release.target, release.sha256) if release else ("", None)
        return self.tell(Answering(target, sha256, self.now))

    def observe(self, stats: ProbationStats = GOOD_STATS, *, after_s: float = 60) -> "Story":
        self.now += after_s
        return self.tell(Observed(stats, 10.0, self.now))

    def shadow(self, rows: int = 0, *, after_s: float = 0, **changes: Any) -> "Story":
        """Hear how the comparing goes; ``code`` among the changes ends it."""
        self.now += after_s
        candidate = self.slot.banks.at(self.slot.candidate)
        code, detail = changes.pop("code", None), changes.pop("detail", "")
        found = {"sha256": candidate.sha256 if candidate else "", "rows": rows, **changes}
        report = ShadowReport(**{"state": ShadowState.COMPARING, **found})
        return self.tell(ShadowSeen(self.slot.attempt, report, code, detail, self.now))

    def wait(self, seconds: float, jitter: float = 0.5) -> "Story":
        self.now += seconds
        return self.tell(Ticked(self.now, jitter))

    def boot(self) -> "Story":
        return self.tell(Booted(self.now))

    def to_probation(self, release: Any) -> "Story":
        return self.assign(release).fetch().verify().self_test().answer(release)

    def confirm(self, release: Any) -> "Story":
        return self.to_probation(release).observe()

    @property
    def kinds(self) -> list[type]:
        return [type(effect) for effect in self.effects]

    @property
    def confirmed(self) -> str | None:
        package = self.slot.banks.confirmed_package
        return package.sha256 if package else None

    @property
    def running(self) -> str | None:
        return self.slot.running.sha256 if self.slot.running else None
