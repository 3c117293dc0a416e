"""What counts as drift: the words of a verdict, the false-alarm budget, the effect floor."""

import math
from dataclasses import dataclass
from enum import StrEnum

from fleet_server.core.drift_counts import HORIZONS
from fleet_server.core.drift_test import NO_VARIATION, Variation

DAY_MS = 86_400_000


class Level(StrEnum):
    """Who moved."""

    DEVICE = "device"
    GROUP = "group"
    FLEET = "fleet"


FLEET_SUBJECT = "all"


class Severity(StrEnum):
    """How far it moved, by debiased PSI."""

    WATCH = "watch"
    ACT = "act"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPolicy:
    """Limits of one model's watch.

    Attributes:
        false_alarms_per_day: Alarms that open by chance in the whole fleet, on average at most.
        rows_min: Fewer rows never open an alarm: the tails are not trusted that deep.
        psi_watch: Debiased PSI below which nothing is an alarm, however certain.
        psi_act: From here on an alarm asks for action.
        psi_quiet: Below this an open alarm may close.
        notable_rate: Share of wrong ones among the cells a table marks (Benjamini-Hochberg).
        variation: What devices do by nature.
    """

    false_alarms_per_day: float = 1.0
    rows_min: int = 100
    psi_watch: float = 0.05
    psi_act: float = 0.2
    psi_quiet: float = 0.02
    notable_rate: float = 0.05
    variation: Variation = NO_VARIATION

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms_per_day <= 1_000 or not 0 < self.notable_rate < 1:
            raise ValueError("false_alarms_per_day must be in (0, 1000], notable_rate in (0, 1)")
        if not 0 <= self.psi_quiet <= self.psi_watch <= self.psi_act:
            raise ValueError("needs psi_quiet <= psi_watch <= psi_act")

    def grade(self, psi: float) -> Severity:
        """Name the severity of an effect that is an alarm."""
        return Severity.ACT if psi >= self.psi_act else Severity.WATCH


def find_log_threshold(
    policy: DriftPolicy, *, subjects: int, features: int, window_ms: int
) -> float:
    """Give the log p-value that one cell at one horizon must fall below to raise an alarm.

    budget a day / (subjects x windows a day x horizons x features): the union bound over all that
    is looked at, so the promised rate holds whatever depends on whatever.

    Args:
        policy: The budget.
        subjects: Devices + groups (twice: against the reference and the rest) + the fleet.
        features: Features, the answers included.
        window_ms: Median length of a window.

    >>> policy = DriftPolicy(false_alarms_per_day=1)
    >>> p = math.exp(find_log_threshold(policy, subjects=10_000, features=20, window_ms=300_000))
    >>> f"{p:.1e}"
    '4.3e-09'
    """
    looks = max(1, subjects) * DAY_MS / max(1, window_ms) * len(HORIZONS) * max(1, features)
    return min(math.log(policy.false_alarms_per_day) - math.log(looks), math.log(0.05))
