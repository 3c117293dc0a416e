"""Joins the adapters to one agent process; no other file does.

A directory is the whole of an agent: ``identity/``, ``state.json``, ``blobs/``, ``parts/``,
``tuf/``, ``outbox.db``, ``profiles/``, ``agent.lock``, ``control.sock`` and the log if asked for.
"""

import logging
import queue
import signal
import threading
from pathlib import Path
from types import FrameType

from device_profiles.catalog import load_profile
from device_profiles.errors import ProfileError
from device_profiles.profile import DeviceProfile
from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.capability_probe import ChildProbe
from edge_agent.adapters.chance import random_bits, random_share
from edge_agent.adapters.chunk_store import DirectoryChunkStore
from edge_agent.adapters.control_socket import ControlSocket
from edge_agent.adapters.device_figures import DeviceFigures
from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.execution_providers import ProviderWish
from edge_agent.adapters.http_access import access_of
from edge_agent.adapters.identity_store import load_identity
from edge_agent.adapters.job_lanes import ThreadLanes
from edge_agent.adapters.listening import listen
from edge_agent.adapters.mqtt_link import MqttLink
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.package_restorer import DirectoryRestorer
from edge_agent.adapters.plain_text import INSECURE
from edge_agent.adapters.self_test import ChildSelfTester
from edge_agent.adapters.service_notifier import ServiceNotifier
from edge_agent.adapters.state_store import FileStateStore
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.adapters.trust_process import (
    ProcessRenewer,
    ProcessVerifier,
    TrustProcess,
    find_facts,
)
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.agent import Agent, AgentOptions, AgentPorts
from edge_agent.agent_loop import AgentLoop
from edge_agent.commits import restore_state
from edge_agent.contract.topics import Channel
from edge_agent.errors import SettingsError
from edge_agent.local_control import LocalControl
from edge_agent.ports import Identity, SelfTestLimits
from edge_agent.row_settings import find_row_section
from edge_agent.serving_config import ServingConfig
from edge_agent.serving_host import make_serving_host
from edge_agent.settings import AgentSettings

INBOX_MAX = 10_000
"""Inputs that may wait for the loop; beyond, the network thread waits, and so does the broker."""
_LOG = logging.getLogger(__name__)


