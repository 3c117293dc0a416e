"""The telemetry connection: read a batch, commit, acknowledge, in one thread.

A general client costs several times what the broker and the database do for a window (paho: 43 µs
a message and a fight for the interpreter between its thread and ours), and every device's
telemetry passes here; everything else goes through paho (``mqtt_gateway.py``). What is not read
waits in the broker: no queue of our own, and back-pressure is that nobody reads.

The other end is the broker's server listener. Acknowledgements leave together behind the
commit. Invariant: only deliveries of the present connection are acknowledged.
"""

import logging
import random
import select
import socket
import ssl
import time
from collections.abc import Sequence
from threading import Event

from fleet_server.adapters import mqtt_packets as mqtt
from fleet_server.adapters.broker_config import SERVER_USER
from fleet_server.adapters.mqtt_gateway import (
    KEEPALIVE_S,
    RECONNECT_S_FIRST,
    RECONNECT_S_MAX,
    STABLE_S,
    Delivery,
    LinkSettings,
)
from fleet_server.ports.gateway import InboundMessage

CONNECT_S_MAX = 10.0
READ_BYTES = 262_144
TOPICS_KEPT_MAX = 200_000
_LOG = logging.getLogger(__name__)


class TelemetryStream:
    """One subscription; everything is called from one thread, ``epoch`` may be read by others."""

    def __init__(self, settings: LinkSettings, stop: Event) -> None:
        self._settings, self._stop = settings, stop
        self._tls: ssl.SSLContext | None = None
        if not settings.is_plain:
            self._tls = ssl.create_default_context(cafile=str(settings.ca_file))
            self._tls.load_cert_chain(settings.certificate_file, settings.key_file)
        self._jitter = random.Random()  # noqa: S311 - spreads reconnects, keeps no secret
        self._line: _Line | None = None
        self._connections, self._attempts = 0, 0
        self._connected_at_s = self._try_at_s = 0.0
        self._waiting: list[Delivery] = []
        self._topics: dict[bytes, str] = {}
        self._packet_id = 0

    @property
    def epoch(self) -> int:
        """Number of the present connection, 0 when there is none."""
        return self._connections if self._line is not None else 0

    def receive(
        self, *, messages_max: int, bytes_max: int, linger_s: float, timeout_s: float
    ) -> list[Delivery]:
        """Read a batch; connects first when there is no connection.

        Waits up to ``timeout_s`` for the first message and up to ``linger_s`` for more, until the
        batch has ``messages_max`` messages or about ``bytes_max`` bytes.
        """
        is_lingering = bool(self._waiting)
        end_s = time.monotonic() + (linger_s if is_lingering else timeout_s)
        size = sum(len(d.message.payload) for d in self._waiting)
        while not self._stop.is_set() and len(self._waiting) < messages_max and size < bytes_max:
            if self._line is None and not self._connect(end_s):
                break
            wait_s = end_s - time.monotonic()
            if wait_s <= 0:
                break
            before = len(self._waiting)
            try:
                self._read(wait_s)
            except (OSError, mqtt.ProtocolError) as error:
                self._drop(error)
                break
            size += sum(len(d.message.payload) for d in self._waiting[before:])
            if self._waiting and not is_lingering:
                is_lingering, end_s = True, time.monotonic() + linger_s
        batch, self._waiting = self._waiting[:messages_max], self._waiting[messages_max:]
        return batch

    def answer(self, deliveries: Sequence[Delivery], messages: Sequence[tuple[str, bytes]]) -> None:
        """Acknowledge deliveries to the broker and publish messages at QoS 1, all at once."""
        if self._line is None:
            return
        epoch = self.epoch
        out = [mqtt.encode_puback(d.packet_id) for d in deliveries if d.qos and d.epoch == epoch]
        for topic, payload in messages:
            self._packet_id = self._packet_id % 65_535 + 1
            out.append(mqtt.encode_publish(topic, payload, self._packet_id))
        try:
            self._line.write(b"".join(out))
        except OSError as error:
            self._drop(error)

    def close(self) -> None:
        """Disconnect."""
        if self._line is not None:
            self._line.close(farewell=mqtt.DISCONNECT)
            self._line = None

    def _connect(self, until_s: float) -> bool:
        """Connect when it is time to; wait otherwise, at most until then."""
        now_s = time.monotonic()
        if now_s < self._try_at_s:
            self._stop.wait(max(0.0, min(until_s, self._try_at_s) - now_s))
            if time.monotonic() < self._try_at_s:
                return False
        cap_s = min(RECONNECT_S_MAX, RECONNECT_S_FIRST * 2 ** min(self._attempts, 16))
        self._attempts += 1
        try:
            line, is_present = self._open()
        except (OSError, mqtt.ProtocolError) as error:
            if self._attempts == 1 or isinstance(error, mqtt.ProtocolError):
                _LOG.warning("%s: no connection: %s", self._settings.client_id, error)
            self._try_at_s = time.monotonic() + self._jitter.uniform(0.02, cap_s)
            return False
        self._connections += 1
        self._line, self._connected_at_s, self._waiting = line, time.monotonic(), []
        kept = "kept" if is_present else "new"
        _LOG.info("%s connected (session %s)", self._settings.client_id, kept)
        return True

    def _open(self) -> tuple["_Line", bool]:
        settings = self._settings
        line = _Line(settings.host, settings.port, self._tls)
        try:
            line.write(
                mqtt.encode_connect(
                    settings.client_id,
                    user=SERVER_USER,
                    secret=settings.secret,
                    keepalive_s=KEEPALIVE_S,
                    is_clean=not settings.is_persistent,
                )
            )
            is_present = mqtt.read_connack(*line.expect())
            line.write(mqtt.encode_subscribe(1, settings.filters))
        except BaseException:
            line.close()
            raise
        return line, is_present

    def _read(self, wait_s: float) -> None:
        """Read what has arrived into ``_waiting``."""
        line = self._line
        if line is None:
            return
        epoch, topics = self.epoch, self._topics
        for first, body in line.read(wait_s):
            if first & 0xF0 != mqtt.Kind.PUBLISH:
                if first == mqtt.Kind.SUBACK and 0x80 in body[2:]:
                    raise mqtt.ProtocolError("the broker refused the subscription")
                continue
            raw, packet_id, payload = mqtt.split_publish(first, body)
            topic = topics.get(raw)
            if topic is None:
                if len(topics) >= TOPICS_KEPT_MAX:
                    topics.clear()
                topic = topics[raw] = raw.decode("utf-8", "replace")
            message = InboundMessage(topic, payload, bool(first & 1))
            self._waiting.append(Delivery(message, packet_id, first >> 1 & 3, epoch))

    def _drop(self, error: Exception) -> None:
        if time.monotonic() - self._connected_at_s > STABLE_S:
            self._attempts = 0
        _LOG.warning("%s disconnected: %s", self._settings.client_id, error)
        if self._line is not None:
            self._line.close()
        self._line = None
        self._try_at_s = time.monotonic() + self._jitter.uniform(0.02, RECONNECT_S_FIRST)


