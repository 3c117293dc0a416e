"""How many bytes of telemetry may leave now: a token bucket that holds an eighth of the day.

It refills with the other seven eighths over 24 hours, so no 24 hours see more than the budget,
whatever the clock or the time zone says midnight is. What is larger than the bucket, one window
on a very small budget, leaves when the bucket is full and is paid back afterwards.

Left out: where the level is kept (``adapters/outbox.py``) and what happens to what waits (it is
merged when the outbox is full).
"""

from dataclasses import dataclass, replace

DAY_S = 86_400
BURST_SHARE = 8
MESSAGE_OVERHEAD_BYTES = 64
"""Charged for each message on top of its payload: topic, MQTT header, acknowledgements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkBudget:
    """Where the bucket stands.

    Attributes:
        bytes_per_day_max: Of the device profile, at least 1.
        level_bytes: What may leave now; below zero after a message larger than the bucket.
        at_ms: When the level was right, epoch milliseconds by the device's clock.
        day: UTC day of ``used_bytes``, days since the epoch.
        used_bytes: Charged on that day, for people.
    """

    bytes_per_day_max: int
    level_bytes: float
    at_ms: int
    day: int = 0
    used_bytes: int = 0

    @classmethod
    def full(cls, bytes_per_day_max: int, *, at_ms: int) -> "UplinkBudget":
        """Begin with a full bucket.

        >>> UplinkBudget.full(8_000, at_ms=0).level_bytes
        1000.0
        """
        size = max(1.0, bytes_per_day_max / BURST_SHARE)
        return cls(bytes_per_day_max=bytes_per_day_max, level_bytes=size, at_ms=at_ms)

    @property
    def size_bytes(self) -> float:
        """What the bucket holds."""
        return max(1.0, self.bytes_per_day_max / BURST_SHARE)

    def refilled(self, at_ms: int) -> "UplinkBudget":
        """Return the budget as it is at that time; a clock that went back gives nothing.

        >>> empty = UplinkBudget(bytes_per_day_max=8_000, level_bytes=0, at_ms=0)
        >>> round(empty.refilled(3_600_000).level_bytes)
        292
        """
        elapsed_s = max(0.0, (at_ms - self.at_ms) / 1e3)
        rate = (self.bytes_per_day_max - self.size_bytes) / DAY_S
        level = min(self.size_bytes, self.level_bytes + max(rate, 1 / DAY_S) * elapsed_s)
        day = at_ms // (DAY_S * 1_000)
        used = self.used_bytes if day == self.day else 0
        return replace(self, level_bytes=level, at_ms=at_ms, day=day, used_bytes=used)

    def allows(self, size_bytes: int) -> bool:
        """Tell whether a message of that many bytes may leave now."""
        return self.level_bytes >= min(size_bytes, self.size_bytes)

    def charged(self, size_bytes: int) -> "UplinkBudget":
        """Return the budget after such a message."""
        return replace(
            self,
            level_bytes=self.level_bytes - size_bytes,
            used_bytes=self.used_bytes + size_bytes,
        )
