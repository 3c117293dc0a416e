"""The status as lines for a person: what runs, what is wrong, what it means, what comes next.

What came from a server or a model is printed without control characters. Colours only say again
what words say, and only when asked for (a terminal, ``NO_COLOR`` not set).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edge_agent.adapters.plain_text import INSECURE

GREEN, YELLOW, RED = "32", "33", "31"
_STATE_COLOURS = {"confirmed": GREEN, "failed": RED, "rolling_back": RED, "empty": YELLOW}


def describe_status(status: Mapping[str, Any], *, is_coloured: bool = False) -> str:
    """Write the facts of ``find_status``."""
    paint, status = _paint if is_coloured else _plain, _cleaned(status)
    now = datetime.fromisoformat(status["clock"]["now"])
    lines = [
        f"{status['device']}  fleet {status['fleet']}  profile {status['profile']}",
        f"agent   {_agent(status, now, paint)}",
        f"server  {_server(status, now, paint)}",
    ]
    refusal = status["refusal"]
    if refusal:
        lines.append(f"        {paint('refuses: ' + refusal['code'], RED)}: {refusal['detail']}")
    lines.append(f"identity {_certificate(status['certificate'])}")
    if status["certificate"]["problem"]:
        lines.append(f"        not renewed: {status['certificate']['problem']}")
    fault = status["clock"]["fault"]
    lines.append(f"clock   {paint(fault, RED) if fault else f'{now:%Y-%m-%d %H:%M:%S} UTC'}")
    if status["disk"]["problem"]:
        lines.append(f"disk    {paint(status['disk']['problem'], RED)}")
    if status["serving"]:
        lines.append(f"models  {_serving(status['serving'], paint)}")
    if status["outbox"] is not None:
        lines.append(f"windows {_outbox(status['outbox'])}")
    if status["is_insecure"]:
        lines.append(paint(INSECURE, YELLOW))
    if not status["slots"]:
        lines.append("slots   none: nothing was assigned to this device yet")
    for name, slot in status["slots"].items():
        lines += _slot(name, slot, now, paint)
    return "\n".join(lines)


def _agent(status: Mapping[str, Any], now: datetime, paint: Any) -> str:
    process = status["process"]
    if process is None:
        return f"{paint('not running', RED)}: start it with edge-agent run"
    if "http_port" not in process:
        return f"starting as process {process.get('pid')}"
    since = f" since {_since(status['started'], now)}" if status["started"] else ""
    words = (
        f"{paint('running', GREEN)} as process {process['pid']}{since},"
        f" answers on {process['http_host']} port {process['http_port']}"
    )
    return f"{words}\n        {paint(status['problem'], YELLOW)}" if status["problem"] else words


def _server(status: Mapping[str, Any], now: datetime, paint: Any) -> str:
    link, words = status["link"], status["server"]
    if link is not None and link["connected"]:
        words += f", {paint('connected', GREEN)} since {_since(link['since'], now)}"
    elif link is not None:
        reason = f" ({link['reason']})" if link["reason"] else ""
        since = f" since {_since(link['since'], now)}" if link["since"] else " yet"
        words += f", {paint('not connected', RED)}{since}{reason}; edge-agent doctor says why"
    return f"{words}, assignment {status['assignment_counter'] or 'none yet'}"


def _certificate(certificate: Mapping[str, str]) -> str:
    return f"certificate holds until {certificate['expires_at'][:10] or 'an unknown date'}"


def _serving(serving: Mapping[str, Any], paint: Any) -> str:
    if serving.get("place") == "in_process":
        return "answer in the agent's process"
    words = f"answer in a process of their own, {serving.get('pid') or 'not up now'}"
    if not serving.get("restarts"):
        return words
    colour = YELLOW if serving.get("is_up") else RED
    times = "once" if serving["restarts"] == 1 else f"{serving['restarts']} times"
    again = f"started again {times}"
    return f"{words}\n        {paint(again, colour)}, last because {serving.get('fault', '')}"


_OUTBOX_WORDS = {
    "merged": "merged",
    "labels": "labels waiting",
    "labels_dropped": "labels dropped",
    "held": "times held by the day's budget",
}


def _outbox(counts: Mapping[str, int]) -> str:
    words = [
        f"{counts.get('waiting', 0)} waiting to be sent",
        f"{counts.get('dropped', 0)} dropped",
    ]
    words += [f"{counts[name]} {said}" for name, said in _OUTBOX_WORDS.items() if counts.get(name)]
    if "left_bytes" in counts:
        words.append(
            f"{counts['used_bytes']} bytes sent today, {counts['left_bytes']} may leave now"
        )
    return ", ".join(words)


def _slot(name: str, slot: Mapping[str, Any], now: datetime, paint: Any) -> list[str]:
    state = paint(slot["state"], _STATE_COLOURS.get(slot["state"], YELLOW))
    since = f" since {_since(slot['since'], now)}" if slot["since"] else ""
    lines = [f"slot    {name}: {state}{since}"]
    running, confirmed, desired = (
        _target(slot[key]) for key in ("running", "confirmed", "desired")
    )
    if slot["running"] is not None:
        lines.append(f"        running    {running}")
    lines.append(f"        confirmed  {confirmed}")
    if desired != confirmed:
        lines.append(f"        desired    {desired}")
    if slot["code"]:
        lines.append(f"        {paint(slot['code'], RED)}: {slot['detail']}")
        if slot["meaning"]:
            lines.append(f"        means      {slot['meaning']}")
    elif slot["detail"]:
        lines.append(f"        {slot['detail']}")
    if slot["bad"]:
        bad = ", ".join(f"{one['sha256'][:12]} ({one['code']})" for one in slot["bad"])
        lines.append(f"        known bad  {bad}")
    return [*lines, f"        next       {slot['next']}"]


def _target(package: Mapping[str, str] | None) -> str:
    return f"{package['target']} ({package['sha256'][:12]})" if package else "nothing"


def _since(instant: str, now: datetime) -> str:
    """Say an instant and how long ago it was.

    >>> _since("2026-01-01T00:00:00+00:00", datetime.fromisoformat("2026-01-01T01:30:00+00:00"))
    '2026-01-01 00:00 UTC (90 min)'
    """
    at = datetime.fromisoformat(instant)
    seconds = max(0.0, (now - at).total_seconds())
    for unit, size, least in (("d", 86_400, 172_800), ("h", 3_600, 7_200), ("min", 60, 60)):
        if seconds >= least:
            return f"{at:%Y-%m-%d %H:%M} UTC ({seconds / size:.0f} {unit})"
    return f"{at:%Y-%m-%d %H:%M} UTC ({seconds:.0f} s)"


def _paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _plain(text: str, _colour: str) -> str:
    return text


def _cleaned(value: Any) -> Any:
    """Take out of every text what could command a terminal."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(entry) for key, entry in value.items()}
    return value
