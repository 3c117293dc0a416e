"""The gateway's process: between the broker and the databases.

Three connections, so that none waits for another: telemetry, control, and bulk (a client sends in
order, and a desired state must not wait behind ten megabytes of chunks).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

from edge_agent.contract.topics import PREFIX, Channel
from fleet_server.adapters.authority_files import CertificateFiles
from fleet_server.adapters.broker_config import LOOPBACK
from fleet_server.adapters.broker_process import load_server_secret
from fleet_server.adapters.database.lineage import SqlLineage
from fleet_server.adapters.database.outbox_repository import SqlAssignmentOutbox, SqlTransferRights
from fleet_server.adapters.database.report_repository import (
    SqlDeviceDirectory,
    SqlReportRepository,
)
from fleet_server.adapters.encoding_store import DirectoryEncodingStore, PackagesAndEncodings
from fleet_server.adapters.mqtt_gateway import (
    BulkSink,
    Delivery,
    Inbox,
    LinkSettings,
    MqttLink,
    StateLink,
    is_marker,
)
from fleet_server.adapters.session_cutter import SessionCutter
from fleet_server.adapters.telemetry_stream import TelemetryStream
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.adapters.window_store import open_or_replace
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.errors import FleetError
from fleet_server.run_state import beat
from fleet_server.services.ingest_windows import IngestWindows
from fleet_server.services.offer_encodings import OfferEncodings
from fleet_server.services.publish_state import MARKER_TOPIC, PublishState
from fleet_server.services.record_labels import RecordLabels
from fleet_server.services.record_report import RecordReports
from fleet_server.services.record_rows import RecordRows
from fleet_server.services.serve_chunks import ServeChunks
from fleet_server.wiring.identity import (
    build_renewal_desk,
    build_session_ender,
    find_device_door,
    is_cut_wanted,
)
from fleet_server.wiring.labels import build_label_book
from fleet_server.wiring.samples import build_sample_keeper
from fleet_server.wiring.workspace import check_insecure
from fleet_server.workers.gateway_encode import EncodeLoop
from fleet_server.workers.gateway_identity import CutLoop, RenewLoop
from fleet_server.workers.gateway_loops import (
    Chore,
    Loop,
    PublishLoop,
    ReportLoop,
    Seen,
    SilenceWatch,
    TelemetryLoop,
    TransferLoop,
    describe,
)
from fleet_server.workers.gateway_records import RecordLoop
from fleet_server.workers.supervisor import INSECURE_FLAG, stop_on_signals
from fleet_server.workspace import Workspace

REPORT_INBOX_MAX, TRANSFER_INBOX_MAX = 5_000, 5_000
CONTROL_CHANNELS = (
    Channel.STATUS,
    Channel.REPORTED,
    Channel.ACK,
    Channel.RENEW,
    Channel.LABELS,
    Channel.ROWS,
)
BEAT_S = 5.0
REFRESH_S = 5.0
RETENTION_S = 3_600.0
FILE_EVERY_S, TIDY_EVERY_S = 15.0, 300.0
JOIN_S_MAX = 8.0
_LOG = logging.getLogger(__name__)


class Gateway:
    """Everything joined; ``start`` begins, ``stop`` ends."""

    def __init__(self, fleet: Fleet, *, is_insecure: bool = False) -> None:
        link_settings = partial(_link_settings, is_plain=is_insecure)
        workspace, clock, engine = fleet.workspace, fleet.clock, fleet.engine
        self._fleet, self._stop = fleet, Event()
        retention = timedelta(days=workspace.config.retention_days)
        self._store = open_or_replace(workspace.telemetry_db, retention=retention)
        self._reports = Inbox(REPORT_INBOX_MAX)
        self._requests = Inbox(TRANSFER_INBOX_MAX, is_lossy=True)
        self._control = MqttLink(
            link_settings(
                workspace,
                "server-control",
                [(MARKER_TOPIC, 1), *((_filter(channel), 1) for channel in CONTROL_CHANNELS)],
            ),
            route=self._route,
        )
        self._bulk = MqttLink(
            link_settings(
                workspace,
                "server-bulk",
                [(_filter(Channel.CHUNK_REQUEST), 0)],
                is_persistent=False,
            ),
            route=self._requests.put,
        )
        self._stream = TelemetryStream(
            link_settings(workspace, "server-telemetry", [(_filter(Channel.TELEMETRY), 1)]),
            self._stop,
        )
        self._state = StateLink(self._control, self._stop)
        directory, reports = SqlDeviceDirectory(engine), SqlReportRepository(engine)
        ingest, seen = IngestWindows(self._store), Seen()
        encodings = DirectoryEncodingStore(workspace.encodings_dir)
        self._offers = OfferEncodings(fleet.objects, encodings, SqlLineage(engine), clock)
        self._serve = ServeChunks(
            PackagesAndEncodings(fleet.objects, encodings),
            SqlTransferRights(engine),
            BulkSink(self._bulk, self._stop),
            clock,
            bytes_per_s=workspace.config.transfer_bytes_per_s,
            devices_max=workspace.config.transfer_devices_max,
            offers=self._offers,
        )
        timestamp = workspace.tuf_dir / "timestamp.json"
        self._publisher = PublishState(
            SqlAssignmentOutbox(engine),
            TufRepository(workspace.tuf_dir, workspace.keys_dir, clock),
            self._state,
            stamp_of_metadata=lambda: _stamp(timestamp),
            authorities=CertificateFiles(workspace.keys_dir).ca.read_bytes,
        )
        records, stop = RecordReports(reports, self._store), self._stop
        report_loop = ReportLoop(
            self._reports, self._control, directory, ingest, records, seen, clock, stop
        )
        watch = SilenceWatch(self._control, reports, clock)
        report_loop.chores += [
            Chore("directory", REFRESH_S, directory.refresh),
            Chore(
                "last seen",
                REFRESH_S,
                lambda: reports.save_last_seen(seen.take(), at=clock.now()),
            ),
            Chore("silence", 1.0, watch.look),
            Chore(
                "retention",
                RETENTION_S,
                lambda: self._store.drop_before(int((clock.now() - retention).timestamp() * 1_000)),
            ),
        ]
        renewals = RenewLoop(self._control, build_renewal_desk(fleet), ingest, clock, stop)
        label_book = build_label_book(fleet)
        labels = RecordLoop(
            RecordLabels(label_book, directory), self._control, ingest, seen, clock, stop
        )
        keeper = build_sample_keeper(fleet)
        rows = RecordLoop(
            RecordRows(keeper.book, directory),
            self._control,
            ingest,
            seen,
            clock,
            stop,
            chores=[
                Chore("sampled rows into files", FILE_EVERY_S, keeper.file),
                Chore("old sampled rows", TIDY_EVERY_S, keeper.tidy),
            ],
        )
        report_loop.chores.append(
            Chore("labels", RETENTION_S, lambda: label_book.drop_before(clock.now() - retention))
        )
        self._kept = (renewals, labels, rows)
        host, port = find_device_door(fleet)
        cutter = SessionCutter(
            link_settings(workspace, "", [], is_persistent=False),
            self._state,
            device_host=host,
            device_port=port,
        )
        ender = build_session_ender(fleet, cutter, stop, is_insecure=is_insecure)
        self._loops: tuple[Loop, ...] = (
            *self._kept,
            CutLoop(ender, partial(is_cut_wanted, fleet), clock, stop),
            TelemetryLoop(self._stream, directory, ingest, seen, clock, stop),
            report_loop,
            TransferLoop(self._requests, self._serve, ingest, clock, stop),
            EncodeLoop(self._offers, fleet.objects, workspace.encodings_dir / "scratch", stop),
            PublishLoop(self._publisher, stop),
        )

    def start(self) -> None:
        """Begin to connect and to work; returns at once."""
        for loop in self._loops:
            loop.start()
        for link in (self._control, self._bulk):
            link.start()

    def beat(self) -> None:
        """Say in the heartbeat that the gateway is at work."""
        detail = {
            **describe(self._store, self._loops, self._serve, self._publisher),
            **self._offers.describe(),
            "dropped": sum(loop.dropped for loop in self._kept),
        }
        beat(
            self._fleet.workspace.server_dir,
            "gateway",
            self._fleet.clock,
            {**detail, "is_connected": self.is_connected},
        )

    @property
    def is_connected(self) -> bool:
        """Whether all connections stand."""
        return all(link.epoch for link in (self._control, self._bulk, self._stream))

    def stop(self) -> None:
        """Finish the batches at hand, then disconnect."""
        self._stop.set()
        for inbox in (self._reports, self._requests, *self._kept):
            inbox.close()
        for loop in self._loops:
            loop.join(JOIN_S_MAX)
        for link in (self._control, self._bulk):
            link.stop()
        self._stream.close()
        self._store.close()

    def _route(self, delivery: Delivery) -> None:
        if is_marker(delivery):
            self._state.note_marker(delivery)
            self._control.ack([delivery])
        elif not any(loop.take(delivery) for loop in self._kept):
            self._reports.put(delivery)


def run_gateway(workspace: Workspace | Fleet, stop: Event, *, is_insecure: bool = False) -> None:
    """Run until ``stop`` is set; raises FleetError when it cannot begin.

    Args:
        workspace: Whose gateway.
        stop: Ends it.
        is_insecure: The broker speaks no TLS; refused unless all is on the loopback.
    """
    fleet = workspace if isinstance(workspace, Fleet) else open_fleet(workspace)
    if is_insecure:
        check_insecure(fleet.workspace.config)
    gateway = Gateway(fleet, is_insecure=is_insecure)
    gateway.start()
    try:
        while not stop.wait(BEAT_S if gateway.is_connected else 0.1):
            if gateway.is_connected:
                gateway.beat()
    finally:
        gateway.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="fleet_server.workers.gateway", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument(INSECURE_FLAG, action="store_true")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = Event()
    stop_on_signals(stop)
    try:
        options = parser.parse_args(arguments)
        run_gateway(open_fleet(options.workspace), stop, is_insecure=options.insecure_loopback)
    except (FleetError, OSError) as error:  # a certificate that is missing or damaged
        _LOG.error("%s", error)
        sys.exit(1)


def _filter(channel: Channel) -> str:
    """Return the filter for one channel of all devices."""
    return f"{PREFIX}/+/+/{channel}"


def _link_settings(
    workspace: Workspace,
    client_id: str,
    filters: Sequence[tuple[str, int]],
    *,
    is_persistent: bool = True,
    is_plain: bool = False,
) -> LinkSettings:
    files = CertificateFiles(workspace.keys_dir)
    return LinkSettings(
        host=workspace.config.server_host or LOOPBACK,
        port=workspace.config.server_port,
        client_id=client_id,
        ca_file=files.ca,
        certificate_file=files.certificate("server"),
        key_file=files.key("server"),
        secret=load_server_secret(workspace.broker_dir),
        filters=filters,
        is_persistent=is_persistent,
        is_plain=is_plain,
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


if __name__ == "__main__":
    main()
