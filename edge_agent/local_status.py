"""What an agent is committed to, read from its directory; works beside a running agent."""

from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.adapters.directory_lock import is_locked, read_holder
from edge_agent.adapters.identity_renewer import read_facts
from edge_agent.adapters.identity_store import load_identity, load_problem
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.slot import report_slot
from edge_agent.errors import StorageError
from edge_agent.local_clock import look_at_clock
from edge_agent.local_state import load_state
from edge_agent.ports import Identity

INSECURE = "INSECURE: no TLS, nothing proves who is at the other end; for tests on one machine only"


def find_status(directory: Path) -> dict[str, Any]:
    """Collect the facts; raises AgentError when there is no agent.

    ``running`` of a slot is not known from outside the process and left out.
    """
    identity = load_identity(directory)
    state = load_state(directory)
    is_running = is_locked(directory)
    slots = {}
    for name, slot in state.slots.items():
        facts = report_slot(slot).to_json()
        del facts["running"], facts["bank"], facts["rows"]
        slots[name] = facts
    return {
        "device": identity.device_id,
        "fleet": identity.fleet,
        "profile": identity.profile,
        "server": f"{identity.host}:{identity.mqtt_port}",
        "is_insecure": identity.is_plain,
        "process": read_holder(directory) if is_running else None,
        "assignment_counter": state.accepted.counter,
        "certificate": _certificate(identity),
        "clock": _clock(identity, state.accepted.time_floor_at),
        "slots": slots,
    }


def _certificate(identity: Identity) -> dict[str, str]:
    """Say which certificate is in use; empty fields when it cannot be read."""
    try:
        facts = read_facts(identity)
        said = {"serial": facts.serial, "expires_at": facts.not_after.isoformat()}
    except StorageError:
        said = {"serial": "", "expires_at": ""}
    return {**said, "problem": load_problem(identity)}


def _clock(identity: Identity, floor_at: datetime) -> dict[str, str]:
    found = look_at_clock(SystemClock(), identity, floor_at)
    floor = found.floor_at.isoformat() if found.floor_at is not None else ""
    return {"now": found.now_at.isoformat(), "floor": floor, "fault": found.fault}


def describe_status(status: dict[str, Any]) -> str:
    """Write the facts as lines for people."""
    process = status["process"]
    if process is None:
        word = "not running: start it with edge-agent run"
    elif "http_port" in process:
        word = (
            f"running as process {process['pid']},"
            f" answers on {process['http_host']} port {process['http_port']}"
        )
    else:
        word = f"starting as process {process.get('pid')}"
    lines = [
        f"{status['device']}  fleet {status['fleet']}  profile {status['profile']}",
        f"agent   {word}",
        f"server  {status['server']}, assignment {status['assignment_counter'] or 'none yet'}",
    ]
    certificate = status["certificate"]
    until = certificate["expires_at"][:10] or "an unknown date"
    lines.append(f"identity certificate holds until {until}")
    if certificate["problem"]:
        lines.append(f"        not renewed: {certificate['problem']}")
    if status["clock"]["fault"]:
        lines.append(f"clock   {status['clock']['fault']}")
    if status["is_insecure"]:
        lines.append(INSECURE)
    for name, slot in status["slots"].items():
        confirmed = slot["confirmed"]["target"] if slot["confirmed"] else "nothing"
        lines.append(f"slot    {name}: {slot['state']}, confirmed {confirmed}")
        if slot["desired"] and slot["desired"]["target"] != confirmed:
            lines.append(f"        wanted {slot['desired']['target']}")
        if slot["code"]:
            lines.append(f"        {slot['code']}: {slot['detail']}")
        elif "withdrawn" in slot["detail"]:
            lines.append(f"        {slot['detail']}")
    return "\n".join(lines)
