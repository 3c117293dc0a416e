"""Around a broker and a gateway: the supervisor's reload, enrolment, a shifted clock."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from edge_agent import bootstrap
from edge_agent.adapters.enrolment import enrol
from edge_agent.bootstrap import AgentProcess
from edge_agent.ports import Identity
from edge_agent.settings import AgentSettings
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import AuditRow, CertificateRow
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring import devices
from fleet_server.wiring.devices import build_device_desk
from tests.support.gateway import WorkspaceLab
from tests.support.trust_fleet import enrol_server


class Reloader:
    """What the supervisor does: the broker reads the list again when it changes."""

    def __init__(self, lab: WorkspaceLab) -> None:
        self._lab, self._stop = lab, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        path = self._lab.authority.files.crl
        seen = path.stat().st_mtime_ns
        while not self._stop.wait(0.1):
            now = path.stat().st_mtime_ns
            if now != seen:
                seen = now
                self._lab.broker.reload()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class ShiftedClock:
    """The real clock, read ``ahead`` of the time."""

    ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()


def join_fleet(
    lab: WorkspaceLab, name: str, directory: Path, *, life: timedelta, is_again: bool = False
) -> Identity:
    """Let a device join over HTTPS; its first certificate holds for ``life``."""
    authority = CertificateAuthority(lab.workspace.keys_dir, lab.fleet.clock, device_life=life)
    desk = build_device_desk(lab.fleet)
    ticket = (
        desk.add_again(name)
        if is_again
        else desk.add(DeviceSpec(id=name, profile="camera", labels={}))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "build_authority", lambda _fleet: authority)
        with enrol_server(lab.fleet) as server:
            text = replace(ticket, api_port=server.port).encode()
            return enrol(text, directory, is_replacing=is_again)


@contextmanager
def running_agent(directory: Path, clock: ShiftedClock) -> Iterator[AgentProcess]:
    """Run a whole agent in a thread, by a clock of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "SystemClock", lambda: clock)
        process = AgentProcess(directory, AgentSettings(http_port=0))
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    try:
        yield process
    finally:
        process.request_stop()
        thread.join(10)


def certificates(lab: WorkspaceLab, name: str) -> list[CertificateRow]:
    """Read a device's certificates, oldest first."""
    number = lab.device_row(name).number
    with read_session(lab.fleet.engine) as session:
        query = select(CertificateRow).where(col(CertificateRow.device) == number)
        return list(session.exec(query.order_by(col(CertificateRow.issued_at))))


def audit_rows(lab: WorkspaceLab, name: str) -> list[AuditRow]:
    """Read what the audit log says of a device, oldest first."""
    with read_session(lab.fleet.engine) as session:
        query = select(AuditRow).where(AuditRow.object == name).order_by(col(AuditRow.id))
        return list(session.exec(query))
