"""What an agent is committed to, read from its directory, and what it does, told by itself.

Works beside a running agent and without one: what only a running agent knows (what answers, since
when, whether the server is connected) is null then. ``local_status_text.py`` writes it for people.
"""

import contextlib
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.adapters.control_socket import ask_agent
from edge_agent.adapters.directory_lock import is_locked, read_holder
from edge_agent.adapters.disk_room import find_free_bytes
from edge_agent.adapters.identity_renewer import read_facts
from edge_agent.adapters.identity_store import load_identity, load_problem
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.code_words import explain_code
from edge_agent.core.checkup import judge_disk
from edge_agent.core.outlook import describe_next
from edge_agent.core.slot import report_slot
from edge_agent.errors import AgentError, NotRunningError, StorageError
from edge_agent.local_clock import look_at_clock
from edge_agent.local_state import load_state
from edge_agent.ports import Identity


def find_status(directory: Path) -> dict[str, Any]:
    """Collect the facts; raises AgentError when there is no agent.

    The names are stable: ``process`` is None when no agent runs, ``live`` says whether the running
    agent was asked, ``running`` and ``since`` of a slot and ``link`` are None when it was not.
    """
    identity = load_identity(directory)
    state = load_state(directory)
    is_running = is_locked(directory)
    live, problem = _ask(directory) if is_running else (None, "")
    said = live or {}
    slots = {}
    for name, slot in state.slots.items():
        facts = report_slot(slot).to_json()
        del facts["bank"], facts["rows"]
        seen = said.get("slots", {}).get(name, {})
        facts["running"] = seen.get("running")
        facts["since"] = seen.get("since") or None
        facts["bad"] = [{"sha256": bad.sha256, "code": str(bad.code)} for bad in slot.bad]
        facts["meaning"] = explain_code(facts["code"] or "")
        facts["next"] = seen.get("next") or describe_next(slot)
        slots[name] = facts
    return {
        "device": identity.device_id,
        "fleet": identity.fleet,
        "profile": identity.profile,
        "server": f"{identity.host}:{identity.mqtt_port}",
        "is_insecure": identity.is_plain,
        "process": read_holder(directory) if is_running else None,
        "live": live is not None,
        "problem": problem,
        "started": said.get("started"),
        "link": said.get("link"),
        "refusal": said.get("refusal"),
        "serving": said.get("serving"),
        "outbox": said.get("outbox") if live else _count_windows(directory),
        "assignment_counter": state.accepted.counter,
        "certificate": _certificate(identity),
        "clock": _clock(identity, state.accepted.time_floor_at),
        "disk": _disk(directory),
        "slots": slots,
    }


def _ask(directory: Path) -> tuple[Mapping[str, Any] | None, str]:
    """Ask the running agent; return what it says, or why it says nothing."""
    try:
        return ask_agent(directory, {"do": "status"}), ""
    except NotRunningError:
        return None, "it cannot be asked yet: it is starting, or its control socket is missing"
    except AgentError as error:
        return None, str(error)


_OUTBOX_COUNTERS = frozenset({"merged", "dropped", "dropped_rows", "labels_dropped"})


def _count_windows(directory: Path) -> dict[str, int] | None:
    """Count what waits in the outbox of an agent that does not run; None when that is unknown."""
    path = directory / "outbox.db"
    if not path.exists():
        return None
    with contextlib.suppress(sqlite3.Error, ValueError):
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1.0)) as db:
            (waiting,) = db.execute("SELECT count(*) FROM window").fetchone()
            counters = db.execute("SELECT name, value FROM counter").fetchall()
        counts = {str(name): int(value) for name, value in counters if name in _OUTBOX_COUNTERS}
        return {"waiting": int(waiting), **counts}
    return None


def _certificate(identity: Identity) -> dict[str, str]:
    """Say which certificate is in use; empty fields when it cannot be read."""
    try:
        facts = read_facts(identity)
        said = {"serial": facts.serial, "expires_at": facts.not_after.isoformat()}
    except StorageError:
        said = {"serial": "", "expires_at": ""}
    return {**said, "problem": load_problem(identity)}


def _disk(directory: Path) -> dict[str, Any]:
    """Say what is free, and what is wrong with that; both empty when it cannot be told."""
    try:
        free_bytes = find_free_bytes(directory)
    except OSError:
        return {"free_bytes": None, "problem": ""}
    found = judge_disk(str(directory), free_bytes=free_bytes, free_inodes=None)
    return {"free_bytes": free_bytes, "problem": found.detail if found.is_bad else ""}


def _clock(identity: Identity, floor_at: datetime) -> dict[str, str]:
    found = look_at_clock(SystemClock(), identity, floor_at)
    floor = found.floor_at.isoformat() if found.floor_at is not None else ""
    return {"now": found.now_at.isoformat(), "floor": floor, "fault": found.fault}
