"""Shadowing: what an assignment asks of it, and what of it leaves the device.

A candidate in shadow answers nothing; it is given a share of the real inputs, and only counts of
how far its answers agree with those of the confirmed package are reported. All edges are fixed
here, so that the counts of any devices can be added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields

DIFFERENCE_EDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the largest ``|a - b| / (1 + |a|)`` of a row's numbers; a bin more than edges."""
LATENCY_EDGES_MS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0)
"""Of one request; a bin more than edges."""
NOTE_CHARS_MAX = 200
_COUNT_MAX = 2**53
_NO_DIFFERENCES = (0,) * (len(DIFFERENCE_EDGES) + 1)
_NO_LATENCIES = (0,) * (len(LATENCY_EDGES_MS) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPolicy:
    """How a candidate is compared with the confirmed package before it may answer.

    Attributes:
        duration_s: Shortest time of comparing, 0 to 7 days.
        rows_min: Rows to compare; 0 means time alone decides.
        timeout_s: Without ``rows_min`` rows by then the probation begins all the same; of a held
            candidate: it is given up.
        share: Of the real requests, 0 to 1.
        cpu_share: Of one core that comparing may use on average, 0.001 to 1.
        is_held: The server alone lets the candidate answer: neither rows nor time do.
    """

    duration_s: float = 600.0
    rows_min: int = 200
    timeout_s: float = 3_600.0
    share: float = 0.1
    cpu_share: float = 0.05
    is_held: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form.

        >>> ShadowPolicy.from_json(ShadowPolicy(is_held=True).to_json()).is_held
        True
        """
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "is_held"}
        return {**numbers, "held": True} if self.is_held else numbers

    @classmethod
    def from_json(cls, value: Any) -> "ShadowPolicy":
        """Read the JSON form; absent fields take the defaults; raises MalformedError."""
        given, default = Fields(value, what="shadow"), cls()
        return cls(
            duration_s=given.number("duration_s", default.duration_s, low=0, high=604_800),
            rows_min=given.integer("rows_min", default.rows_min, high=10**9),
            timeout_s=given.number("timeout_s", default.timeout_s, low=0, high=2_592_000),
            share=given.number("share", default.share, low=0, high=1),
            cpu_share=given.number("cpu_share", default.cpu_share, low=0.001, high=1),
            is_held=given.flag("held", default=False),
        )


class ShadowState(StrEnum):
    """Where the comparing stands."""

    LOADING = "loading"
    COMPARING = "comparing"
    OVER = "over"
    SKIPPED = "skipped"
    """It was asked for and not done; ``note`` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReport:
    """What comparing found on one device; everything but the first three can be added.

    Attributes:
        sha256: Of the candidate.
        state: Where it stands.
        note: One sentence for people, at most NOTE_CHARS_MAX characters.
        seconds: Since it began to compare.
        requests: Compared.
        rows: Of them.
        differs: Rows whose labels differ, by name of the class; 0 of a regression.
        non_finite: Rows to which the candidate alone gave NaN or infinity.
        errors: Rows on which the candidate failed.
        skipped: Rows taken and not compared, to keep the processor budget.
        dropped: Rows not taken because too many waited.
        cpu_ms: Processor time of comparing, milliseconds.
        difference: Rows by DIFFERENCE_EDGES.
        latency: Requests by LATENCY_EDGES_MS, of what answered.
        candidate_latency: The same requests, of the candidate beside it.
    """

    sha256: str
    state: ShadowState = ShadowState.LOADING
    note: str = ""
    seconds: int = 0
    requests: int = 0
    rows: int = 0
    differs: int = 0
    non_finite: int = 0
    errors: int = 0
    skipped: int = 0
    dropped: int = 0
    cpu_ms: int = 0
    difference: tuple[int, ...] = _NO_DIFFERENCES
    latency: tuple[int, ...] = _NO_LATENCIES
    candidate_latency: tuple[int, ...] = _NO_LATENCIES
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form.

        >>> ShadowReport.from_json(ShadowReport(sha256="ab", rows=3).to_json()).rows
        3
        """
        return {
            **self.extra,
            "sha256": self.sha256,
            "state": str(self.state),
            "note": self.note[:NOTE_CHARS_MAX],
            **{name: getattr(self, name) for name in COUNTS},
            **{name: list(getattr(self, name)) for name in BINS},
        }

    @classmethod
    def from_json(cls, value: Any) -> "ShadowReport":
        """Read the JSON form; raises MalformedError."""
        given = Fields(value, what="reported.shadow")
        state = given.text("state", chars_max=40)
        if state not in ShadowState.__members__.values():
            raise MalformedError(f"reported.shadow: unknown state {state!r}")
        counted: dict[str, Any] = {
            **{name: given.integer(name, 0, high=_COUNT_MAX) for name in COUNTS},
            **{name: _read_bins(given, name, len(empty)) for name, empty in BINS.items()},
        }
        return cls(
            sha256=given.text("sha256", chars_max=64),
            state=ShadowState(state),
            note=given.text("note", "", chars_max=NOTE_CHARS_MAX),
            extra=given.rest(),
            **counted,
        )

    def added(self, other: "ShadowReport") -> "ShadowReport":
        """Return the counts of both; what is not a count stays as it is here."""
        counted: dict[str, Any] = {n: getattr(self, n) + getattr(other, n) for n in COUNTS}
        for name in BINS:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            counted[name] = tuple(a + b for a, b in pairs)
        return replace(self, **counted)


COUNTS = (
    "seconds",
    "requests",
    "rows",
    "differs",
    "non_finite",
    "errors",
    "skipped",
    "dropped",
    "cpu_ms",
)
"""Attributes of a report that are one number each."""
BINS: Mapping[str, tuple[int, ...]] = {
    "difference": _NO_DIFFERENCES,
    "latency": _NO_LATENCIES,
    "candidate_latency": _NO_LATENCIES,
}
"""Attributes that are a list, and the list before anything was counted."""


def _read_bins(given: Fields, name: str, size: int) -> tuple[int, ...]:
    bins = given.items(name, _read_count, (0,) * size, items_max=size)
    if len(bins) != size:
        raise MalformedError(f"reported.shadow: {name} must have {size} counts, got {len(bins)}")
    return bins


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _COUNT_MAX:
        raise MalformedError(f"reported.shadow: no count: {value!r:.40}")
    return value
