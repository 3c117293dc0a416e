"""How many sampled rows may wait in the control database for their file, and how many labels.

A device may send what it likes, and files may not be made for a while: without a bound either would
fill the disk of everything else. What finds no room is dropped, which the audit log says once a day
for each device. Counts are kept in memory between two looks: one process takes, and counts along.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from sqlalchemy import func, select
from sqlmodel import Session, col

from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.sample_tables import SampleBatchRow, SampleLabelRow
from fleet_server.adapters.database.tables import DeviceRow

DEVICE_BATCHES_MAX = 4_096
DEVICE_BYTES_MAX = 67_108_864
"""Of one model on one device; files are made every ten minutes, or when 16 MiB wait."""
MODEL_BATCHES_MAX = 200_000
MODEL_BYTES_MAX = 1_073_741_824
LABELS_MAX = 50_000
"""Of one device, of all its models, within the time that samples are kept."""
LOOK_AGAIN = timedelta(seconds=10)
"""A full place is counted anew so often at most: a flood must not cost a count a message."""
TOLD_MAX = 10_000


@dataclass(slots=True)
class _Waiting:
    """What waits, in batches and bytes, of one model and of each device."""

    looked_at: datetime
    batches: int = 0
    size_bytes: int = 0
    of_device: dict[int, tuple[int, int]] = field(default_factory=dict)

    def find_excess(self, device: int, size: int) -> str:
        """Say which bound another batch of ``size`` bytes would pass; empty when none."""
        batches, own = self.of_device.get(device, (0, 0))
        if batches >= DEVICE_BATCHES_MAX:
            return f"{batches} batches of the device wait, the limit is {DEVICE_BATCHES_MAX}"
        if own + size > DEVICE_BYTES_MAX:
            return f"{own} bytes of the device wait, the limit is {DEVICE_BYTES_MAX}"
        if self.batches >= MODEL_BATCHES_MAX:
            return f"{self.batches} batches of the model wait, the limit is {MODEL_BATCHES_MAX}"
        if self.size_bytes + size > MODEL_BYTES_MAX:
            return f"{self.size_bytes} bytes of the model wait, the limit is {MODEL_BYTES_MAX}"
        return ""

    def add(self, device: int, batches: int, size: int) -> None:
        """Count what came."""
        own_batches, own = self.of_device.get(device, (0, 0))
        self.of_device[device] = own_batches + batches, own + size
        self.batches, self.size_bytes = self.batches + batches, self.size_bytes + size


class SampleRoom:
    """Tells what still finds room; within the transaction that takes."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._told: OrderedDict[int, date] = OrderedDict()

    def forget(self) -> None:
        """Count anew: batches went, or a transaction did not happen."""
        self._waiting.clear()

    def find_excess(
        self, session: Session, model: str, device: int, size: int, *, at: datetime
    ) -> str:
        """Say why a batch finds no room; empty when it does, and it is counted then."""
        waiting = self._waiting.get(model)
        if waiting is None:
            waiting = self._waiting[model] = _count(session, model, at)
        excess = waiting.find_excess(device, size)
        if excess and at - waiting.looked_at >= LOOK_AGAIN:
            waiting = self._waiting[model] = _count(session, model, at)
            excess = waiting.find_excess(device, size)
        if not excess:
            waiting.add(device, 1, size)
        return excess

    def note(self, session: Session, model: str, device: int, why: str, *, at: datetime) -> None:
        """Write into the audit log that something was dropped, once a day for each device."""
        if self._told.get(device) == at.date():
            return
        self._told[device] = at.date()
        self._told.move_to_end(device)
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        row = session.get(DeviceRow, device)
        append_audit(
            session,
            at=at,
            actor="gateway",
            act="samples.dropped",
            object=row.id if row is not None else str(device),
            reason=why,
            detail={"model": model},
        )


def find_label_excess(session: Session, device: int, more: int) -> str:
    """Say why further labels of a device find no room; empty when they do."""
    some = (
        select(col(SampleLabelRow.row))
        .where(col(SampleLabelRow.device) == device)
        .limit(LABELS_MAX + 1)
    )
    there = session.scalar(select(func.count()).select_from(some.subquery())) or 0
    if there + more <= LABELS_MAX:
        return ""
    return f"{there} labels of the device's sampled rows are kept, the limit is {LABELS_MAX}"


def _count(session: Session, model: str, at: datetime) -> _Waiting:
    batch, waiting = SampleBatchRow, _Waiting(at)
    query = (
        select(col(batch.device), func.count(), func.sum(func.length(col(batch.payload))))
        .where(col(batch.model) == model)
        .group_by(col(batch.device))
    )
    for device, batches, size in session.execute(query):
        waiting.add(device, int(batches), int(size))
    return waiting
