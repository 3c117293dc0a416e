"""A revoked device leaves the broker at once and stays out: the real gateway, the real broker."""

import shutil
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

import pytest
from sqlmodel import select

from edge_agent.adapters.mqtt_session import MqttSession
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.ports import Connected, Disconnected
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import (
    AssignmentRow,
    CertificateRow,
    DeviceRow,
)
from fleet_server.wiring.devices import build_device_desk
from tests.support.gateway import WorkspaceLab
from tests.support.identity import (
    Reloader,
    ShiftedClock,
    audit_rows,
    certificates,
    join_fleet,
    running_agent,
)

BOOT = 7


class Device:
    """The agent's own session, which comes back whenever it may, as fast as it can."""

    def __init__(self, lab: WorkspaceLab, name: str) -> None:
        identity = lab.issue(name)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(lab.authority.files.ca)
        tls.load_cert_chain(identity.certificate, identity.key)
        self.connected: list[object] = []
        self.ended: list[object] = []
        self.refused = 0
        self._session = MqttSession(name, BOOT, self._take, tls=tls)
        self._lab, self._stop = lab, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _take(self, item: object) -> None:
        if isinstance(item, Connected):
            self.connected.append(item)
        elif isinstance(item, Disconnected):
            self.ended.append(item)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self._session.connect("127.0.0.1", self._lab.port, jitter=0.5)
                before = len(self.connected)
                self._hold()
                self.refused += len(self.connected) == before
            except OSError:
                self.refused += 1

    def _hold(self) -> None:
        while not self._stop.is_set() and (line := self._session.open_socket) is not None:
            with DefaultSelector() as selector:
                selector.register(line, EVENT_READ)
                selector.select(0.05)
            self._session.read()
            self._session.write()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path_factory.mktemp("cut") / "fleet")
    lab.broker.start()
    reloader = Reloader(lab)
    lab.start_gateway()
    lab.wait_until_ready()
    yield lab
    reloader.stop()
    lab.stop()


def enrolled(lab: WorkspaceLab, name: str) -> Device:
    """A device with its certificate on record, connected."""
    lab.add_devices([name])
    lab.issue(name)
    device = Device(lab, name)
    lab.wait(lambda: lab.device_row(name).is_online)
    return device


def record_certificate(lab: WorkspaceLab, name: str) -> str:
    with write_session(lab.fleet.engine) as session:
        row = session.exec(select(DeviceRow).where(DeviceRow.id == name)).one()
        issued = lab.issued[name]
        row.certificate_serial, row.certificate_expires_at = issued.serial, issued.expires_at
        assert row.number is not None
        session.add(
            CertificateRow(
                serial=issued.serial,
                device=row.number,
                issued_at=row.created_at,
                expires_at=issued.expires_at,
            )
        )
    return issued.serial


def test_a_revoked_device_is_cut_and_stays_out(lab: WorkspaceLab) -> None:
    device, other = enrolled(lab, "cam-1"), enrolled(lab, "cam-2")
    try:
        serial = record_certificate(lab, "cam-1")
        record_certificate(lab, "cam-2")
        observer = lab.device("cam-3")
        topic = device_topic("cam-1", Channel.DESIRED)
        number = lab.device_row("cam-1").number
        assert number is not None
        with write_session(lab.fleet.engine) as session:
            session.add(AssignmentRow(device=number, counter=1, envelope="{}", is_stale=False))
        server = lab.server("watch")
        server.subscribe(topic)
        lab.wait(lambda: any(m.payload == b"{}" for m in server.received))

        build_device_desk(lab.fleet).revoke("cam-1", "stolen")
        lab.wait(lambda: lab.device_row("cam-1").cut_wanted_at is None)

        sessions = len(device.connected)
        assert device.ended
        assert lab.authority.is_revoked(serial)
        refused = device.refused
        lab.wait(lambda: device.refused >= refused + 5)
        assert len(device.connected) == sessions, "it came back after the cut"
        assert not lab.device_row("cam-1").is_online
        assert [row.act for row in audit_rows(lab, "cam-1")] == ["device.revoked", "device.cut"]
        lab.wait(lambda: any(m.payload == b"" for m in server.received))
        assert not other.ended, "another device was disturbed"
        assert not observer.disconnects
    finally:
        device.stop()
        other.stop()


