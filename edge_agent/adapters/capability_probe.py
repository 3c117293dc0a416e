"""Find out what this device really is: runtime and its limits, processor, libc, memory, disk.

What cannot be found out is left out; the server compares only what a device said.
"""

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from edge_agent.adapters.tiny_model import tiny_model

IR_FIRST, OPSET_FIRST, OPSET_ML_FIRST = 3, 7, 1
STEPS_MAX = 64
"""Versions tried upwards; a runtime that loads them all is reported with the last."""
FLAGS = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}
    | {"asimd", "asimddp", "asimdhp", "i8mm", "sve"}
)
"""Processor features that change which kernels run."""
_QUIET = 4


class DeviceProbe:
    """CapabilityProbe of the device this process runs on."""

    def __init__(self, directory: Path) -> None:
        """Probe the disk that holds ``directory``."""
        self._directory = directory

    def probe(self) -> Mapping[str, Any]:
        """Return the fields of ``capabilities`` in a report."""
        libc, libc_version = platform.libc_ver()
        found: dict[str, Any] = {
            "arch": platform.machine(),
            "libc": f"{libc} {libc_version}".strip(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "onnxruntime": onnxruntime.__version__,
            "providers": list(onnxruntime.get_available_providers()),
            "ir_max": _find_last(IR_FIRST, lambda n: tiny_model(ir=n, opset=OPSET_FIRST)),
            "opset_max": _find_last(OPSET_FIRST, lambda n: tiny_model(ir=IR_FIRST, opset=n)),
            "opset_ml_max": _find_last(
                OPSET_ML_FIRST, lambda n: tiny_model(ir=IR_FIRST, opset=OPSET_FIRST, opset_ml=n)
            ),
            "cores": len(os.sched_getaffinity(0)),
            "ram_bytes": find_ram_bytes(),
            "cpu_flags": sorted(FLAGS & _read_cpu_flags(Path("/proc/cpuinfo"))),
        }
        try:
            found["disk_free_bytes"] = shutil.disk_usage(self._directory).free
        except OSError:
            found["disk_free_bytes"] = None
        return {name: value for name, value in found.items() if value not in (None, "", [])}


def find_ram_bytes() -> int | None:
    """Return the memory this process may use: the machine's, or its control group's if smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _find_last(first: int, make: Callable[[int], bytes]) -> int | None:
    """Return the newest version that loads, None when not even the first does."""
    last = None
    for version in range(first, first + STEPS_MAX):
        if not _loads(make(version)):
            break
        last = version
    return last


def _loads(model: bytes) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the runtime raises a class of its own for each cause
        return False
    return True


def _read_cpu_flags(path: Path) -> set[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
