"""Schema changes on a real SQLite file."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
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