def test_a_revocation_that_was_interrupted_is_completed_by_the_gateway(lab: WorkspaceLab) -> None:
    device = enrolled(lab, "cam-4")
    try:
        serial = record_certificate(lab, "cam-4")
        desk = build_device_desk(lab.fleet)

        class Died(BaseException):
            pass

        def die(_serials: object) -> None:
            raise Died

        issuer = desk.issuer
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(issuer, "revoke", die)
            with pytest.raises(Died):
                desk.revoke("cam-4", "")
        lab.wait(lambda: lab.device_row("cam-4").cut_wanted_at is None)
        assert lab.authority.is_revoked(serial)
        lab.wait(lambda: device.refused > 3)
        assert device.ended
    finally:
        device.stop()


def test_a_gateway_killed_in_between_ends_the_session_after_its_start(lab: WorkspaceLab) -> None:
    device = enrolled(lab, "cam-5")
    try:
        record_certificate(lab, "cam-5")
        lab.kill_gateway()
        build_device_desk(lab.fleet).revoke("cam-5", "")
        assert lab.device_row("cam-5").cut_wanted_at is not None
        lab.start_gateway()
        lab.wait(lambda: lab.device_row("cam-5").cut_wanted_at is None, timeout_s=60)
        lab.wait(lambda: device.refused > 3)
        assert device.ended
    finally:
        device.stop()


def test_joining_again_shuts_the_former_holder_out_and_lets_the_new_one_in(
    lab: WorkspaceLab, tmp_path: Path
) -> None:
    life, clock = timedelta(hours=1), ShiftedClock()
    join_fleet(lab, "cam-6", tmp_path / "stolen", life=life)
    with running_agent(tmp_path / "stolen", clock) as thief:
        lab.wait(lambda: lab.device_row("cam-6").is_online)
        build_device_desk(lab.fleet).revoke("cam-6", "stolen")
        lab.wait(lambda: lab.device_row("cam-6").cut_wanted_at is None)
        join_fleet(lab, "cam-6", tmp_path / "new", life=life, is_again=True)
        with running_agent(tmp_path / "new", clock) as owner:
            lab.wait(lambda: bool(certificates(lab, "cam-6")[-1].seen_at))
            lab.wait(lambda: lab.device_row("cam-6").cut_wanted_at is None)
            lab.wait(lambda: owner._link.is_connected)
            assert not thief._link.is_connected
        former, newest = certificates(lab, "cam-6")
        assert former.revoked_at is not None
        assert newest.revoked_at is None


def test_a_copy_of_an_identity_is_noticed_and_shut_out(lab: WorkspaceLab, tmp_path: Path) -> None:
    clock = ShiftedClock()
    join_fleet(lab, "cam-7", tmp_path / "owner", life=timedelta(hours=1))
    with running_agent(tmp_path / "owner", clock):
        lab.wait(lambda: lab.device_row("cam-7").is_online)
        shutil.copytree(tmp_path / "owner" / "identity", tmp_path / "thief" / "identity")
        with running_agent(tmp_path / "thief", clock) as thief:
            lab.wait(lambda: lab.device_row("cam-7").cloned_at is not None, timeout_s=60)
            assert [r.act for r in audit_rows(lab, "cam-7")].count("device.cloned") == 1
            build_device_desk(lab.fleet).revoke("cam-7", "copied")
            lab.wait(lambda: lab.device_row("cam-7").cut_wanted_at is None)
            assert not thief._link.is_connected
