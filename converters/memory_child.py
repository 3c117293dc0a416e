"""The child of ``memory.py``: loads graphs, each in a fork of its own, and tells what they cost.

One JSON line in, one out. The parent of the forks loads onnxruntime once, so that a trial costs
milliseconds; a fork starts without the pages of the libraries, which is corrected for with what
they took here after a first session. It ends with its input.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
LOADS = 3


def main() -> None:
    """Answer one line after another."""
    import numpy as np
    import onnxruntime

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library_bytes = 0
    for line in sys.stdin:
        job = json.loads(line)
        if not library_bytes:
            _run(onnxruntime, np, {**job, "graph": job["first"]})
            library_bytes = _read_status()["RssFile"]
        sys.stdout.write(json.dumps(_fork(onnxruntime, np, job, library_bytes)) + "\n")
        sys.stdout.flush()


def _fork(onnxruntime: Any, np: Any, job: dict[str, Any], library_bytes: int) -> dict[str, Any]:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            found = _run(onnxruntime, np, job)
            pages = _read_status()
            found["rss_bytes"] += max(0, library_bytes - pages["RssFile"])
            os.write(theirs, json.dumps(found).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        content = answer.read()
    _, status = os.waitpid(pid, 0)
    if status or not content:
        return {"error": f"the process that measures memory ended with status {status}"}
    found = json.loads(content)
    return dict(found)


def _run(onnxruntime: Any, np: Any, job: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = job["arena"]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    rows = np.load(job["rows"], allow_pickle=False)
    loads = []
    peak = 0
    for turn in range(LOADS):
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(
            job["graph"], options, providers=["CPUExecutionProvider"]
        )
        loads.append((time.perf_counter() - started) * 1e3)
        if turn == 0:
            name = session.get_inputs()[0].name
            for row in rows:
                session.run(None, {name: row[None, :]})
            peak = _read_status()["VmHWM"]
        del session
    return {"load_ms": sorted(loads)[LOADS // 2], "rss_bytes": peak}


def _read_status() -> dict[str, int]:
    """Give the memory of this process, in bytes."""
    found = {}
    with Path("/proc/self/status").open() as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("VmHWM", "RssFile"):
                found[name] = int(value.split()[0]) * 1024
    return found


if __name__ == "__main__":
    main()
