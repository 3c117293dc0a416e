"""Reports, directory, outbox and transfer rights over a real control database."""

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.contract.messages import Running, SlotReport, SlotState
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.outbox_repository import (
    SqlAssignmentOutbox,
    SqlTransferRights,
)
from fleet_server.adapters.database.report_repository import (
    SqlDeviceDirectory,
    SqlReportRepository,
)
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    DesiredRow,
    DeviceRow,
    SlotRow,
)
from fleet_server.errors import UnreachableError
from fleet_server.ports.gateway import AcceptedReport, DeviceChange, DeviceState, Envelope

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    migrate(tmp_path / "control.db")
    engine = open_engine(tmp_path / "control.db")
    with write_session(engine) as session:
        for n in range(1, 4):
            session.add(DeviceRow(number=n, id=f"d-{n}", profile="camera", created_at=NOW))
    yield engine
    engine.dispose()


def device(engine: Engine, number: int) -> DeviceRow:
    with read_session(engine) as session:
        return session.get_one(DeviceRow, number)


def slots(engine: Engine) -> dict[tuple[int, str], SlotRow]:
    with read_session(engine) as session:
        return {(row.device, row.slot): row for row in session.exec(select(SlotRow))}


def change(
    number: int, sequence: int, said: dict[str, SlotReport] | None, *, is_online: bool = True
) -> DeviceChange:
    return DeviceChange(
        device=number,
        state=DeviceState(boot="b" * 16, sequence=sequence, is_online=is_online),
        report=None if said is None else AcceptedReport(text=f"report {sequence}", slots=said),
    )


CONFIRMED = SlotReport(
    state=SlotState.CONFIRMED,
    running=Running(target="m/1/camera.tar", sha256="1" * 64),
    confirmed=Running(target="m/1/camera.tar", sha256="1" * 64),
    rollout=4,
)
FAILED = SlotReport(state=SlotState.FAILED, code="selftest-golden", detail="off by one")


