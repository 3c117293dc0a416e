"""What reports say of a device's identity, in database and audit log; the list over time."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from sqlmodel import col, select
from typer.testing import CliRunner

from edge_agent.contract.messages import Reported, SlotReport, SlotState, Status
from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.identity_notes import ROWS_PER_HOUR_MAX
from fleet_server.adapters.database.report_repository import SqlReportRepository
from fleet_server.adapters.database.tables import AuditRow, CertificateRow, DeviceRow
from fleet_server.adapters.window_store import open_or_replace
from fleet_server.bootstrap import Fleet
from fleet_server.cli import app
from fleet_server.errors import FleetError
from fleet_server.services.add_device import DeviceSpec
from fleet_server.services.record_report import DeviceMessage, RecordReports
from fleet_server.wiring.devices import build_authority, build_device_desk, build_enrolment
from fleet_server.wiring.identity import build_revocation_watch, restore_revocation_list
from fleet_server.wiring.workspace import ensure_certificates
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_csr, make_fleet

FETCHING = SlotState.FETCHING


@dataclass
class Site:
    """A fleet with one device that has joined; what it says is recorded as the gateway does."""

    fleet: Fleet
    clock: FakeClock
    records: RecordReports
    name: str = ""
    number: int = 0
    serial: str = ""

    def join(self, *, again: bool = False) -> str:
        desk = build_device_desk(self.fleet)
        spec = DeviceSpec(id=self.name, profile="camera", labels={})
        ticket = desk.add_again(self.name) if again else desk.add(spec)
        build_enrolment(self.fleet).desk.enrol(ticket.secret, make_csr())
        self.number = self.row().number or 0
        return self.row().certificate_serial

    def say(
        self,
        boot: int,
        sequence: int,
        *,
        refusal: str = "",
        codes: dict[str, str] | None = None,
        serial: str = "",
        made_at: datetime | None = None,
    ) -> None:
        made_ms = int((made_at or self.clock.now()).timestamp() * 1_000)
        slots = {
            name: SlotReport(state=FETCHING, code=code, detail="why")
            for name, code in (codes or {}).items()
        }
        report = Reported(
            boot=boot,
            sequence=sequence,
            at_ms=made_ms,
            agent="1",
            slots=slots,
            refusal={"code": refusal, "detail": "why"} if refusal else None,
            certificate={"serial": serial} if serial else {},
        )
        text = report.encode().decode()
        self.records.apply(
            [DeviceMessage(device=self.number, message=report, text=text)], at=self.clock.now()
        )

    def say_status(self, boot: int) -> None:
        status = Status(is_online=True, boot=boot)
        self.records.apply([DeviceMessage(device=self.number, message=status)], at=self.clock.now())

    def row(self) -> DeviceRow:
        with read_session(self.fleet.engine) as session:
            return session.exec(select(DeviceRow).where(DeviceRow.id == self.name)).one()

    def audit(self, act: str) -> list[AuditRow]:
        with read_session(self.fleet.engine) as session:
            query = select(AuditRow).where(AuditRow.act == act).order_by(col(AuditRow.id))
            return [
                row
                for row in session.exec(query)
                if not row.object.startswith("cam-") or row.object == self.name
            ]

    def run(self, *arguments: str) -> str:
        root = str(self.fleet.workspace.root)
        return CliRunner().invoke(app, [*arguments, "-w", root]).output


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    clock = FakeClock(datetime.now(UTC))
    fleet = make_fleet(tmp_path_factory.mktemp("notes") / "fleet", clock)
    store = open_or_replace(fleet.workspace.telemetry_db, retention=timedelta(days=7))
    yield Site(fleet, clock, RecordReports(SqlReportRepository(fleet.engine), store))
    store.close()
    with read_session(fleet.engine) as session:
        rows = session.exec(select(AuditRow).order_by(col(AuditRow.id)))
        assert list(find_breaks(iter(rows))) == []
    fleet.engine.dispose()


@pytest.fixture
def site(ground: Site) -> Site:
    """The same fleet, one more device."""
    number = ground.number + 1
    site = Site(ground.fleet, ground.clock, ground.records, f"cam-{number}")
    site.serial = site.join()
    ground.number = site.number
    return site


def test_two_that_take_turns_are_told_once_and_shown_with_the_way_out(site: Site) -> None:
    site.say(1, 1)
    for turn in range(1, 6):
        site.clock.advance(200)
        site.say_status(1 + turn % 2)
        site.say(1 + turn % 2, turn + 1)
    (told,) = site.audit("device.cloned")
    assert told.object == site.name
    assert "spoke again" in told.reason
    assert site.row().cloned_at is not None
    assert "in use twice" in site.run("device", "ls")
    shown = site.run("device", "show", site.name)
    way_out = f"edgefleet device revoke {site.name} && edgefleet device add {site.name} --again"
    assert way_out in " ".join(shown.split())
    assert f"BAD identity in use twice: {site.name}" in site.run("doctor")

    build_device_desk(site.fleet).revoke(site.name, "copied")
    site.join(again=True)
    assert site.row().cloned_at is None
    assert "in use twice" not in site.run("device", "ls")
    for turn in range(1, 6):  # the next episode is another one
        site.clock.advance(200)
        site.say(11 + turn % 2, turn + 1)
    assert len(site.audit("device.cloned")) == 2


def test_a_certificate_counts_as_renewed_once_it_is_seen_and_its_former_holder_is_a_copy(
    site: Site,
) -> None:
    site.say(1, 1, serial=site.serial)
    issued = build_authority(site.fleet).issue_device(make_csr(), site.name)
    with write_session(site.fleet.engine) as session:
        session.add(
            CertificateRow(
                serial=issued.serial,
                device=site.number,
                issued_at=site.clock.now(),
                expires_at=issued.expires_at,
            )
        )
    site.say(1, 2, serial=site.serial)
    assert site.row().cloned_at is None, "the former one counts until the new one is seen"
    site.clock.advance(60)
    site.say(1, 3, serial=issued.serial)
    assert site.row().certificate_serial == issued.serial
    with read_session(site.fleet.engine) as session:
        former = session.get_one(CertificateRow, site.serial)
    assert former.revoked_at == site.clock.now()
    site.say(1, 2, serial=site.serial)  # late, of the same boot
    site.say(1, 4, serial="f" * 16)  # a serial nobody issued proves nothing
    assert site.row().cloned_at is None
    site.clock.advance(60)
    site.say(2, 1, serial=site.serial)
    assert site.audit("device.cloned")[0].reason.endswith("is in use after it was replaced")


def test_a_refusal_of_trust_is_told_once_per_change(site: Site) -> None:
    site.say(1, 1, refusal="tuf-signature")
    site.say(1, 2, refusal="tuf-signature")
    site.say(1, 3, refusal="tuf-signature", codes={"digits": "blob-hash", "faces": "disk-full"})
    site.say(1, 4)
    site.say(1, 5, refusal="tuf-signature", codes={"digits": "selftest-golden"})
    told = [(row.reason.partition(":")[0], row.actor) for row in site.audit("report.refused")]
    assert told == [
        ("tuf-signature", f"device {site.name}"),
        ("blob-hash", f"device {site.name}"),
        ("tuf-signature", f"device {site.name}"),
    ]


def test_a_device_that_flaps_does_not_flood_the_audit_log(site: Site) -> None:
    for n in range(1, 21):
        site.say(1, 2 * n, refusal="tuf-signature")
        site.say(1, 2 * n + 1)
    rows = site.audit("report.refused")
    assert len(rows) == ROWS_PER_HOUR_MAX
    site.clock.advance(3_700)
    site.say(1, 1_000, refusal="tuf-signature")
    assert f'"untold": {20 - ROWS_PER_HOUR_MAX}' in site.audit("report.refused")[-1].detail


# The revocation list --------------------------------------------------------------------------


def expiry(fleet: Fleet) -> datetime:
    data = (fleet.workspace.keys_dir / "crl.pem").read_bytes()
    found = x509.load_pem_x509_crl(data).next_update_utc
    assert found is not None
    return found


def test_an_expired_list_is_written_anew_before_the_broker_starts(site: Site) -> None:
    build_device_desk(site.fleet).revoke(site.name, "")
    site.clock.advance(40 * 86_400)
    assert expiry(site.fleet) < site.clock.now()
    restore_revocation_list(site.fleet)
    ensure_certificates(site.fleet.workspace, site.clock)
    assert expiry(site.fleet) > site.clock.now() + timedelta(days=29)
    assert build_authority(site.fleet).is_revoked(site.serial)


@pytest.mark.parametrize("damage", ["lost", "damaged", "of yesterday"])
def test_a_list_that_lost_entries_gets_them_back_from_the_database(site: Site, damage: str) -> None:
    path = site.fleet.workspace.keys_dir / "crl.pem"
    before = path.read_bytes()
    build_device_desk(site.fleet).revoke(site.name, "")
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(b"-----BEGIN" if damage == "damaged" else before)
    assert restore_revocation_list(site.fleet)
    assert build_authority(site.fleet).is_revoked(site.serial)
    assert not restore_revocation_list(site.fleet), "nothing is left to restore"


def test_a_list_that_cannot_be_renewed_is_an_alarm_in_time_and_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    watch, key = build_revocation_watch(site.fleet), site.fleet.workspace.keys_dir / "ca.key"
    site.clock.advance(2 * 86_400)
    assert watch.look(), "two days old: written anew"
    aside = key.with_suffix(".aside")
    key.rename(aside)
    watch = build_revocation_watch(site.fleet)
    for days in (2, 20):  # fails, but holds for more than a week
        site.clock.advance(days * 86_400)
        with pytest.raises(FleetError):
            watch.look()
        assert site.audit("crl.expiring") == []
    site.clock.advance(2 * 86_400)
    for _ in range(5):
        with pytest.raises(FleetError):
            watch.look()
        site.clock.advance(60)
    with pytest.raises(FleetError):
        build_revocation_watch(site.fleet).look()  # another process, the same episode
    (alarm,) = site.audit("crl.expiring")
    assert alarm.object == expiry(site.fleet).isoformat()
    said = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(said) == 2, "once an hour and process"
    aside.rename(key)
    assert build_revocation_watch(site.fleet).look()
    assert expiry(site.fleet) > site.clock.now() + timedelta(days=29)
