"""The gateway's process between a real broker and real databases."""

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.contract.labels import LabelRow, Labels
from edge_agent.contract.messages import (
    LabelRange,
    Reported,
    SlotReport,
    SlotState,
    Status,
    TelemetryAck,
)
from edge_agent.contract.metadata import decode_bundle
from edge_agent.contract.topics import META_TOPIC, Channel, device_filter, device_topic
from edge_agent.contract.transfer import CHUNK_BYTES, ChunkFrame, ChunkRequest, FrameKind, Part
from edge_agent.contract.windows import Window, encode_windows
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    DesiredRow,
    DeviceRow,
)
from fleet_server.run_state import read_heartbeat
from tests.support.gateway import Client, WorkspaceLab

DEVICES = ("cam-1", "cam-2", "cam-3", "cam-4", "cam-5", "cam-6", "cam-7")
BOOT = 0x51
TARGET = "digits/1/camera.tar"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path_factory.mktemp("gateway") / "ws")
    try:
        lab.add_devices(DEVICES)
        lab.broker.start()
        lab.start_gateway()
        lab.wait_until_ready()
        yield lab
    finally:
        lab.stop()


def frame(lab: WorkspaceLab, *sequences: int, boot: int = BOOT) -> bytes:
    now_ms = int(lab.fleet.clock.now().timestamp() * 1_000)
    return encode_windows(
        boot,
        [
            Window(
                stream=0,
                sequence=n,
                t0_ms=now_ms,
                t1_ms=now_ms,
                reference=b"r" * 8,
                artifact=b"a" * 8,
                rows=1,
                counters=b"123",
            )
            for n in sequences
        ],
    )


def acked(client: Client) -> set[int]:
    return {
        n
        for r in client.received
        if r.topic.endswith("/down/telack")
        for ranges in TelemetryAck.decode(r.payload).ranges
        for n in range(ranges.first, ranges.last + 1)
    }


def say(client: Client, name: str, channel: Channel, payload: bytes) -> None:
    client.publish(device_topic(name, channel), payload, retain=channel is Channel.STATUS)


def report(sequence: int, boot: int = BOOT, state: SlotState = SlotState.CONFIRMED) -> bytes:
    return Reported(
        boot=boot, sequence=sequence, at_ms=0, agent="1", slots={"main": SlotReport(state=state)}
    ).encode()


def test_windows_are_acknowledged_when_they_are_committed(lab: WorkspaceLab) -> None:
    client = lab.device("cam-1")
    client.subscribe(device_filter("cam-1"))
    say(client, "cam-1", Channel.TELEMETRY, frame(lab, 0, 1, 2))
    assert client.wait(lambda: acked(client) == {0, 1, 2})
    number = lab.device_row("cam-1").number
    stored = {
        seq for device, boot, _, seq in lab.telemetry_rows() if (device, boot) == (number, BOOT)
    }
    assert stored == {0, 1, 2}
    say(client, "cam-1", Channel.TELEMETRY, frame(lab, 7))
    assert client.wait(lambda: 7 in acked(client))
    client.close()


def test_labels_are_acknowledged_when_they_are_counted(lab: WorkspaceLab) -> None:
    client = lab.device("cam-7")
    client.subscribe(device_filter("cam-7"))
    now_ms = int(lab.fleet.clock.now().timestamp() * 1_000)
    row = LabelRow(3, b"a" * 8, True, 1, 1, now_ms)
    say(client, "cam-7", Channel.LABELS, Labels(boot=BOOT, rows=(row,)).encode())

    def counted() -> list[LabelRange]:
        acks = [r.payload for r in client.received if r.topic.endswith("/down/telack")]
        return [found for payload in acks for found in TelemetryAck.decode(payload).labels]

    assert client.wait(lambda: counted() == [LabelRange(BOOT, 3, 3)])
    lab.wait(lambda: lab.totals().get("quarantined:label", 0) == 1)  # of no package known here
    client.close()


