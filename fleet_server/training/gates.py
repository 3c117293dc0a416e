"""Judge a trained version: floors, ceilings and the comparison with the champion. Pure.

The value decides what is refused, its bound what is certain: a limit that the value keeps and the
bound does not is inconclusive, and the sentence says how many more rows would settle it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleet_server.training.intervals import Estimate
from fleet_server.training.spec import MetricLimit


class Verdict(StrEnum):
    """What a gate says."""

    KEPT = "kept"
    INCONCLUSIVE = "inconclusive"
    MISSED = "missed"


class Comparison(StrEnum):
    """What the comparison with the champion says."""

    BETTER = "better"
    NOT_WORSE = "not worse"
    INCONCLUSIVE = "inconclusive"
    WORSE = "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One judged limit.

    Attributes:
        rule: ``floor``, ``ceiling`` or ``champion``.
        metric: What was measured.
        subject: Profile id, or ``source`` for the model before conversion.
        value: Of the metric; for ``champion`` the difference, above 0 where better; None where
            it could not be measured.
        bound: One-sided 95 % bound on the side of the limit; None where none was computed.
        limit: From the spec; for ``champion`` minus the margin.
        verdict: What follows.
        sentence: In words.
        comparison: For ``champion`` only.
    """

    rule: str
    metric: str
    subject: str
    value: float | None
    bound: float | None
    limit: float
    verdict: Verdict
    sentence: str
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form stored with the version."""
        return {
            "rule": self.rule,
            "metric": self.metric,
            "subject": self.subject,
            "value": self.value,
            "bound": self.bound,
            "limit": self.limit,
            "verdict": str(self.verdict),
            "comparison": None if self.comparison is None else str(self.comparison),
            "sentence": self.sentence,
        }


def judge_source(limits: Sequence[MetricLimit], metrics: dict[str, float]) -> list[Gate]:
    """Judge the model before conversion by its values alone; only misses come back.

    A model that misses its limits as it was trained is not worth converting.
    """
    gates = []
    for limit, rule, bar in _bars(limits):
        value = metrics[limit.name]
        if _is_missed(rule, value, bar):
            gates.append(
                Gate(
                    rule=rule,
                    metric=limit.name,
                    subject="source",
                    value=value,
                    bound=None,
                    limit=bar,
                    verdict=Verdict.MISSED,
                    sentence=f"{limit.name} {value:.4g} misses the {rule} {bar:g}",
                )
            )
    return gates


def judge_shipped(
    limits: Sequence[MetricLimit], subject: str, estimates: dict[str, Estimate]
) -> list[Gate]:
    """Judge one shipped graph against floors and ceilings.

    Args:
        limits: Of the spec.
        subject: Profile id.
        estimates: By metric name.
    """
    gates = []
    for limit, rule, bar in _bars(limits):
        estimate = estimates[limit.name]
        bound = estimate.low if rule == "floor" else estimate.high
        head = f"{limit.name} {estimate.value:.4g} on {subject}"
        if _is_missed(rule, estimate.value, bar):
            verdict, say = Verdict.MISSED, f"{head} misses the {rule} {bar:g}"
        elif _is_missed(rule, bound, bar):
            more = estimate.rows_to_settle(abs(estimate.value - bar))
            verdict = Verdict.INCONCLUSIVE
            say = (
                f"{head} keeps the {rule} {bar:g}, but its 95 % bound {bound:.4g} does not:"
                f" inconclusive{_say_rows(more)}"
            )
        else:
            verdict = Verdict.KEPT
            say = f"{head} keeps the {rule} {bar:g} (95 % bound {bound:.4g})"
        gates.append(
            Gate(
                rule=rule,
                metric=limit.name,
                subject=subject,
                value=estimate.value,
                bound=bound,
                limit=bar,
                verdict=verdict,
                sentence=say,
            )
        )
    return gates


def judge_champion(
    *, metric: str, subject: str, champion: int, margin: float, difference: Estimate
) -> Gate:
    """Judge whether a candidate is no worse than the champion, within a margin.

    Args:
        metric: What both were measured by.
        subject: Profile id.
        champion: Its version.
        margin: Largest loss allowed, 0 or above, in the metric's unit.
        difference: Candidate minus champion, above 0 where the candidate is better.
    """
    head = f"{metric} on {subject} against champion {champion}: {difference.value:+.4g}"
    bound = f"95 % bound {difference.low:+.4g}, margin {margin:g}"
    if difference.value < -margin:
        verdict, comparison, say = Verdict.MISSED, Comparison.WORSE, f"{head}, worse ({bound})"
    elif difference.low > 0:
        verdict, comparison, say = Verdict.KEPT, Comparison.BETTER, f"{head}, better ({bound})"
    elif difference.low >= -margin:
        verdict, comparison = Verdict.KEPT, Comparison.NOT_WORSE
        say = f"{head}, not worse ({bound})"
    else:
        more = difference.rows_to_settle(difference.value + margin)
        verdict, comparison = Verdict.INCONCLUSIVE, Comparison.INCONCLUSIVE
        say = f"{head}, inconclusive ({bound}){_say_rows(more)}"
    return Gate(
        rule="champion",
        metric=metric,
        subject=subject,
        value=difference.value,
        bound=difference.low,
        limit=-margin,
        verdict=verdict,
        sentence=say,
        comparison=comparison,
    )


def skip_champion(*, metric: str, subject: str, champion: int, margin: float, reason: str) -> Gate:
    """Record that the champion could not be asked: nothing is known, so nothing is kept."""
    return Gate(
        rule="champion",
        metric=metric,
        subject=subject,
        value=None,
        bound=None,
        limit=-margin,
        verdict=Verdict.INCONCLUSIVE,
        sentence=f"{metric} on {subject} is not compared with champion {champion}: {reason}",
        comparison=Comparison.INCONCLUSIVE,
    )


def _bars(limits: Sequence[MetricLimit]) -> Iterator[tuple[MetricLimit, str, float]]:
    for limit in limits:
        if limit.floor is not None:
            yield limit, "floor", limit.floor
        if limit.ceiling is not None:
            yield limit, "ceiling", limit.ceiling


def _is_missed(rule: str, value: float, bar: float) -> bool:
    """Tell whether a value misses a limit; NaN misses every limit."""
    return not (value >= bar if rule == "floor" else value <= bar)


def _say_rows(rows: int) -> str:
    return f"; about {rows:,} more held-out rows would settle it" if rows else ""
