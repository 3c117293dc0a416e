"""``edgefleet drift``: what moved, where, since when, how surely."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import JsonOption, WorkspaceOption, fleet_errors, print_json, say

if TYPE_CHECKING:
    from fleet_server.bootstrap import Fleet
    from fleet_server.ports.drift import StoredCell

app = typer.Typer(no_args_is_help=True, help="Drift: show, alarms, ack.")

CLOSED_SHOWN = 50


class LevelName(StrEnum):
    """Levels as the command line spells them."""

    DEVICE = "device"
    GROUP = "group"
    FLEET = "fleet"


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    level: Annotated[LevelName | None, typer.Option(help="Only this level.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this device or group.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Quiet features, too.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which features moved, the largest effect first.

    PSI is debiased: what noise alone would show is taken off. p holds for the four horizons
    together; a row is shown when it is beyond chance among all rows of its table.

    Example: edgefleet drift show digits --level device
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.drift_views import alarm_to_json, cell_to_json, pick_cells
        from fleet_server.core.drift_policy import Level
        from fleet_server.errors import NotFoundError
        from fleet_server.wiring.drift import build_drift_store
        from fleet_server.wiring.training import build_browser

        fleet = open_fleet(workspace)
        build_browser(fleet).get_model(model)
        store = build_drift_store(fleet)
        cells = store.list_cells(model, Level(level) if level else None)
        alarms = [a for a in store.list_alarms(model) if a.memory.state != "pending"]
        shown = pick_cells(cells, level=level, subject=subject, is_all=is_all or as_json)
        if subject is not None and cells and not any(c.subject == subject for c in cells):
            raise NotFoundError(
                f"no judgement of {subject!r} for {model}; `edgefleet drift show {model} --all`"
                " lists who is judged"
            )
        if as_json:
            print_json(
                {
                    "model": model,
                    "judged_at": cells[0].at.isoformat() if cells else None,
                    "alarms": [alarm_to_json(alarm) for alarm in alarms],
                    "cells": [cell_to_json(cell) for cell in shown],
                }
            )
            return
        _print_model(fleet, model, cells, shown)
        for alarm in alarms:
            mark = f"alarm {alarm.id}, {alarm.memory.state}, {alarm.severity}"
            typer.echo(f"[{mark}] {alarm.sentence}")
        if alarms:
            say(
                f"next: edgefleet drift ack {alarms[0].id} --reason '...'   or retrain and roll out"
            )


@app.command()
def alarms(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Pending and closed ones, too.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List alarms: open ones and those that are closing.

    Example: edgefleet drift alarms --json
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.drift_views import alarm_to_json, print_alarms
        from fleet_server.wiring.drift import build_drift_store

        store = build_drift_store(open_fleet(workspace))
        found = store.list_alarms(model, closed_max=CLOSED_SHOWN if is_all else 0)
        if not is_all:
            found = [alarm for alarm in found if alarm.memory.state != "pending"]
        if as_json:
            print_json([alarm_to_json(alarm) for alarm in found])
            return
        if not found:
            say("no drift alarm is open")
            return
        print_alarms(found)


@app.command()
def ack(
    alarm: Annotated[int, typer.Argument(metavar="ALARM", min=1)],
    reason: Annotated[str, typer.Option(help="Why, 8 to 400 characters; kept in the audit log.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Note that somebody looks after an alarm; it closes by itself when the shift has gone.

    Example: edgefleet drift ack 3 --reason "new lamps in hall 2, retraining planned"
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.drift import build_drift_desk
        from fleet_server.wiring.trust import user_name

        desk = build_drift_desk(open_fleet(workspace))
        found = desk.acknowledge(alarm, reason=reason, actor=user_name())
        say(f"alarm {found.id} of {found.model} is looked after: {found.acknowledged_reason}")


def _print_model(
    fleet: "Fleet", model: str, cells: "list[StoredCell]", shown: "list[StoredCell]"
) -> None:
    from fleet_server.cli.drift_views import print_cells

    if not cells:
        say(
            f"{model}: no window has been judged yet; devices send them once they run {model},"
            f" and they are judged every {fleet.workspace.config.drift_period_s:g} s"
        )
        return
    devices = max((c.detail["devices"] for c in cells), default=0)
    features = len({cell.feature for cell in cells})
    judged = f"{features} features judged on {devices} devices at {cells[0].at:%H:%M:%S} UTC"
    if not shown:
        budget = fleet.workspace.config.false_alarms_per_day
        typer.echo(
            f"{model}: {judged}; nothing beyond chance (false alarms a day, at most: {budget:g})"
        )
        return
    print_cells(shown, title=f"{model}: {judged}")
    typer.echo(shown[0].sentence)
