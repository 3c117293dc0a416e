"""The candidates in shadow of whatever answers, by slot.

Begun and ended by the agent's word; a served model is given its tap when it begins to answer, or
when the shadow begins, whichever comes later. Both happen in the one thread that loads models.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from device_profiles.profile import DeviceProfile
from edge_agent.ports import Clock
from edge_agent.shadow_port import NoShadows, ShadowOrder, ShadowSight

if TYPE_CHECKING:
    from edge_agent.adapters.shadow_run import ShadowRun, ShadowTap

MakeRun = Callable[[ShadowOrder], "ShadowRun"]


class TappedModel(Protocol):
    """What is needed of a model that answers."""

    sha256: str
    tap: "ShadowTap | None"


class Shadows:
    """A ``ShadowService`` in the process that answers."""

    def __init__(
        self, make: MakeRun | None, *, find_served: Callable[[str], TappedModel | None]
    ) -> None:
        """Begin with none.

        Args:
            make: Begins to compare; None where there is no place for a shadow.
            find_served: Gives what answers in a slot.
        """
        self._make, self._find_served = make, find_served
        self._refused = NoShadows()
        self._runs: Mapping[str, ShadowRun] = {}
        self._change = threading.Lock()

    def start(self, slot: str, order: ShadowOrder) -> None:
        """Begin to compare; a former shadow of the slot ends."""
        self.stop(slot)
        if self._make is None:
            self._refused.start(slot, order)
            return
        run = self._make(order)
        with self._change:
            self._runs = {**self._runs, slot: run}
        served = self._find_served(slot)
        if served is not None:
            served.tap = self.tap_of(slot, served.sha256)

    def stop(self, slot: str) -> None:
        """Compare no more; without effect when nothing is compared."""
        served = self._find_served(slot)
        if served is not None:
            served.tap = None
        self._refused.stop(slot)
        with self._change:
            run = self._runs.get(slot)
            self._runs = {name: r for name, r in self._runs.items() if name != slot}
        if run is not None:
            run.close()

    def find(self, slot: str) -> ShadowSight | None:
        """Return how it goes; None when nothing is compared."""
        run = self._runs.get(slot)
        return run.sight() if run is not None else self._refused.find(slot)

    def tap_of(self, slot: str, sha256: str) -> "ShadowTap | None":
        """Return what a model that answers in a slot gives its inputs to, if anything."""
        run = self._runs.get(slot)
        return run.tap() if run is not None and run.beside_sha256 == sha256 else None

    def sights(self) -> Mapping[str, ShadowSight]:
        """Return how all runs go, by slot."""
        return {slot: run.sight() for slot, run in self._runs.items()}

    def close(self) -> None:
        """End all."""
        for slot in tuple(self._runs):
            self.stop(slot)


def shadow_maker(profile: DeviceProfile, clock: Clock) -> MakeRun:
    """Return what begins to compare, within a device profile's limits."""

    def make(order: ShadowOrder) -> "ShadowRun":
        # Costs memory, and most updates come without a shadow.
        from edge_agent.adapters.shadow_run import ShadowLimits, ShadowRun

        limits = ShadowLimits(
            rss_bytes_max=profile.rss_bytes_max,
            threads=profile.intra_op_threads,
            arena=profile.arena,
        )
        return ShadowRun(order, limits, clock)

    return make