def test_messages_nobody_can_use_are_quarantined_on_every_topic(lab: WorkspaceLab) -> None:
    client = lab.device("cam-2")
    client.subscribe(device_filter("cam-2"))
    junk = {"status": b"{}", "reported": b"\xff", "tel": b"EFW1", "xfer": b"[]", "ack": b"{}"}
    junk |= {"label": b"[]", "rows": b"EFR1"}
    before = lab.totals()
    for name, payload in junk.items():
        client.publish(f"{device_topic('cam-2', Channel.STATUS)[:-7]}/{name}", payload)
    client.publish(device_topic("cam-2", Channel.REPORTED), bytes(66_000))
    client.publish("ef/v1/00/cam-2/up/tel", frame(lab, 99))  # not the bucket of cam-2
    say(client, "cam-2", Channel.TELEMETRY, frame(lab, 1))
    assert client.wait(lambda: acked(client) == {1})
    lab.wait(lambda: lab.totals().get("quarantined", 0) - before.get("quarantined", 0) == 9)
    after = lab.totals()
    counts = {
        name: after.get(f"quarantined:{name}", 0) - before.get(f"quarantined:{name}", 0)
        for name in junk
    }
    assert counts == {
        "status": 1,
        "reported": 2,
        "tel": 2,
        "xfer": 1,
        "ack": 1,
        "label": 1,
        "rows": 1,
    }
    client.close()


def test_a_device_the_server_does_not_know_is_quarantined(lab: WorkspaceLab) -> None:
    stranger = lab.device("stranger")  # with a certificate, but in no table
    stranger.subscribe(device_filter("stranger"))
    before = lab.totals().get("quarantined:tel", 0)
    say(stranger, "stranger", Channel.TELEMETRY, frame(lab, 1))
    lab.wait(lambda: lab.totals().get("quarantined:tel", 0) == before + 1)
    assert stranger.received == []
    stranger.close()


def test_reports_become_rows_and_old_ones_change_nothing(lab: WorkspaceLab) -> None:
    name = "cam-3"
    will = (device_topic(name, Channel.STATUS), Status(is_online=False, boot=1).encode())
    client = lab.device(name, will=will)
    say(client, name, Channel.STATUS, Status(is_online=True, boot=1).encode())
    say(client, name, Channel.REPORTED, report(2, 1))
    lab.wait(lambda: lab.device_row(name).report_sequence == 2)
    say(client, name, Channel.REPORTED, report(1, 1, SlotState.FAILED))
    say(client, name, Channel.REPORTED, report(3, 1, SlotState.PROBATION))
    lab.wait(lambda: lab.device_row(name).report_sequence == 3)
    assert lab.slot_rows(name)["main"].state == "probation"
    assert json.loads(lab.device_row(name).reported)["sequence"] == 3
    assert lab.device_row(name).is_online
    client.drop()  # the broker speaks the last will
    lab.wait(lambda: not lab.device_row(name).is_online)
    back = lab.device(name)
    say(back, name, Channel.STATUS, Status(is_online=True, boot=2).encode())
    lab.wait(lambda: lab.device_row(name).is_online)
    say(back, name, Channel.STATUS, Status(is_online=False, boot=1).encode())  # a late will
    say(back, name, Channel.REPORTED, report(9, 1, SlotState.FAILED))  # a late report
    say(back, name, Channel.REPORTED, report(1, 2))
    lab.wait(lambda: lab.device_row(name).report_sequence == 1)
    row = lab.device_row(name)
    assert (row.is_online, row.boot) == (True, f"{2:016x}")
    assert lab.slot_rows(name)["main"].state == "confirmed"
    back.close()


def seal(name: str, counter: int, target: str = TARGET) -> str:
    from tests.integration.test_gateway_repositories import NOW

    assignment = Assignment(
        fleet="fleet-1",
        device=name,
        counter=counter,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=1),
        slots={"main": SlotAssignment(target=target)},
    )
    payload = b64encode(assignment.encode()).decode()
    return json.dumps({"payloadType": "x", "payload": payload, "signatures": []})


