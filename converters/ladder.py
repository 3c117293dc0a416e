"""Choose the precision to ship from what was measured. Pure.

Rungs outside the limits are out. Among the others fp32 stays unless a lower one is faster beyond
the noise, or as fast and smaller by a share and by at least one transfer chunk. An fp32 graph that
is not the same function as its source takes every rung down with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_profiles.profile import Precision

SAVING_BYTES_MIN = 65_536
"""One chunk of a transfer; below it a device downloads no less."""
SAVING_SHARE_MIN = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One precision as it was built and measured; figures are 0 when it was not built.

    Attributes:
        precision: What it is.
        note: Why it was not built; empty when it was.
        model_bytes: Size of the graph.
        latency_ms_p50: Of one row.
        latency_ms_p95: Of one row.
        latency_ratio: p50 against fp32, compared round by round.
        latency_noise: Spread of that ratio.
        flip_share: Share of held-out rows with another label than the source.
        rows_off_share: Share of held-out rows beyond the fp32 tolerance.
        max_abs_error: Against the source, on the held-out rows.
        metric: The primary metric on the held-out rows.
        metric_drop: How much worse than the source.
    """

    precision: Precision
    note: str = ""
    model_bytes: int = 0
    latency_ms_p50: float = 0.0
    latency_ms_p95: float = 0.0
    latency_ratio: float = 1.0
    latency_noise: float = 0.0
    flip_share: float = 0.0
    rows_off_share: float = 0.0
    max_abs_error: float = 0.0
    metric: float = 0.0
    metric_drop: float = 0.0

    @property
    def is_built(self) -> bool:
        """Whether there is a graph."""
        return not self.note


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderLimits:
    """The tighter of the profile's limits and the spec's; None asks for nothing."""

    latency_ms_p95_max: float
    package_bytes_max: int
    metric_drop_max: float | None = None
    label_flips_max: float | None = None
    rows_off_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The rung to ship.

    Attributes:
        precision: None when none keeps the limits.
        sentence: Which and why, with the numbers that decided.
        refusals: Reasons against each rung that was built, by precision; empty when within.
    """

    precision: Precision | None
    sentence: str
    refusals: dict[Precision, tuple[str, ...]]


def choose_rung(
    rungs: Sequence[Rung],
    limits: LadderLimits,
    package_bytes: Mapping[Precision, int] | None = None,
) -> Choice:
    """Choose among measured rungs.

    Args:
        rungs: fp32 first, built.
        limits: What must hold.
        package_bytes: Sizes of whole packages where they are known already.
    """
    base = rungs[0]
    sizes = package_bytes or {}
    refusals = {
        rung.precision: find_refusals(rung, limits, sizes.get(rung.precision, 0))
        for rung in rungs
        if rung.is_built
    }
    if _is_unfaithful(base, limits):
        return Choice(
            precision=None,
            sentence=f"the fp32 graph is not the model it was made from:"
            f" {', '.join(refusals[base.precision])}",
            refusals=refusals,
        )
    fit = [rung for rung in rungs if rung.is_built and not refusals[rung.precision]]
    if not fit:
        reasons = "; ".join(f"{precision}: {', '.join(why)}" for precision, why in refusals.items())
        return Choice(precision=None, sentence=reasons, refusals=refusals)
    best = fit[0]
    for rung in fit[1:]:
        if is_better(rung, best):
            best = rung
    return Choice(
        precision=best.precision,
        sentence=f"{best.precision}: {_explain(best, rungs, refusals)}",
        refusals=refusals,
    )


def is_better(candidate: Rung, incumbent: Rung) -> bool:
    """Tell whether a rung is worth leaving the incumbent.

    >>> fp32 = Rung(precision=Precision.FP32, model_bytes=670_000)
    >>> quick = Rung(precision=Precision.INT8_DYNAMIC, model_bytes=170_000, latency_ratio=0.66)
    >>> is_better(quick, fp32), is_better(fp32, quick)
    (True, False)
    """
    ratio = candidate.latency_ratio / incumbent.latency_ratio
    noise = max(candidate.latency_noise, incumbent.latency_noise)
    if ratio > 1 + noise or _saves(incumbent, candidate):
        return False
    return ratio < 1 - noise or _saves(candidate, incumbent)


def find_refusals(rung: Rung, limits: LadderLimits, package_bytes: int) -> tuple[str, ...]:
    """List the limits a built rung breaks, each with value and limit."""
    size = max(rung.model_bytes, package_bytes)
    checks: list[tuple[str, float, float | None, str]] = [
        ("latency p95", rung.latency_ms_p95, limits.latency_ms_p95_max, " ms"),
        ("package", size, limits.package_bytes_max, " bytes"),
        ("metric drop", rung.metric_drop, limits.metric_drop_max, ""),
        ("label flips", rung.flip_share, limits.label_flips_max, " of the rows"),
    ]
    if rung.precision is Precision.FP32:
        checks.append(("rows off", rung.rows_off_share, limits.rows_off_max, " of the rows"))
    return tuple(
        f"{name} {_number(value)} above {_number(limit)}{unit}"
        for name, value, limit, unit in checks
        if limit is not None and not value <= limit
    )


def _is_unfaithful(base: Rung, limits: LadderLimits) -> bool:
    return any(
        limit is not None and not value <= limit
        for value, limit in (
            (base.rows_off_share, limits.rows_off_max),
            (base.flip_share, limits.label_flips_max),
            (base.metric_drop, limits.metric_drop_max),
        )
    )


def _saves(small: Rung, large: Rung) -> bool:
    saved = large.model_bytes - small.model_bytes
    return saved >= SAVING_BYTES_MIN and saved >= SAVING_SHARE_MIN * large.model_bytes


def _explain(best: Rung, rungs: Sequence[Rung], refusals: dict[Precision, tuple[str, ...]]) -> str:
    base = rungs[0]
    if best is not base:
        against = (
            f"fp32 is out ({', '.join(refusals[base.precision])})"
            if refusals[base.precision]
            else "within every limit"
        )
        return f"{_compare(best, base)}, {_number(best.flip_share)} of the labels differ; {against}"
    others = list(rungs[1:])
    if not others:
        return "the profile allows nothing else"
    notes = {rung.note for rung in others}
    if len(notes) == 1 and others[0].note:
        return others[0].note
    return "; ".join(f"{rung.precision} {_why_not(rung, base, refusals)}" for rung in others)


def _why_not(rung: Rung, base: Rung, refusals: dict[Precision, tuple[str, ...]]) -> str:
    if rung.note:
        return f"was not built ({rung.note})"
    if refusals[rung.precision]:
        return f"is out ({', '.join(refusals[rung.precision])})"
    return f"does not help ({_compare(rung, base)})"


def _compare(rung: Rung, base: Rung) -> str:
    return (
        f"{rung.latency_ratio:.2f} x the latency of fp32 (noise {rung.latency_noise:.2f}),"
        f" {rung.model_bytes:,} bytes instead of {base.model_bytes:,}"
    )


def _number(value: float) -> str:
    """Write without trailing zeros.

    >>> _number(0.0123456), _number(1234567)
    ('0.01235', '1,234,567')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
