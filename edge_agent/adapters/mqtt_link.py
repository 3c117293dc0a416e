"""The agent's link: one MQTT session at a time, kept up by a thread of its own.

paho's own reconnect has no jitter, so it is switched off: each end of a session is followed by
the wait that ``core/retry.py`` plans. A watch looks for a session that never came up and for a
network thread that died.
"""

import logging
import ssl
import threading
from collections.abc import Callable

from edge_agent.adapters.mqtt_session import MqttSession, tls_context
from edge_agent.contract.topics import Channel
from edge_agent.core.retry import SPREAD_S_MAX, Reconnection, note_connected, plan_reconnect
from edge_agent.ports import Clock, Connected, Identity, Jitter

SESSION_TIMEOUT_S = 30.0
"""A broker that took the connection must have granted the subscriptions by then."""
WATCH_S = 2.0
STOP_TIMEOUT_S = 3.0
_LOG = logging.getLogger(__name__)


class MqttLink:
    """Link over a thread; ``take`` is called from that thread and from paho's."""

    def __init__(
        self,
        identity: Identity,
        boot: int,
        take: Callable[[object], None],
        *,
        clock: Clock,
        jitter: Jitter,
        is_plain: bool = False,
    ) -> None:
        """Prepare; ``start`` connects.

        Args:
            identity: Who connects where.
            boot: Random id of this start of the agent.
            take: Gets Connected, Disconnected and MessageArrived.
            clock: For the back-off.
            jitter: Numbers in [0, 1).
            is_plain: Plain TCP, for tests on the loopback.
        """
        self._identity, self._give = identity, take
        self._clock, self._jitter, self._is_plain = clock, jitter, is_plain
        self._plan = Reconnection(spread_s=0.0)
        self._plan_lock = threading.Lock()
        self._ended, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._session = MqttSession(
            identity.device_id,
            boot,
            self._take,
            tls=self._make_tls(),
            on_end=self._ended.set,
        )

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
        self._session.say_goodbye()
        self._ended.wait(STOP_TIMEOUT_S)
        self._ended.set()
        self._thread.join(STOP_TIMEOUT_S)

    def publish(
        self, channel: Channel, payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        """Hand a message to the session; False when it was not taken (offline or full)."""
        return self._session.publish(channel, payload, qos=qos, is_retained=is_retained)

    def spread_reconnects(self, spread_s: float) -> None:
        """Spread the first reconnect over this many seconds from now on."""
        with self._plan_lock:
            self._plan = Reconnection(
                failures=self._plan.failures,
                connected_at=self._plan.connected_at,
                spread_s=min(spread_s, SPREAD_S_MAX),
            )

    def _make_tls(self) -> ssl.SSLContext | None:
        return None if self._is_plain else tls_context(self._identity)

    def _take(self, item: object) -> None:
        if isinstance(item, Connected):
            with self._plan_lock:
                self._plan = note_connected(self._plan, now=self._clock.monotonic())
        self._give(item)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._ended.clear()
            try:
                self._hold_session()
            except (OSError, ValueError) as error:
                _LOG.warning(
                    "no connection to %s:%d: %s",
                    self._identity.host,
                    self._identity.mqtt_port,
                    error,
                )
            except Exception:  # noqa: BLE001 - a door: the link must outlive any session
                _LOG.exception("the link failed; it will try again")
            with self._plan_lock:
                self._plan, wait_s = plan_reconnect(
                    self._plan,
                    now=self._clock.monotonic(),
                    jitter=self._jitter(),
                    is_unwelcome=self._session.is_unwelcome,
                )
            self._stop.wait(wait_s)

    def _hold_session(self) -> None:
        client = self._session.client
        self._session.connect(self._identity.host, self._identity.mqtt_port, jitter=self._jitter())
        client.loop_start()
        try:
            began = self._clock.monotonic()
            while not self._ended.wait(WATCH_S):
                age_s = self._clock.monotonic() - began
                if not self._session.is_connected and age_s > SESSION_TIMEOUT_S:
                    _LOG.warning("the broker granted no session within %.0f s", age_s)
                    client.disconnect()
                    return
                if not _is_thread_alive(self._identity.device_id):
                    _LOG.error("the network thread died; connecting anew")
                    return
        finally:
            client.loop_stop()


def _is_thread_alive(device_id: str) -> bool:
    """Tell whether paho's network thread runs; paho itself says connected when it died."""
    name = f"paho-mqtt-client-{device_id}"
    return any(thread.name == name for thread in threading.enumerate())