def assign(lab: WorkspaceLab, name: str, counter: int) -> None:
    number = lab.device_row(name).number
    assert number is not None
    with write_session(lab.fleet.engine) as session:
        row = session.get(AssignmentRow, number) or AssignmentRow(device=number)
        row.counter, row.envelope, row.is_stale = counter, seal(name, counter), False
        session.add(row)


def desired(client: Client) -> list[bytes]:
    return [r.payload for r in client.received if r.topic.endswith("/down/desired")]


def published(lab: WorkspaceLab, name: str) -> int:
    from fleet_server.adapters.database.engine import read_session

    with read_session(lab.fleet.engine) as session:
        return session.get_one(AssignmentRow, lab.device_row(name).number).published_counter


def test_metadata_and_assignments_reach_devices_and_are_marked(lab: WorkspaceLab) -> None:
    client = lab.device("cam-4")
    client.subscribe(META_TOPIC)
    client.subscribe(device_filter("cam-4"))
    assert client.wait(lambda: any(r.topic == META_TOPIC for r in client.received))
    bundle = next(r.payload for r in client.received if r.topic == META_TOPIC)
    assert "timestamp.json" in decode_bundle(bundle)
    assign(lab, "cam-4", 1)
    assert client.wait(lambda: desired(client) == [seal("cam-4", 1).encode()])
    lab.wait(lambda: published(lab, "cam-4") == 1)
    assign(lab, "cam-4", 2)
    assert client.wait(lambda: desired(client)[-1] == seal("cam-4", 2).encode())
    client.close()


def test_changed_metadata_is_published(lab: WorkspaceLab) -> None:
    client = lab.device("cam-5")
    client.subscribe(META_TOPIC)
    assert client.wait(lambda: len(client.received) == 1)
    path = lab.workspace.tuf_dir / "timestamp.json"
    original = path.read_bytes()
    try:
        # Any other signed content will do: the gateway passes on, devices verify.
        document = json.loads(original)
        document["signatures"] = []
        path.write_text(json.dumps(document))
        assert client.wait(lambda: len(client.received) >= 2)
        newest = decode_bundle(client.received[-1].payload)["timestamp.json"]
        assert json.loads(newest)["signatures"] == []
    finally:
        path.write_bytes(original)
    assert client.wait(lambda: len(client.received) >= 3)
    client.close()


def fetch(client: Client, name: str, wanted: ChunkRequest, count: int) -> list[ChunkFrame]:
    def frames() -> list[ChunkFrame]:
        found = [
            ChunkFrame.decode(r.payload) for r in client.received if r.topic.endswith("/down/xfer")
        ]
        return [f for f in found if f.request == wanted.request]

    client.publish(device_topic(name, Channel.CHUNK_REQUEST), wanted.encode(), qos=0)
    assert client.wait(lambda: len(frames()) >= count)
    return frames()


def test_a_package_is_transferred_to_those_it_is_meant_for(lab: WorkspaceLab) -> None:
    package = bytes(range(256)) * 700
    sha256 = lab.fleet.objects.put(package)
    with write_session(lab.fleet.engine) as session:
        session.add(
            ArtifactRow(
                model="digits",
                version=1,
                profile="camera",
                target=TARGET,
                sha256=sha256,
                size_bytes=len(package),
                precision="fp32",
                schema_sha256="",
                chunks_sha256="",
                reference_hash="",
                latency_ms_p95=1,
                label_flips=0,
                max_abs_error=0,
                created_at=lab.fleet.clock.now(),
            )
        )
        number = lab.device_row("cam-5").number
        assert number is not None
        session.add(
            DesiredRow(device=number, slot="main", target=TARGET, changed_at=lab.fleet.clock.now())
        )
    client, other = lab.device("cam-5"), lab.device("cam-6")
    for device, name in ((client, "cam-5"), (other, "cam-6")):
        device.subscribe(device_filter(name))

    def ask(number: int, part: Part, bitmap: int) -> ChunkRequest:
        return ChunkRequest(request=number, sha256=sha256, part=part, first=0, bitmap=bitmap)

    (hashes,) = fetch(client, "cam-5", ask(1, Part.HASHES, 1), 1)
    frames = fetch(client, "cam-5", ask(2, Part.CHUNKS, 0b111), 3)
    chunks = {f.index: f.body for f in frames}
    assert b"".join(chunks[n] for n in sorted(chunks)) == package
    assert hashes.body == b"".join(
        hashlib.sha256(package[at : at + CHUNK_BYTES]).digest()
        for at in range(0, len(package), CHUNK_BYTES)
    )
    (refused,) = fetch(other, "cam-6", ask(3, Part.CHUNKS, 1), 1)
    assert (refused.kind, refused.body) == (FrameKind.REFUSED, b"")
    client.close()
    other.close()


