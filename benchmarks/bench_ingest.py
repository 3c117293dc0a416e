"""Telemetry from devices to committed and acknowledged rows, beside a bare SQLite batch insert.

What is measured is what ships: devices in a process of their own, each with its certificate and
an outbox kept until the acknowledgement, mutual TLS to a real mosquitto, TLS from there to the
gateway, SQLite with WAL and FULL. All on this machine over the loopback, so the rates share its
cores with broker and devices. The floor writes the same rows with ``executemany`` alone.

Each rate is the best of the rounds (other work on the machine only ever lowers it); the words on
stderr have all of them. Prints one JSON line for each figure.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_agent.contract.windows import Window
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.ports.telemetry import DeviceWindow, WindowBatch
from tests.support.gateway import WorkspaceLab

DEVICES = 50
SINGLE_GOAL, BATCHED_GOAL, GROWTH_GOAL = 10_000.0, 50_000.0, 0.7
FULL_ROWS = 4_000_000
ROW_BYTES = 450
COUNTERS = (bytes(range(1, 128)) * 3)[:340]
BATCH = 1_000
DAY_MS = 86_400_000
FILL = """
WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n LIMIT ?)
INSERT INTO {table} SELECT ? + (i / 10000) * 60000 + 1, 100000 + i % 10000, 7, 0, i / 10000,
  ? + (i / 10000) * 60000 + 60000, x'7265666572656e63', x'6172746966616374', 60, ? FROM n
