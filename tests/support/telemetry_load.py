"""Devices under load: the agent's own outbox, uplink and link, one thread each."""

import queue
import threading
import time
from pathlib import Path

from edge_agent.adapters.mqtt_link import MqttLink
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.contract.windows import Window
from edge_agent.ports import Connected, Identity, MessageArrived
from tests.support.gateway import WorkspaceLab

JITTER = 0.02
"""Keeps reconnects short: waits are multiples of it."""
BATCH = 10


class LoadedDevice:
    """One device that records windows at a rate until ``finish`` and sends them all."""

    def __init__(self, lab: WorkspaceLab, name: str, boot: int, *, windows_per_s: float) -> None:
        lab.issue(name)
        folder = lab.workspace.root / "loaded" / name
        folder.mkdir(parents=True)
        self.name, self.boot = name, boot
        self._windows_per_s = windows_per_s
        self._items: queue.Queue[object] = queue.Queue()
        self.outbox = Outbox(folder / "outbox.db")
        clock = SystemClock()
        identity = make_identity(lab, name, folder)
        self._link = MqttLink(identity, boot, self._items.put, clock=clock, jitter=lambda: JITTER)
        self._uplink = TelemetryUplink(self.outbox, self._publish, clock, lambda: JITTER)
        self._topic = device_topic(name, Channel.TELEMETRY_ACK)
        self._stop, self._finished = threading.Event(), threading.Event()
        self._quiet = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.recorded = 0

    @property
    def is_done(self) -> bool:
        return self._quiet.is_set() and self.outbox.counts()["waiting"] == 0

    def finish(self) -> None:
        """Record no more."""
        self._finished.set()

    def start(self) -> None:
        self._link.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._link.stop()
        self.outbox.close()

    def _publish(self, frame: bytes) -> bool:
        return self._link.publish(Channel.TELEMETRY, frame, qos=1)

    def _run(self) -> None:
        start_s = time.monotonic()
        while not self._stop.wait(0.01):
            if self._finished.is_set():
                self._quiet.set()
            else:
                self._record(int((time.monotonic() - start_s) * self._windows_per_s))
            while not self._items.empty():
                item = self._items.get()
                if isinstance(item, Connected):
                    self._uplink.on_connected()
                elif isinstance(item, MessageArrived) and item.topic == self._topic:
                    self._uplink.on_ack(item.payload)
            self._uplink.pump()

    def _record(self, due: int) -> None:
        while self.recorded + BATCH <= due:
            now_ms = int(time.time() * 1_000)
            batch = [
                (
                    self.boot,
                    Window(
                        stream=n % 2,
                        sequence=n // 2,
                        t0_ms=now_ms,
                        t1_ms=now_ms,
                        reference=b"r" * 8,
                        artifact=b"a" * 8,
                        rows=1,
                        counters=bytes(100),
                    ),
                )
                for n in range(self.recorded, self.recorded + BATCH)
            ]
            self.outbox.append(batch)
            self.recorded += BATCH


def make_identity(lab: WorkspaceLab, name: str, folder: Path) -> Identity:
    """Lay the files of an enrolled device."""
    identity = Identity(
        device_id=name,
        profile="camera",
        fleet=lab.workspace.config.fleet,
        host="127.0.0.1",
        mqtt_port=lab.port,
        api_port=lab.workspace.config.api_port,
        root=b"",
        directory=folder,
    )
    files = lab.issue(name)
    identity.ca_path.write_bytes(lab.authority.files.ca.read_bytes())
    identity.certificate_path.write_bytes(files.certificate.read_bytes())
    identity.key_path.write_bytes(files.key.read_bytes())
    return identity
