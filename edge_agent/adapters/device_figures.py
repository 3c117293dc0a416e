"""What agent and device use of themselves, for the report: read from ``/proc`` and ``/sys``.

A few small files, once a report at most. What cannot be read is left out, and nothing here raises:
a figure that is missing is no reason not to report.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.adapters.disk_room import find_free_bytes
from edge_agent.ports import Clock

ZONES_MAX = 16
_MILLI = 1_000
_TEMPERATURE_C_MAX = 200


class DeviceFigures:
    """Reads the figures; used from one thread."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        find_worker: Callable[[], int | None] = lambda: None,
        proc: Path = Path("/proc"),
        thermal: Path = Path("/sys/class/thermal"),
    ) -> None:
        """Begin to measure the share of the processor.

        Args:
            directory: Of the agent; its file system is the one that fills.
            clock: For the time between two readings.
            find_worker: Gives the process that serves, None when this one does.
            proc: Mount point of procfs.
            thermal: Where the kernel lists thermal zones.
        """
        self._directory, self._clock, self._find_worker = directory, clock, find_worker
        self._proc, self._thermal = proc, thermal
        self._last: dict[int, tuple[float, float]] = {}

    def read(self) -> Mapping[str, float]:
        """Return what can be read.

        ``agent_rss_bytes``, ``worker_rss_bytes``, ``disk_free_bytes``; ``agent_cpu_share`` and
        ``worker_cpu_share`` of one core since the last reading; ``temperature_c`` of the hottest
        zone.
        """
        figures: dict[str, float] = {}
        worker = self._find_worker()
        processes = {"agent": os.getpid()} | ({"worker": worker} if worker else {})
        for name, pid in processes.items():
            figures |= {f"{name}_{key}": n for key, n in self._read_process(pid).items()}
        self._last = {pid: seen for pid, seen in self._last.items() if pid in processes.values()}
        try:
            figures["disk_free_bytes"] = find_free_bytes(self._directory)
        except OSError:
            figures.pop("disk_free_bytes", None)
        hottest = self._read_temperature()
        return figures | ({"temperature_c": hottest} if hottest is not None else {})

    def _read_process(self, pid: int) -> dict[str, float]:
        try:
            # The name of a process may hold blanks and brackets; what counts is behind the last.
            fields = (self._proc / str(pid) / "stat").read_text("ascii", "replace")
            fields_after = fields.rpartition(")")[2].split()
            busy_s = (int(fields_after[11]) + int(fields_after[12])) / os.sysconf("SC_CLK_TCK")
            rss_bytes = int(fields_after[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return {}
        now = self._clock.monotonic()
        before = self._last.get(pid)
        self._last[pid] = (now, busy_s)
        if before is None or now <= before[0]:
            return {"rss_bytes": rss_bytes}
        share = max(0.0, busy_s - before[1]) / (now - before[0])
        return {"rss_bytes": rss_bytes, "cpu_share": round(share, 4)}

    def _read_temperature(self) -> float | None:
        found: list[float] = []
        for number in range(ZONES_MAX):
            try:
                text = (self._thermal / f"thermal_zone{number}" / "temp").read_text("ascii")
                degrees = int(text) / _MILLI
            except (OSError, ValueError):
                continue
            if 0 < degrees < _TEMPERATURE_C_MAX:
                found.append(degrees)
        return max(found, default=None)
