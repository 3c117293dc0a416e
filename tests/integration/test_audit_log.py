"""The audit log on a real database: every tampering is found."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlmodel import col, select

from fleet_server.adapters.database.audit_log import append_audit, find_breaks
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.tables import AuditRow


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