def test_states_come_back_as_saved(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    assert repository.load_states([1, 9]) == {1: DeviceState()}
    repository.save_changes([change(1, 3, {"main": CONFIRMED}), change(2, 0, None)], at=NOW)
    assert repository.load_states([1, 2]) == {
        1: DeviceState(boot="b" * 16, sequence=3, is_online=True),
        2: DeviceState(boot="b" * 16, sequence=0, is_online=True),
    }
    row = device(engine, 1)
    assert (row.reported, row.reported_at, row.last_seen_at) == ("report 3", NOW, NOW)
    assert (device(engine, 2).reported, device(engine, 2).reported_at) == ("", None)


def test_slots_say_what_truly_runs(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    repository.save_changes([change(1, 1, {"main": CONFIRMED, "aux": FAILED})], at=NOW)
    main, aux = slots(engine)[1, "main"], slots(engine)[1, "aux"]
    assert (main.state, main.running_target, main.running_sha256, main.confirmed_sha256) == (
        "confirmed",
        "m/1/camera.tar",
        "1" * 64,
        "1" * 64,
    )
    assert (main.rollout, main.desired_target, main.code) == (4, "", "")
    assert (aux.state, aux.code, aux.detail, aux.running_target) == (
        "failed",
        "selftest-golden",
        "off by one",
        "",
    )


def test_a_slot_that_says_the_same_keeps_its_time(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    repository.save_changes([change(1, 1, {"a": CONFIRMED, "b": CONFIRMED})], at=NOW)
    repository.save_changes([change(1, 2, {"a": CONFIRMED, "b": FAILED})], at=LATER)
    assert {slot: row.changed_at for (_, slot), row in slots(engine).items()} == {
        "a": NOW,
        "b": LATER,
    }


def test_a_slot_no_longer_reported_is_gone_and_others_stay(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    both = {"a": CONFIRMED, "b": CONFIRMED}
    repository.save_changes([change(1, 1, both), change(2, 1, both)], at=NOW)
    repository.save_changes([change(1, 2, {"a": CONFIRMED}), change(2, 2, None)], at=NOW)
    assert sorted(slots(engine)) == [(1, "a"), (2, "a"), (2, "b")]


def test_a_thousand_devices_are_one_batch(engine: Engine) -> None:
    with write_session(engine) as session:
        for n in range(10, 1_010):
            session.add(DeviceRow(number=n, id=f"e-{n}", profile="camera", created_at=NOW))
    repository = SqlReportRepository(engine)
    numbers = range(10, 1_010)
    repository.save_changes([change(n, n, {"main": CONFIRMED}) for n in numbers], at=NOW)
    assert {n: s.sequence for n, s in repository.load_states(numbers).items()} == {
        n: n for n in numbers
    }
    assert len(slots(engine)) == 1_000


def test_a_broken_batch_changes_nothing(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    with pytest.raises(UnreachableError, match="control database"):
        repository.save_changes(
            [change(1, 1, {"main": CONFIRMED}), change(99, 1, {"main": CONFIRMED})], at=NOW
        )
    assert repository.load_states([1]) == {1: DeviceState()}
    assert slots(engine) == {}


def test_devices_not_heard_since_are_set_offline(engine: Engine) -> None:
    repository = SqlReportRepository(engine)
    repository.save_changes([change(n, 1, None) for n in (1, 2, 3)], at=NOW)
    repository.save_last_seen([2], at=LATER)
    assert repository.mark_silent_offline(unseen_since=LATER) == 2
    assert [device(engine, n).is_online for n in (1, 2, 3)] == [False, True, False]


def test_the_directory_knows_who_joined_a_moment_ago_and_forgets_the_revoked(
    engine: Engine,
) -> None:
    directory = SqlDeviceDirectory(engine)
    directory.refresh()
    assert (directory.find("d-1"), directory.find("d-9")) == (1, None)
    with write_session(engine) as session:
        session.add(DeviceRow(number=9, id="d-9", profile="camera", created_at=NOW))
        session.get_one(DeviceRow, 1).revoked_at = NOW
    assert directory.find("d-9") == 9
    directory.refresh()
    assert (directory.find("d-1"), directory.find("d-2")) == (None, 2)


def assign(engine: Engine, number: int, counter: int, *, published: int = 0) -> None:
    with write_session(engine) as session:
        session.merge(
            AssignmentRow(
                device=number,
                counter=counter,
                envelope=f"e{counter}",
                published_counter=published,
                is_stale=False,
            )
        )


def test_the_outbox_offers_what_the_broker_lacks(engine: Engine) -> None:
    outbox = SqlAssignmentOutbox(engine)
    assert outbox.published_mark() == ""
    assign(engine, 1, 1)
    assign(engine, 2, 5, published=4)
    assign(engine, 3, 2, published=2)
    wanted = [Envelope(1, "d-1", 1, b"e1"), Envelope(2, "d-2", 5, b"e5")]
    assert outbox.load_unpublished(10) == wanted
    assert outbox.load_unpublished(1) == wanted[:1]
    outbox.mark_published(wanted)
    assert outbox.load_unpublished(10) == []
    assert [e.device for e in outbox.load_published(0, 10)] == [1, 2, 3]
    assert [e.device for e in outbox.load_published(2, 10)] == [3]
    assert outbox.published_mark() == "3:8"


def test_a_newer_counter_is_not_hidden_by_a_late_note(engine: Engine) -> None:
    outbox = SqlAssignmentOutbox(engine)
    assign(engine, 1, 1)
    sent = outbox.load_unpublished(10)
    assign(engine, 1, 2)  # signed anew while the first was under way
    outbox.mark_published(sent)
    assert [e.counter for e in outbox.load_unpublished(10)] == [2]
    outbox.mark_published(outbox.load_unpublished(10))
    outbox.mark_published(sent)
    assert outbox.load_unpublished(10) == []


def test_revoked_devices_and_empty_envelopes_are_not_published(engine: Engine) -> None:
    assign(engine, 1, 1)
    with write_session(engine) as session:
        session.get_one(DeviceRow, 1).revoked_at = NOW
        session.add(AssignmentRow(device=2, counter=1, envelope=""))
    outbox = SqlAssignmentOutbox(engine)
    assert outbox.load_unpublished(10) == []


def seal(device_id: str, target: str) -> str:
    assignment = Assignment(
        fleet="f",
        device=device_id,
        counter=1,
        issued_at=NOW,
        expires_at=LATER,
        slots={"main": SlotAssignment(target=target)},
    )
    payload = b64encode(assignment.encode()).decode()
    return json.dumps({"payloadType": "x", "payload": payload, "signatures": []})


def test_rights_are_the_desired_targets_and_those_of_the_newest_assignment(
    engine: Engine,
) -> None:
    rights = SqlTransferRights(engine)
    with write_session(engine) as session:
        for version in (1, 2, 3):
            session.add(
                ArtifactRow(
                    model="m",
                    version=version,
                    profile="camera",
                    target=f"m/{version}/camera.tar",
                    sha256=str(version) * 64,
                    size_bytes=1,
                    precision="fp32",
                    schema_sha256="",
                    chunks_sha256="",
                    reference_hash="",
                    latency_ms_p95=1,
                    label_flips=0,
                    max_abs_error=0,
                    created_at=NOW,
                )
            )
        session.add(DesiredRow(device=1, slot="main", target="m/2/camera.tar", changed_at=NOW))
        session.add(AssignmentRow(device=1, counter=1, envelope=seal("d-1", "m/1/camera.tar")))
        session.add(AssignmentRow(device=2, counter=1, envelope="no envelope"))
    assert rights.allowed_packages("d-1") == {"1" * 64, "2" * 64}
    assert rights.allowed_packages("d-2") == frozenset()
    assert rights.allowed_packages("nobody") == frozenset()
    with write_session(engine) as session:
        session.get_one(DeviceRow, 1).revoked_at = NOW
    assert rights.allowed_packages("d-1") == frozenset()
