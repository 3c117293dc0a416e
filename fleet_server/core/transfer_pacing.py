"""Pace model transfer: bytes per second for the fleet, how many devices at once, whose turn.

Pure values: the caller brings the time, seconds of a monotonic clock. A device's window (four
pieces outstanding) is its own affair; what is bounded here is what the server holds for it.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

PieceT = TypeVar("PieceT", bound=Hashable)

PIECES_PER_DEVICE_MAX = 8
"""Two windows: a device that repeats its request after a timeout displaces the older one."""
IDLE_S = 5.0
"""A served device keeps its place this long between two requests (256 KiB at 0.4 Mbit/s)."""
IDLE_AFTER_LAST_S = 0.5
RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 1, 120
WAITING_FORGOTTEN_S = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """Bytes that may leave now.

    Attributes:
        rate: Bytes per second.
        burst: Bytes that may leave at once after a pause.
        level: Bytes available at ``at_s``; negative after a piece larger than the level.
        at_s: When the level was computed.
    """

    rate: float
    burst: float
    level: float
    at_s: float

    def refill(self, now_s: float) -> "TokenBucket":
        """Return the bucket as of now.

        >>> TokenBucket(rate=10, burst=50, level=0, at_s=0).refill(2).level
        20
        """
        level = min(self.burst, self.level + self.rate * max(0.0, now_s - self.at_s))
        return replace(self, level=level, at_s=max(self.at_s, now_s))

    def wait_s(self, now_s: float) -> float:
        """Return seconds until something may leave; 0 when it may now.

        >>> TokenBucket(rate=10, burst=50, level=-5, at_s=0).wait_s(0)
        0.5
        """
        level = self.refill(now_s).level
        return 0.0 if level > 0 else max(1e-3, -level / self.rate)

    def spend(self, size_bytes: int, now_s: float) -> "TokenBucket":
        """Take bytes out; the level may go below zero, so that no piece is too large to leave."""
        bucket = self.refill(now_s)
        return replace(bucket, level=bucket.level - size_bytes)


class ServingTable:
    """Which devices are being served; at most ``devices_max``, others are told when to return."""

    def __init__(self, devices_max: int) -> None:
        self._devices_max = devices_max
        self._until: dict[str, float] = {}
        self._waiting: dict[str, float] = {}

    @property
    def served(self) -> int:
        """Devices that hold a place."""
        return len(self._until)

    def admit(self, device_id: str, now_s: float) -> int:
        """Give or keep a place; return 0, or seconds after which to ask again.

        The seconds grow with the number waiting, and are spread by arrival so that they do not
        come back together.
        """
        for name in [n for n, until_s in self._until.items() if until_s <= now_s]:
            del self._until[name]
        if device_id in self._until or len(self._until) < self._devices_max:
            self._until[device_id] = now_s + IDLE_S
            self._waiting.pop(device_id, None)
            return 0
        for name in [n for n, s in self._waiting.items() if s <= now_s - WAITING_FORGOTTEN_S]:
            del self._waiting[name]
        self._waiting.setdefault(device_id, now_s)
        turns = list(self._waiting).index(device_id) // self._devices_max + 1
        return max(RETRY_AFTER_S_MIN, min(RETRY_AFTER_S_MAX, round(turns * IDLE_S / 2)))

    def touch(self, device_id: str, now_s: float, *, is_last: bool) -> None:
        """Note that a piece was sent; after the last of a package the place is soon free."""
        if device_id in self._until:
            self._until[device_id] = now_s + (IDLE_AFTER_LAST_S if is_last else IDLE_S)


class PieceQueue(Generic[PieceT]):
    """Pieces to send, one device after the other; a piece waits at most once."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[PieceT]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(q) for q in self._queues.values())

    def add(self, device_id: str, piece: PieceT) -> None:
        """Queue a piece; a device's oldest gives way beyond PIECES_PER_DEVICE_MAX.

        An equal piece that waits already is replaced where it stands.
        """
        queue = self._queues.setdefault(device_id, deque(maxlen=PIECES_PER_DEVICE_MAX))
        if piece in queue:
            queue[queue.index(piece)] = piece
        else:
            queue.append(piece)

    def pop(self) -> tuple[str, PieceT] | None:
        """Take the next piece of the device whose turn it is; None when nothing waits."""
        if not self._queues:
            return None
        device_id, queue = next(iter(self._queues.items()))
        piece = queue.popleft()
        if queue:
            self._queues.move_to_end(device_id)
        else:
            del self._queues[device_id]
        return device_id, piece
