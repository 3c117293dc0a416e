"""Judge a candidate on the traffic it has answered so far.

A pure function of counts and limits: it reads no clock, so a verdict can be replayed from a
report. Harm is judged before patience: a candidate that breaks a limit fails however young it is.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edge_agent.contract.codes import Code

if TYPE_CHECKING:
    from edge_agent.contract.assignment import ProbationPolicy

REQUESTS_MIN = 20
"""Below this many requests one failure says nothing about a rate of a few percent."""
ROWS_FOR_SHIFT = 50
"""Below this many rows the mix of answers is mostly chance (total variation of a fair sample)."""
REQUESTS_FOR_LATENCY = 20
"""The 95th percentile of fewer requests is their maximum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbationStats:
    """What one slot answered since its candidate took over.

    Attributes:
        requests: Requests, failed ones included.
        rows: Rows answered.
        errors: Requests that failed.
        latency_ms_p95: 95th percentile per request; None before the first.
        output_shift: Total variation distance, 0 to 1, of answers from the reference; None
            when it cannot be told. Of several targets or labels that of the most shifted one.
        non_finite_rows: Rows answered with NaN or infinity.
        shifted_target: Name of that target; empty where a row has one value or labels.
        shifted_label: Name of that label; empty where a row has one label or values.
        refused: Requests refused for what they held, counted where the package before this one
            had answered some since the process began.
    """

    requests: int = 0
    rows: int = 0
    errors: int = 0
    latency_ms_p95: float | None = None
    output_shift: float | None = None
    non_finite_rows: int = 0
    shifted_target: str = ""
    shifted_label: str = ""
    refused: int = 0


class ProbationVerdict(StrEnum):
    """What becomes of the candidate."""

    WAIT = "wait"
    CONFIRM = "confirm"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class ProbationDecision:
    """A verdict, the code of a failure and the sentence a person reads."""

    verdict: ProbationVerdict
    code: Code | None
    reason: str


def judge_probation(
    stats: ProbationStats,
    policy: "ProbationPolicy",
    *,
    age_s: float,
    latency_ms_p95_max: float,
) -> ProbationDecision:
    """Judge a candidate; the first broken limit decides.

    Args:
        stats: What it answered.
        policy: Limits of the assignment.
        age_s: Seconds since it took over.
        latency_ms_p95_max: The device profile's limit, milliseconds.

    >>> from edge_agent.contract.assignment import ProbationPolicy
    >>> seen = ProbationStats(requests=40, rows=40, latency_ms_p95=2.0)
    >>> judge_probation(seen, ProbationPolicy(), age_s=61, latency_ms_p95_max=10).verdict
    <ProbationVerdict.CONFIRM: 'confirm'>
    """
    broken = _find_broken_limit(stats, policy, latency_ms_p95_max)
    if broken is not None:
        return ProbationDecision(ProbationVerdict.FAIL, *broken)
    if age_s < policy.duration_s:
        return ProbationDecision(
            ProbationVerdict.WAIT, None, f"{policy.duration_s - age_s:.0f} s of probation left"
        )
    if stats.rows >= policy.rows_min:
        return ProbationDecision(
            ProbationVerdict.CONFIRM, None, f"{stats.rows} rows in {age_s:.0f} s within limits"
        )
    if age_s >= policy.timeout_s and not stats.rows and stats.refused >= REQUESTS_MIN:
        return ProbationDecision(
            ProbationVerdict.FAIL,
            Code.PROBATION_ERRORS,
            f"no row was answered and {stats.refused} requests were refused for what they held;"
            " the version before answered: has a field or a range changed?",
        )
    if age_s >= policy.timeout_s:
        return ProbationDecision(
            ProbationVerdict.CONFIRM,
            None,
            f"only {stats.rows} of {policy.rows_min} rows in {age_s:.0f} s, all within limits",
        )
    return ProbationDecision(
        ProbationVerdict.WAIT, None, f"{stats.rows} of {policy.rows_min} rows answered"
    )


def _find_broken_limit(
    stats: ProbationStats, policy: "ProbationPolicy", latency_ms_p95_max: float
) -> tuple[Code, str] | None:
    if stats.non_finite_rows:
        return Code.PROBATION_OUTPUT, f"{stats.non_finite_rows} rows answered with NaN or infinity"
    # Multiplied out: a ratio in floats can round across a threshold.
    if stats.requests >= REQUESTS_MIN and stats.errors > policy.error_rate_max * stats.requests:
        return (
            Code.PROBATION_ERRORS,
            f"{stats.errors} of {stats.requests} requests failed,"
            f" at most {policy.error_rate_max:.1%} may",
        )
    latency = stats.latency_ms_p95
    if (
        latency is not None
        and stats.requests >= REQUESTS_FOR_LATENCY
        and not latency <= latency_ms_p95_max
    ):
        return (
            Code.PROBATION_LATENCY,
            f"95 % of requests within {latency:.1f} ms, the profile allows"
            f" {latency_ms_p95_max:.1f} ms",
        )
    shift = stats.output_shift
    if (
        shift is not None
        and stats.rows >= ROWS_FOR_SHIFT
        and policy.output_shift_max < 1
        and not shift <= policy.output_shift_max
    ):
        of_one = f" of target {stats.shifted_target!r}" if stats.shifted_target else ""
        of_one = f" of label {stats.shifted_label!r}" if stats.shifted_label else of_one
        return (
            Code.PROBATION_OUTPUT,
            f"the mix of answers{of_one} is {shift:.2f} from the reference,"
            f" at most {policy.output_shift_max:.2f} is allowed",
        )
    return None
