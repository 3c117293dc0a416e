"""How far a candidate in shadow may differ from what runs, checked where it is made. Pure.

Rows of one device resemble each other: they are not independent. Devices are, so each device is
weighed by the beta-binomial likelihood of its counts: its own rate scatters around the candidate's
rate with the correlation ``likeness`` between two of its rows. However many rows a device compares,
it is never more evidence than about ``1 / likeness`` independent ones.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_agent.contract.shadow import DIFFERENCE_EDGES, ShadowPolicy, ShadowReport, ShadowState
from fleet_server.core.rollout_words import say_share
from fleet_server.core.sequential_limits import WaldBounds

LIKENESS_MIN, LIKENESS_MAX = 1e-4, 0.9
GOAL_SHARE = 0.2
"""The goal, as a part of never above, where only that is given."""
HELD_S_MAX = 604_800.0
"""Longest time of comparing that an assignment may ask for."""
HELD_ROWS = 1_000_000_000
"""So many are never compared: agents that do not know ``held`` wait for them."""
HELD_TIMEOUT_S = 2_592_000.0
"""After 30 days without a decision a device gives the candidate up."""
ROWS_COUNTED_MAX = 1_000
"""Of one device: what more it says moves neither the test nor the sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisagreementTest(WaldBounds):
    """Limits of the sequential test on what was compared in shadow.

    Attributes:
        goal: Share of rows on which a good candidate may differ, above 0.
        never_above: Share that must stop it, above goal and below 1.
        alpha: Chance of stopping a candidate that keeps the goal, whenever it is looked at.
        beta: Chance of passing one that differs at ``never_above``.
        likeness: Correlation between two rows of one device, 0.0001 to 0.9.
        difference_min: Numbers that are off by so much of ``1 + |a|`` differ, one of
            DIFFERENCE_EDGES; 0: rows differ by their labels.
    """

    goal: float = 0.02
    never_above: float = 0.10
    alpha: float = 0.05
    beta: float = 0.05
    likeness: float = 0.05
    difference_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.goal < self.never_above < 1:
            raise ValueError(
                "0 < goal < never above < 1 must hold of rows that differ in shadow, got goal"
                f" {say_share(self.goal)} and never above {say_share(self.never_above)}"
            )
        self.check_error_shares()
        if not LIKENESS_MIN <= self.likeness < LIKENESS_MAX:  # so written, NaN is refused too
            raise ValueError(
                f"likeness must be {LIKENESS_MIN:g} to below {LIKENESS_MAX:g}, got {self.likeness}"
            )
        if self.difference_min and self.difference_min not in DIFFERENCE_EDGES:
            known = ", ".join(f"{edge:g}" for edge in DIFFERENCE_EDGES)
            raise ValueError(
                f"differences are counted from {known} on, not from {self.difference_min:g}"
            )

    def weigh(self, rows: int, differing: int) -> float:
        """Give one device's log likelihood ratio of *never above* to *goal*; devices add.

        >>> test = DisagreementTest()
        >>> [round(test.weigh(200, differing), 1) for differing in (0, 4, 20, 100)]
        [-3.8, -0.6, 1.8, 5.0]
        """
        bad = self._log_likelihood(self.never_above, rows, differing)
        return bad - self._log_likelihood(self.goal, rows, differing)

    def count(self, report: ShadowReport) -> tuple[int, int]:
        """Count a device's rows and those that differ; a row without an answer differs.

        Beyond ROWS_COUNTED_MAX its share is what counts: a device may say any number.

        >>> DisagreementTest().count(ShadowReport(sha256="ab", rows=2**53, differs=2**51))
        (1000, 250)
        """
        rows = report.rows + report.errors
        if self.difference_min:
            first = DIFFERENCE_EDGES.index(self.difference_min) + 1
            differing = sum(report.difference[first:]) + report.non_finite
        else:
            differing = max(report.differs, report.non_finite)
        differing = min(rows, differing + report.errors)
        if rows > ROWS_COUNTED_MAX:
            # Half a row up, in whole numbers: these may be beyond what a float holds.
            differing = (2 * differing * ROWS_COUNTED_MAX + rows) // (2 * rows)
            rows = ROWS_COUNTED_MAX
        return rows, differing

    def _log_likelihood(self, rate: float, rows: int, differing: int) -> float:
        """Give the beta-binomial log likelihood but for what is the same at every rate."""
        spread = 1 / self.likeness - 1
        a, b = rate * spread, (1 - rate) * spread
        agreeing = rows - differing
        return (
            math.lgamma(differing + a) - math.lgamma(a) + math.lgamma(agreeing + b) - math.lgamma(b)
        )

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DisagreementTest":
        """Read the JSON form that ``to_json`` gave."""
        return cls(**value)


def hold_in_shadow(policy: ShadowPolicy) -> ShadowPolicy:
    """Keep a device comparing until the gate lets it go; its own time-out does not.

    >>> hold_in_shadow(ShadowPolicy(duration_s=600, timeout_s=3_600)).is_held
    True
    """
    return replace(
        policy,
        duration_s=HELD_S_MAX,
        rows_min=HELD_ROWS,
        timeout_s=HELD_TIMEOUT_S,
        is_held=True,
    )


def has_compared(report: ShadowReport, policy: ShadowPolicy) -> bool:
    """Tell whether a device has compared as long and as much as the plan asks for."""
    if report.state in (ShadowState.OVER, ShadowState.SKIPPED):
        return True
    return report.seconds >= policy.duration_s and report.rows >= policy.rows_min
