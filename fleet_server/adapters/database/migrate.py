"""Bring the control database to the schema this code knows.

A backup is taken before an upgrade of a database that has rows; foreign keys are off while
tables are rebuilt and checked afterwards (docs/adr/0004).
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from fleet_server.adapters.database.engine import open_engine

SCRIPTS = Path(__file__).parent / "migrations"
logging.getLogger("alembic").setLevel(logging.WARNING)


class SchemaError(Exception):
    """The database cannot be used by this version of edgefleet."""


def migrate(path: Path) -> str:
    """Upgrade to the newest schema; return its revision.

    Raises:
        SchemaError: The database is newer than this code, or broken references were found.
    """
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
