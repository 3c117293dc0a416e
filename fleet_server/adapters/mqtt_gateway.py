"""The server's connections to the broker, over paho-mqtt.

A callback of paho must never raise (its thread would end while the client still says it is
connected), wait for a publication, or take a lock that is held around ``publish``: here they only
put into a bounded inbox. A full inbox blocks paho's thread, which stops reading the socket: TCP
holds the broker back, and the broker's queue holds the messages.

PUBACK is sent by ``ack`` after the commit. Safety does not rest on it (devices keep windows until
their ``telack``); it keeps the backlog in the broker instead of here. An acknowledgement of an
earlier connection is dropped: its packet ids mean something else by now.
"""

import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.broker_config import SERVER_USER
from fleet_server.ports.gateway import InboundMessage
from fleet_server.services.publish_state import MARKER_TOPIC

KEEPALIVE_S = 30
RECONNECT_S_FIRST, RECONNECT_S_MAX = 0.2, 10.0
STABLE_S = 60.0
OUT_MESSAGES_MAX = 20_000
OUT_INFLIGHT_MAX = 1_000
PUBACK_S_MAX = 10.0
MARKER_WAIT_S = 1.0
BULK_BYTES_WAITING_MAX = 4 * 1_048_576
_POLL_S = 0.005
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """One connection.

    Attributes:
        host: Of the broker's server listener.
        port: Of it.
        client_id: Unique per connection.
        ca_file: Authority of the broker's certificate.
        certificate_file: Ours.
        key_file: Its key.
        secret: Of the server's user.
        filters: Topic filters and QoS.
        is_persistent: The broker keeps subscriptions and QoS 1 messages while we are away.
        is_plain: No TLS; for a broker on this machine's loopback.
    """

    host: str
    port: int
    client_id: str
    ca_file: Path
    certificate_file: Path
    key_file: Path
    secret: str
    filters: Sequence[tuple[str, int]]
    is_persistent: bool
    is_plain: bool = False


class Delivery(NamedTuple):
    """A message in an inbox, and what acknowledges it."""

    message: InboundMessage
    packet_id: int
    qos: int
    epoch: int


class Inbox:
    """A bounded queue from paho's thread to one worker."""

    def __init__(self, messages_max: int, *, is_lossy: bool = False) -> None:
        """Prepare; a lossy one drops its oldest when full, the other kind blocks the sender."""
        self._items: deque[Delivery] = deque(maxlen=messages_max if is_lossy else None)
        self._messages_max, self._is_lossy = messages_max, is_lossy
        self._some, self._room = threading.Event(), threading.Event()
        self._enough_at = messages_max
        self._enough = threading.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, delivery: Delivery) -> None:
        """Add one; when full, wait for room, or drop the oldest."""
        while not self._is_lossy and len(self._items) >= self._messages_max and not self._closed:
            self._room.clear()
            if len(self._items) >= self._messages_max:
                self._room.wait(0.1)
        self._items.append(delivery)
        if not self._some.is_set():
            self._some.set()
        if len(self._items) >= self._enough_at and not self._enough.is_set():
            self._enough.set()

    def take(
        self, *, messages_max: int, bytes_max: int, linger_s: float, timeout_s: float
    ) -> list[Delivery]:
        """Take a batch.

        Waits up to ``timeout_s`` for the first message and up to ``linger_s`` for more, until the
        batch has ``messages_max`` messages or about ``bytes_max`` bytes.
        """
        if not self._items:
            self._some.clear()
            if not self._items and not self._some.wait(timeout_s):
                return []
        if len(self._items) < messages_max and linger_s > 0:
            self._enough_at = messages_max
            self._enough.clear()
            if len(self._items) < messages_max:
                self._enough.wait(linger_s)
        batch: list[Delivery] = []
        size = 0
        while self._items and len(batch) < messages_max and size < bytes_max:
            delivery = self._items.popleft()
            batch.append(delivery)
            size += len(delivery.message.payload)
        self._room.set()
        return batch

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self._room.set()
        self._some.set()
        self._enough.set()