def test_a_revoked_device_is_not_heard_any_more(lab: WorkspaceLab) -> None:
    client = lab.device("cam-6")
    client.subscribe(device_filter("cam-6"))
    say(client, "cam-6", Channel.TELEMETRY, frame(lab, 1))
    assert client.wait(lambda: acked(client) == {1})
    number = lab.device_row("cam-6").number
    with write_session(lab.fleet.engine) as session:
        session.get_one(DeviceRow, number).revoked_at = lab.fleet.clock.now()
    before = lab.totals().get("quarantined:tel", 0)
    sequences = iter(range(100, 10_000))

    def is_turned_away() -> bool:
        say(client, "cam-6", Channel.TELEMETRY, frame(lab, next(sequences)))
        return lab.totals().get("quarantined:tel", 0) > before

    lab.wait(is_turned_away)  # within the directory's refresh
    client.close()


def test_the_heartbeat_says_what_was_done(lab: WorkspaceLab) -> None:
    def beat() -> dict[str, Any]:
        return read_heartbeat(lab.workspace.server_dir, "gateway")

    lab.wait(lambda: beat()["transfer_frames"] >= 4)
    lab.wait(lambda: (beat()["telemetry"] or {}).get("inserted", 0) >= 4)  # asked for in a thread
    lab.wait(lambda: beat()["is_connected"])
    assert beat()["loop_errors"] == 0


def test_a_killed_broker_gets_everything_again(lab: WorkspaceLab) -> None:
    assign(lab, "cam-4", 3)
    lab.wait(lambda: published(lab, "cam-4") == 3)
    lab.kill_broker()  # long before its first autosave: all retained messages are gone
    lab.broker.start()
    client = lab.device("cam-4")
    client.subscribe(META_TOPIC)
    client.subscribe(device_filter("cam-4"))
    wanted: Callable[[], bool] = lambda: (  # noqa: E731
        bool(desired(client)) and any(r.topic == META_TOPIC for r in client.received)
    )
    assert client.wait(wanted, timeout_s=60)
    assert desired(client)[-1] == seal("cam-4", 3).encode()
    client.close()


def test_a_restarted_gateway_repeats_no_assignments(lab: WorkspaceLab) -> None:
    lab.wait(lambda: read_heartbeat(lab.workspace.server_dir, "gateway")["repeated"] >= 1)
    time.sleep(0.5)  # its marker is out
    assert lab.gateway is not None
    lab.gateway.terminate()
    assert lab.gateway.wait(60) == 0
    lab.start_gateway()
    lab.wait_until_ready()
    lab.wait(lambda: read_heartbeat(lab.workspace.server_dir, "gateway")["telemetry"] is not None)
    time.sleep(1.5)  # longer than it waits for the marker
    log = (lab.workspace.log_dir / "gateway.log").read_text()
    assert log.count("publishing again") == 1  # when the broker was killed


def test_without_a_broker_the_gateway_says_what_to_do(tmp_path: Path) -> None:
    lab = WorkspaceLab(tmp_path / "ws")
    lab.start_gateway()
    assert lab.gateway is not None
    assert lab.gateway.wait(60) == 1
    log = (lab.workspace.log_dir / "gateway.log").read_text()
    assert "start the broker first" in log
    lab.gateway = None
    lab.stop()
