"""Send late labels from the outbox, one message at a time, until the server has counted it.

The next message leaves only behind the acknowledgement of the last, so that the server can tell
what it has counted by one number a boot. Shares the day's budget with the windows, which go first.
"""

import logging
from collections.abc import Callable, Sequence

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.labels import LABEL_ROWS_MAX, Labels
from edge_agent.contract.messages import LabelRange
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Jitter

ACK_TIMEOUT_S, ACK_TIMEOUT_S_MAX = 5.0, 120.0
GATHER_S = 2.0
"""Labels of this long go out together."""
_LOG = logging.getLogger(__name__)


class LabelUplink:
    """Moves one device's labels; called from one thread."""

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
        """Send the oldest labels when it is time to."""
        now = self._clock.monotonic()
        if now < self._next_at or not self._outbox.counts()["labels"]:
            return
        try:
            self._send(now)
        except OutboxError as error:
            _LOG.warning("labels wait: %s", error)

    def on_connected(self) -> None:
        """Send at the next ``pump``."""
        self._next_at, self._timeout_s = 0.0, ACK_TIMEOUT_S

    def on_ack(self, ranges: Sequence[LabelRange]) -> None:
        """Forget what the server has counted; raises OutboxError."""
        if self._outbox.acknowledge_labels(ranges):
            self._next_at = self._clock.monotonic() + GATHER_S
            self._timeout_s = ACK_TIMEOUT_S

    def _send(self, now: float) -> None:
        boot, rows = self._outbox.pending_labels(LABEL_ROWS_MAX)
        if not rows:
            return
        payload = Labels(boot=boot, rows=tuple(rows)).encode()
        if self._meter is not None:
            if not self._meter.allows(len(payload)):
                self._next_at = now + ACK_TIMEOUT_S_MAX
                self._meter.held += 1
                return
            self._meter.charge(len(payload))
            self._outbox.reserve([], self._meter.notes())
        if not self._publish(payload) and self._meter is not None:
            self._meter.charge(-len(payload), messages=-1)
        # Refused or not: without a link, every try would cost a commit.
        self._next_at = now + self._timeout_s * (1 + self._jitter())
        self._timeout_s = min(2 * self._timeout_s, ACK_TIMEOUT_S_MAX)
