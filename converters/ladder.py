"""Choose the rung to ship from what was measured. Pure.

Rungs outside the limits are out. The others are compared by one criterion after the other, in the
order of preference: who is worse than the best beyond the noise is out. Among those left the first
of the ladder ships, which is fp32 when nothing is better. An fp32 graph that is not the same
function as its source takes every rung down with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.criteria import (
    Interval,
    Samples,
    compare_latency,
    is_faster,
    is_leaner,
    is_more_accurate,
    is_smaller,
)
from converters.request import Criterion
from device_profiles.profile import Precision

FP32 = "fp32"
"""The rung all others are compared with; always first."""
_EVEN = Interval(value=1.0, low=1.0, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One build as it was measured; figures are 0 when it was not built.

    Attributes:
        name: Unique on its ladder.
        precision: How its numbers are stored and computed.
        is_same_function: Whether it must answer as the source on every row: fp32 as trained.
        note: Why it was not built; empty when it was.
        settings: How it was made.
        model_bytes: Size of the graph.
        load_ms: Until a session is ready, in a process of its own; 0 when not measured.
        latency_ms_p50: Of one row.
        latency_ms_p95: Of one row.
        latency_ratio: p50 against fp32, compared round by round.
        rss_bytes: Peak resident memory of a process that runs it; 0 when not measured.
        flip_share: Share of held-out rows with another label than the source.
        rows_off_share: Share of held-out rows beyond the fp32 tolerance.
        max_abs_error: Against the source, on the held-out rows.
        error_quantiles: Of the same errors, by percent.
        metric: The primary metric on the held-out rows.
        metric_drop: How much worse than the source.
        metric_drop_low: Lower end of its 95 % interval, on the same resamples of rows.
        metric_drop_high: Upper end.
        samples: What it is compared on.
    """

    name: str
    precision: Precision
    is_same_function: bool = False
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_bytes: int = 0
    load_ms: float = 0.0
    latency_ms_p50: float = 0.0
    latency_ms_p95: float = 0.0
    latency_ratio: Interval = _EVEN
    rss_bytes: int = 0
    flip_share: float = 0.0
    rows_off_share: float = 0.0
    max_abs_error: float = 0.0
    error_quantiles: Mapping[str, float] = field(default_factory=dict)
    metric: float = 0.0
    metric_drop: float = 0.0
    metric_drop_low: float = 0.0
    metric_drop_high: float = 0.0
    samples: Samples | None = field(default=None, compare=False, repr=False)

    @property
    def is_built(self) -> bool:
        """Whether there is a graph."""
        return not self.note


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderLimits:
    """The tighter of the profile's limits and the spec's; None asks for nothing."""

    latency_ms_p95_max: float
    package_bytes_max: int
    rss_bytes_max: int | None = None
    metric_drop_max: float | None = None
    label_flips_max: float | None = None
    rows_off_max: float | None = None
    error_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The rung to ship.

    Attributes:
        name: None when none keeps the limits.
        sentence: Which and why, with the numbers that decided.
        refusals: Reasons against each rung that was built, by name; empty when within.
        beaten: Rungs within the limits that another beat: by what and how.
    """

    name: str | None
    sentence: str
    refusals: Mapping[str, tuple[str, ...]]
    beaten: Mapping[str, str] = field(default_factory=dict)


def choose_rung(
    rungs: Sequence[Rung],
    limits: LadderLimits,
    package_bytes: Mapping[str, int] | None = None,
    order: Sequence[Criterion] = tuple(Criterion),
) -> Choice:
    """Choose among measured rungs.

    Args:
        rungs: fp32 first, built.
        limits: What must hold.
        package_bytes: Sizes of whole packages where they are known already.
        order: What decides first.
    """
    base = rungs[0]
    sizes = package_bytes or {}
    refusals = {
        rung.name: find_refusals(rung, limits, sizes.get(rung.name, 0))
        for rung in rungs
        if rung.is_built
    }
    lost = find_losses(base, limits)
    if lost:
        return Choice(
            name=None,
            sentence=f"the fp32 graph is not the model it was made from: {', '.join(lost)}",
            refusals=refusals,
        )
    fit = [rung for rung in rungs if rung.is_built and not refusals[rung.name]]
    if not fit:
        reasons = "; ".join(f"{name}: {', '.join(why)}" for name, why in refusals.items())
        return Choice(name=None, sentence=reasons, refusals=refusals)
    best, beaten = _eliminate(fit, order)
    sentence = _explain(best, rungs, refusals, beaten)
    return Choice(name=best.name, sentence=sentence, refusals=refusals, beaten=beaten)


def is_better(one: Rung, other: Rung, criterion: Criterion) -> bool:
    """Tell whether one rung is better than another beyond the noise."""
    if criterion is Criterion.SIZE:
        return is_smaller(one.model_bytes, other.model_bytes)
    if criterion is Criterion.MEMORY:
        return is_leaner(one.rss_bytes, other.rss_bytes)
    if one.samples is None or other.samples is None:
        return False
    if criterion is Criterion.ACCURACY:
        return is_more_accurate(one.samples, other.samples)
    return is_faster(one.samples, other.samples)


def find_refusals(rung: Rung, limits: LadderLimits, package_bytes: int = 0) -> tuple[str, ...]:
    """List the limits a built rung breaks, each with value and limit."""
    size = max(rung.model_bytes, package_bytes)
    return (
        *_list_broken(
            ("latency p95", rung.latency_ms_p95, limits.latency_ms_p95_max, " ms"),
            ("package", size, limits.package_bytes_max, " bytes"),
            ("memory", rung.rss_bytes, limits.rss_bytes_max, " bytes"),
        ),
        *find_losses(rung, limits),
    )


def find_losses(rung: Rung, limits: LadderLimits) -> tuple[str, ...]:
    """List the limits on faithfulness alone that a built rung breaks."""
    checks: list[tuple[str, float, float | None, str]] = [
        ("metric drop", rung.metric_drop, limits.metric_drop_max, ""),
        ("label flips", rung.flip_share, limits.label_flips_max, " of the rows"),
        ("error", rung.max_abs_error, limits.error_max, ""),
    ]
    if rung.is_same_function:
        checks.append(("rows off", rung.rows_off_share, limits.rows_off_max, " of the rows"))
    return _list_broken(*checks)


def _list_broken(*checks: tuple[str, float, float | None, str]) -> tuple[str, ...]:
    return tuple(
        f"{name} {_number(value)} above {_number(limit)}{unit}"
        for name, value, limit, unit in checks
        if limit is not None and not value <= limit
    )


def _eliminate(fit: Sequence[Rung], order: Sequence[Criterion]) -> tuple[Rung, dict[str, str]]:
    """Leave who is worse than the best, criterion by criterion; the first of the rest ships."""
    left, beaten = list(fit), {}
    for criterion in order:
        best = min(left, key=lambda rung: _rank(rung, criterion))
        for rung in list(left):
            if rung is not best and is_better(best, rung, criterion):
                left.remove(rung)
                beaten[rung.name] = f"{criterion}: {_compare_by(rung, best, criterion)}"
    return left[0], beaten


def _rank(rung: Rung, criterion: Criterion) -> float:
    if criterion is Criterion.ACCURACY:
        return rung.metric_drop
    if criterion is Criterion.LATENCY:
        return rung.latency_ratio.value
    if criterion is Criterion.SIZE:
        return rung.model_bytes
    return rung.rss_bytes or float("inf")


def _compare_by(rung: Rung, best: Rung, criterion: Criterion) -> str:
    if criterion is Criterion.SIZE:
        return f"{rung.model_bytes:,} bytes, {best.name} {best.model_bytes:,}"
    if criterion is Criterion.MEMORY:
        return f"{rung.rss_bytes:,} bytes resident, {best.name} {best.rss_bytes:,}"
    if criterion is Criterion.ACCURACY:
        return f"metric {_number(rung.metric)}, {best.name} {_number(best.metric)}"
    if rung.samples is None or best.samples is None:
        return f"slower than {best.name}"
    ratio = compare_latency(rung.samples, best.samples)
    return f"{_interval(ratio)} x the latency of {best.name}"


def _explain(
    best: Rung,
    rungs: Sequence[Rung],
    refusals: Mapping[str, tuple[str, ...]],
    beaten: Mapping[str, str],
) -> str:
    base, others = rungs[0], [rung for rung in rungs if rung is not best]
    if best is not base:
        against = (
            f"fp32 is out ({', '.join(refusals[base.name])})"
            if refusals[base.name]
            else "within every limit"
        )
        lost = f"metric drop {_number(best.metric_drop)}"
        if best.flip_share:
            lost += f", {best.flip_share:.2%} of the labels differ"
        return f"{best.name}: {_compare(best, base)}, {lost}; {against}"
    if not others:
        return f"{best.name}: the profile allows nothing else"
    notes = {rung.note for rung in others}
    if len(notes) == 1 and others[0].note:
        return f"{best.name}: {others[0].note}"
    reasons = (f"{rung.name} {_why_not(rung, base, refusals, beaten)}" for rung in others)
    return f"{best.name}: {'; '.join(reasons)}"


def _why_not(
    rung: Rung,
    base: Rung,
    refusals: Mapping[str, tuple[str, ...]],
    beaten: Mapping[str, str],
) -> str:
    if rung.note:
        return f"was not built ({rung.note})"
    if refusals[rung.name]:
        return f"is out ({', '.join(refusals[rung.name])})"
    if rung.name in beaten:
        return f"loses by {beaten[rung.name]}"
    return f"does not help ({_compare(rung, base)})"


def _compare(rung: Rung, base: Rung) -> str:
    return (
        f"{_interval(rung.latency_ratio)} x the latency of fp32,"
        f" {rung.model_bytes:,} bytes instead of {base.model_bytes:,}"
    )


def _interval(ratio: Interval) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _number(value: float) -> str:
    """Write without trailing zeros.

    >>> _number(0.0123456), _number(1234567)
    ('0.01235', '1,234,567')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
