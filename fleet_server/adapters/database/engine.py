"""Engines and sessions over SQLite: WAL, full sync, foreign keys on, real transactions.

The driver's own transaction handling is switched off and BEGIN is emitted here: otherwise DDL is
not rolled back and a read can turn into a write that fails half-way (docs/adr/0004).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlmodel import Session, create_engine

BUSY_TIMEOUT_S = 15.0
JOURNAL_BYTES_MAX = 67_108_864


def open_engine(path: Path, *, is_foreign_keys: bool = True) -> Engine:
    """Open (or create) a SQLite database."""
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES_MAX}")
        cursor.execute(f"PRAGMA foreign_keys={'ON' if is_foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


@contextmanager
def write_session(engine: Engine) -> Iterator[Session]:
    """Open a session whose transaction holds the write lock from its first statement."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_session(engine: Engine) -> Iterator[Session]:
    """Open a session that reads one consistent state and takes no write lock."""
    with Session(engine.execution_options(begin="DEFERRED"), expire_on_commit=False) as session:
        yield session
