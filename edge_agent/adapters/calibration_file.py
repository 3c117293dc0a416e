"""Measure the reference graphs on this device in a child process, and remember what was found.

The figures lie in ``calibration.json`` of the agent's directory and go with every report's
``capabilities`` as long as the same release of the runtime is installed.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from device_profiles.calibration import Calibration
from edge_agent.adapters.child_process import run_child, say_status
from edge_agent.adapters.files import write_durable
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import parse_object
from edge_agent.errors import AgentError

FILE = "calibration.json"
CHILD = (sys.executable, "-m", "edge_agent.adapters.calibration_child")
TIMEOUT_S = 120.0
BYTES_MAX = 16_384


class CalibrationError(AgentError):
    """The reference graphs could not be measured; says why."""


def measure_device(threads: int, *, child: Sequence[str] = CHILD) -> Calibration:
    """Measure in a child process; a second on a server, some seconds on a small board.

    Args:
        threads: Of one request, as models are served here.
        child: Command, to which the number of threads is added.

    Raises:
        CalibrationError: The runtime does not come up, or says nothing sensible.
    """
    try:
        end = run_child([*child, str(threads)], timeout_s=TIMEOUT_S, output_bytes_max=BYTES_MAX)
    except OSError as error:
        raise CalibrationError(f"the measurement could not be started: {error}") from error
    if end.status is None:
        raise CalibrationError(f"the measurement did not end within {TIMEOUT_S:.0f} s")
    if end.status != 0:
        why = f": {end.last_words}" if end.status > 0 else ""
        raise CalibrationError(f"the process that measured {say_status(end.status)}{why}")
    found = _read(end.output)
    if found is None:
        raise CalibrationError("the process that measured said nothing sensible")
    return found


def save_calibration(directory: Path, found: Calibration) -> None:
    """Remember the figures of this device; raises StorageError."""
    write_durable(directory / FILE, json.dumps(found.to_json()).encode() + b"\n")


def load_calibration(directory: Path) -> Calibration | None:
    """Return what was measured here with the runtime that is installed; None when nothing was."""
    with suppress(OSError), (directory / FILE).open("rb") as file:
        found = _read(file.read(BYTES_MAX + 1))
        if found is not None and found.onnxruntime == _installed():
            return found
    return None


def _read(content: bytes) -> Calibration | None:
    with suppress(ContractError):
        said = parse_object(content, what="calibration", limit_bytes=BYTES_MAX)
        return Calibration.from_report(said)
    return None


def _installed() -> str:
    """Tell the release of the runtime, under whichever name it is distributed."""
    from importlib import metadata  # costs memory that an agent without figures need not spend

    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""
