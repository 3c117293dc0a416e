"""Schema changes on a real SQLite file."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from fleet_server.adapters.database import sample_tables, tables
from fleet_server.adapters.database.api_tokens import hash_token
from fleet_server.adapters.database.engine import open_engine, read_session
from fleet_server.adapters.database.migrate import SCRIPTS, SchemaError, migrate, newest_revision


def test_the_migrated_schema_is_that_of_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    migrate(path)
    engine = open_engine(path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    for declared in (tables.DeviceRow, sample_tables.SampleFileRow):
        assert declared.__tablename__ in SQLModel.metadata.tables
    engine.dispose()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    assert migrate(path) == migrate(path)


def test_the_names_of_the_files_tell_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    assert newest_revision() == ScriptDirectory.from_config(config).get_current_head()


def test_a_database_of_a_newer_edgefleet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    migrate(path)
    engine = open_engine(path)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SchemaError, match="9999, newer than this edgefleet"):
        migrate(path)


def test_schema_changes_roll_back_with_their_transaction(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "a.db")
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(text("CREATE TABLE half (i INTEGER)"))
        transaction.rollback()
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
    engine.dispose()


def test_a_token_of_the_first_schema_still_works(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    engine = open_engine(path, is_foreign_keys=False)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    token = "eft_kept-from-the-first-schema"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO api_token (secret_sha256, name, role, created_at, expires_at)"
                " VALUES (:hash, 'admin', 'admin', '2026-01-01 00:00:00', '2027-01-01 00:00:00')"
            ),
            {"hash": hash_token(token)},
        )
    engine.dispose()
    migrate(path)
    engine = open_engine(path)
    with read_session(engine) as session:
        found = session.get(tables.ApiTokenRow, hash_token(token))
    engine.dispose()
    assert found is not None
    assert (found.id, found.kind) == (hash_token(token)[:12], "service")


def test_labels_of_before_they_had_names_are_kept_and_may_stand_beside_named_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "control.db"
    engine = open_engine(path, is_foreign_keys=False)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        for statement in (
            "INSERT INTO device (number, id, profile, labels, created_at, certificate_serial,"
            " is_online, boot, report_sequence, reported, boots, clone_evidence)"
            " VALUES (1, 'cam', 'camera', '{}', '2026-01-01', '', 0, '', 0, '', '', '')",
            "INSERT INTO label_count"
            " VALUES ('m', 1, 1, '2026-01-01 00:00:00', 0, 1, 7, 0.5, 1.5, 2.5)",
            "INSERT INTO sample_label VALUES (1, 'p', 0, 'm', 1, 2.0, '2026-01-01 00:00:00')",
        ):
            connection.execute(text(statement))
    engine.dispose()
    migrate(path)
    engine = open_engine(path, is_foreign_keys=False)
    with engine.begin() as connection:
        counted = connection.execute(text("SELECT part, rows, squared_sum FROM label_count"))
        assert counted.all() == [("", 7, 2.5)]
        assert connection.execute(text("SELECT part, label FROM sample_label")).all() == [("", 2.0)]
        for table in ("label_count", "sample_label"):
            columns = inspect(connection).get_columns(table)
            names = ", ".join(c["name"] for c in columns)
            values = ", ".join("'flow'" if c["name"] == "part" else c["name"] for c in columns)
            again = f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} LIMIT 1"  # noqa: S608
            connection.execute(text(again))
            with pytest.raises(IntegrityError):
                connection.execute(text(again))
        assert inspect(connection).get_indexes("label_count")[0]["name"] == "ix_label_count_hour_at"
    engine.dispose()


def test_devices_that_a_rollout_holds_follow_their_labels_after_the_upgrade(
    tmp_path: Path,
) -> None:
    path = tmp_path / "control.db"
    engine = open_engine(path, is_foreign_keys=False)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    device = (
        "INSERT INTO device (number, id, profile, labels, created_at, certificate_serial,"
        " is_online, boot, report_sequence, reported, boots, clone_evidence)"
        " VALUES (:n, :n, 'camera', '{}', '2026-01-01', '', 0, '', 0, '', '', '')"
    )
    rollout = (
        "INSERT INTO rollout VALUES (:n, 'line-{route}', 0, 'line', 'all', 'completed', '{}', '{}',"
        " 0, NULL, '2026-01-01', NULL, NULL, '', 0)"
    )
    member = (
        "INSERT INTO rollout_device"
        " VALUES (7, :n, 0, 'confirmed', '', '', '', :offered, '2026-01-01', 1, 1)"
    )
    wish = (
        "INSERT INTO desired"
        " VALUES (:n, 'line', 'line-a/1/camera.tar', :rollout, 0, '{}', '2026-01-01', '')"
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0007")
        for number in (7, 8):
            connection.execute(text(rollout), {"n": number})
        for number, holder, offered in ((1, 7, "2026-01-01"), (2, 8, "2026-01-01"), (3, 7, None)):
            connection.execute(text(device), {"n": number})
            connection.execute(text(member), {"n": number, "offered": offered})
            connection.execute(text(wish), {"n": number, "rollout": holder})
    engine.dispose()
    migrate(path)
    engine = open_engine(path)
    with read_session(engine) as session:
        rows = session.execute(text("SELECT device, target FROM rollout_device ORDER BY device"))
        assert rows.all() == [(1, "line-a/1/camera.tar"), (2, ""), (3, "")]
    engine.dispose()