class _Line:
    """A connection, of TLS unless told otherwise, that reads many records with one system call."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._sock = socket.create_connection((host, port), CONNECT_S_MAX)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._rest, self._ready = b"", list[tuple[int, bytes]]()
        self._read_at_s = self._wrote_at_s = time.monotonic()
        try:
            self._shake_hands()
        except BaseException:
            self._sock.close()
            raise

    def read(self, wait_s: float) -> list[tuple[int, bytes]]:
        """Return the packets that arrive within ``wait_s``; keeps the connection alive."""
        ready, self._ready = self._ready, []
        if ready:
            return ready
        now_s = time.monotonic()
        if now_s - self._wrote_at_s > KEEPALIVE_S / 2:
            self.write(mqtt.PING)
        readable, _, _ = select.select([self._sock], [], [], wait_s)
        if readable:
            self._receive()
            return self._decrypt()
        if now_s - self._read_at_s > 2 * KEEPALIVE_S:
            raise ConnectionError(f"the broker is silent for {2 * KEEPALIVE_S} s")
        return []

    def expect(self) -> tuple[int, bytes]:
        """Wait for the next packet."""
        while True:
            packets = self.read(CONNECT_S_MAX)
            if packets:
                self._ready = packets[1:]
                return packets[0]
            if time.monotonic() - self._read_at_s > CONNECT_S_MAX:
                raise ConnectionError(f"the broker does not answer within {CONNECT_S_MAX:g} s")

    def write(self, data: bytes) -> None:
        """Send; blocks up to CONNECT_S_MAX when the broker does not take it."""
        if data:
            (self._tls or self._outgoing).write(data)
            self._wrote_at_s = time.monotonic()
            self._flush()

    def close(self, farewell: bytes = b"") -> None:
        """Close, with a last word where the other side still listens."""
        try:
            if farewell:
                self.write(farewell)
        except OSError:
            _LOG.debug("the connection was gone already")
        finally:
            self._sock.close()

    def _shake_hands(self) -> None:
        while self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            else:
                self._flush()
                return

    def _receive(self) -> None:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("closed by the broker")
        self._read_at_s = time.monotonic()
        self._incoming.write(data)

    def _decrypt(self) -> list[tuple[int, bytes]]:
        parts = [self._rest]
        try:
            while part := (self._tls or self._incoming).read(READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        packets, self._rest = mqtt.take_packets(b"".join(parts))
        return packets

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._sock.sendall(data)
