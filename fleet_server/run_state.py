"""What running processes say of themselves: heartbeats ``server/NAME.json`` and the lock."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleet_server.durable_files import write_durable
from fleet_server.ports.clock import Clock


def heartbeat_path(server_dir: Path, name: str) -> Path:
    """Return where a worker's heartbeat lies."""
    return server_dir / f"{name}.json"


def beat(
    server_dir: Path, name: str, clock: Clock, detail: Mapping[str, Any] | None = None
) -> None:
    """Say that the worker is at work now."""
    state = {"pid": os.getpid(), "at": clock.now().isoformat(), **(detail or {})}
    write_durable(heartbeat_path(server_dir, name), json.dumps(state, default=str).encode())


def read_heartbeat(server_dir: Path, name: str) -> dict[str, Any]:
    """Return the newest heartbeat; empty when there is none or it cannot be read."""
    try:
        value = json.loads(heartbeat_path(server_dir, name).read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_run_file(path: Path) -> dict[str, Any]:
    """Return what the running ``up`` says of itself; empty when there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_insecure(lock_file: Path, run_file: Path) -> bool:
    """Tell whether the server runs now, and without TLS."""
    return is_running(lock_file) and read_run_file(run_file).get("is_insecure") is True


def is_running(lock_file: Path) -> bool:
    """Tell whether ``edgefleet up`` holds the workspace."""
    try:
        with lock_file.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
