"""Train members of a family on all processors with joblib.

Members go out in chunks. A worker process that dies takes with it what was out: those members are
then trained one at a time, so that the one that kills stands alone; it has failed, and the others
go on.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from fleet_server.adapters.parent_watch import follow_parent
from fleet_server.training.family import Member
from fleet_server.training.family_member import FamilyRecipe, MemberOutcome, train_members

CHUNK_MEMBERS = 25
"""A chunk of small models takes about a second; one alone would wait for its way to the process."""
OUT_PER_JOB = 2
"""Chunks that wait for a process or are in it."""
JOBS_MAX = 256
KILLED = "training it ended its process (memory, or a crash in a library)"


class JoblibMemberPool:
    """``MemberPool`` in processes of this machine.

    Args:
        jobs: Processes; None for one a processor.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = min(jobs or len(os.sched_getaffinity(0)), JOBS_MAX)

    def train(self, recipe: FamilyRecipe, members: Sequence[Member]) -> Iterator[MemberOutcome]:
        """Train members; outcomes come as they are ready."""
        waiting = {member.name: member for member in members}
        while waiting:
            chunk = max(1, min(CHUNK_MEMBERS, len(waiting) // self.jobs))
            try:
                for outcome in _train(recipe, list(waiting.values()), chunk, self.jobs):
                    del waiting[outcome.member]
                    yield outcome
            except TerminatedWorkerError:
                suspects = list(waiting.values())[: OUT_PER_JOB * self.jobs * chunk]
                for outcome in _train_alone(recipe, suspects):
                    del waiting[outcome.member]
                    yield outcome


def _train(
    recipe: FamilyRecipe, members: list[Member], chunk: int, jobs: int
) -> Iterator[MemberOutcome]:
    parts = [members[start : start + chunk] for start in range(0, len(members), chunk)]
    pool = joblib.Parallel(
        n_jobs=jobs,
        return_as="generator_unordered",
        pre_dispatch=OUT_PER_JOB * jobs,
        batch_size=1,
        max_nbytes=None,
    )
    command = os.getpid()
    for outcomes in pool(joblib.delayed(_train_part)(command, recipe, part) for part in parts):
        yield from outcomes


def _train_part(
    command: int, recipe: FamilyRecipe, members: Sequence[Member]
) -> list[MemberOutcome]:
    """Train some members in a process that ends with the command."""
    follow_parent(command)
    return train_members(recipe, members)


def _train_alone(recipe: FamilyRecipe, members: list[Member]) -> Iterator[MemberOutcome]:
    """Train one at a time in one process; the member that ends it has failed."""
    waiting = deque(members)
    while waiting:
        with ProcessPoolExecutor(max_workers=1) as process:
            while waiting:
                member = waiting.popleft()
                try:
                    job = process.submit(_train_part, os.getpid(), recipe, [member])
                    (outcome,) = job.result()
                except TerminatedWorkerError:
                    yield MemberOutcome(member=member.name, failure=KILLED)
                    break
                yield outcome
