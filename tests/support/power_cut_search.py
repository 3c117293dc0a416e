"""Runs a scenario over the states power cuts may leave: all of them, or a fixed sample.

The plain states, where everything unsynced met one fate, are always looked at; of the mixtures as
many as are asked for, chosen by a fixed seed.
"""

import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.support.power_cut import (
    CrashState,
    Recording,
    RecordingOs,
    Tree,
    crash_states,
    write_tree,
)

SEED = 20_170_117
_RAM = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


class Scenario(Protocol):
    """A life to be cut short.

    Attributes:
        name: For people.
    """

    @property
    def name(self) -> str: ...
    def record(self, root: Path, seam: type[RecordingOs] | None = None) -> Recording:
        """Live once below ``root``, uncut."""
        ...

    def check(self, state: CrashState, root: Path) -> None:
        """Go on from what a cut left below ``root``; raises whatever tells that it cannot."""
        ...


@dataclass
class Found:
    """What a search looked at.

    Attributes:
        calls: System calls of the scenario.
        states: Distinct trees a cut may leave.
        looked_at: Distinct trees of those that were started on.
        failures: By what went wrong, the first state in which it did.
    """

    calls: int = 0
    states: int = 0
    looked_at: int = 0
    failures: dict[str, CrashState] = field(default_factory=dict)


def search(
    scenario: Scenario,
    *,
    mixtures: int | None,
    failures_max: int = 1_000_000,
    seam: type[RecordingOs] | None = None,
) -> Found:
    """Record a scenario, then check it on the states a cut may leave.

    Args:
        scenario: Whose.
        mixtures: States beside the plain ones to look at; None for all.
        failures_max: Stop after so many different failures.
        seam: What stands for ``os`` while it is recorded; one that records unless told.
    """
    with ram_directory() as root:
        recorded = scenario.record(root, seam)
    found = Found(calls=recorded.calls)
    chosen: Iterable[CrashState] = crash_states(recorded)
    if mixtures is not None:
        states = list(chosen)
        found.states = len({state.tree for state in states})
        chosen = _choose(states, mixtures)
    looked_at: set[Tree] = set()
    for state in chosen:
        looked_at.add(state.tree)
        with ram_directory() as root:
            write_tree(state.tree, root)
            try:
                scenario.check(state, root)
            except Exception as error:  # noqa: BLE001 - whatever it is, the agent met it
                words = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                found.failures.setdefault(words, state)
        if len(found.failures) >= failures_max:
            break
    found.looked_at = len(looked_at)
    found.states = found.states or found.looked_at
    return found


def describe(state: CrashState, recorded_before: Tree = frozenset()) -> str:
    """Name a state for people: after which step, and its files with sizes."""
    names = sorted(
        f"{name} ({'directory' if data is None else len(data)})"
        for name, data in state.tree - recorded_before
    )
    return f"after step {state.at}: {', '.join(names)}"


@contextmanager
def ram_directory() -> Iterator[Path]:
    """Make an empty directory, in memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir=_RAM if _RAM.is_dir() else None) as name:
        yield Path(name)


def _choose(states: list[CrashState], mixtures: int) -> list[CrashState]:
    plain = [state for state in states if state.is_plain]
    mixed = [state for state in states if not state.is_plain]
    if mixtures < len(mixed):
        mixed = random.Random(SEED).sample(mixed, mixtures)
    return plain + mixed
