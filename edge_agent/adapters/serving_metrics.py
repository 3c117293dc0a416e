"""What the server counts of itself, as Prometheus text (format 0.0.4); names in docs/serving.md.

Counting is done by one thread, the event loop; any thread may read. Labels come from closed
sets: slots that answered, kinds of requests, statuses. Left out: what a request held.
"""

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from edge_agent.adapters.http_parser import Response
from edge_agent.adapters.served_model import ServedModel

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLOTS_COUNTED_MAX = 64
"""Over the life of the process; later ones are counted as slot "other"."""
BUCKETS_S = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
ANSWERING = frozenset({"infer", "predict"})
_FAULTS_OF_OURS = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE})
"""Not all from 500 up: 501 and 505 answer what only a client can change."""
_STATM = Path("/proc/self/statm")
_STAT, _SYSTEM = Path("/proc/self/stat"), Path("/proc/stat")
_START_FIELD = 19
"""Of ``stat`` behind the name of the command: clock ticks from the system's boot to the start."""


class _Latencies:
    """Of one slot: requests by bucket, their sum, and rows."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.rows = 0


class ServingMetrics:
    """Counts answers of one server."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, HTTPStatus]] = Counter()
        self._slots: dict[str, _Latencies] = {}

    def count(self, response: Response, seconds: float) -> None:
        """Count one answer.

        Args:
            response: What was answered.
            seconds: From the whole request to the answer, waiting for a thread included.
        """
        slot = response.slot
        if slot:
            slot = self._known(slot)
        self._requests[slot, response.endpoint, response.status] += 1
        if response.endpoint in ANSWERING and response.status is HTTPStatus.OK:
            figures = self._slots[slot]
            figures.buckets[bisect_left(BUCKETS_S, seconds)] += 1
            figures.seconds += seconds
            figures.rows += response.rows

    def write(self, served: Iterable[ServedModel], outbox: Mapping[str, float]) -> str:
        """Write everything as Prometheus text.

        Args:
            served: What answers now.
            outbox: Counts of the telemetry outbox by name.
        """
        lines: list[str] = []
        self._write_requests(lines)
        self._write_latencies(lines)
        models = sorted(served, key=lambda model: model.slot)
        _family(
            lines,
            "edge_agent_model_info",
            "gauge",
            "What answers in a slot.",
            [
                (
                    _labels(slot=m.slot, model=m.model_name, version=m.version, sha256=m.sha256),
                    1,
                )
                for m in models
            ],
        )
        _family(
            lines,
            "edge_agent_swaps_total",
            "counter",
            "Packages that took over from another in a slot.",
            [(_labels(slot=m.slot), m.swaps) for m in models],
        )
        _family(
            lines,
            "edge_agent_outbox",
            "gauge",
            "The telemetry outbox, by what is counted.",
            [(_labels(count=name), value) for name, value in sorted(outbox.items())],
        )
        _write_process(lines)
        return "\n".join(lines) + "\n"

    def _known(self, slot: str) -> str:
        if slot not in self._slots:
            if len(self._slots) >= SLOTS_COUNTED_MAX:
                slot = "other"
            self._slots.setdefault(slot, _Latencies())
        return slot

    def _write_requests(self, lines: list[str]) -> None:
        counts = sorted(self._requests.copy().items())
        _family(
            lines,
            "edge_agent_requests_total",
            "counter",
            "Requests answered, by kind and status.",
            [
                (_labels(slot=slot, endpoint=endpoint, code=str(code.value)), count)
                for (slot, endpoint, code), count in counts
            ],
        )
        errors: Counter[tuple[str, str]] = Counter()
        for (slot, _, code), count in counts:
            if code >= HTTPStatus.BAD_REQUEST:
                is_ours = code in _FAULTS_OF_OURS
                errors[slot, "agent" if is_ours else "caller"] += count
        _family(
            lines,
            "edge_agent_errors_total",
            "counter",
            "Requests not served, by who is at fault.",
            [(_labels(slot=slot, fault=fault), n) for (slot, fault), n in errors.items()],
        )

    def _write_latencies(self, lines: list[str]) -> None:
        samples: list[tuple[str, str, float]] = []
        rows = []
        for slot, figures in sorted(self._slots.copy().items()):
            total = 0
            for bound, count in zip((*BUCKETS_S, None), tuple(figures.buckets), strict=True):
                total += count
                le = "+Inf" if bound is None else f"{bound:g}"
                samples.append(("_bucket", _labels(slot=slot, le=le), total))
            samples.append(("_sum", _labels(slot=slot), round(figures.seconds, 6)))
            samples.append(("_count", _labels(slot=slot), total))
            rows.append((_labels(slot=slot), figures.rows))
        name = "edge_agent_request_seconds"
        lines.append(f"# HELP {name} Seconds from a whole request to its answer.")
        lines.append(f"# TYPE {name} histogram")
        lines += [f"{name}{suffix}{labels} {value}" for suffix, labels, value in samples]
        _family(lines, "edge_agent_rows_total", "counter", "Rows answered.", rows)


def _write_process(lines: list[str]) -> None:
    help_rss = "Memory of the serving process that is in RAM."
    _family(lines, "process_resident_memory_bytes", "gauge", help_rss, [("", rss_bytes())])
    help_cpu = "Processor time of the serving process."
    seconds = round(time.process_time(), 3)
    _family(lines, "process_cpu_seconds_total", "counter", help_cpu, [("", seconds)])
    began = started_at_unix_s()
    if began is not None:
        help_began = "When the serving process began, Unix time; changes where another took over."
        _family(lines, "process_start_time_seconds", "gauge", help_began, [("", began)])


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def started_at_unix_s() -> float | None:
    """Return when this process began, seconds of Unix time; None where the system does not tell."""
    try:
        ticks = int(_STAT.read_text().rpartition(")")[2].split()[_START_FIELD])
        booted = next(x for x in _SYSTEM.read_text().splitlines() if x.startswith("btime "))
        return round(int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK"), 2)
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _family(
    lines: list[str], name: str, kind: str, words: str, samples: Iterable[tuple[str, float]]
) -> None:
    lines.append(f"# HELP {name} {words}")
    lines.append(f"# TYPE {name} {kind}")
    lines += [f"{name}{labels} {value}" for labels, value in samples]


def _labels(**labels: str) -> str:
    """Write labels.

    >>> _labels(slot="main", le="0.5")
    '{slot="main",le="0.5"}'
    """
    return "{" + ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items()) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
