"""The audit log on a real database: every tampering is found."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlmodel import col, select

from fleet_server.adapters.audit_head import HeadFile
from fleet_server.adapters.database.audit_log import AuditLog, append_audit, find_breaks
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.tables import AuditRow
from fleet_server.errors import RefusedError
from fleet_server.ports.audit import AuditFilter, AuditHead
from fleet_server.services.verify_audit import AuditDesk, HeadFollower, parse_head


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    migrate(tmp_path / "control.db")
    engine = open_engine(tmp_path / "control.db")
    with write_session(engine) as session:
        for n in range(4):
            append_audit(
                session,
                at=datetime(2026, 1, 1, n, 30, 0, 123_456, tzinfo=UTC),
                actor="ada",
                act="model.approve",
                object=f"digits/{n}",
                detail={"n": n},
            )
    yield engine
    engine.dispose()


def breaks(engine: Engine) -> list[str]:
    with read_session(engine) as session:
        return list(find_breaks(iter(session.exec(select(AuditRow).order_by(col(AuditRow.id))))))


def test_an_untouched_log_is_whole(engine: Engine) -> None:
    assert breaks(engine) == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE audit SET actor = 'eve' WHERE id = 2",
            "row 2 (model.approve digits/1) was edited",
        ),
        (
            "UPDATE audit SET detail = '{}' WHERE id = 4",
            "row 4 (model.approve digits/3) was edited",
        ),
        ("DELETE FROM audit WHERE id = 2", "row 2 is missing"),
        ("DELETE FROM audit WHERE id = 1", "row 1 is missing"),
        (
            "UPDATE audit SET id = CASE id WHEN 2 THEN 30 ELSE 20 END WHERE id IN (2, 3);",
            "is missing",
        ),
    ],
)
def test_tampering_is_found(engine: Engine, statement: str, says: str) -> None:
    with write_session(engine) as session:
        session.connection().execute(text(statement))
    assert any(says in found for found in breaks(engine))


def head_of(engine: Engine, place: str = "a note") -> AuditHead:
    head = AuditLog(engine).find_head()
    assert head is not None
    return AuditHead(rows=head.rows, sha256=head.sha256, place=place)


def run(engine: Engine, *statements: str) -> None:
    with write_session(engine) as session:
        for statement in statements:
            session.connection().execute(text(statement))


def test_a_tail_cut_off_shows_only_against_a_head_kept_elsewhere(engine: Engine) -> None:
    head = head_of(engine)
    run(engine, "DELETE FROM audit WHERE id > 2")
    assert breaks(engine) == []
    found = list(AuditLog(engine).find_breaks([head]))
    assert len(found) == 1
    assert "ends at row 2, but a note remembers row 4: 2 of the newest rows were cut" in found[0]


def test_a_tail_written_anew_shows_against_the_head(engine: Engine) -> None:
    head = head_of(engine)
    run(engine, "DELETE FROM audit WHERE id = 4")
    append(engine, "eve")
    assert breaks(engine) == []
    found = list(AuditLog(engine).find_breaks([head]))
    assert found == ["row 4 is not the one that a note remembers: written anew"]


def test_a_log_that_grew_holds_every_earlier_head(engine: Engine) -> None:
    heads = [head_of(engine)]
    append(engine, "bob")
    heads.append(head_of(engine))
    append(engine, "cy")
    assert list(AuditLog(engine).find_breaks(heads)) == []


def test_rows_swapped_in_place_are_found(engine: Engine) -> None:
    run(
        engine,
        "UPDATE audit SET id = 100 WHERE id = 2",
        "UPDATE audit SET id = 2 WHERE id = 3",
        "UPDATE audit SET id = 3 WHERE id = 100",
    )
    assert any("does not follow" in found for found in breaks(engine))


def test_a_follower_does_not_remember_a_shorter_log(engine: Engine, tmp_path: Path) -> None:
    keeper = HeadFile(tmp_path / "audit-head.json")
    follower = HeadFollower(AuditLog(engine), keeper)
    follower.follow()
    before = keeper.load()
    append(engine, "bob")
    follower.follow()
    kept = keeper.load()
    assert before is not None
    assert kept is not None
    assert (before.rows, kept.rows, follower.alarm) == (4, 5, "")
    run(engine, "DELETE FROM audit WHERE id > 3")
    for actor in ("eve", "eve", "eve"):
        follower.follow()
        append(engine, actor)
    follower.follow()
    assert keeper.load() == kept
    assert "does not hold row 5" in follower.alarm


def test_a_check_compares_with_the_operators_copy_and_a_damaged_copy_is_said(
    engine: Engine, tmp_path: Path
) -> None:
    keepers = [HeadFile(tmp_path / name / "audit-head.json") for name in ("server", "operator")]
    desk = AuditDesk(reader=AuditLog(engine), keepers=keepers)
    report = desk.verify()
    assert report.is_whole
    assert report.head is not None
    assert len(desk.remember(report.head)) == 2
    run(engine, "DELETE FROM audit WHERE id = 4")
    (tmp_path / "server" / "audit-head.json").unlink()
    assert "operator" in desk.verify().breaks[0]
    (tmp_path / "operator" / "audit-head.json").write_text("{}")
    assert "is not what edgefleet wrote" in desk.verify().breaks[0]


def test_rows_are_found_by_actor_act_and_time_a_page_at_a_time(engine: Engine) -> None:
    append(engine, "bob", act="device.revoke")
    log = AuditLog(engine)

    def ids(before: int = 2**31, limit: int = 10, **wanted: Any) -> list[int]:
        return [r.id for r in log.list_page(AuditFilter(**wanted), before=before, limit=limit)]

    assert ids() == [5, 4, 3, 2, 1]
    assert ids(limit=2) == [5, 4]
    assert ids(before=4, limit=2) == [3, 2]
    assert ids(actor="bob") == [5]
    assert ids(act="model.") == [4, 3, 2, 1]
    assert ids(act="model") == []
    assert ids(since=datetime(2026, 1, 1, 2, tzinfo=UTC)) == [5, 4, 3]


@pytest.mark.parametrize("written", ["", "4", "4:abc", "x:" + "0" * 64, "4:" + "g" * 64])
def test_what_is_no_head_is_refused(written: str) -> None:
    with pytest.raises(RefusedError, match="is no head"):
        parse_head(written)


def append(engine: Engine, actor: str, act: str = "model.approve") -> None:
    with write_session(engine) as session:
        append_audit(
            session, at=datetime(2026, 1, 2, tzinfo=UTC), actor=actor, act=act, object="digits/9"
        )
