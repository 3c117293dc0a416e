"""``fleet-sim load``: many real agents over real MQTT connections from one process.

One event loop turns every device about once a second, a slice of the fleet at a time, so that
the work is even. What a device says and does is the real agent's; where it would block or be the
same on every device it is shared (``shared_work.py``, ``memory_stores.py``).
"""

import asyncio
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_profiles.profile import DeviceProfile
from edge_agent.adapters.capability_probe import DeviceProbe
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.ports import Identity
from fleet_server.errors import MisuseError
from simulators.device import SimulatedDevice, Surroundings
from simulators.faults import Faults
from simulators.field_data import Drift, FieldData
from simulators.memory_stores import SharedBytes
from simulators.shared_work import SharedMetadata, SharedModels, SharedTests

DEVICES_MAX = 20_000
SLICES = 20
TURN_S = 1.0
CONNECTING_AT_ONCE = 4
CONNECTS_PER_S = 200.0
"""Mutual TLS costs the broker 1.3 ms each: a quarter of a core."""
SPARE_FILES = 256
REPORT_S = 5.0
GOODBYE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to simulate.

    Attributes:
        identities: One a device.
        profiles: By id.
        rows_path: Table of the field's rows; None takes the packages' golden rows.
        rows_per_s: Of each device and slot.
        window_s: Longest telemetry window; None takes the profiles'.
        drift: What changes, None when nothing does.
        drift_at_s: When, from the start; None with ``drift_when`` or without drift.
        drift_when: The drift begins when this file exists.
        drift_profiles: Only devices of these; empty for all.
        faults: How the devices misbehave.
        duration_s: None runs until a signal.
    """

    identities: Sequence[Identity]
    profiles: Mapping[str, DeviceProfile]
    rows_path: Path | None = None
    rows_per_s: float = 20.0
    window_s: float | None = None
    drift: Drift | None = None
    drift_at_s: float | None = None
    drift_when: Path | None = None
    drift_profiles: frozenset[str] = frozenset()
    faults: Faults = field(default_factory=Faults)
    duration_s: float | None = None


def run_load(plan: LoadPlan, report: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Run until the duration is over or a signal arrives; return the last figures.

    Args:
        plan: What to simulate.
        report: Gets the figures every few seconds.

    Raises:
        MisuseError: More devices than this process may open connections for.
    """
    _raise_file_limit(len(plan.identities))
    with tempfile.TemporaryDirectory(prefix="fleet-sim-") as directory:
        return asyncio.run(_Load(plan, Path(directory), report).run())


