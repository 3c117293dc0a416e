"""Labels of sampled rows that people found out on the server, within the ledger's transaction."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlmodel import Session, col

from fleet_server.adapters.database.sample_room import find_label_excess
from fleet_server.adapters.database.sample_tables import SampleLabelRow
from fleet_server.adapters.database.tables import DeviceRow
from fleet_server.errors import RefusedError
from fleet_server.ports.samples import NewLabel


def add_labels(session: Session, model: str, labels: Sequence[NewLabel], *, at: datetime) -> None:
    """Keep labels in place of what is known.

    Raises:
        RefusedError: A device is not known, or its labels find no room.
    """
    of_device: dict[str, list[NewLabel]] = defaultdict(list)
    for label in labels:
        of_device[label.key[0]].append(label)
    for device, own in of_device.items():
        number = session.scalar(select(col(DeviceRow.number)).where(col(DeviceRow.id) == device))
        if number is None:
            raise RefusedError(f"device {device[:80]} is not known; nothing was kept")
        if why := find_label_excess(session, number, len(own)):
            raise RefusedError(f"device {device}: {why}; nothing was kept")
        for label in own:
            _, prediction_id, row = label.key
            session.merge(
                SampleLabelRow(
                    device=number,
                    prediction_id=prediction_id,
                    row=row,
                    part=label.part,
                    model=model,
                    version=label.version,
                    label=label.label,
                    received_at=at,
                )
            )
