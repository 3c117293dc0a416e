"""The day's bytes of telemetry as the uplink spends them; what is spent survives a restart.

The level is written with the mark of what is sent, before a frame leaves: a kill in between loses
bytes of the budget, never the limit. Within a start the monotonic clock refills, so a clock that
is set does not; from one start to the next only the time of day can.
"""

from collections.abc import Mapping

from edge_agent.core.uplink_budget import MESSAGE_OVERHEAD_BYTES, UplinkBudget
from edge_agent.ports import Clock

_LEVEL, _AT, _DAY, _USED, _MAX = "level", "at_ms", "day", "used", "per_day"


class UplinkMeter:
    """Tells what may leave, and counts what did; used from one thread."""

    def __init__(
        self,
        bytes_per_day_max: int,
        clock: Clock,
        notes: Mapping[str, int],
        *,
        name: str = "uplink",
    ) -> None:
        """Go on where ``notes`` of the outbox say the last start ended.

        Args:
            bytes_per_day_max: Of the device profile.
            clock: For the refill.
            notes: Empty or another budget's: the bucket begins full.
            name: What its notes begin with.
        """
        self._clock, self._name = clock, name
        kept = {
            key.removeprefix(f"{name}_"): value
            for key, value in notes.items()
            if key.startswith(f"{name}_")
        }
        self._began_ms = int(clock.now().timestamp() * 1_000)
        self._began_s = clock.monotonic()
        self._budget = UplinkBudget.full(bytes_per_day_max, at_ms=self._began_ms)
        if kept.get(_MAX) == bytes_per_day_max:
            self._budget = UplinkBudget(
                bytes_per_day_max=bytes_per_day_max,
                level_bytes=kept[_LEVEL],
                at_ms=kept[_AT],
                day=kept[_DAY],
                used_bytes=kept[_USED],
            )
        self.held = 0
        """How often sending had to wait for the budget since the start."""

    def allows(self, payload_bytes: int) -> bool:
        """Tell whether one message with that payload may leave now."""
        self._refill()
        return self._budget.allows(payload_bytes + MESSAGE_OVERHEAD_BYTES)

    def room_bytes(self) -> int:
        """Return the largest payload that may leave now; below zero when none may."""
        self._refill()
        return int(self._budget.level_bytes) - MESSAGE_OVERHEAD_BYTES

    @property
    def is_full(self) -> bool:
        """Whether waiting longer brings no more."""
        return self._budget.level_bytes >= self._budget.size_bytes

    @property
    def burst_bytes(self) -> int:
        """What may leave at once after a quiet time."""
        return int(self._budget.size_bytes)

    def charge(self, payload_bytes: int, *, messages: int = 1) -> None:
        """Spend; negative to give back what did not leave."""
        size = payload_bytes + messages * MESSAGE_OVERHEAD_BYTES
        self._budget = self._budget.charged(size)

    def notes(self) -> Mapping[str, int]:
        """Return what must be kept for the next start."""
        budget = self._budget
        values = {
            _MAX: budget.bytes_per_day_max,
            _LEVEL: int(budget.level_bytes),
            _AT: budget.at_ms,
            _DAY: budget.day,
            _USED: budget.used_bytes,
        }
        return {f"{self._name}_{key}": value for key, value in values.items()}

    def counts(self) -> Mapping[str, int]:
        """Return ``used_bytes`` of this UTC day, ``left_bytes`` now and ``held``."""
        self._refill()
        return {
            "used_bytes": max(0, self._budget.used_bytes),
            "left_bytes": max(0, int(self._budget.level_bytes)),
            "held": self.held,
        }

    def _refill(self) -> None:
        elapsed_ms = int((self._clock.monotonic() - self._began_s) * 1_000)
        self._budget = self._budget.refilled(self._began_ms + elapsed_ms)
