"""Send windows from the outbox and forget what the server has committed.

At least once: a window is sent again after a reconnect, and when no acknowledgement came in
time, each time a little later; its bytes never change, so the server's unique key counts it once.
No thread and no timer of its own: the owner calls ``pump`` about once a second, which is what
lets one process drive a thousand simulated devices.

Invariants: at most IN_FLIGHT_WINDOWS_MAX windows are unacknowledged; one frame carries windows of
one boot; nothing leaves that the outbox has not marked as sent and the day's budget not paid for.
What exceeds the budget waits, and is merged when the outbox is full.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.serial_uplink import LabelUplink, RowUplink
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import TelemetryAck
from edge_agent.contract.windows import (
    FRAME_BYTES_MAX,
    Window,
    encode_windows,
    encoded_size,
    frame_size,
)
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Jitter

WINDOWS_PER_SEND = 50
IN_FLIGHT_WINDOWS_MAX = 200
ACK_TIMEOUT_S = 3.0
ACK_TIMEOUT_S_MAX = 60.0
_PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - 64
_LOG = logging.getLogger(__name__)

_Key = tuple[int, int, int]
_Frame = tuple[int, list[Window]]


class TelemetryUplink:
    """Moves one device's windows; called from one thread."""

    def __init__(
        self,
        outbox: Outbox,
        publish: Callable[[bytes], bool],
        clock: Clock,
        jitter: Jitter,
        *,
        close_due: Callable[[], None] | None = None,
        meter: UplinkMeter | None = None,
        publish_labels: Callable[[bytes], bool] | None = None,
        publish_rows: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Wire the uplink.

        Args:
            outbox: Where windows wait.
            publish: Hands one frame to the session; False when it was not taken.
            clock: For deadlines.
            jitter: Numbers in [0, 1).
            close_due: Closes windows that are due into the outbox; called first by ``pump``.
            meter: The day's budget; None sends without limit.
            publish_labels: Hands one message of late labels to the session; None keeps them.
            publish_rows: Likewise one batch of sampled rows.
        """
        self._outbox, self._publish = outbox, publish
        self._clock, self._jitter, self._close_due = clock, jitter, close_due
        self._in_flight: dict[_Key, float] = {}
        self._timeout_s = ACK_TIMEOUT_S
        self._meter = meter
        self._labels = (
            LabelUplink(outbox, publish_labels, clock, jitter, meter) if publish_labels else None
        )
        self._rows = RowUplink(outbox, publish_rows, clock, jitter, meter) if publish_rows else None
        self._held_bytes = 0
        self._is_refused = False
        self._again_at = 0.0
        """Of a link that took nothing: every try costs a commit."""
        self._seen_appended = -1
        self.malformed_acks = 0

    def pump(self) -> None:
        """Close due windows and send what may be sent now."""
        if self._close_due is not None:
            self._close_due()
        self._expire()
        self._pump_windows()
        if self._labels is not None:
            self._labels.pump()
        if self._rows is not None:
            self._rows.pump()

    def _pump_windows(self) -> None:
        if self._clock.monotonic() < self._again_at:
            return
        if self._is_held() or self._seen_appended == self._outbox.appended:
            return
        try:
            self._send_pending()
        except OutboxError as error:
            _LOG.warning("telemetry waits: %s", error)

    def on_connected(self) -> None:
        """Send again at the next ``pump`` what was sent but never acknowledged."""
        self._in_flight.clear()
        self._again_at, self._seen_appended = 0.0, -1
        self._timeout_s = ACK_TIMEOUT_S
        if self._labels is not None:
            self._labels.on_connected()
        if self._rows is not None:
            self._rows.on_connected()

    def on_ack(self, payload: bytes) -> None:
        """Take a ``down/telack`` message; a malformed one is counted and ignored."""
        try:
            ack = TelemetryAck.decode(payload)
            if ack.ranges:
                self._outbox.acknowledge(ack.ranges)
            if ack.labels and self._labels is not None:
                self._labels.on_ack(ack.labels)
            if ack.rows and self._rows is not None:
                self._rows.on_ack(ack.rows)
        except ContractError as error:
            self.malformed_acks += 1
            _LOG.warning("acknowledgement ignored: %s", error)
            return
        except OutboxError as error:
            _LOG.warning("acknowledgement not kept, its windows will be sent again: %s", error)
            return
        done = {
            key
            for key in self._in_flight
            for r in ack.ranges
            if key[:2] == (r.boot, r.stream) and r.first <= key[2] <= r.last
        }
        if done:
            for key in done:
                del self._in_flight[key]
            self._timeout_s = ACK_TIMEOUT_S
            self._seen_appended = -1

    def counts(self) -> Mapping[str, int]:
        """Return what the outbox and the meter count, for the report."""
        return {**self._outbox.counts(), **(self._meter.counts() if self._meter else {})}

    def _is_held(self) -> bool:
        """Tell whether what waited for the budget waits still."""
        if self._meter is None or not self._held_bytes:
            return False
        if not self._meter.allows(self._held_bytes):
            return True
        self._held_bytes, self._seen_appended = 0, -1
        return False

    def _expire(self) -> None:
        """Give up waiting for late acknowledgements; wait longer for the next ones."""
        now = self._clock.monotonic()
        late = [key for key, resend_at in self._in_flight.items() if now >= resend_at]
        if late:
            for key in late:
                del self._in_flight[key]
            self._seen_appended = -1
            self._timeout_s = min(2 * self._timeout_s, ACK_TIMEOUT_S_MAX)

    def _send_pending(self) -> None:
        appended = self._outbox.appended
        fresh = [
            (boot, window)
            for boot, window in self._outbox.pending(IN_FLIGHT_WINDOWS_MAX)
            if (boot, window.stream, window.sequence) not in self._in_flight
        ][: max(0, IN_FLIGHT_WINDOWS_MAX - len(self._in_flight))]
        # Of a link that took nothing the last time, one frame is enough to find out.
        frames = self._afford(_split_into_frames(fresh)[: 1 if self._is_refused else None])
        self._is_refused = False
        there = self._reserve(frames)
        for boot, windows in frames:
            left = [w for w in windows if (boot, w.stream, w.sequence) in there]
            if left and not self._is_refused:
                self._is_refused = not self._publish(encode_windows(boot, left))
            if self._is_refused or not left:
                self._give_back(frame_size(windows), messages=1)
                continue
            self._give_back(frame_size(windows) - frame_size(left))
            resend_at = self._clock.monotonic() + self._timeout_s * (1 + self._jitter())
            self._in_flight.update(((boot, w.stream, w.sequence), resend_at) for w in left)
        if self._is_refused:
            self._again_at = self._clock.monotonic() + self._timeout_s * (1 + self._jitter())
            self._timeout_s = min(2 * self._timeout_s, ACK_TIMEOUT_S_MAX)
        else:
            self._seen_appended = appended

    def _afford(self, frames: list[_Frame]) -> list[_Frame]:
        """Pay for as many frames as the budget allows, the last one perhaps in part."""
        meter = self._meter
        if meter is None:
            return frames
        paid: list[_Frame] = []
        for boot, windows in frames:
            fitting = list(_take_fitting(windows, meter.room_bytes()))
            if not fitting and meter.is_full:
                fitting = windows[:1]  # larger than the bucket: it is paid back afterwards
            if fitting:
                meter.charge(frame_size(fitting))
                paid.append((boot, fitting))
            if len(fitting) < len(windows):
                meter.held += 1
                first, rest = windows[len(fitting)], windows[len(fitting) :]
                worth = min(frame_size(rest), meter.burst_bytes // 4)
                self._held_bytes = max(frame_size([first]), worth)
                break
        return paid

    def _reserve(self, frames: list[_Frame]) -> set[_Key]:
        items = [(boot, window) for boot, windows in frames for window in windows]
        if not items:
            return set()
        try:
            there = self._outbox.reserve(items, self._meter.notes() if self._meter else {})
        except OutboxError:
            for _, windows in frames:
                self._give_back(frame_size(windows), messages=1)
            raise
        return {(boot, w.stream, w.sequence) for boot, w in there}

    def _give_back(self, payload_bytes: int, *, messages: int = 0) -> None:
        if self._meter is not None:
            self._meter.charge(-payload_bytes, messages=-messages)


def _take_fitting(windows: list[Window], room_bytes: int) -> Iterator[Window]:
    size = frame_size([])
    for window in windows:
        size += encoded_size(window)
        if size > room_bytes:
            return
        yield window


def _split_into_frames(pending: list[tuple[int, Window]]) -> list[_Frame]:
    """Cut the queue into runs of one boot, within the bounds of a frame, in order."""
    frames: list[_Frame] = []
    for boot, run in groupby(pending, key=lambda item: item[0]):
        size = _PAYLOAD_BYTES_MAX
        for _, window in run:
            size += encoded_size(window)
            if size > _PAYLOAD_BYTES_MAX or len(frames[-1][1]) == WINDOWS_PER_SEND:
                frames.append((boot, []))
                size = encoded_size(window)
            frames[-1][1].append(window)
    return frames
