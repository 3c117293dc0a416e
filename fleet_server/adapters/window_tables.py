"""The tables of ``telemetry.db``: statements and names, nothing that runs them."""

from datetime import UTC, datetime

DAY_MS = 86_400_000

COLUMNS = """
  t0 INTEGER NOT NULL, device INTEGER NOT NULL, boot INTEGER NOT NULL, stream INTEGER NOT NULL,
  sequence INTEGER NOT NULL, t1 INTEGER NOT NULL, reference BLOB NOT NULL, artifact BLOB NOT NULL,
  rows INTEGER NOT NULL, counters BLOB NOT NULL
"""
KEY = "t0, device, boot, stream, sequence"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS unplaced ({COLUMNS}, PRIMARY KEY ({KEY}));
CREATE TABLE IF NOT EXISTS stream_mark (
  device INTEGER NOT NULL, boot INTEGER NOT NULL, stream INTEGER NOT NULL,
  highest INTEGER NOT NULL, seen_ms INTEGER NOT NULL, PRIMARY KEY (device, boot, stream)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (
  id INTEGER PRIMARY KEY AUTOINCREMENT, received_ms INTEGER NOT NULL, topic TEXT NOT NULL,
  reason TEXT NOT NULL, bytes INTEGER NOT NULL, excerpt BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS retired_boot (
  id INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL, boot TEXT NOT NULL,
  UNIQUE (device, boot)
);
"""  # boots are 63-bit integers in windows, 16 hex digits where reports name them
UPSERT_MARK = """
INSERT INTO stream_mark VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  highest = max(highest, excluded.highest), seen_ms = excluded.seen_ms
"""
ADD_TOTAL = (
    "INSERT INTO total VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"
)

_PLACES = ", ".join("?" * 10)
SELECT_PAGE = f"""
SELECT * FROM {{table}} WHERE t0 >= ? AND ({KEY}) < (?, ?, ?, ?, ?)
ORDER BY t0 DESC, device DESC, boot DESC, stream DESC, sequence DESC LIMIT ?
"""  # noqa: S608 - our own column names

Row = tuple[int, int, int, int, int, int, bytes, bytes, int, bytes]
"""In the order of the columns."""


def table_of(day: str) -> str:
    """Name the table of a day, ``YYYYMMDD``."""
    return f"windows_{day}"


def create_table(table: str) -> str:
    """Return the statement that makes a table of windows."""
    return f"CREATE TABLE IF NOT EXISTS {table} ({COLUMNS}, PRIMARY KEY ({KEY}))"


def insert_into(table: str) -> str:
    """Return the statement that adds windows; one whose key is there changes nothing."""
    return f"INSERT INTO {table} VALUES ({_PLACES}) ON CONFLICT DO NOTHING"  # noqa: S608 - our name


def day_of(t0_ms: int) -> str:
    """Return the UTC day of an instant.

    >>> day_of(86_400_000)
    '19700102'
    """
    return datetime.fromtimestamp(t0_ms // 1_000, UTC).strftime("%Y%m%d")


def day_end_ms(day: str) -> int:
    """Return the first millisecond after a day.

    >>> day_end_ms("19700101")
    86400000
    """
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return int(start.timestamp() * 1_000) + DAY_MS
