"""What devices shall run, and the signed assignments that say so, in the control database.

Written in bulk: a rollout's stage moves thousands of devices in one transaction.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import bindparam, delete, insert, update
from sqlmodel import Session, col, select

from edge_agent.contract.assignment import ProbationPolicy, SlotAssignment
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.adapters.database.tables import AssignmentRow, DesiredRow, DeviceRow
from fleet_server.ports.devices import SealedAssignment, StaleAssignment, Wish

T = TypeVar("T")
ROWS_PER_QUERY = 500


class AssignmentRepository:
    """The ``AssignmentStore`` over one session that holds the write lock."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put_desired(self, wishes: Sequence[tuple[int, Wish]], *, at: datetime) -> int:
        """Store wishes by device number and mark what changed stale; return how many changed.

        Of several wishes for one slot the last one counts.
        """
        wishes = list({(device, wish.slot): (device, wish) for device, wish in wishes}.values())
        devices = sorted({device for device, _ in wishes})
        now = self._desired(devices)
        new, changed = [], []
        for device, wish in wishes:
            row = _desired_row(device, wish, at)
            former = now.get((device, wish.slot))
            if former is None:
                new.append(row)
            elif any(row[name] != former[name] for name in _COMPARED):
                changed.append({f"b_{name}": value for name, value in row.items()})
        if new:
            self._session.execute(insert(DesiredRow), new)
        if changed:
            self._session.connection().execute(_UPDATE_DESIRED, changed)
        stale = {row["device"] for row in new} | {row["b_device"] for row in changed}
        self._mark_stale(sorted(stale))
        return len(new) + len(changed)

    def clear_desired(self, device: int, slot: str) -> bool:
        """Forget what a slot shall run and mark the assignment stale; tell whether it was there."""
        row = self._session.get(DesiredRow, (device, slot))
        if row is None:
            return False
        self._session.execute(
            delete(DesiredRow).where(col(DesiredRow.device) == device, col(DesiredRow.slot) == slot)
        )
        self._mark_stale([device])
        return True

    def mark_stale(self, targets: Sequence[str]) -> int:
        """Mark the assignments stale that name one of these targets; return how many."""
        query = select(DesiredRow.device).where(col(DesiredRow.target).in_(targets)).distinct()
        devices = list(self._session.exec(query))
        self._mark_stale(devices)
        return len(devices)

    def mark_all_stale(self) -> None:
        """Mark every assignment stale: another director must sign it."""
        self._session.execute(update(AssignmentRow).values(is_stale=True))

    def find_stale(self, *, expiring_before: datetime, limit: int) -> list[StaleAssignment]:
        """Return assignments to sign anew, of devices that are not revoked."""
        query = (
            select(AssignmentRow.device, AssignmentRow.counter, DeviceRow.id)
            .join(DeviceRow, col(DeviceRow.number) == col(AssignmentRow.device))
            .where(
                col(DeviceRow.revoked_at).is_(None),
                col(AssignmentRow.is_stale).is_(True)
                | (col(AssignmentRow.expires_at) < expiring_before),
            )
            .order_by(col(AssignmentRow.device))
            .limit(limit)
        )
        found = self._session.exec(query).all()
        slots: dict[int, dict[str, SlotAssignment]] = {}
        for (device, slot), row in self._desired([device for device, _, _ in found]).items():
            slots.setdefault(device, {})[slot] = SlotAssignment(
                target=row["target"],
                rollout=row["rollout"],
                retry=row["retry"],
                probation=ProbationPolicy.from_json(json.loads(row["probation"])),
                shadow=ShadowPolicy.from_json(json.loads(row["shadow"])) if row["shadow"] else None,
            )
        return [
            StaleAssignment(
                device=device, device_id=device_id, counter=counter, slots=slots.get(device, {})
            )
            for device, counter, device_id in found
        ]

    def save(self, sealed: Sequence[SealedAssignment]) -> None:
        """Store assignments; they are no longer stale."""
        if sealed:
            self._session.connection().execute(
                _UPDATE_ASSIGNMENT,
                [
                    {
                        "b_device": one.device,
                        "b_counter": one.counter,
                        "b_envelope": one.envelope,
                        "b_issued_at": one.issued_at,
                        "b_expires_at": one.expires_at,
                    }
                    for one in sealed
                ],
            )

    def _desired(self, devices: Sequence[int]) -> dict[tuple[int, str], dict[str, Any]]:
        columns = [col(getattr(DesiredRow, name)) for name in ("device", "slot", *_COMPARED)]
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for part in _parts(devices):
            query = select(*columns).where(col(DesiredRow.device).in_(part))
            for row in self._session.execute(query).mappings():
                found[row["device"], row["slot"]] = dict(row)
        return found

    def _mark_stale(self, devices: Sequence[int]) -> None:
        known: set[int] = set()
        for part in _parts(devices):
            query = select(AssignmentRow.device).where(col(AssignmentRow.device).in_(part))
            known.update(self._session.exec(query))
            self._session.execute(
                update(AssignmentRow)
                .where(col(AssignmentRow.device).in_(part))
                .values(is_stale=True)
            )
        missing = [device for device in devices if device not in known]
        if missing:
            self._session.execute(insert(AssignmentRow), [{"device": device} for device in missing])


_COMPARED = ("target", "rollout", "retry", "probation", "shadow")
_UPDATE_DESIRED = (
    update(DesiredRow)
    .where(
        col(DesiredRow.device) == bindparam("b_device"), col(DesiredRow.slot) == bindparam("b_slot")
    )
    .values({name: bindparam(f"b_{name}") for name in (*_COMPARED, "changed_at")})
)
_UPDATE_ASSIGNMENT = (
    update(AssignmentRow)
    .where(col(AssignmentRow.device) == bindparam("b_device"))
    .values(
        is_stale=False,
        **{
            name: bindparam(f"b_{name}")
            for name in ("counter", "envelope", "issued_at", "expires_at")
        },
    )
)


def _desired_row(device: int, wish: Wish, at: datetime) -> dict[str, Any]:
    return {
        "device": device,
        "slot": wish.slot,
        "target": wish.target,
        "rollout": wish.rollout,
        "retry": wish.retry,
        "probation": json.dumps(wish.probation.to_json(), sort_keys=True),
        "shadow": json.dumps(wish.shadow.to_json(), sort_keys=True) if wish.shadow else "",
        "changed_at": at,
    }


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), ROWS_PER_QUERY):
        yield items[start : start + ROWS_PER_QUERY]
