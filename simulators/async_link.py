"""Many MQTT sessions in one event loop: the agent's own session, without a thread each.

The loop watches each socket; one shared timer calls ``keep_alive``. Connecting blocks (TCP, TLS)
and runs in a small pool. Back-off and jitter are those of real devices.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from edge_agent.adapters.mqtt_session import MqttSession, session_tls
from edge_agent.contract.topics import Channel
from edge_agent.core.retry import SPREAD_S_MAX, Reconnection, note_connected, plan_reconnect
from edge_agent.ports import Clock, Connected, Identity, Jitter

_LOG = logging.getLogger(__name__)


class AsyncLink:
    """Link of one simulated device; everything but connecting happens in the loop's thread."""

    def __init__(
        self,
        identity: Identity,
        boot: int,
        take: Callable[[object], None],
        *,
        clock: Clock,
        jitter: Jitter,
        pool: Executor,
    ) -> None:
        """Prepare; ``connect_after`` connects.

        Args:
            identity: Who connects where.
            boot: Random id of this start of the device.
            take: Gets Connected, Disconnected and MessageArrived in the loop's thread.
            clock: For the back-off.
            jitter: Numbers in [0, 1).
            pool: Runs what blocks.
        """
        self._identity, self._give = identity, take
        self._clock, self._jitter, self._pool = clock, jitter, pool
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._plan = Reconnection()
        self._is_stopping = False
        self._watched: dict[int, socket.socket] = {}
        self.connects = 0
        self._session = MqttSession(identity.device_id, boot, self._take, tls=session_tls(identity))
        client = self._session.client
        client.on_socket_open = lambda _c, _u, opened: self._soon(self._watch, opened)
        client.on_socket_close = lambda _c, _u, opened: self._unwatch(opened)
        client.on_socket_register_write = lambda _c, _u, opened: self._soon(self._want, opened)
        client.on_socket_unregister_write = lambda _c, _u, opened: self._soon(self._unwant, opened)

    @property
    def is_connected(self) -> bool:
        """Whether a session with the broker stands."""
        return self._session.is_connected

    def connect_after(self, wait_s: float) -> None:
        """Connect after a while, and again whenever the session ends, until ``stop``."""
        self._loop.call_later(wait_s, lambda: self._loop.create_task(self._connect()))

    def publish(
        self, channel: Channel, payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        """Hand a message to the session; False when it was not taken (offline or full)."""
        return self._session.publish(channel, payload, qos=qos, is_retained=is_retained)

    def spread_reconnects(self, spread_s: float) -> None:
        """Spread the first reconnect over this many seconds from now on."""
        self._plan = Reconnection(
            failures=self._plan.failures,
            connected_at=self._plan.connected_at,
            spread_s=min(spread_s, SPREAD_S_MAX),
        )

    def watch(self, topics: frozenset[str]) -> None:
        """Subscribe to exactly these beside what every device hears; also after a reconnect."""
        self._session.watch(topics)

    def keep_alive(self) -> None:
        """To be called about once a second."""
        self._session.keep_alive()

    def cut(self) -> None:
        """Break the connection without a word, as a lost radio link does."""
        for opened in self._watched.values():
            # The plain method: that of a TLS socket forgets the cipher and reads what is left raw.
            socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def stop(self) -> None:
        """Say goodbye and do not come back."""
        self._is_stopping = True
        self._session.say_goodbye()

    async def _connect(self) -> None:
        if self._is_stopping:
            return
        self.connects += 1
        try:
            await self._loop.run_in_executor(
                self._pool,
                lambda: self._session.connect(
                    self._identity.host, self._identity.mqtt_port, jitter=self._jitter()
                ),
            )
        except (OSError, ValueError) as error:
            _LOG.info("%s: no connection: %s", self._identity.device_id, error)
            self._come_back()

    def _come_back(self) -> None:
        if self._is_stopping:
            return
        self._plan, wait_s = plan_reconnect(
            self._plan,
            now=self._clock.monotonic(),
            jitter=self._jitter(),
            is_unwelcome=self._session.is_unwelcome,
        )
        self.connect_after(wait_s)

    def _take(self, item: object) -> None:
        if isinstance(item, Connected):
            self._plan = note_connected(self._plan, now=self._clock.monotonic())
        self._give(item)

    def _soon(self, act: Callable[[socket.socket], None], opened: object) -> None:
        """Paho calls back in the pool's thread while it connects; sockets are the loop's."""
        if not isinstance(opened, socket.socket):
            return
        if threading.get_ident() == self._loop_thread:
            act(opened)
        else:
            self._loop.call_soon_threadsafe(act, opened)

    def _watch(self, opened: socket.socket) -> None:
        if opened.fileno() >= 0:
            self._watched[id(opened)] = opened
            self._loop.add_reader(opened, self._session.read)

    def _unwatch(self, opened: object) -> None:
        if isinstance(opened, socket.socket) and self._watched.pop(id(opened), None) is not None:
            self._loop.remove_reader(opened)
            self._loop.remove_writer(opened)
            self._loop.call_soon(self._come_back)

    def _want(self, opened: socket.socket) -> None:
        if id(opened) in self._watched and opened.fileno() >= 0:
            self._loop.add_writer(opened, self._session.write)

    def _unwant(self, opened: socket.socket) -> None:
        if id(opened) in self._watched and not self._session.client.want_write():
            self._loop.remove_writer(opened)
