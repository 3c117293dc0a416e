"""Identities of devices in a running workspace: renewal, revocation, sessions that must end."""

from threading import Event

from sqlmodel import col, select

from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.database.tables import AuditRow, DeviceRow
from fleet_server.bootstrap import Fleet
from fleet_server.ports.certificates import SessionBroker
from fleet_server.services.end_sessions import SessionEnder
from fleet_server.services.renew_certificate import RenewalDesk
from fleet_server.services.watch_revocations import RevocationWatch
from fleet_server.wiring.devices import build_authority

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def build_renewal_desk(fleet: Fleet) -> RenewalDesk:
    """Return what answers devices that ask for their next certificate."""
    return RenewalDesk(
        ledgers=ledgers_of(fleet.engine), issuer=build_authority(fleet), clock=fleet.clock
    )


def build_session_ender(
    fleet: Fleet, broker: SessionBroker, stop: Event, *, is_insecure: bool = False
) -> SessionEnder:
    """Return what shuts revoked devices out of a broker; see ``SessionCutter``."""
    return SessionEnder(
        ledgers=ledgers_of(fleet.engine),
        revocations=build_authority(fleet),
        broker=broker,
        clock=fleet.clock,
        stop=stop,
        is_list_read=not is_insecure,
    )


def find_device_door(fleet: Fleet) -> tuple[str, int]:
    """Say where this server reaches the listener that devices use."""
    config = fleet.workspace.config
    host = config.mqtt_host if config.is_broker_external else config.bind_host
    return WILDCARDS.get(host, host), config.broker_port


def is_cut_wanted(fleet: Fleet) -> bool:
    """Tell whether a session must end; takes no write lock."""
    with read_session(fleet.engine) as session:
        query = select(DeviceRow.number).where(col(DeviceRow.cut_wanted_at).is_not(None)).limit(1)
        return session.exec(query).first() is not None


def restore_revocation_list(fleet: Fleet) -> bool:
    """Let the list name all that the database revoked; for the start, before the broker's."""
    authority, now_at = build_authority(fleet), fleet.clock.now()
    with ledgers_of(fleet.engine)() as ledger:
        serials = ledger.certificates.list_revoked(now_at=now_at)
    is_changed = authority.restore_crl(serials)
    with ledgers_of(fleet.engine)() as ledger:
        ledger.certificates.mark_listed(serials, at=now_at)
    return authority.refresh_crl() or is_changed


def build_revocation_watch(fleet: Fleet) -> RevocationWatch:
    """Return what writes the list anew daily and says when that does not work."""
    authority = build_authority(fleet)
    return RevocationWatch(
        ledgers=ledgers_of(fleet.engine),
        refresh=authority.refresh_crl,
        expires_at=lambda: authority.crl_expires_at,
        is_told=lambda subject: _is_told(fleet, subject),
        clock=fleet.clock,
    )


def _is_told(fleet: Fleet, subject: str) -> bool:
    with read_session(fleet.engine) as session:
        query = select(AuditRow.id).where(
            col(AuditRow.act) == RevocationWatch.ACT, col(AuditRow.object) == subject
        )
        return session.exec(query.limit(1)).first() is not None
