"""The child of ``guarded.py``: ``python -m converters.guarded_child FOLDER``.

It limits itself before it touches the graph: memory, so that an allocation fails here; time, by
an alarm that ends even a process stuck in native code, at first until one row was answered; no
core files. Exit status 0 done, 1 refused (``refusal.json`` says why); anything else happened to it.
"""

import ctypes
import json
import math
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.errors import ConversionError, RuntimeRefusedError
from converters.guarded_files import (
    ANSWERS,
    GRAPH,
    JOB,
    SCHEMA_FILE,
    read_request,
    read_rows,
    write_built,
    write_facts,
    write_refusal,
)
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import ModelSchema

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Do the job in the folder."""
    return run_limited(Path(sys.argv[1]), _work)


def run_limited(home: Path, work: Callable[[Path, dict[str, Any]], None]) -> int:
    """Do the job in a folder within its limits; gives the exit status."""
    _end_with_parent()
    job = json.loads((home / JOB).read_text())
    _limit_myself(job["guard"])
    try:
        work(home, job)
    except ConversionError as error:
        write_refusal(home, error)
        return 1
    except MemoryError:
        limit = job["guard"]["memory_bytes_max"] / 2**20
        write_refusal(
            home,
            RuntimeRefusedError(
                f"memory ran out over the foreign graph; it may take {limit:.0f} MiB"
            ),
        )
        return 1
    return 0


def _work(home: Path, job: dict[str, Any]) -> None:
    import numpy as np  # heavy libraries only behind the limits

    from converters.foreign_sources import describe_model, open_foreign

    content = (home / GRAPH).read_bytes()
    if job["task"] == "describe":
        write_facts(home, describe_model(job["kind"], content))
        return
    schema = ModelSchema.decode((home / SCHEMA_FILE).read_bytes())
    profile = DeviceProfile.from_table(job["profile"], source=JOB)
    graph = open_foreign(job["kind"], content, schema, profile)
    rows = read_rows(home)
    first = rows["rows"] if job["task"] == "answer" else rows["holdout"]
    graph.answer(first[:1])
    signal.setitimer(signal.ITIMER_REAL, job["guard"]["total_s"])
    if job["task"] == "answer":
        with (home / ANSWERS).open("wb") as file:
            np.savez(file, allow_pickle=False, **graph.answer(first))
        return
    from converters.build import build_loaded  # most questions are answered without it

    write_built(home, build_loaded(read_request(home, job, graph), graph))


def _end_with_parent() -> None:
    """Have Linux end this process when the builder that waits for it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_myself(guard: dict[str, Any]) -> None:
    _lower(resource.RLIMIT_DATA, int(guard["memory_bytes_max"]))
    _lower(resource.RLIMIT_CORE, 0)
    # Not handled on purpose: the default action ends even a process stuck in native code.
    seconds = min(guard["first_answer_s"], guard["total_s"])
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds if math.isfinite(seconds) else 1e6))


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
