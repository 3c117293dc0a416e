"""MQTT in, MQTT out: messages of a local broker are answered by the agent beside.

One thread turns the broker's loop, one asks the agent over HTTP. Messages in between wait in a
bounded queue: a new one pushes the oldest out, because a late answer about a machine is worth less
than one about now. While the agent is away the queue waits for it; what it refuses is told on the
error topic. Left out: several brokers, a session that outlives the connection, QoS 2.
Invariant: a message is answered once at most; every one that is not is counted.
"""

import contextlib
import logging
import selectors
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge_agent.adapters.http_access import is_loopback
from edge_agent.bridge_settings import BridgeSettings, read_password
from edge_agent.client import Client
from edge_agent.client_wire import Answer
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import dump_object, parse_object
from edge_agent.core.bridge_route import pick_fields
from edge_agent.errors import InputError, ServingError, SettingsError, UnreachableError
from edge_agent.ports import Clock

PAYLOAD_BYTES_MAX = 1_048_576
ANSWERS_WAITING_MAX = 1_000
CONNECT_TIMEOUT_S = 10.0
SESSION_TIMEOUT_S = 20.0
KEEPALIVE_S = 30
BACKOFF_S_FIRST, BACKOFF_S_MAX = 0.5, 60.0
AGENT_AWAY_S = 1.0
COUNTS_EVERY_S = 60.0
GOODBYE_S = 2.0
COUNTS = (
    "received", "answered", "dropped", "malformed", "refused", "failed", "stale", "unsent",
)  # fmt: skip
_LOG = logging.getLogger(__name__)


