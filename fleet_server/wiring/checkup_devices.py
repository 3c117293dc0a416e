"""Look at the devices' identities for ``edgefleet doctor``; the judging is ``core/checkup.py``."""

from collections.abc import Iterator
from datetime import datetime

from sqlmodel import col, select

from edge_agent.contract.errors import ContractError
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.database.tables import DeviceRow
from fleet_server.adapters.target_layout import authorities_of
from fleet_server.bootstrap import Fleet
from fleet_server.core.checkup import (
    CERTIFICATE_WARN,
    CUT_LATE,
    Finding,
    judge_authorities,
    judge_copies,
    judge_cuts,
    judge_renewals,
)
from fleet_server.errors import FleetError
from fleet_server.services.hand_over_authority import (
    find_left_behind,
    is_following,
    is_in_service,
)
from fleet_server.wiring.devices import build_authority
from fleet_server.wiring.trust import build_repository


def check_devices(fleet: Fleet, now_at: datetime) -> Iterator[Finding]:
    """Yield findings about copied identities, sessions that do not end, certificates."""
    with read_session(fleet.engine) as session:
        copies = session.exec(
            select(DeviceRow.id, DeviceRow.clone_evidence)
            .where(col(DeviceRow.cloned_at).is_not(None), col(DeviceRow.revoked_at).is_(None))
            .order_by(col(DeviceRow.cloned_at))
        ).all()
        cuts = session.exec(
            select(DeviceRow.id)
            .where(col(DeviceRow.cut_wanted_at) < now_at - CUT_LATE)
            .order_by(col(DeviceRow.cut_wanted_at))
        ).all()
        late = session.exec(
            select(DeviceRow.id, DeviceRow.certificate_expires_at)
            .where(
                col(DeviceRow.certificate_expires_at) < now_at + CERTIFICATE_WARN,
                col(DeviceRow.revoked_at).is_(None),
            )
            .order_by(col(DeviceRow.certificate_expires_at))
        ).all()
    yield judge_copies(dict(copies))
    yield judge_cuts(list(cuts))
    yield judge_renewals({name: at for name, at in late if at is not None}, now_at)
    yield from _check_authorities(fleet)


def _check_authorities(fleet: Fleet) -> Iterator[Finding]:
    """Look who has not followed a change of authority; nothing before there was one."""
    try:
        if not authorities_of(build_repository(fleet).current_targets()):
            return
        known = build_authority(fleet).authorities
    except (FleetError, ContractError):
        return  # what is wrong with keys and metadata is said by their own checks
    with ledgers_of(fleet.engine)() as ledger:
        devices = [d for d in ledger.devices.list_all() if is_in_service(d)]
    left = find_left_behind(devices, known)
    waiting = [d.id for d in devices if not is_following(d, known[0])] if len(known) > 1 else []
    yield judge_authorities(left, waiting)
