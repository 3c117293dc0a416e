"""Measure load time and peak memory of a graph in a process of its own.

One helper process serves all builds of this process: it starts while the first model is converted
and forks for each graph. It measures; it never decides. A graph that cannot be measured (another
system, no process to be had) is reported as not measured.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
ROWS_RUN = 32
_CHILD = (sys.executable, "-m", "converters.memory_child")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a process that runs a graph costs.

    Attributes:
        load_ms: Median of three loads; 0 when not measured.
        rss_bytes: Peak resident memory of interpreter, onnxruntime and graph; 0 likewise.
        note: Why it was not measured.
    """

    load_ms: float = 0.0
    rss_bytes: int = 0
    note: str = ""


class MemoryProbe:
    """The helper process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the helper if there is none; returns at once."""
        with self._lock:
            self._ensure()

    def measure(self, model: bytes, rows: Array, profile: DeviceProfile) -> Footprint:
        """Load a graph in a process of its own and let it answer some rows one by one."""
        with self._lock:
            try:
                with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
                    found = self._ask(_write_job(Path(name), model, rows, profile))
            except (OSError, ValueError) as error:
                self._drop()
                return Footprint(note=f"memory was not measured: {error}")
        if "error" in found:
            return Footprint(note=f"memory was not measured: {found['error']}")
        return Footprint(load_ms=float(found["load_ms"]), rss_bytes=int(found["rss_bytes"]))

    def stop(self) -> None:
        """End the helper."""
        with self._lock:
            self._drop()

    def _ask(self, line: bytes) -> dict[str, Any]:
        questions, answers = self._ensure()
        questions.write(line + b"\n")
        questions.flush()
        found = json.loads(answers.readline() or b'{"error": "the helper process ended"}')
        return dict(found)

    def _ensure(self) -> tuple[IO[bytes], IO[bytes]]:
        process = self._process
        if process is None or self._owner != os.getpid() or process.poll() is not None:
            self._drop()
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                _CHILD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            self._process, self._owner = process, os.getpid()
        if process.stdin is None or process.stdout is None:
            raise OSError("the helper process has no pipes")
        return process.stdin, process.stdout

    def _drop(self) -> None:
        """Close what is ours; a fork of this process leaves the helper of its parent alone."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if self._owner == os.getpid():
            process.kill()
            process.wait()
        else:
            process.returncode = 0


def _write_job(home: Path, model: bytes, rows: Array, profile: DeviceProfile) -> bytes:
    """Write what the helper reads; returns the line to ask it with."""
    (home / "graph.onnx").write_bytes(model)
    (home / "first.onnx").write_bytes(_tiny(rows.shape[1]))
    np.save(home / "rows.npy", rows[:ROWS_RUN], allow_pickle=False)
    job = {
        "graph": str(home / "graph.onnx"),
        "first": str(home / "first.onnx"),
        "rows": str(home / "rows.npy"),
        "threads": profile.intra_op_threads,
        "arena": profile.arena,
    }
    return json.dumps(job).encode()


def _tiny(width: int) -> bytes:
    """Give a graph of next to no memory: what it takes, the libraries take."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["features"], ["value"])],
        "model",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = onnx.ModelProto.SerializeToString(model)
    return content


PROBE = MemoryProbe()
"""Of this process."""
atexit.register(PROBE.stop)
