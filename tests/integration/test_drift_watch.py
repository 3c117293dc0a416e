"""Windows in, alarms out: the whole watch over real databases."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    AuditRow,
    DecisionRow,
    DeviceRow,
    DriftCellRow,
    GroupRow,
)
from fleet_server.core.drift_alarm import AlarmState
from fleet_server.core.drift_case import replay_case
from fleet_server.core.drift_policy import Level
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.drift import StoredAlarm
from tests.support.drift import Rows, class_reference, normal_rows
from tests.support.drift_fleet import DriftFleet, open_drift_fleet

REFERENCE = class_reference(normal_rows(0, 3_000, 3), answers=normal_rows(1, 1_500, 3))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DriftFleet]:
    opened = open_drift_fleet(tmp_path, REFERENCE)
    yield opened
    opened.store.close()
    opened.engine.dispose()


def living(fleet: DriftFleet) -> list[StoredAlarm]:
    return [a for a in fleet.drift.list_alarms() if a.memory.state is not AlarmState.PENDING]


def decisions(fleet: DriftFleet) -> list[DecisionRow]:
    with read_session(fleet.engine) as session:
        return list(session.exec(select(DecisionRow)))


def test_a_fleet_without_windows_is_no_error(fleet: DriftFleet) -> None:
    report = fleet.watch().run_once()
    assert (report.models, report.devices, report.alarms_open) == (0, 0, 0)


def test_a_calm_fleet_has_cells_and_no_alarm(fleet: DriftFleet) -> None:
    fleet.send(8)
    report = fleet.watch().run_once()
    assert (report.models, report.devices, report.windows) == (1, 12, 96)
    assert fleet.drift.list_alarms() == []
    subjects = {(c.level, c.subject) for c in fleet.drift.list_cells("m")}
    assert (Level.FLEET, "all") in subjects
    assert {s for level, s in subjects if level is Level.GROUP} == {
        "cameras",
        "profile=iot-gateway",
    }
    assert len({s for level, s in subjects if level is Level.DEVICE}) == 12
    assert fleet.drift.list_judged() == ["m"]


def test_the_life_of_a_group_alarm(fleet: DriftFleet) -> None:
    watch = fleet.watch()
    fleet.send(16)
    watch.run_once()
    fleet.shift = {"cam": 1.0}
    for _ in range(2):
        fleet.send()
        watch.run_once()
    (alarm,) = living(fleet)
    assert (alarm.level, alarm.subject) == (Level.GROUP, "cameras")
    assert "f1" in alarm.features
    assert alarm.sentence.startswith("group cameras: f1 moved up")
    opened = [d for d in decisions(fleet) if d.verdict == "open"]
    assert [d.subject for d in opened] == ["m/group/cameras"]
    assert replay_case(json.loads(opened[0].inputs))[1] == opened[0].sentence

    fleet.shift = {}
    for _ in range(12):
        fleet.send()
        watch.run_once()
    assert living(fleet) == []
    (closed,) = fleet.drift.list_alarms(closed_max=9)
    assert closed.id == alarm.id
    assert closed.closed_at is not None
    fleet.send(8)
    watch.run_once()
    assert living(fleet) == [], "old windows must not open it again"

    fleet.shift = {"cam": -1.0}
    for _ in range(2):
        fleet.send()
        watch.run_once()
    (again,) = living(fleet)
    assert again.id != alarm.id
    assert "moved down" in again.sentence


def test_judging_the_same_windows_again_changes_nothing(fleet: DriftFleet) -> None:
    fleet.shift = {"cam": 1.0}
    fleet.send(8)
    fleet.watch().run_once()
    before = living(fleet), len(decisions(fleet))
    watch = fleet.watch()  # as after a kill
    for _ in range(3):
        assert watch.run_once().alarms_open == 1
    after = living(fleet), len(decisions(fleet))
    assert [a.id for a in after[0]] == [a.id for a in before[0]]
    assert after[1] == before[1]


def test_a_device_alarm_is_folded_into_its_group(fleet: DriftFleet) -> None:
    watch = fleet.watch()
    fleet.shift = {"cam-02": 2.0}
    fleet.send(8)
    watch.run_once()
    assert [(a.level, a.subject) for a in living(fleet)] == [(Level.DEVICE, "cam-02")]
    fleet.shift = {"cam": 2.0}
    for _ in range(6):
        fleet.send()
        watch.run_once()
    assert [(a.level, a.subject) for a in living(fleet)] == [(Level.GROUP, "cameras")]
    assert "folded" in {d.verdict for d in decisions(fleet)}


def shifted_rows(seed: int, *, is_mixed: bool) -> Rows:
    rows = normal_rows(seed, 3_000, 3)
    rows[: 1_500 if is_mixed else 3_000, 1] += 1.0
    return rows


@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_new_version_for_the_drifted_group_is_judged_there(
    fleet: DriftFleet, is_mixed: bool
) -> None:
    watch = fleet.watch()
    fleet.shift = {"cam": 1.0}
    fleet.send(8)
    watch.run_once()
    (alarm,) = living(fleet)
    retrained = class_reference(
        shifted_rows(5, is_mixed=is_mixed), answers=shifted_rows(6, is_mixed=is_mixed)
    )
    for numbers in ((1, 2), range(1, 7)):
        fleet.move(numbers, retrained)
        for _ in range(4):
            fleet.send()
            watch.run_once()
            # The group's alarm is open: its devices on the new version raise none of their own.
            assert {a.level for a in living(fleet)} <= {Level.GROUP}
    left = [a.id for a in living(fleet)]
    # Trained on what the cameras see now, the alarm closes; on a mixture, it cannot.
    assert left == ([alarm.id] if is_mixed else [])
    levels = {c.subject: c.detail["devices"] for c in fleet.drift.list_cells("m", Level.GROUP)}
    assert levels["cameras"] == 6


def test_windows_that_do_not_fit_are_counted_and_left_out(fleet: DriftFleet) -> None:
    fleet.send(2)
    fleet.send_bytes(3, b"\x00\x01")
    report = fleet.watch().run_once()
    assert (report.windows, report.unreadable) == (24, 1)


def test_a_reference_that_cannot_be_read_is_told(fleet: DriftFleet) -> None:
    fleet.send(2)
    fleet.references.by_sha256[fleet.sha256] = fleet.encoded + b" "
    report = fleet.watch().run_once()
    assert report.devices == 0
    assert "m 1: the drift reference of package" in report.problems[0]
    fleet.references.by_sha256.clear()
    assert "is not in the object store" in fleet.watch().run_once().problems[0]


def test_a_removed_group_closes_its_alarm(fleet: DriftFleet) -> None:
    fleet.shift = {"cam": 1.0}
    fleet.send(8)
    fleet.watch().run_once()
    with write_session(fleet.engine) as session:
        session.delete(session.get_one(GroupRow, "cameras"))
    fleet.watch().run_once()
    names = [a.subject for a in living(fleet)]
    assert "cameras" not in names
    assert names == ["profile=camera"]


def test_a_revoked_device_is_no_longer_watched(fleet: DriftFleet) -> None:
    fleet.shift = {"cam-02": 2.0}
    fleet.send(8)
    fleet.watch().run_once()
    with write_session(fleet.engine) as session:
        session.get_one(DeviceRow, 2).revoked_at = fleet.clock.now()
    assert fleet.watch().run_once().devices == 11
    assert living(fleet) == []


def test_a_query_that_no_longer_reads_stops_nothing(fleet: DriftFleet) -> None:
    with write_session(fleet.engine) as session:
        session.add(GroupRow(name="broken", query="((", created_at=fleet.clock.now()))
    fleet.send(4)
    assert fleet.watch().run_once().devices == 12


def test_acknowledging_is_on_record(fleet: DriftFleet) -> None:
    fleet.shift = {"cam": 1.0}
    fleet.send(8)
    watch = fleet.watch()
    watch.run_once()
    (alarm,) = living(fleet)
    desk = fleet.desk()
    acknowledged = desk.acknowledge(alarm.id, reason="new lamps, known", actor="kim")
    assert acknowledged.acknowledged_reason == "new lamps, known"
    fleet.send()
    watch.run_once()
    (kept,) = living(fleet)
    assert kept.acknowledged_reason == "new lamps, known"
    with read_session(fleet.engine) as session:
        rows = list(session.exec(select(AuditRow)))
    assert [(r.actor, r.act, r.object) for r in rows] == [("kim", "drift.ack", "m/group/cameras")]
    assert list(find_breaks(iter(rows))) == []
    with pytest.raises(MisuseError, match="8 to 400"):
        desk.acknowledge(alarm.id, reason="known", actor="kim")
    with pytest.raises(NotFoundError, match="no alarm 99"):
        desk.acknowledge(99, reason="known since May", actor="kim")


def test_a_closed_alarm_is_not_acknowledged(fleet: DriftFleet) -> None:
    fleet.shift = {"cam-02": 2.0}
    fleet.send(8)
    fleet.watch().run_once()
    (alarm,) = living(fleet)
    with write_session(fleet.engine) as session:
        session.get_one(DeviceRow, 2).revoked_at = fleet.clock.now()
    fleet.watch().run_once()
    with pytest.raises(RefusedError, match="is closed"):
        fleet.desk().acknowledge(alarm.id, reason="known since May", actor="kim")


def test_cells_are_replaced_not_piled_up(fleet: DriftFleet) -> None:
    watch = fleet.watch()
    counts = []
    for _ in range(3):
        fleet.send(4)
        watch.run_once()
        with read_session(fleet.engine) as session:
            counts.append(len(session.exec(select(DriftCellRow)).all()))
    assert len(set(counts)) == 1
