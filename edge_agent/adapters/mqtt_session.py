"""One device's MQTT session over paho: what is said at connect, what arrives, what may be sent.

Shared by the agent's threaded link and by simulators that drive many sessions from one loop.
Nothing here waits, reconnects or starts a thread: the owner turns the loop with ``read``, ``write``
and ``keep_alive`` (paho's own thread dies unseen of an exception, leaks a socket pair a reconnect,
and its ``select`` ends at 339 clients). Callbacks only hand items over.

MQTT 5 with QoS 0 and 1, one subscription below ``down/``: overlapping ones deliver copies. Which
hash bins of the metadata a device hears changes with what it runs: ``watch`` says so, and holds
after a reconnect.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Callable

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.adapters.plain_text import find_loopback
from edge_agent.contract.messages import Status
from edge_agent.contract.metadata import BUNDLE_BYTES_MAX
from edge_agent.contract.topics import (
    AUTHORITIES_TOPIC,
    BINS_PREFIX,
    META_TOPIC,
    Channel,
    device_filter,
    device_topic,
)
from edge_agent.ports import Connected, Disconnected, Identity, MessageArrived

KEEPALIVE_S = 60
SESSION_EXPIRY_S = 604_800
PACKET_BYTES_MAX = BUNDLE_BYTES_MAX + 8_192
RECEIVE_MAX = 20
QUEUED_MESSAGES_MAX = 1_000
CONNECT_TIMEOUT_S = 10.0
UNWELCOME = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E, 0x98, 0x9D})
"""Reason codes after which coming back quickly only does harm: identity refused, or taken over."""
BROKEN_OFF = "the connection broke off"
_LOG = logging.getLogger(__name__)
_PAHO_LOG = logging.getLogger(f"{__name__}.paho")
# paho calls every lost connection an error; what matters of it is that a callback failed.
_PAHO_LOG.addFilter(
    lambda record: record.levelno < logging.WARNING or "exception" in record.getMessage()
)


def session_tls(identity: Identity) -> ssl.SSLContext | None:
    """Return what the device's sessions speak: TLS, or None when it joined in plain text."""
    return None if identity.is_plain else tls_context(identity)


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Trust the fleet's own authority alone and show the device's certificate.

    Raises:
        OSError: A PEM file is missing or damaged (``ssl.SSLError`` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(identity.ca_path)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    context.sslsocket_class = _ClosingSocket
    return context


class _ClosingSocket(ssl.SSLSocket):
    """A socket that a failed handshake closes; paho leaves it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is inherited
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class MqttSession:
    """Protocol of one device over one paho client."""

    def __init__(
        self,
        device_id: str,
        boot: int,
        take: Callable[[object], None],
        *,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Prepare a client; nothing connects yet.

        Args:
            device_id: Also the client id.
            boot: Random id of this start of the agent.
            take: Gets Connected, Disconnected and MessageArrived, in paho's thread.
            tls: None for plain text, which goes to this machine's loopback only.
        """
        self.device_id, self._boot, self._take = device_id, boot, take
        self.is_connected = False
        self.is_unwelcome = False
        self._watched: frozenset[str] = frozenset()
        self._subscribed: frozenset[str] = frozenset()
        self._watch_lock = threading.Lock()
        self._granting: int | None = None
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        self.client.suppress_exceptions = True
        self.client.connect_timeout = CONNECT_TIMEOUT_S
        self.client.max_queued_messages_set(QUEUED_MESSAGES_MAX)
        self.client.enable_logger(_PAHO_LOG)
        self.is_plain = tls is None
        if tls is None:
            self.client.username_pw_set(device_id)
        else:
            self.client.tls_set_context(tls)
        self.client.will_set(
            self._topic(Channel.STATUS), self._status(is_online=False), 1, retain=True
        )
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message

    def secure(self, tls: ssl.SSLContext) -> None:
        """Speak TLS from the next connection on; for a session that was plain."""
        self.client.username_pw_set(None)
        self.client.tls_set_context(tls)
        self.is_plain = False

    def connect(self, host: str, port: int, *, jitter: float) -> None:
        """Open the connection; blocks on name, TCP and TLS.

        Args:
            host: Broker.
            port: Broker.
            jitter: In [0, 1); spreads the keep-alives of a fleet by a fifth.

        Raises:
            PlainTextError: Plain text, and the host is not this machine.
            OSError: Nobody answers, or not with the authority's certificate.
        """
        self.is_unwelcome = False
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's own
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = RECEIVE_MAX
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        self.client.connect(
            find_loopback(host, port) if self.is_plain else host,
            port,
            keepalive=int(KEEPALIVE_S * (0.8 + 0.4 * jitter)),
            clean_start=False,
            properties=properties,
        )

    def publish(
        self, channel: Channel, payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        """Hand a message to the session; False when it was not taken (offline or full)."""
        if not self.is_connected:
            return False
        info = self.client.publish(self._topic(channel), payload, qos, is_retained)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def watch(self, topics: frozenset[str]) -> None:
        """Hear exactly these beside what every device hears; may be called from any thread."""
        self._watched = topics
        self._follow_watched()

    @property
    def open_socket(self) -> socket.socket | None:
        """The open socket to wait on, None without one."""
        opened = self.client.socket()
        return opened if isinstance(opened, socket.socket) else None

    def read(self) -> None:
        """Take in what the socket has, what TLS holds back included."""
        self.client.loop_read()
        while isinstance(opened := self.client.socket(), ssl.SSLSocket) and opened.pending():
            self.client.loop_read()

    def write(self) -> None:
        """Send what waits, as far as the socket takes it."""
        if self.client.want_write():
            self.client.loop_write()

    def keep_alive(self) -> None:
        """Ping, and give up a silent broker; to be called about once a second."""
        self.client.loop_misc()

    def say_goodbye(self) -> None:
        """Say offline and disconnect; the will is not sent then."""
        if self.is_connected:
            self.publish(Channel.STATUS, self._status(is_online=False), qos=1, is_retained=True)
        self.client.disconnect()

    def _topic(self, channel: Channel) -> str:
        return device_topic(self.device_id, channel)

    def _status(self, *, is_online: bool) -> bytes:
        return Status(is_online=is_online, boot=self._boot).encode()

    def _on_connect(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.is_unwelcome = reason.value in UNWELCOME
            _LOG.warning("the broker refused %s: %s", self.device_id, reason)
            return
        # Always: subscriptions are gone when the broker lost the session.
        with self._watch_lock:
            self._subscribed = frozenset()
        filters = (device_filter(self.device_id), META_TOPIC, AUTHORITIES_TOPIC)
        _, self._granting = client.subscribe([(one, 1) for one in filters])

    def _on_subscribe(
        self,
        client: mqtt.Client,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if mid != self._granting:
            if refused:
                _LOG.error("the broker refused metadata to %s: %s", self.device_id, refused)
            return
        if refused:
            _LOG.error("the broker refused a subscription of %s: %s", self.device_id, refused)
            self.is_unwelcome = True
            client.disconnect()
            return
        self.is_connected = True
        _LOG.info("%s has a session", self.device_id)
        self.publish(Channel.STATUS, self._status(is_online=True), qos=1, is_retained=True)
        self._take(Connected())
        self._follow_watched()

    def _follow_watched(self) -> None:
        """Subscribe and unsubscribe what differs, in a session that was granted."""
        with self._watch_lock:
            if not self.is_connected:
                return
            new, old = self._watched - self._subscribed, self._subscribed - self._watched
            self._subscribed = self._watched
            if new:
                self.client.subscribe([(topic, 1) for topic in sorted(new)])
            if old:
                self.client.unsubscribe(sorted(old))

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        # paho's word for a connection that ended without one of the broker's.
        is_silent = reason.is_failure and not flags.is_disconnect_packet_from_server
        words = BROKEN_OFF if is_silent and str(reason) == "Unspecified error" else str(reason)
        was_connected, self.is_connected = self.is_connected, False
        self.is_unwelcome = self.is_unwelcome or reason.value in UNWELCOME
        if was_connected:
            _LOG.info("session of %s ended: %s", self.device_id, words)
            self._take(Disconnected(words))

    def _on_message(
        self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage
    ) -> None:
        topic = message.topic
        if topic.startswith(BINS_PREFIX) and topic not in self._watched:
            # The broker kept this subscription from an earlier life of the agent.
            self.client.unsubscribe(topic)
            return
        self._take(MessageArrived(topic, bytes(message.payload)))
