"""How much processor time work in the background may use: a bucket that fills with time.

Work is charged after it was done, so one piece may overdraw the bucket; then nothing more is begun
until the time it took has been earned. The average over minutes keeps the share exactly.
"""

from dataclasses import dataclass, replace

BURST_S = 2.0
"""The bucket holds what this many seconds earn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBudget:
    """Where the bucket stands.

    Attributes:
        share: Of one core, above 0.
        level_s: Processor seconds that may be used now; below zero after an expensive piece.
        at: Monotonic seconds when the level was right.
    """

    share: float
    level_s: float
    at: float

    @classmethod
    def full(cls, share: float, *, at: float) -> "CpuBudget":
        """Begin with a full bucket.

        >>> CpuBudget.full(0.1, at=0).level_s
        0.2
        """
        return cls(share=share, level_s=share * BURST_S, at=at)

    @property
    def is_spent(self) -> bool:
        """Whether nothing may be begun now."""
        return self.level_s <= 0

    def refilled(self, now: float) -> "CpuBudget":
        """Return the budget as it is at that time.

        >>> CpuBudget(share=0.1, level_s=-0.5, at=0).refilled(5.0).is_spent
        True
        """
        earned = max(0.0, now - self.at) * self.share
        return replace(self, level_s=min(self.share * BURST_S, self.level_s + earned), at=now)

    def charged(self, cpu_s: float) -> "CpuBudget":
        """Return the budget after work that took so much processor time."""
        return replace(self, level_s=self.level_s - cpu_s)
