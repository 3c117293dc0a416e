"""Count what devices say turned out to be true."""

from datetime import datetime

from edge_agent.contract.labels import Labels
from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.contract.topics import Channel
from fleet_server.ports.gateway import DeviceDirectory
from fleet_server.ports.labels import Counted, DeviceLabels, LabelBook
from fleet_server.services.record_messages import RecordMessages


class RecordLabels(RecordMessages):
    """Counts late labels."""

    channel = Channel.LABELS

    def __init__(self, book: LabelBook, directory: DeviceDirectory) -> None:
        super().__init__(directory)
        self._book = book

    def keep(self, device: int, payload: bytes, *, at: datetime) -> tuple[TelemetryAck, str]:
        """Count one message."""
        labels = Labels.decode(payload)
        counted = self._book.add([DeviceLabels(device, labels)], at=at)
        numbers = LabelRange(labels.boot, labels.rows[0].sequence, labels.rows[-1].sequence)
        return TelemetryAck(labels=(numbers,)), _unusable(counted)


def _unusable(counted: Counted) -> str:
    parts = []
    if counted.unknown:
        parts.append(f"{counted.unknown} labels of packages that are not registered here")
    if counted.unfit:
        parts.append(f"{counted.unfit} labels that are not of what their package answers")
    if counted.undated:
        parts.append(f"{counted.undated} labels of answers beyond the retention or ahead of today")
    return "; ".join(parts)
