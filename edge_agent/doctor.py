"""Finds what is missing or wrong on this device, one line each, worst surprises first."""

import contextlib
import shutil
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.adapters.identity_store import load_identity
from edge_agent.adapters.mqtt_session import tls_context
from edge_agent.adapters.plain_text import find_loopback
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.clock_check import SET_IT
from edge_agent.core.verified import EARLIEST_AT
from edge_agent.errors import AgentError
from edge_agent.local_clock import look_at_clock
from edge_agent.local_state import load_state
from edge_agent.local_status import INSECURE
from edge_agent.ports import Identity

CONNECT_TIMEOUT_S = 5.0
DISK_BYTES_MIN = 67_108_864
CLOCK_YEAR_MIN = 2026
"""Before a device has joined it knows no better date; without a battery clock it says 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    is_ok: bool
    detail: str
    is_unreachable: bool = False


def run_checks(directory: Path) -> list[Check]:
    """Run every check that makes sense; never raises for what it finds."""
    identity: Identity | None = None
    problem = ""
    try:
        identity = load_identity(directory)
    except AgentError as error:
        problem = str(error)
    checks = [_check_runtime(), _check_clock(identity, directory), _check_disk(directory)]
    if identity is None:
        return [*checks, Check(name="identity", is_ok=False, detail=problem)]
    named = f"{identity.device_id} of fleet {identity.fleet}"
    checks.append(Check(name="identity", is_ok=True, detail=named))
    checks.append(_guarded("state", lambda: _describe_state(directory)))
    return [*checks, _check_broker(identity)]


def _check_runtime() -> Check:
    try:
        import onnxruntime
    except ImportError as error:
        detail = f"onnxruntime cannot be imported ({error}); this device needs a 64-bit system"
        return Check(name="runtime", is_ok=False, detail=detail)
    return Check(name="runtime", is_ok=True, detail=f"onnxruntime {onnxruntime.__version__}")


def _check_clock(identity: Identity | None, directory: Path) -> Check:
    floor_at = EARLIEST_AT
    with contextlib.suppress(AgentError):  # the check of the state says so
        floor_at = load_state(directory).accepted.time_floor_at if identity else EARLIEST_AT
    found = look_at_clock(SystemClock(), identity, floor_at)
    if not found.fault and found.now_at.year < CLOCK_YEAR_MIN:
        fault = f"the clock says {found.now_at:%Y-%m-%d %H:%M} UTC; {SET_IT}"
        return Check(name="clock", is_ok=False, detail=fault)
    detail = found.fault or f"{found.now_at:%Y-%m-%d %H:%M:%S} UTC"
    return Check(name="clock", is_ok=not found.fault, detail=detail)


def _check_disk(directory: Path) -> Check:
    there = next(p for p in (directory, *directory.parents) if p.exists())
    free = shutil.disk_usage(there).free
    detail = f"{free // 2**20} MiB free at {there}, at least {DISK_BYTES_MIN // 2**20} are needed"
    return Check(name="disk", is_ok=free >= DISK_BYTES_MIN, detail=detail)


def _describe_state(directory: Path) -> str:
    state = load_state(directory)
    return f"{len(state.slots)} slots, assignment {state.accepted.counter or 'none yet'}"


def _check_broker(identity: Identity) -> Check:
    address = (identity.host, identity.mqtt_port)
    where = f"{identity.host}:{identity.mqtt_port}"
    try:
        if identity.is_plain:
            here = find_loopback(*address)
            socket.create_connection((here, identity.mqtt_port), CONNECT_TIMEOUT_S).close()
            return Check(name="broker", is_ok=True, detail=f"{where} answers; {INSECURE}")
        with (
            socket.create_connection(address, CONNECT_TIMEOUT_S) as plain,
            tls_context(identity).wrap_socket(plain, server_hostname=identity.host) as secure,
        ):
            detail = f"{where} answers with {secure.version()}"
            return Check(name="broker", is_ok=True, detail=detail)
    except ssl.SSLCertVerificationError as error:
        detail = f"{where} is not the server this device joined: {error.verify_message}"
        return Check(name="broker", is_ok=False, detail=detail)
    except OSError as error:
        detail = f"{where} cannot be reached: {error}; is the server up, is the port open?"
        return Check(name="broker", is_ok=False, detail=detail, is_unreachable=True)


def _guarded(name: str, describe: Callable[[], str]) -> Check:
    try:
        return Check(name=name, is_ok=True, detail=describe())
    except AgentError as error:
        return Check(name=name, is_ok=False, detail=str(error))
