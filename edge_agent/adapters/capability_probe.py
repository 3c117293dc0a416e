"""Find out what this device really is: runtime and its limits, processor, libc, memory, disk.

How fast it was when last measured (``calibration_file.py``) is told with it. What cannot be
found out is left out; the server compares only what a device said. The agent looks through
``ChildProbe``: loading a runtime this processor cannot run kills who does it.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_profiles.providers import CPU
from edge_agent.adapters.calibration_file import load_calibration
from edge_agent.adapters.child_process import run_child, say_status
from edge_agent.adapters.disk_room import find_free_bytes
from edge_agent.adapters.execution_providers import CPU_ONLY, ProviderWish, make_session
from edge_agent.adapters.tiny_model import tiny_model
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import parse_object

CHILD = (sys.executable, "-m", "edge_agent.adapters.capability_child")
TIMEOUTS_S = (60.0, 240.0)
"""Of the first and the second look: a small device that is busy starting may need minutes, and one
that is called unfit is offered nothing until it starts again."""
ANSWER_BYTES_MAX = 65_536
FAULT_CHARS_MAX = 512

IR_FIRST, OPSET_FIRST, OPSET_ML_FIRST = 3, 7, 1
STEPS_MAX = 64
"""Versions tried upwards; a runtime that loads them all is reported with the last."""
FLAGS = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}
    | {"avx512_fp16"}
    | {"asimd", "asimddp", "asimdhp", "i8mm", "sve"}
)
"""Processor features that change which kernels run."""
_QUIET = 4


class DeviceProbe:
    """CapabilityProbe of the device this process runs on; loads the runtime into it."""

    def __init__(self, directory: Path) -> None:
        """Probe the disk that holds ``directory``."""
        self._directory = directory

    def probe(self) -> Mapping[str, Any]:
        """Return the fields of ``capabilities`` in a report."""
        return find_machine_facts(self._directory) | find_runtime_facts()


class ChildProbe:
    """CapabilityProbe that loads the runtime in a child: one that kills is told, not caught."""

    def __init__(
        self,
        directory: Path,
        *,
        wish: ProviderWish = CPU_ONLY,
        child: Sequence[str] = CHILD,
    ) -> None:
        """Prepare; nothing is looked at yet.

        Args:
            directory: The disk that holds it is probed.
            wish: Execution providers the device's profile lists.
            child: Prints the facts of the runtime; the wish is its last argument.
        """
        self._directory = directory
        self._child = [*child, json.dumps(wish.to_json())]

    def probe(self) -> Mapping[str, Any]:
        """Return the fields of ``capabilities``; ``runtime_fault`` says why some are missing."""
        return find_machine_facts(self._directory) | self._ask_child()

    def _ask_child(self) -> dict[str, Any]:
        for timeout_s in TIMEOUTS_S:
            try:
                end = run_child(self._child, timeout_s=timeout_s, output_bytes_max=ANSWER_BYTES_MAX)
            except OSError as error:
                return _without_runtime(f"the look at it could not be started: {error}")
            if end.status is not None:
                break
        if end.status is None:
            return _without_runtime(f"it did not come up within {timeout_s:.0f} s")
        if end.status != 0:
            why = f": {end.last_words}" if end.status > 0 else ""
            return _without_runtime(f"the process that loaded it {say_status(end.status)}{why}")
        try:
            return parse_object(end.output, what="runtime facts", limit_bytes=ANSWER_BYTES_MAX)
        except ContractError as error:
            return _without_runtime(f"what it said makes no sense: {error}")


def find_machine_facts(directory: Path) -> dict[str, Any]:
    """Tell what the machine is, without the runtime."""
    system = os.uname()
    found: dict[str, Any] = {
        "arch": system.machine,
        "libc": _find_libc(),
        "python": sys.version.split()[0],
        "system": f"{system.sysname} {system.release}",
        "cores": len(os.sched_getaffinity(0)),
        "ram_bytes": find_ram_bytes(),
        "cpu_flags": sorted(FLAGS & _read_cpu_flags(Path("/proc/cpuinfo"))),
    }
    calibration = load_calibration(directory)
    if calibration is not None:
        found["calibration"] = calibration.to_json()
    try:
        found["disk_free_bytes"] = find_free_bytes(directory)
    except OSError:
        found["disk_free_bytes"] = None
    return _known(found)


def find_runtime_facts(wish: ProviderWish = CPU_ONLY) -> dict[str, Any]:
    """Load the runtime and find its limits, and which of the wanted providers comes up."""
    import onnxruntime

    return _known(
        {
            "onnxruntime": onnxruntime.__version__,
            "providers": list(onnxruntime.get_available_providers()),
            **_find_serving(wish),
            "ir_max": _find_last(IR_FIRST, lambda n: tiny_model(ir=n, opset=OPSET_FIRST)),
            "opset_max": _find_last(OPSET_FIRST, lambda n: tiny_model(ir=IR_FIRST, opset=n)),
            "opset_ml_max": _find_last(
                OPSET_ML_FIRST, lambda n: tiny_model(ir=IR_FIRST, opset=OPSET_FIRST, opset_ml=n)
            ),
        }
    )


def _find_serving(wish: ProviderWish) -> dict[str, Any]:
    """Tell what would compute here, and why not what was wanted more."""
    if wish.names == (CPU,):
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    model = tiny_model(ir=IR_FIRST, opset=OPSET_FIRST)
    _, served = make_session(model, options, replace(wish, is_required=False))
    return {"provider": served.provider, "passed_over": dict(served.passed_over)}


def find_ram_bytes() -> int | None:
    """Return the memory this process may use: the machine's, or its control group's if smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _find_libc() -> str:
    """Return name and version; empty when this libc does not tell."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return ""


def _find_last(first: int, make: Callable[[int], bytes]) -> int | None:
    """Return the newest version that loads, None when not even the first does."""
    last = None
    for version in range(first, first + STEPS_MAX):
        if not _loads(make(version)):
            break
        last = version
    return last


def _known(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


def _without_runtime(fault: str) -> dict[str, Any]:
    """Say which release is installed, though it does not run."""
    from importlib import metadata  # loads e-mail, ZIP and CSV

    try:
        release = metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        release = ""
    return _known({"onnxruntime": release, "runtime_fault": fault[:FAULT_CHARS_MAX]})


def _loads(model: bytes) -> bool:
    import onnxruntime

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