class _Load:
    def __init__(
        self, plan: LoadPlan, directory: Path, report: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._plan, self._directory, self._report = plan, directory, report
        self._clock = SystemClock()
        self._devices: list[SimulatedDevice] = []
        self._stop = asyncio.Event()
        self._begun_at = self._clock.monotonic()

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with (
            ThreadPoolExecutor(CONNECTING_AT_ONCE, thread_name_prefix="connect") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="work") as worker,
        ):
            self._make_devices(pool, worker)
            await self._turn_until_stopped()
            last = self.figures()
            await self._finish()
        windows = {f"windows_{k}": self._count_windows(k) for k in ("waiting", "dropped")}
        for device in self._devices:
            device.close()
        return {**last, **windows}

    def figures(self) -> dict[str, Any]:
        """Count what the fleet is and did so far."""
        running: Counter[str] = Counter()
        states: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        for device in self._devices:
            running.update(_name_version(target) for target in device.running.values())
            slots = device.agent.state.slots.values()
            states.update(str(slot.phase) for slot in slots)
            totals["connected"] += device.link.is_connected
            totals["connects"] += device.link.connects
            totals["cuts"] += device.counts.cuts
            totals["rows"] += device.counts.rows
            totals["errors"] += device.counts.errors
            totals["refusing"] += device.agent.refusal is not None
            totals.update({f"windows_{k}": n for k, n in device.windows().items()})
        return {
            "at_s": round(self._clock.monotonic() - self._begun_at, 1),
            "devices": len(self._devices),
            **{name: totals[name] for name in _TOTALS},
            "running": dict(sorted(running.items())),
            "states": dict(sorted(states.items())),
            "is_drifted": any(device.is_drifted for device in self._devices),
            "rss_bytes_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def _make_devices(self, pool: ThreadPoolExecutor, worker: ThreadPoolExecutor) -> None:
        plan, shared = self._plan, SharedBytes()
        around = Surroundings(
            clock=self._clock,
            probe=_OneProbe(self._directory),
            pool=pool,
            worker=worker,
            data=FieldData(plan.rows_path, plan.drift),
            faults=plan.faults,
            shared=shared,
            models=SharedModels(),
            tests=SharedTests(shared),
            metadata=SharedMetadata(self._directory / "tuf"),
            window_s=plan.window_s,
            rows_per_s=plan.rows_per_s,
        )
        for number, identity in enumerate(plan.identities):
            device = SimulatedDevice(identity, plan.profiles[identity.profile], around)
            device.start(number / CONNECTS_PER_S)
            self._devices.append(device)

    async def _turn_until_stopped(self) -> None:
        reported_at, turn = self._begun_at, 0
        while not self._stop.is_set():
            began = self._clock.monotonic()
            for device in self._devices[turn % SLICES :: SLICES]:
                device.turn()
            turn += 1
            if turn % SLICES == 0:
                self._change_field(began - self._begun_at)
            if began - reported_at >= REPORT_S:
                reported_at = began
                self._report(self.figures())
            duration_s = self._plan.duration_s
            if duration_s is not None and began - self._begun_at >= duration_s:
                return
            pause_s = TURN_S / SLICES - (self._clock.monotonic() - began)
            await asyncio.sleep(max(0.0, pause_s))

    def _change_field(self, age_s: float) -> None:
        plan = self._plan
        is_time = plan.drift_at_s is not None and age_s >= plan.drift_at_s
        is_switched = plan.drift_when is not None and plan.drift_when.exists()
        if plan.drift is None or not (is_time or is_switched):
            return
        for device in self._devices:
            profile = device.identity.profile
            device.is_drifted = not plan.drift_profiles or profile in plan.drift_profiles

    async def _finish(self) -> None:
        """Send what was counted, wait a little for its acknowledgement, say goodbye."""
        for device in self._devices:
            device.finish()
        until = self._clock.monotonic() + GOODBYE_S
        while self._clock.monotonic() < until and any(
            device.link.is_connected and device.windows()["waiting"] for device in self._devices
        ):
            await asyncio.sleep(0.1)
        for device in self._devices:
            device.stop()
        while self._clock.monotonic() < until and any(d.link.is_connected for d in self._devices):
            await asyncio.sleep(0.05)

    def _count_windows(self, kind: str) -> int:
        return sum(device.windows()[kind] for device in self._devices)


class _OneProbe:
    """CapabilityProbe that looks once: the devices of a process share its machine."""

    def __init__(self, directory: Path) -> None:
        self._found = DeviceProbe(directory).probe()

    def probe(self) -> Mapping[str, Any]:
        """Return what this machine is."""
        return self._found


def _name_version(target: str) -> str:
    return "/".join(target.split("/")[:2])


def _raise_file_limit(devices: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = devices + SPARE_FILES
    if hard != resource.RLIM_INFINITY and need > hard:
        raise MisuseError(
            f"{devices} devices need {need} open files, this process may have {hard};"
            " raise the hard limit (ulimit -Hn) or simulate fewer"
        )
    if need > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


_TOTALS = (
    *("connected", "connects", "cuts", "rows", "errors", "refusing"),
    *("windows_waiting", "windows_dropped"),
)


def describe_figures(figures: Mapping[str, Any]) -> str:
    """Say the figures in one line."""
    running = ", ".join(f"{count} run {name}" for name, count in figures["running"].items())
    return (
        f"{figures['at_s']:.0f} s: {figures['connected']} of {figures['devices']} connected;"
        f" {running or 'nothing runs yet'}; {figures['rows']:,} rows answered,"
        f" {figures['windows_waiting']} windows waiting, {figures['windows_dropped']} dropped"
        + (f"; {figures['refusing']} refuse" if figures["refusing"] else "")
        + ("; drifted" if figures["is_drifted"] else "")
    )


def say(words: str) -> None:
    """Say a line on stderr."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()
