"""Bring the control database to the schema this code knows.

A backup is taken before an upgrade of a database that has rows; foreign keys are off while
tables are rebuilt and checked afterwards (docs/adr/0004). A database that is current, as nearly
always, is found so without loading Alembic: every command begins here.
"""

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import text

from fleet_server.adapters.database.engine import open_engine

SCRIPTS = Path(__file__).parent / "migrations"
VERSIONS = SCRIPTS / "versions"


class SchemaError(Exception):
    """The database cannot be used by this version of edgefleet."""


def migrate(path: Path) -> str:
    """Upgrade to the newest schema; return its revision.

    Raises:
        SchemaError: The database is newer than this code, or broken references were found.
    """
    newest = newest_revision()
    return newest if _stored_revision(path) == newest else _upgrade(path)


def newest_revision() -> str:
    """Return the newest revision, which the names of the files in ``versions`` begin with."""
    return max(p.name.partition("_")[0] for p in VERSIONS.glob("[0-9]*_*.py"))


def _stored_revision(path: Path) -> str | None:
    if not path.exists():
        return None
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
        if len(rows) == 1:
            return str(rows[0][0])
    return None


def _upgrade(path: Path) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head() or ""
    engine = open_engine(path, is_foreign_keys=False)
    try:
        with engine.execution_options(begin="DEFERRED").connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return head
        if current is not None:
            if current not in {s.revision for s in scripts.walk_revisions()}:
                raise SchemaError(
                    f"{path} has schema {current}, newer than this edgefleet; upgrade edgefleet"
                )
            backup = path.with_suffix(f".before-{head}.db")
            backup.unlink(missing_ok=True)
            raw = engine.raw_connection()
            try:
                raw.cursor().execute("VACUUM INTO ?", (str(backup),))
            finally:
                raw.close()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            broken = connection.execute(text("PRAGMA foreign_key_check")).fetchall()
            if broken:
                raise SchemaError(f"{path}: {len(broken)} rows refer to rows that are missing")
    finally:
        engine.dispose()
    return head
