"""The agent's link: one MQTT session at a time, kept up by a thread of its own.

paho's own reconnect has no jitter, so it is switched off: each end of a session is followed by
the wait that ``core/retry.py`` plans. A session that is not granted in time is given up.
"""

import contextlib
import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace

from edge_agent.adapters.identity_store import save_facts
from edge_agent.adapters.mqtt_session import MqttSession, session_tls, tls_context
from edge_agent.adapters.plain_text import offers_tls
from edge_agent.contract.topics import Channel
from edge_agent.core.clock_check import find_clock_fault
from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.core.retry import SPREAD_S_MAX, Reconnection, note_connected, plan_reconnect
from edge_agent.errors import AgentError
from edge_agent.ports import Clock, Connected, Identity, Jitter

SESSION_TIMEOUT_S = 30.0
"""A broker that took the connection must have granted the subscriptions by then."""
GOODBYE_S = 2.0
STOP_TIMEOUT_S = 3.0
DATE_ERRORS = frozenset({9, 10})
"""OpenSSL: a certificate is not valid yet, or no longer."""
_LOG = logging.getLogger(__name__)


class MqttLink:
    """Link over one thread of its own, in which ``take`` is called."""

    def __init__(
        self,
        identity: Identity,
        boot: int,
        take: Callable[[object], None],
        *,
        clock: Clock,
        jitter: Jitter,
        find_facts: Callable[[], CertificateFacts] | None = None,
    ) -> None:
        """Prepare; ``start`` connects.

        Args:
            identity: Who connects where.
            boot: Random id of this start of the agent.
            take: Gets Connected, Disconnected and MessageArrived.
            clock: For the back-off.
            jitter: Numbers in [0, 1).
            find_facts: Reads the certificate in use; None: this process reads it.
        """
        self._identity, self._give, self._find_facts = identity, take, find_facts
        self._clock, self._jitter = clock, jitter
        self._plan = Reconnection(spread_s=0.0)
        self._plan_lock = threading.Lock()
        self._stop = threading.Event()
        self._waker, self._wake_end = socket.socketpair()
        for end in (self._waker, self._wake_end):
            end.settimeout(0)
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._boot = boot
        self._fresh: Identity | None = None
        self._is_trust_changed = False
        self._topics: frozenset[str] = frozenset()
        self._session = self._make_session()

    @property
    def is_connected(self) -> bool:
        """Whether a session with the broker stands."""
        return self._session.is_connected

    def start(self) -> None:
        """Begin to connect, and to reconnect, until ``stop``."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye and end; waits a few seconds at most."""
        self._stop.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)
        self._waker.close()
        self._wake_end.close()

    def publish(
        self, channel: Channel, payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        """Hand a message to the session; False when it was not taken (offline or full)."""
        is_taken = self._session.publish(channel, payload, qos=qos, is_retained=is_retained)
        self._wake()
        return is_taken

    def spread_reconnects(self, spread_s: float) -> None:
        """Spread the first reconnect over this many seconds from now on."""
        with self._plan_lock:
            self._plan = Reconnection(
                failures=self._plan.failures,
                connected_at=self._plan.connected_at,
                spread_s=min(spread_s, SPREAD_S_MAX),
            )

    def use_identity(self, identity: Identity) -> None:
        """Connect anew with another key and certificate of this device; from any thread."""
        self._fresh = identity
        self._wake()

    def trust_anew(self, _identity: Identity) -> None:
        """Trust, from the next connection on, what the identity's file of authorities holds now."""
        self._is_trust_changed = True

    def watch(self, topics: frozenset[str]) -> None:
        """Subscribe to exactly these beside what every device hears; also after a reconnect."""
        self._topics = topics
        self._session.watch(topics)
        self._wake()

    def _on_writable(self, *_: object) -> None:
        """Keep paho from writing in the publisher's thread; the loop's thread does."""
        self._wake()

    def _take(self, item: object) -> None:
        if isinstance(item, Connected):
            with self._plan_lock:
                self._plan = note_connected(self._plan, now=self._clock.monotonic())
        self._give(item)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._take_up_identity()
                self._hold_session()
            except (OSError, ValueError) as error:
                _LOG.warning(
                    "no connection to %s:%d: %s%s",
                    self._identity.host,
                    self._identity.mqtt_port,
                    error,
                    self._find_clock_fault(error),
                )
            except Exception:  # noqa: BLE001 - a door: the link must outlive any session
                _LOG.exception("the link failed; it will try again")
            if self._fresh is not None:
                continue
            with self._plan_lock:
                self._plan, wait_s = plan_reconnect(
                    self._plan,
                    now=self._clock.monotonic(),
                    jitter=self._jitter(),
                    is_unwelcome=self._session.is_unwelcome,
                )
            self._stop.wait(wait_s)

    def _find_clock_fault(self, error: Exception) -> str:
        """Say what to do when a certificate's dates do not fit because the clock is wrong."""
        if not isinstance(error, ssl.SSLCertVerificationError):
            return ""
        if error.verify_code not in DATE_ERRORS:
            return ""
        try:
            facts = self._read_facts()
        except AgentError as unreadable:
            return f"; {unreadable}"
        fault = find_clock_fault(
            self._clock.now(), not_before_at=facts.not_before, not_after_at=facts.not_after
        )
        return f"; {fault}" if fault else ""

    def _read_facts(self) -> CertificateFacts:
        if self._find_facts is not None:
            return self._find_facts()
        from edge_agent.adapters.identity_renewer import read_facts  # loads cryptography

        return read_facts(self._identity)

    def _hold_session(self) -> None:
        session, began = self._session, self._clock.monotonic()
        if session.is_plain:
            self._leave_plain_text()
        session.connect(self._identity.host, self._identity.mqtt_port, jitter=self._jitter())
        kept_alive_at = began
        said_goodbye_at: float | None = None
        while (opened := session.open_socket) is not None:
            self._wait_for(opened)
            session.read()
            session.write()
            now = self._clock.monotonic()
            if now - kept_alive_at >= 1:
                kept_alive_at = now
                session.keep_alive()
            is_over = self._stop.is_set() or self._fresh is not None
            if is_over and said_goodbye_at is None:
                said_goodbye_at = now
                session.say_goodbye()
            if said_goodbye_at is not None:
                if now - said_goodbye_at > GOODBYE_S:
                    return
            elif session.open_socket is None:
                return  # it ended while it was read
            elif not session.is_connected and now - began > SESSION_TIMEOUT_S:
                _LOG.warning("the broker granted no session within %.0f s", now - began)
                session.say_goodbye()
                return

    def _take_up_identity(self) -> None:
        """Let the next connection show the newest certificate and trust who is listed now."""
        fresh, self._fresh = self._fresh, None
        is_changed, self._is_trust_changed = self._is_trust_changed, False
        if fresh is not None:
            self._identity = fresh
        if fresh is not None or is_changed:
            if (opened := self._session.open_socket) is not None:
                opened.close()
            self._session = self._make_session()
            self._session.watch(self._topics)

    def _make_session(self) -> MqttSession:
        """Read certificates anew; a TLS context forgets none of those it trusted."""
        tls = session_tls(self._identity)
        session = MqttSession(self._identity.device_id, self._boot, self._take, tls=tls)
        session.client.on_socket_register_write = self._on_writable
        return session

    def _leave_plain_text(self) -> None:
        """Go on with TLS for good as soon as the broker speaks it."""
        tls = tls_context(self._identity)
        if not offers_tls(self._identity, tls):
            return
        self._session.secure(tls)
        self._identity = replace(self._identity, is_plain=False)
        save_facts(self._identity)
        _LOG.warning("the broker speaks TLS: from now on this device speaks nothing else")

    def _wait_for(self, opened: socket.socket) -> None:
        """Wait until the socket or another thread has something to do, a second at most."""
        wants = selectors.EVENT_READ
        if self._session.client.want_write():
            wants |= selectors.EVENT_WRITE
        with selectors.DefaultSelector() as selector:
            selector.register(opened, wants)
            selector.register(self._waker, selectors.EVENT_READ)
            selector.select(1.0)
        with contextlib.suppress(BlockingIOError):
            self._waker.recv(4_096)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway; closed: it has ended
            self._wake_end.send(b"w")
