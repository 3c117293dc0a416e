"""Keep the sampled rows that devices send."""

from datetime import datetime

from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.contract.rows import decode_rows
from edge_agent.contract.topics import Channel
from fleet_server.ports.gateway import DeviceDirectory
from fleet_server.ports.samples import SampleBook
from fleet_server.services.record_messages import RecordMessages


class RecordRows(RecordMessages):
    """Keeps batches of sampled rows."""

    channel = Channel.ROWS

    def __init__(self, book: SampleBook, directory: DeviceDirectory) -> None:
        super().__init__(directory)
        self._book = book

    def keep(self, device: int, payload: bytes, *, at: datetime) -> tuple[TelemetryAck, str]:
        """Keep one batch."""
        rows = decode_rows(payload)
        taken = self._book.take(device, rows, payload, at=at)
        ack = TelemetryAck(rows=(LabelRange(rows.boot, rows.sequence, rows.sequence),))
        if taken.dropped:
            return ack, f"sampled rows were dropped: {taken.dropped}"
        if not taken.is_unknown:
            return ack, ""
        name = rows.batch.artifact.hex()
        return ack, f"sampled rows of package {name}, which is not registered here"