class MqttLink:
    """One connection that comes back by itself, with jitter."""

    def __init__(self, settings: LinkSettings, *, route: Callable[[Delivery], None]) -> None:
        """Prepare; ``route`` is called in paho's thread and must only put into an inbox."""
        self._settings, self._route = settings, route
        self._jitter = random.Random()  # noqa: S311 - spreads reconnects, keeps no secret
        self._attempts, self._connected_at_s = 0, 0.0
        self._epoch, self._connections = 0, 0
        self.is_session_present = False
        self.refusals = 0
        self.client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=not settings.is_persistent,
            protocol=mqtt.MQTTv311,
            manual_ack=True,
        )
        client.suppress_exceptions = True
        if not settings.is_plain:
            client.tls_set(
                str(settings.ca_file),
                str(settings.certificate_file),
                str(settings.key_file),
                tls_version=ssl.PROTOCOL_TLS_CLIENT,
            )
        client.username_pw_set(SERVER_USER, settings.secret)
        client.max_inflight_messages_set(OUT_INFLIGHT_MAX)
        client.max_queued_messages_set(OUT_MESSAGES_MAX)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def epoch(self) -> int:
        """Number of the present connection, 0 when there is none."""
        return self._epoch

    @property
    def connected_s(self) -> float:
        """Age of the present connection, seconds; 0 when there is none."""
        return time.monotonic() - self._connected_at_s if self._epoch else 0.0

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async(self._settings.host, self._settings.port, KEEPALIVE_S)
        self.client.loop_start()

    def stop(self) -> None:
        """Disconnect and end the thread."""
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, qos: int) -> mqtt.MQTTMessageInfo | None:
        """Hand a message to the network; None when there is no connection or no room."""
        if not self._epoch:
            return None
        info = self.client.publish(topic, payload, qos)
        return info if info.rc == mqtt.MQTT_ERR_SUCCESS else None

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries of the present connection."""
        epoch, ack = self._epoch, self.client.ack
        for delivery in deliveries:
            if delivery.qos and delivery.epoch == epoch:
                ack(delivery.packet_id, delivery.qos)

    def _on_connect(
        self,
        client: mqtt.Client,
        _data: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        if reason.is_failure:
            self.refusals += 1
            _LOG.error("the broker refuses %s: %s", self._settings.client_id, reason)
            return
        self._connected_at_s = time.monotonic()
        self._connections += 1
        self._epoch = self._connections
        self.is_session_present = flags.session_present
        client.subscribe(list(self._settings.filters))
        _LOG.info(
            "%s connected (session %s)",
            self._settings.client_id,
            "kept" if flags.session_present else "new",
        )

    def _on_disconnect(
        self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _: object
    ) -> None:
        if self._epoch and time.monotonic() - self._connected_at_s > STABLE_S:
            self._attempts = 0
        self._epoch = 0
        client.drop_out_messages()  # what matters is found missing and sent again
        _LOG.warning("%s disconnected: %s", self._settings.client_id, reason)
        self._plan_reconnect(client)

    def _on_connect_fail(self, client: mqtt.Client, _data: object) -> None:
        self._plan_reconnect(client)

    def _plan_reconnect(self, client: mqtt.Client) -> None:
        """Full jitter; paho itself doubles without any."""
        cap_s = min(RECONNECT_S_MAX, RECONNECT_S_FIRST * 2 ** min(self._attempts, 16))
        self._attempts += 1
        delay_s = self._jitter.uniform(0.02, cap_s)
        client.reconnect_delay_set(delay_s, delay_s)  # type: ignore[arg-type] # seconds, any number

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "not UTF-8"
        inbound = InboundMessage(topic, bytes(message.payload), message.retain)
        self._route(Delivery(inbound, message.mid, message.qos, self._epoch))


class StateLink:
    """The ``StateBroker`` over a link that also subscribes to the marker."""

    def __init__(self, link: MqttLink, stop: threading.Event) -> None:
        self._link, self._stop = link, stop
        self._marker: tuple[int, str] | None = None

    @property
    def epoch(self) -> int:
        """Number of the present connection, 0 when there is none."""
        return self._link.epoch

    def note_marker(self, delivery: Delivery) -> None:
        """Take the marker as the broker delivers it; only a retained one was there before."""
        if delivery.message.is_retained:
            text = delivery.message.payload.decode("ascii", "replace")
            self._marker = (delivery.epoch, text)

    def publish_retained(self, messages: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Publish at QoS 1, retained, and wait for the acknowledgements."""
        epoch = self._link.epoch
        infos = [
            self._link.client.publish(topic, payload, 1, retain=True) for topic, payload in messages
        ]
        end_s = time.monotonic() + PUBACK_S_MAX
        while time.monotonic() < end_s and self._link.epoch == epoch and not self._stop.is_set():
            if all(_is_published(info) for info in infos):
                break
            self._stop.wait(_POLL_S)
        return [_is_published(info) for info in infos]

    def read_marker(self) -> str | None:
        """Return what the broker held when this connection began; None: not known yet."""
        if self._marker is not None and self._marker[0] == self._link.epoch:
            return self._marker[1]
        return "" if self._link.connected_s > MARKER_WAIT_S else None


class BulkSink:
    """The ``ChunkSink``: QoS 0 with a bound on what waits for the socket."""

    def __init__(self, link: MqttLink, stop: threading.Event) -> None:
        self._link, self._stop = link, stop
        self._waiting: deque[tuple[mqtt.MQTTMessageInfo, int]] = deque()
        self._waiting_bytes = 0

    def send(self, device_id: str, frame: bytes) -> bool:
        """Hand a frame to the network; blocks while too much waits, False without connection."""
        while self._prune() > BULK_BYTES_WAITING_MAX and self._link.epoch:
            if self._stop.wait(_POLL_S):
                return False
        info = self._link.publish(device_topic(device_id, Channel.CHUNK), frame, qos=0)
        if info is None:
            self._waiting.clear()
            self._waiting_bytes = 0
            return False
        self._waiting.append((info, len(frame)))
        self._waiting_bytes += len(frame)
        return True

    def _prune(self) -> int:
        while self._waiting and _is_published(self._waiting[0][0]):
            self._waiting_bytes -= self._waiting.popleft()[1]
        return self._waiting_bytes


def is_marker(delivery: Delivery) -> bool:
    """Tell whether a delivery is the publisher's own marker."""
    return delivery.message.topic == MARKER_TOPIC


def _is_published(info: mqtt.MQTTMessageInfo) -> bool:
    try:
        return info.is_published()
    except (RuntimeError, ValueError):  # never queued: no connection, or no room
        return False
