"""Send late labels and sampled rows from the outbox, one message at a time each.

The next message leaves only behind the acknowledgement of the last, so that the server can tell
what it has by one number a boot. All share the day's budget with the windows, which go first.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.errors import TooLargeError
from edge_agent.contract.labels import LABEL_ROWS_MAX, Labels
from edge_agent.contract.messages import LabelRange
from edge_agent.contract.rows import frame_batch
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Jitter

GATHER_S = 2.0
"""Labels of this long go out together."""
_LOG = logging.getLogger(__name__)


class SerialUplink(ABC):
    """Moves one kind of message of one device; called from one thread."""

    what: str
    counted_as: str
    ack_timeout_s: float
    ack_timeout_s_max: float
    held_s: float
    """Until the budget is looked at again."""

    def __init__(
        self,
        outbox: Outbox,
        publish: Callable[[bytes], bool],
        clock: Clock,
        jitter: Jitter,
        meter: UplinkMeter | None = None,
    ) -> None:
        """Wire the uplink; arguments as of ``TelemetryUplink``."""
        self._outbox, self._publish = outbox, publish
        self._clock, self._jitter, self._meter = clock, jitter, meter
        self._next_at = 0.0
        self._timeout_s = self.ack_timeout_s

    def pump(self) -> None:
        """Send the oldest message when it is time to."""
        now = self._clock.monotonic()
        if now < self._next_at or not self._outbox.counts()[self.counted_as]:
            return
        try:
            self._send(now)
        except OutboxError as error:
            _LOG.warning("%s wait: %s", self.what, error)

    def on_connected(self) -> None:
        """Send at the next ``pump``."""
        self._next_at, self._timeout_s = 0.0, self.ack_timeout_s

    @abstractmethod
    def on_ack(self, ranges: Sequence[LabelRange]) -> None:
        """Forget what the server has; raises OutboxError."""

    @abstractmethod
    def _oldest(self) -> bytes | None:
        """Return the message to send next; None when there is none. Raises OutboxError."""

    @abstractmethod
    def _may_leave(self, meter: UplinkMeter, size_bytes: int) -> bool:
        """Tell whether the budget has room for it now."""

    def _send(self, now: float) -> None:
        payload = self._oldest()
        if payload is None:
            return
        meter = self._meter
        if meter is not None:
            if not self._may_leave(meter, len(payload)):
                self._next_at = now + self.held_s
                meter.held += 1
                return
            meter.charge(len(payload))
            self._outbox.reserve([], meter.notes())
        if not self._publish(payload) and meter is not None:
            meter.charge(-len(payload), messages=-1)
        # Refused or not: without a link, every try would cost a commit.
        self._next_at = now + self._timeout_s * (1 + self._jitter())
        self._timeout_s = min(2 * self._timeout_s, self.ack_timeout_s_max)


class LabelUplink(SerialUplink):
    """Late labels; the server has counted what it acknowledges."""

    what, counted_as = "labels", "labels"
    ack_timeout_s, ack_timeout_s_max, held_s = 5.0, 120.0, 120.0

    def on_ack(self, ranges: Sequence[LabelRange]) -> None:
        """Forget what the server has counted, and let some more come together."""
        if self._outbox.acknowledge_labels(ranges):
            self.on_connected()
            self._next_at = self._clock.monotonic() + GATHER_S

    def _oldest(self) -> bytes | None:
        boot, rows = self._outbox.pending_labels(LABEL_ROWS_MAX)
        while len(rows) > 1:
            try:
                return Labels(boot=boot, rows=tuple(rows)).encode()
            except TooLargeError:  # long names, or of many packages
                rows = rows[: len(rows) // 2]
        return Labels(boot=boot, rows=tuple(rows)).encode() if rows else None

    def _may_leave(self, meter: UplinkMeter, size_bytes: int) -> bool:
        return meter.allows(size_bytes)


class RowUplink(SerialUplink):
    """Batches of sampled rows, the least of what a device says.

    They leave only while more than half of what the budget lets out at once is there, so windows
    and labels never wait for them.
    """

    what, counted_as = "sampled rows", "samples"
    ack_timeout_s, ack_timeout_s_max, held_s = 10.0, 300.0, 60.0

    def on_ack(self, ranges: Sequence[LabelRange]) -> None:
        """Forget what the server has; the next may leave at once."""
        if self._outbox.acknowledge_rows(ranges):
            self.on_connected()

    def _oldest(self) -> bytes | None:
        batch = self._outbox.pending_rows()
        return None if batch is None else frame_batch(*batch)

    def _may_leave(self, meter: UplinkMeter, size_bytes: int) -> bool:
        return meter.is_full or meter.room_bytes() >= size_bytes + meter.burst_bytes // 2
