"""Look at the devices' identities for ``edgefleet doctor``; the judging is ``core/checkup.py``."""

from collections.abc import Iterator
from datetime import datetime

from sqlmodel import col, select

from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import DeviceRow
from fleet_server.bootstrap import Fleet
from fleet_server.core.checkup import (
    CERTIFICATE_WARN,
    CUT_LATE,
    Finding,
    judge_copies,
    judge_cuts,
    judge_renewals,
)


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