"""


@dataclass(frozen=True)
class Shape:
    """One way to send."""

    name: str
    per_message: int
    windows: int
    in_flight: int
    goal: float


SHAPES = (
    Shape("ingest_one_window_a_message", 1, 1_200, 100, SINGLE_GOAL),
    Shape("ingest_ten_windows_a_message", 10, 6_000, 40, BATCHED_GOAL),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full-rows", type=int, default=FULL_ROWS, help="0 leaves growth out")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    try:
        floor = max(insert_bare(folder / f"bare-{n}.db", 100_000) for n in range(options.rounds))
        say(f"floor: bare SQLite batch insert {floor:,.0f} rows/s")
        lines = run_gateway(folder, options.rounds, floor)
        if options.full_rows:
            lines.append(run_growth(folder, options.full_rows, options.rounds))
        for line in lines:
            print(json.dumps(line))
    finally:
        shutil.rmtree(folder)
    if not all(line["ok"] for line in lines):
        sys.exit(1)


def run_gateway(folder: Path, rounds: int, floor: float) -> list[dict[str, object]]:
    """Measure every shape through broker and gateway."""
    lab = WorkspaceLab(folder / "workspace")
    names = [f"bench-{n}" for n in range(DEVICES)]
    lines = []
    try:
        lab.add_devices(names)
        for name in names:
            lab.issue(name)
        lab.broker.start()
        lab.start_gateway()
        lab.wait_until_ready()
        boot = 0
        for shape in SHAPES:
            rates = []
            for _ in range(rounds):
                boot += 1
                rates.append(send_round(lab, shape, boot))
            best = max(rates)
            lines.append(
                {
                    "name": shape.name,
                    "value": round(best),
                    "floor": round(floor),
                    "ratio": round(best / floor, 3),
                    "goal": shape.goal,
                    "ok": best >= shape.goal,
                }
            )
    finally:
        lab.stop()
    return lines


def send_round(lab: WorkspaceLab, shape: Shape, boot: int) -> float:
    """Send one load; return windows per second, every one of them committed exactly once."""
    assert lab.gateway is not None
    assert lab.broker.pid is not None
    before, pids = lab.totals(), (lab.broker.pid, lab.gateway.pid)
    cpu = [cpu_s(pid) for pid in pids]
    t0_ms = int(datetime.now(UTC).timestamp() * 1_000) - 5 * DAY_MS
    command = [sys.executable, "-m", "benchmarks.ingest_devices"]
    for option, value in {
        "port": lab.port,
        "identities": lab.workspace.root / "devices",
        "ca": lab.authority.files.ca,
        "devices": DEVICES,
        "windows": shape.windows,
        "per-message": shape.per_message,
        "in-flight": shape.in_flight,
        "t0-ms": t0_ms,
        "boot": boot,
    }.items():
        command += [f"--{option}", str(value)]
    result: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    total = DEVICES * shape.windows
    after = lab.totals()
    inserted = after["inserted"] - before.get("inserted", 0)
    assert result["left"] == 0, f"{result['left']} frames were never acknowledged"
    assert inserted == total, f"{inserted} rows of {total} windows"
    spent = [(cpu_s(pid) - was) / total * 1e6 for pid, was in zip(pids, cpu, strict=True)]
    rate = total / result["seconds"]
    say(
        f"{shape.name}: {rate:,.0f} windows/s; CPU a window: broker {spent[0]:.1f} µs, gateway"
        f" {spent[1]:.1f} µs, devices {result['cpu_s'] / total * 1e6:.1f} µs; sent again"
        f" {result['resent']}"
    )
    return rate


def run_growth(folder: Path, rows: int, rounds: int) -> dict[str, object]:
    """Compare the rate into a table of ``rows`` rows with that into an empty one."""
    free = shutil.disk_usage(folder).free
    if free < rows * ROW_BYTES * 2:
        rows = free // ROW_BYTES // 4
        say(f"little disk: a table of {rows:,} rows instead")
    now = datetime.now(UTC)
    day_ms = int(now.timestamp() * 1_000) // DAY_MS * DAY_MS - DAY_MS
    stores = [
        SqliteWindowStore(folder / name, retention=timedelta(days=7))
        for name in ("empty.db", "full.db")
    ]
    for store in stores:
        append_round(store, now, day_ms, 0)
    fill(folder / "full.db", rows, day_ms)
    # In turns: whatever else the machine does then meets both alike.
    rates = [
        [append_round(store, now, day_ms, 1_000 + n) for store in stores] for n in range(2 * rounds)
    ]
    empty, full = (max(rate[k] for rate in rates) for k in (0, 1))
    for store in stores:
        store.close()
    say(f"store: {empty:,.0f} windows/s when empty, {full:,.0f} at {rows:,} rows")
    return {
        "name": f"ingest_rate_at_{rows}_rows_of_empty",
        "value": round(full),
        "floor": round(empty),
        "ratio": round(full / empty, 3),
        "goal": GROWTH_GOAL,
        "ok": full / empty >= GROWTH_GOAL,
    }


def append_round(store: SqliteWindowStore, now: datetime, day_ms: int, turn: int) -> float:
    """Append one window of each of 20,000 devices, in no order; return windows per second."""
    devices = sorted(range(20_000), key=lambda n: hash((n * 2_654_435_761) % 2**32))
    windows = [
        DeviceWindow(
            device,
            7,
            Window(
                stream=0,
                sequence=turn,
                t0_ms=day_ms + turn * 60_000,
                t1_ms=day_ms + turn * 60_000 + 60_000,
                reference=b"referenc",
                artifact=b"artifact",
                rows=60,
                counters=COUNTERS,
            ),
        )
        for device in devices
    ]
    start = time.perf_counter()
    for at in range(0, len(windows), BATCH):
        store.append(WindowBatch(received_at=now, windows=windows[at : at + BATCH]))
    return len(windows) / (time.perf_counter() - start)


def fill(path: Path, rows: int, day_ms: int) -> None:
    """Fill the day's table as 10,000 devices would, without Python's help."""
    day = datetime.fromtimestamp(day_ms / 1_000, UTC).strftime("%Y%m%d")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    say(f"filling a day with {rows:,} rows ...")
    for first in range(0, rows, 500_000):
        count = min(500_000, rows - first)
        db.execute(FILL.format(table=f"windows_{day}"), (first, count, day_ms, day_ms, COUNTERS))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    os.sync()  # gigabytes on their way to the disk would slow every commit


def insert_bare(path: Path, rows: int) -> float:
    """Insert the same rows with the driver alone; return rows per second."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE w (t0 INTEGER, device INTEGER, boot INTEGER, stream INTEGER,"
        " sequence INTEGER, t1 INTEGER, reference BLOB, artifact BLOB, rows INTEGER,"
        " counters BLOB, PRIMARY KEY (t0, device, boot, stream, sequence))"
    )
    values = [
        (n // DEVICES, n % DEVICES, 7, 0, n // DEVICES, n, b"referenc", b"artifact", 60, COUNTERS)
        for n in range(rows)
    ]
    start = time.perf_counter()
    for at in range(0, rows, BATCH):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO w VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            values[at : at + BATCH],
        )
        db.execute("COMMIT")
    seconds = time.perf_counter() - start
    db.close()
    return rows / seconds


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
