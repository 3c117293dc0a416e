"""What devices tell of shadows arrives in the control database, where a rollout can ask for it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from edge_agent.contract.messages import Running, SlotReport, SlotState
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from fleet_server.adapters.database.assignment_repository import AssignmentRepository
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.report_repository import SqlReportRepository
from fleet_server.adapters.database.shadow_rows import KEPT_PER_DEVICE, read_shadows
from fleet_server.adapters.database.tables import DeviceRow
from fleet_server.adapters.database.tables_shadow import ShadowRow
from fleet_server.ports.devices import Wish
from fleet_server.ports.gateway import AcceptedReport, DeviceChange, DeviceState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
FOUND = ShadowReport(
    sha256="2" * 64,
    state=ShadowState.COMPARING,
    rows=10,
    differs=2,
    difference=(5, 0, 0, 0, 0, 0, 3, 2),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    migrate(tmp_path / "control.db")
    engine = open_engine(tmp_path / "control.db")
    with write_session(engine) as session:
        for n in (1, 2, 3):
            session.add(DeviceRow(number=n, id=f"d-{n}", profile="camera", created_at=NOW))
    yield engine
    engine.dispose()


def report(
    engine: Engine,
    device: int,
    shadow: ShadowReport | None,
    *,
    rollout: int = 4,
    at: datetime = NOW,
) -> None:
    slot = SlotReport(
        state=SlotState.SHADOWING,
        desired=Running(target="m/2/camera.tar", sha256="2" * 64),
        rollout=rollout,
        shadow=shadow,
    )
    change = DeviceChange(
        device=device,
        state=DeviceState(boot="b" * 16, sequence=1, is_online=True),
        report=AcceptedReport(text="{}", slots={"m": slot}),
    )
    SqlReportRepository(engine).save_changes([change], at=at)


def rows(engine: Engine) -> list[ShadowRow]:
    with read_session(engine) as session:
        return list(session.exec(select(ShadowRow)))


def test_counts_of_a_rollout_are_found_by_device_and_can_be_added(engine: Engine) -> None:
    report(engine, 1, FOUND)
    report(engine, 2, replace(FOUND, rows=30, differs=1))
    report(engine, 3, FOUND, rollout=9)
    with read_session(engine) as session:
        found = read_shadows(session, rollout=4, slot="m")
        assert read_shadows(session, rollout=4, slot="other") == {}
    assert found == {1: FOUND, 2: replace(FOUND, rows=30, differs=1)}
    both = found[1].added(found[2])
    assert (both.rows, both.differs, both.difference[0]) == (40, 3, 10)


def test_the_newest_counts_replace_and_the_same_change_nothing(engine: Engine) -> None:
    report(engine, 1, FOUND)
    report(engine, 1, FOUND, at=LATER)
    assert [row.changed_at for row in rows(engine)] == [NOW]
    report(engine, 1, replace(FOUND, rows=99, state=ShadowState.OVER), at=LATER)
    (row,) = rows(engine)
    assert (row.rows, row.state, row.target) == (99, "over", "m/2/camera.tar")
    assert row.changed_at == LATER


def test_a_later_report_without_a_shadow_keeps_what_was_found(engine: Engine) -> None:
    report(engine, 1, FOUND)
    report(engine, 1, None, at=LATER)
    assert [row.rows for row in rows(engine)] == [10]


def test_the_wish_for_a_shadow_reaches_the_assignment_and_its_change_makes_it_stale(
    engine: Engine,
) -> None:
    def signed(shadow: ShadowPolicy | None) -> tuple[int, ShadowPolicy | None]:
        with write_session(engine) as session:
            store = AssignmentRepository(session)
            wish = Wish(device="d-1", slot="m", target="m/2/camera.tar", shadow=shadow)
            changed = store.put_desired([(1, wish)], at=NOW)
            (stale,) = store.find_stale(expiring_before=NOW, limit=9)
            return changed, stale.slots["m"].shadow

    policy = ShadowPolicy(share=0.5)
    assert signed(policy) == (1, policy)
    assert signed(policy) == (0, policy)
    assert signed(None) == (1, None)


def test_a_device_that_names_ever_new_candidates_fills_no_table(engine: Engine) -> None:
    for n in range(KEPT_PER_DEVICE + 4):
        report(engine, 1, replace(FOUND, sha256=f"{n:064x}"), at=NOW + timedelta(seconds=n))
    report(engine, 2, FOUND)
    kept = [row.sha256 for row in rows(engine) if row.device == 1]
    assert len(kept) == KEPT_PER_DEVICE
    assert f"{3:064x}" not in kept
    assert f"{4:064x}" in kept
    assert len(rows(engine)) == KEPT_PER_DEVICE + 1