class AgentProcess:
    """A whole agent on one directory: ``run`` until ``request_stop``."""

    def __init__(self, directory: Path, settings: AgentSettings) -> None:
        """Lock the directory and build everything; nothing runs yet.

        Raises:
            AgentError: Not enrolled, locked, damaged, a setting or profile is wrong, or the HTTP
                address is taken.
        """
        self._lock = DirectoryLock(directory)
        self._lock.acquire()
        self._stop = threading.Event()
        self._inbox: queue.Queue[object] = queue.Queue(INBOX_MAX)
        self.identity = load_identity(directory)
        self.profile = load_device_profile(self.identity, directory, settings)
        boot = random_bits(63)
        clock, jitter = SystemClock(), random_share
        access_of(directory, settings)  # refused here, not only where it is used
        state_store = FileStateStore(directory)
        state = restore_state(state_store)
        blobs = DirectoryBlobStore(directory / "blobs")
        self._outbox = Outbox(
            directory / "outbox.db", bytes_max=self.profile.telemetry.outbox_bytes_max
        )
        self._trust = trust = TrustProcess(directory, clock)
        trust.begin()
        self._link = link = MqttLink(
            self.identity,
            boot,
            self._inbox.put,
            clock=clock,
            jitter=jitter,
            find_facts=lambda: find_facts(trust),
        )
        self._lanes = ThreadLanes(self._inbox.put)
        self._sockets = listen(settings.http_host, settings.http_port)
        self._serving = make_serving_host(
            ServingConfig(
                directory=directory,
                boot=boot,
                settings=settings,
                profile=self.profile,
                rows=find_row_section(directory),
            ),
            self._sockets,
            blobs,
            self._outbox,
            clock=clock,
            give=self._inbox.put,
            find_state=lambda: self.agent.state,
        )
        telemetry = TelemetryUplink(
            self._outbox,
            lambda payload: link.publish(Channel.TELEMETRY, payload, qos=1),
            clock,
            jitter,
            close_due=self._serving.close_due,
            meter=UplinkMeter(
                self.profile.telemetry.uplink_bytes_per_day_max,
                clock,
                self._outbox.notes(),
            ),
            publish_labels=lambda payload: link.publish(Channel.LABELS, payload, qos=1),
            publish_rows=lambda payload: link.publish(Channel.ROWS, payload, qos=1),
        )
        self.agent = Agent(
            AgentOptions(
                device_id=self.identity.device_id,
                boot=boot,
                latency_ms_p95_max=self.profile.latency_ms_p95_max,
                grace_s=settings.grace_s,
                serving_place=str(self._serving.place),
            ),
            AgentPorts(
                clock=clock,
                jitter=jitter,
                verifier=ProcessVerifier(trust),
                state_store=state_store,
                blobs=blobs,
                chunks=DirectoryChunkStore(directory / "parts", blobs),
                restorer=DirectoryRestorer(
                    directory / "parts", blobs, memory_bytes=settings.restore_memory_bytes
                ),
                inference=self._serving.inference,
                shadows=self._serving.shadows,
                self_tester=ChildSelfTester(
                    blobs,
                    self_test_limits(self.profile),
                    threads=self.profile.intra_op_threads,
                    providers=ProviderWish.of(self.profile),
                ),
                telemetry=telemetry,
                read_resources=DeviceFigures(
                    directory, clock, find_worker=lambda: self._serving.worker_pid
                ).read,
                link=link,
                jobs=self._lanes,
                probe=ChildProbe(directory, wish=ProviderWish.of(self.profile)),
                identity=None
                if self.identity.is_plain
                else ProcessRenewer(
                    trust,
                    self.identity,
                    clock,
                    on_renewed=link.use_identity,
                    on_trusted=link.trust_anew,
                ),
            ),
            state,
        )
        self._settings = settings
        self._notifier = ServiceNotifier(clock)
        self._control = ControlSocket(directory, self._inbox.put)
        self._loop = AgentLoop(
            self.agent,
            self._inbox,
            LocalControl(
                agent=self.agent,
                clock=clock,
                count_windows=telemetry.counts,
                find_serving=lambda: {
                    "place": str(self._serving.place),
                    "pid": self._serving.worker_pid,
                },
            ),
            self._notifier,
        )

    def run(self) -> None:
        """Serve, connect and update until ``request_stop``; then end in good order."""
        try:
            port = int(self._sockets[0].getsockname()[1])
            self._serving.start()
            host = self._settings.http_host
            self._lock.describe({"http_host": host, "http_port": port})
            _LOG.info(
                "%s of fleet %s answers on %s port %d, server %s:%d",
                self.identity.device_id,
                self.identity.fleet,
                host,
                port,
                self.identity.host,
                self.identity.mqtt_port,
            )
            if self.identity.is_plain:
                _LOG.warning(INSECURE)
            self.agent.start()
            self._link.start()
            self._control.start()
            self._loop.run(self._stop)
        finally:
            self._end()

    def request_stop(self) -> None:
        """Let ``run`` end; may be called from any thread and from a signal handler."""
        self._stop.set()

    def stop_on_signals(self) -> None:
        """End in good order on SIGTERM and SIGINT."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.request_stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def _end(self) -> None:
        self._notifier.say_stopping()
        self._control.stop()
        self._serving.stop()
        self.agent.stop()
        self._link.stop()
        self._lanes.stop()
        self._trust.close()
        self._outbox.close()
        self._lock.release()
        self._notifier.close()
        _LOG.info("%s ended in good order", self.identity.device_id)


def load_device_profile(
    identity: Identity, directory: Path, settings: AgentSettings
) -> DeviceProfile:
    """Load the profile the device was enrolled with; raises SettingsError."""
    extra = Path(settings.profiles_dir) if settings.profiles_dir else directory / "profiles"
    if settings.profiles_dir and not extra.is_dir():  # else a shipped profile took its place unseen
        raise SettingsError(
            f"profiles_dir {extra} is no folder; create it, or take the setting out to use"
            f" {directory / 'profiles'} and the shipped profiles"
        )
    try:
        return load_profile(identity.profile, extra)
    except ProfileError as error:
        raise SettingsError(
            f"profile of {identity.device_id}: {error}; put its file into {extra}"
        ) from error


def self_test_limits(profile: DeviceProfile) -> SelfTestLimits:
    """Take from a profile what a package may need at most."""
    return SelfTestLimits(
        latency_ms_p95_max=profile.latency_ms_p95_max, rss_bytes_max=profile.rss_bytes_max
    )