class MqttBridge:
    """Answers messages from ``run`` until ``stop``."""

    def __init__(
        self, settings: BridgeSettings, directory: Path, agent: Client, clock: Clock
    ) -> None:
        """Prepare; nothing connects yet.

        Args:
            settings: Of the bridge.
            directory: Where its files are looked for.
            agent: Answers.
            clock: For time-outs.

        Raises:
            SettingsError: A file cannot be used; says which.
        """
        self._settings, self._agent, self._clock = settings, agent, clock
        self._route = settings.route
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=settings.queue_max)
        self._answers: deque[tuple[str, bytes]] = deque(maxlen=ANSWERS_WAITING_MAX)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._stop, self._has_work = threading.Event(), threading.Event()
        self._is_connected = False
        self._mqtt = self._make_client(directory)
        self._wakers: tuple[socket.socket, socket.socket] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the messages, by COUNTS.

        ``dropped`` were pushed out of the queue, ``malformed`` are no JSON object or lack a field,
        ``refused`` do not follow the schema, ``failed`` the agent could not answer, ``stale`` were
        retained before the bridge came, ``unsent`` answers found no broker.
        """
        with self._lock:
            return dict(self._counts)

    def run(self) -> None:
        """Answer until ``stop``; reconnects for ever, with a growing pause."""
        self._wakers = socket.socketpair()
        for end in self._wakers:
            end.settimeout(0)
        worker = threading.Thread(target=self._answer_all, name="bridge-worker", daemon=True)
        worker.start()
        pause_s = BACKOFF_S_FIRST
        try:
            while not self._stop.is_set():
                began = self._clock.monotonic()
                try:
                    self._hold_connection()
                except (OSError, ValueError) as error:
                    _LOG.warning("no broker on %s: %s", self._where(), error)
                if self._clock.monotonic() - began > BACKOFF_S_MAX:
                    pause_s = BACKOFF_S_FIRST
                self._stop.wait(pause_s)
                pause_s = min(pause_s * 2, BACKOFF_S_MAX)
        finally:
            self.stop()
            worker.join(CONNECT_TIMEOUT_S)
            for end in self._wakers:
                end.close()
            _LOG.info("the bridge ends: %s", dict(self.counts))

    def stop(self) -> None:
        """End ``run``; may be called from a signal handler and any thread."""
        self._stop.set()
        self._has_work.set()
        self._wake()

    # The broker's loop, in the thread of run -----------------------------------------------------

    def _hold_connection(self) -> None:
        client, settings = self._mqtt, self._settings
        began = turned_at = told_at = self._clock.monotonic()
        client.connect(settings.host, settings.port, keepalive=KEEPALIVE_S)
        left_at: float | None = None
        goodbye: mqtt.MQTTMessageInfo | None = None
        while isinstance(opened := client.socket(), socket.socket):
            self._wait_for(opened)
            client.loop_read()
            while isinstance(opened := client.socket(), ssl.SSLSocket) and opened.pending():
                client.loop_read()
            self._publish_answers()
            if client.want_write():
                client.loop_write()
            now = self._clock.monotonic()
            if now - turned_at >= 1:
                turned_at = now
                client.loop_misc()
            if now - told_at >= COUNTS_EVERY_S:
                told_at = now
                self._tell_status(is_online=True)
            if self._stop.is_set() and left_at is None:
                left_at = now
                goodbye = self._tell_status(is_online=False)
            if left_at is not None and (goodbye is None or goodbye.is_published()):
                # With an acknowledgement unread the socket would be reset, the broker might never
                # see the end in good order and would send the last will behind the goodbye.
                client.disconnect()
            is_late = not self._is_connected and now - began > SESSION_TIMEOUT_S
            if is_late or (left_at is not None and now - left_at > GOODBYE_S):
                opened = client.socket()
                client.disconnect()
                if isinstance(opened, socket.socket):
                    opened.close()
                return

    def _publish_answers(self) -> None:
        while self._is_connected and self._answers:
            topic, payload = self._answers.popleft()
            info = self._mqtt.publish(topic, payload, self._settings.qos)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._count("unsent")

    def _tell_status(self, *, is_online: bool) -> mqtt.MQTTMessageInfo | None:
        _LOG.info("counts: %s", dict(self.counts))
        if not (self._settings.topic_status and self._is_connected):
            return None
        payload = dump_object({"is_online": is_online, **self.counts})
        told = self._mqtt.publish(self._settings.topic_status, payload, 1, retain=True)
        return told if told.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, reason: Any, _more: object
    ) -> None:
        if reason.is_failure:
            _LOG.warning("the broker on %s refused the bridge: %s", self._where(), reason)
            return
        client.subscribe(self._route.subscription, self._settings.qos)

    def _on_subscribe(
        self, client: mqtt.Client, _userdata: object, _mid: int, reasons: Any, _more: object
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            _LOG.error("the broker refused the subscription to %s", self._route.subscription)
            client.disconnect()
            return
        self._is_connected = True
        _LOG.info("connected to %s, listening to %s", self._where(), self._route.subscription)
        self._tell_status(is_online=True)

    def _on_disconnect(self, *_: object) -> None:
        if self._is_connected:
            _LOG.warning("the connection to the broker on %s ended", self._where())
        self._is_connected = False

    def _on_message(
        self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage
    ) -> None:
        if message.retain:
            self._count("stale")
            return
        with self._lock:
            self._counts["received"] += 1
            self._counts["dropped"] += len(self._waiting) == self._waiting.maxlen
            self._waiting.append((message.topic, bytes(message.payload)))
        self._has_work.set()

    # The agent, in the worker --------------------------------------------------------------------

    def _answer_all(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                taken = self._waiting.popleft() if self._waiting else None
                if taken is None:
                    self._has_work.clear()
            if taken is None:
                self._has_work.wait()
                continue
            try:
                self._answer(*taken)
            except UnreachableError as error:
                _LOG.warning("%s; trying again", error)
                self._put_back(taken)
                self._stop.wait(AGENT_AWAY_S)
            except Exception:  # noqa: BLE001 - a door: one message must not end the bridge
                _LOG.exception("a message on %s was not answered", taken[0])
                self._count("failed")

    def _put_back(self, taken: tuple[str, bytes]) -> None:
        with self._lock:
            if len(self._waiting) == self._waiting.maxlen:
                self._counts["dropped"] += 1
            else:
                self._waiting.appendleft(taken)

    def _answer(self, topic: str, payload: bytes) -> None:
        try:
            message = parse_object(payload, what="the payload", limit_bytes=PAYLOAD_BYTES_MAX)
            row = pick_fields(message, self._settings.fields)
        except (ContractError, InputError) as error:
            self._refuse("malformed", topic, error)
            return
        if not self._settings.fields:
            row = {name: value for name, value in row.items() if name not in self._settings.keep}
        try:
            answer = self._agent.predict(row, self._settings.slot or None)
        except UnreachableError:
            raise
        except InputError as error:
            self._refuse("refused", topic, error)
            return
        except ServingError as error:
            self._refuse("failed", topic, error)
            return
        kept = {name: message[name] for name in self._settings.keep if name in message}
        self._count("answered")
        self._send(self._route.answer_topic(topic), describe_answer(answer) | kept)

    def _refuse(self, kind: str, topic: str, error: Exception) -> None:
        self._count(kind)
        _LOG.debug("a message on %s was not answered: %s", topic, error)
        if where := self._route.error_topic(topic):
            self._send(where, {"topic": topic, "kind": kind, "error": str(error)})

    def _send(self, topic: str, value: Mapping[str, Any]) -> None:
        if len(self._answers) == ANSWERS_WAITING_MAX:
            self._count("unsent")
        self._answers.append((topic, dump_object(value)))
        self._wake()

    # Both ----------------------------------------------------------------------------------------

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _where(self) -> str:
        return f"{self._settings.host} port {self._settings.port}"

    def _wait_for(self, opened: socket.socket) -> None:
        wants = selectors.EVENT_READ
        if self._mqtt.want_write():
            wants |= selectors.EVENT_WRITE
        assert self._wakers is not None  # noqa: S101 - run made them
        with selectors.DefaultSelector() as selector:
            selector.register(opened, wants)
            selector.register(self._wakers[0], selectors.EVENT_READ)
            selector.select(1.0)
        with contextlib.suppress(BlockingIOError):
            self._wakers[0].recv(4_096)

    def _wake(self) -> None:
        if self._wakers is not None:
            with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
                self._wakers[1].send(b"w")

    def _make_client(self, directory: Path) -> mqtt.Client:
        settings = self._settings
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_queued_messages_set(ANSWERS_WAITING_MAX)
        client.enable_logger(_QUIET)
        if settings.username:
            password = settings.password_file and read_password(directory / settings.password_file)
            client.username_pw_set(settings.username, password or None)
        if settings.ca_file:
            client.tls_set_context(_tls_context(settings, directory))
        elif settings.password_file and not is_loopback(settings.host):
            _LOG.warning("the password goes to %s in plain text; set ca_file", self._where())
        if settings.topic_status:
            client.will_set(
                settings.topic_status, dump_object({"is_online": False}), 1, retain=True
            )
        client.on_connect, client.on_subscribe = self._on_connect, self._on_subscribe
        client.on_disconnect, client.on_message = self._on_disconnect, self._on_message
        # Keeps paho from writing in another thread than that of the loop.
        client.on_socket_register_write = lambda *_: self._wake()
        return client


def describe_answer(answer: Answer) -> dict[str, Any]:
    """Give the answer to one row as it is published."""
    told: dict[str, Any] = {
        "prediction_id": answer.prediction_id,
        "model": answer.model_name,
        "version": answer.model_version,
        "slot": answer.slot,
    }
    return told | answer.row(0)


class _ClosingSocket(ssl.SSLSocket):
    """A socket that a failed handshake closes; paho leaves it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is inherited
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls_context(settings: BridgeSettings, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _ClosingSocket
    loads: list[tuple[str, Callable[[], None]]] = [
        ("ca_file", lambda: context.load_verify_locations(directory / settings.ca_file))
    ]
    if settings.certificate_file:
        chain, key = directory / settings.certificate_file, directory / settings.key_file
        loads.append(("certificate_file", lambda: context.load_cert_chain(chain, key)))
    for name, load in loads:
        try:
            load()
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"{name} {directory / getattr(settings, name)} cannot be used: {error}"
            ) from error
    return context


_QUIET = logging.getLogger(f"{__name__}.paho")
_QUIET.setLevel(logging.CRITICAL)
