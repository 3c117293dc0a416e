"""Carries out what the update machine asked for, after it was committed.

Slow work goes to its lane; one slot's loading and unloading keep their order in the serving lane.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_agent.agent_jobs import AgentJobs
from edge_agent.core.effects import (
    Activate,
    CancelFetch,
    Collect,
    Deactivate,
    Effect,
    Fetch,
    SelfTest,
    StartProbation,
    StartShadow,
    StopShadow,
    Verify,
)
from edge_agent.core.slot import Slot, find_needed_digests
from edge_agent.downloads import Downloads
from edge_agent.ports import InferenceService, Jobs, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsRunner:
    """Knows who does what.

    Attributes:
        make_job: Makes the slow work.
        jobs: Runs it.
        downloads: Fetches packages.
        inference: Answers predictions.
        slots: Returns the slots as committed last.
    """

    make_job: AgentJobs
    jobs: Jobs
    downloads: Downloads
    inference: InferenceService
    slots: Callable[[], Mapping[str, Slot]]

    def run(self, slot: str, effect: Effect) -> None:
        """Carry out one effect of one slot."""
        jobs, make = self.jobs, self.make_job
        match effect:
            case Fetch(attempt=attempt, release=release):
                self.downloads.fetch(slot, attempt, release)
            case CancelFetch():
                self.downloads.cancel(slot)
            case Verify(attempt=attempt, release=release):
                jobs.submit(Lane.DISK, make.verify(slot, attempt, release))
            case SelfTest(attempt=attempt, release=release):
                jobs.submit(Lane.TEST, make.self_test(slot, attempt, release))
            case Activate(package=package):
                jobs.submit(Lane.SERVE, make.activate(slot, package))
            case Deactivate(reason=reason):
                jobs.submit(Lane.SERVE, make.deactivate(slot, reason))
            case StartShadow():
                jobs.submit(Lane.SERVE, make.start_shadow(slot, effect))
            case StopShadow():
                jobs.submit(Lane.SERVE, make.stop_shadow(slot))
            case StartProbation():
                self.inference.reset_stats(slot)
            case Collect():
                jobs.submit(Lane.DISK, make.collect(self.find_needed))

    def find_needed(self) -> frozenset[str]:
        """Return every sha256 whose bytes must stay.

        Called from a worker thread: reads one reference to an immutable state.
        """
        needed: frozenset[str] = frozenset()
        return needed.union(*(find_needed_digests(slot) for slot in self.slots().values()))
