"""Send batches of sampled rows from the outbox, one at a time, until the server has each.

The next leaves only behind the acknowledgement of the last, so that the server can tell what it
has by one number a boot. Rows are the least of what a device says: they leave only while more
than half of what the budget lets out at once is there, so windows and labels never wait for them.
"""

import logging
from collections.abc import Callable, Sequence

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.messages import LabelRange
from edge_agent.contract.rows import frame_batch
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Jitter

ACK_TIMEOUT_S, ACK_TIMEOUT_S_MAX = 10.0, 300.0
HELD_S = 60.0
_LOG = logging.getLogger(__name__)


class RowUplink:
    """Moves one device's sampled rows; called from one thread."""

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
        self._timeout_s = ACK_TIMEOUT_S

    def pump(self) -> None:
        """Send the oldest batch when it is time to."""
        now = self._clock.monotonic()
        if now < self._next_at or not self._outbox.counts()["samples"]:
            return
        try:
            self._send(now)
        except OutboxError as error:
            _LOG.warning("sampled rows wait: %s", error)

    def on_connected(self) -> None:
        """Send at the next ``pump``."""
        self._next_at, self._timeout_s = 0.0, ACK_TIMEOUT_S

    def on_ack(self, ranges: Sequence[LabelRange]) -> None:
        """Forget what the server has; raises OutboxError."""
        if self._outbox.acknowledge_rows(ranges):
            self.on_connected()

    def _send(self, now: float) -> None:
        batch = self._outbox.pending_rows()
        if batch is None:
            return
        payload = frame_batch(*batch)
        meter = self._meter
        if meter is not None:
            kept_bytes = meter.burst_bytes // 2
            if meter.room_bytes() < len(payload) + kept_bytes and not meter.is_full:
                self._next_at = now + HELD_S
                meter.held += 1
                return
            meter.charge(len(payload))
            self._outbox.reserve([], meter.notes())
        if not self._publish(payload) and meter is not None:
            meter.charge(-len(payload), messages=-1)
        # Refused or not: without a link, every try would cost a commit.
        self._next_at = now + self._timeout_s * (1 + self._jitter())
        self._timeout_s = min(2 * self._timeout_s, ACK_TIMEOUT_S_MAX)
