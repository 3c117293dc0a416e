"""What comparing candidates found on devices: written with the reports, read by rollout.

A row is one candidate in one slot of one device. Counts only ever come whole from the device, so a
report that comes twice changes nothing; one that does not tell of a shadow leaves what is there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Session, col

from edge_agent.contract.messages import SlotReport
from edge_agent.contract.shadow import BINS, COUNTS, ShadowReport, ShadowState
from fleet_server.adapters.database.tables_shadow import ShadowRow

ROWS_PER_QUERY = 500
KEPT_PER_DEVICE = 256
"""Newest ones: what a device says it compared is not looked up anywhere."""
_KEY = ("device", "slot", "sha256")
_SAID = ("target", "rollout", "state", "note", *COUNTS, "bins")


def write_shadows(
    session: Session, reports: Mapping[int, Mapping[str, SlotReport]], at: datetime
) -> None:
    """Store what reports tell of shadows, by device number and slot."""
    said = [
        _row(device, name, slot, slot.shadow)
        for device, slots in reports.items()
        for name, slot in slots.items()
        if slot.shadow is not None
    ]
    if not said:
        return
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for some in _parts(sorted({row["device"] for row in said})):
        columns = [col(getattr(ShadowRow, name)) for name in (*_KEY, *_SAID)]
        found = session.connection().execute(
            select(*columns).where(col(ShadowRow.device).in_(some))
        )
        known |= {tuple(row[: len(_KEY)]): tuple(row[len(_KEY) :]) for row in found}
    changed = [
        {**row, "changed_at": at}
        for row in said
        if known.get(tuple(row[n] for n in _KEY)) != tuple(row[n] for n in _SAID)
    ]
    if changed:
        statement = insert(ShadowRow)
        updated = {name: statement.excluded[name] for name in (*_SAID, "changed_at")}
        session.connection().execute(
            statement.on_conflict_do_update(index_elements=list(_KEY), set_=updated), changed
        )
        new = {row["device"] for row in changed if tuple(row[n] for n in _KEY) not in known}
        for device in sorted(new):
            _forget_old(session, device)


def read_shadows(session: Session, *, rollout: int, slot: str) -> dict[int, ShadowReport]:
    """Return what a rollout's devices found in a slot, by device number.

    A device that compared two packages of one rollout is there with the one it told of last.
    """
    rows = session.scalars(
        select(ShadowRow)
        .where(col(ShadowRow.rollout) == rollout, col(ShadowRow.slot) == slot)
        .order_by(col(ShadowRow.changed_at))
    )
    return {row.device: _report(row) for row in rows}


def _forget_old(session: Session, device: int) -> None:
    old = session.scalars(
        select(ShadowRow)
        .where(col(ShadowRow.device) == device)
        .order_by(col(ShadowRow.changed_at).desc())
        .offset(KEPT_PER_DEVICE)
    )
    for row in old.all():
        session.delete(row)


def _row(device: int, name: str, slot: SlotReport, shadow: ShadowReport) -> dict[str, Any]:
    return {
        "device": device,
        "slot": name,
        "sha256": shadow.sha256,
        "target": slot.desired.target if slot.desired is not None else "",
        "rollout": slot.rollout,
        "state": str(shadow.state),
        "note": shadow.note,
        **{count: getattr(shadow, count) for count in COUNTS},
        "bins": json.dumps({name: getattr(shadow, name) for name in BINS}),
    }


def _report(row: ShadowRow) -> ShadowReport:
    bins = json.loads(row.bins)
    counted: dict[str, Any] = {
        **{count: getattr(row, count) for count in COUNTS},
        **{name: tuple(bins[name]) for name in BINS},
    }
    return ShadowReport(sha256=row.sha256, state=ShadowState(row.state), note=row.note, **counted)


def _parts(devices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(devices), ROWS_PER_QUERY):
        yield devices[start : start + ROWS_PER_QUERY]
