"""How drift is shown: tables for people, JSON for programs. Pure but for printing."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from fleet_server.cli.output import print_table

if TYPE_CHECKING:
    from fleet_server.ports.drift import StoredAlarm, StoredCell

BAR_CELLS = 8
BAR_PSI_MAX = 0.5
"""One scale for all bars: what fills it is a shift nobody overlooks."""
WORST_SHOWN = 5
_SHORT = {"location z": "loc", "spread z": "spread"}


def pick_cells(
    cells: Sequence["StoredCell"], *, level: str | None, subject: str | None, is_all: bool
) -> list["StoredCell"]:
    """Choose what a table shows: groups and fleet first, what is beyond chance, worst first."""
    if subject is not None:
        cells = [cell for cell in cells if cell.subject == subject]
    elif level is None:
        larger = [cell for cell in cells if cell.level != "device"]
        is_larger_notable = any(cell.detail["is_notable"] for cell in larger)
        cells = larger if is_all or is_larger_notable or not larger else cells
    ordered = sorted(cells, key=lambda cell: (-cell.psi, cell.p_value))
    if is_all:
        return ordered
    return [cell for cell in ordered if cell.detail["is_notable"]][:WORST_SHOWN]


def print_cells(cells: Sequence["StoredCell"], *, title: str) -> None:
    """Print cells, one a row."""
    from fleet_server.core.drift_words import say_p

    print_table(
        title,
        ("who", "feature", "shift", "PSI", "statistic", "p", "devices", "since"),
        [
            (
                cell.subject if cell.level != "fleet" else "fleet",
                cell.feature,
                draw_bar(cell.psi),
                f"{cell.psi:.2f}",
                _say_statistic(cell),
                say_p(cell.p_value),
                f"{cell.detail['affected']} of {cell.detail['devices']}",
                _say_since(cell),
            )
            for cell in cells
        ],
    )


def print_alarms(alarms: Sequence["StoredAlarm"]) -> None:
    """Print alarms, one a row, then their sentences."""
    print_table(
        "",
        ("#", "model", "who", "state", "severity", "opened", "looked after"),
        [
            (
                alarm.id,
                alarm.model,
                f"{alarm.level} {alarm.subject}",
                str(alarm.memory.state),
                str(alarm.severity),
                f"{alarm.opened_at:%d %b %H:%M}" if alarm.opened_at else "-",
                alarm.acknowledged_reason or "-",
            )
            for alarm in alarms
        ],
    )
    for alarm in alarms:
        typer.echo(f"[{alarm.id}] {alarm.sentence}")


def draw_bar(psi: float) -> str:
    """Draw an effect on the scale that all rows share.

    >>> draw_bar(0.25).count("·") + draw_bar(0.25).count(".")
    4
    """
    full, empty = ("█", "·") if _is_unicode() else ("#", ".")
    filled = min(BAR_CELLS, round(psi / BAR_PSI_MAX * BAR_CELLS))
    return full * filled + empty * (BAR_CELLS - filled)


def cell_to_json(cell: "StoredCell") -> dict[str, Any]:
    """Give a cell as JSON values."""
    detail = dict(cell.detail)
    return {
        "level": str(cell.level),
        "subject": cell.subject,
        "feature": cell.feature,
        "rows": cell.rows,
        "windows": cell.windows,
        "statistic": cell.statistic,
        "statistic_name": detail.pop("statistic"),
        "p_value": cell.p_value,
        "psi": cell.psi,
        "sentence": cell.sentence,
        "at": cell.at.isoformat(),
        **detail,
    }


def alarm_to_json(alarm: "StoredAlarm") -> dict[str, Any]:
    """Give an alarm as JSON values."""
    return {
        "id": alarm.id,
        "model": alarm.model,
        "level": str(alarm.level),
        "subject": alarm.subject,
        "state": str(alarm.memory.state),
        "severity": str(alarm.severity),
        "features": list(alarm.features),
        "sentence": alarm.sentence,
        "opened_at": _iso(alarm.opened_at),
        "closed_at": _iso(alarm.closed_at),
        "changed_at": _iso(alarm.changed_at),
        "acknowledged_at": _iso(alarm.acknowledged_at),
        "acknowledged_reason": alarm.acknowledged_reason,
    }


def _say_statistic(cell: "StoredCell") -> str:
    name = cell.detail["statistic"]
    if name in _SHORT:
        return f"{_SHORT[name]} {cell.statistic:+.1f}"
    return f"{name.removesuffix(' strength')} {cell.statistic:.1f}"


def _say_since(cell: "StoredCell") -> str:
    since_ms = cell.detail["since_ms"]
    if not since_ms:
        return "-"
    since = datetime.fromtimestamp(since_ms / 1_000, UTC)
    is_today = cell.at - since < timedelta(days=1)
    return f"{since:%H:%M:%S}" if is_today else f"{since:%d %b}"


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
