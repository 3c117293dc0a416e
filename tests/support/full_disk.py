"""An agent on a file system that fills up; run inside a private mount by ``test_full_disk.py``.

usage: python -m tests.support.full_disk DIRECTORY; prints one JSON object a line.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from edge_agent.adapters import chunk_store
from edge_agent.adapters.outbox import Outbox
from edge_agent.contract.windows import Window
from edge_agent.errors import OutboxError
from tests.support.agent_world import SLOT
from tests.support.power_cut_world import LONG, V1, CutWorld, assigning, confirmed, having

BALLAST = "ballast"
FREE_KIB = (0, 4, 8, 12, 16, 32, 64, 128, 256, 300, 340, 360, 400)
"""Around what an update of 330 kB writes: full at its first call, its last, and in between."""


def fill(directory: Path, free_kib: int) -> None:
    """Leave only so much room."""
    shutil.rmtree(directory / BALLAST, ignore_errors=True)
    (directory / BALLAST).mkdir()
    size = max(0, shutil.disk_usage(directory).free - free_kib * 1_024)
    with (directory / BALLAST / "file").open("wb") as file:
        file.write(bytes(size))


def update(directory: Path, free_kib: int, *, spare_bytes: int) -> dict[str, Any]:
    chunk_store.SPARE_BYTES = spare_bytes
    home = directory / "agent"
    having(V1)(home)
    world = CutWorld(home)
    world.work()
    fill(directory, free_kib)
    assigning(LONG, 2, 2)(world)
    world.run(300, step_s=5)
    codes = {str(r.refusal["code"]) for r in world.reports if r.refusal}
    codes |= {str(s.code) for r in world.reports for s in r.slots.values() if s.code}
    is_done = confirmed(LONG)(world)
    before, bad = world.inference.served.get(SLOT), world.slot().bad
    world.cut_power()
    world.work()
    after = world.inference.served.get(SLOT)
    shutil.rmtree(directory / BALLAST)
    world.connect()
    world.counter = 1
    world.assign(LONG, 2)
    is_reached = world.run_until(confirmed(LONG))
    shutil.rmtree(home)
    return {
        "free_kib": free_kib,
        "is_done": is_done,
        "codes": sorted(codes),
        "answers": bool(before),
        "answers_after_restart": bool(after),
        "is_bad": bool(bad),
        "is_reached": is_reached,
    }


def outbox(directory: Path) -> dict[str, Any]:
    """Fill the disk under the outbox; what it took before stays, what it refuses it says."""
    path = directory / "outbox.db"
    box = Outbox(path)
    box.append([(7, _window(0))])
    fill(directory, 0)
    refused, taken = 0, 1
    for sequence in range(1, 200):
        try:
            box.append([(7, _window(sequence))])
        except OutboxError:
            refused += 1
        else:
            taken += 1
    waiting = [window.sequence for _, window in box.pending(1_000)]
    shutil.rmtree(directory / BALLAST)
    box.append([(7, _window(1_000))])
    box.close()
    again = Outbox(path)
    kept = [window.sequence for _, window in again.pending(1_000)]
    again.close()
    return {"refused": refused, "taken": taken, "waiting": len(waiting), "kept": len(kept)}


def _window(sequence: int) -> Window:
    return Window(
        stream=0,
        sequence=sequence,
        t0_ms=1,
        t1_ms=2,
        reference=b"r" * 8,
        artifact=b"a" * 8,
        rows=1,
        counters=bytes(4_000),
    )


def main() -> int:
    directory = Path(sys.argv[1])
    for free_kib in FREE_KIB:
        sys.stdout.write(json.dumps(update(directory, free_kib, spare_bytes=0)) + "\n")
    reserve = update(directory, 1_000, spare_bytes=1_048_576)
    sys.stdout.write(json.dumps({**reserve, "is_reserve": True}) + "\n")
    sys.stdout.write(json.dumps(outbox(directory)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
