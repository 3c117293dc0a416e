"""``edgefleet label``: how right models are in service, by labels that became known later."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import JsonOption, WorkspaceOption, fleet_errors, print_json, say

if TYPE_CHECKING:
    from fleet_server.core.live_accuracy import Estimate
    from fleet_server.services.read_labels import LiveFigures, PartFigures

app = typer.Typer(no_args_is_help=True, help="Late labels: show, import.")

CONFUSIONS_SHOWN = 5
HOURS_MAX = 87_600


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    hours: Annotated[int, typer.Option(min=1, max=HOURS_MAX, help="Answers of the last hours.")] = (
        168
    ),
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show accuracy or error in service, by version, with 95 % intervals and row counts.

    Only answers somebody labelled count. Whoever labels mistakes alone sees mistakes alone. Of
    several targets or labels first the mean, then each by its name.

    Example: edgefleet label show digits --hours 24
    """
    with fleet_errors():
        from datetime import timedelta

        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.labels import build_label_reader
        from fleet_server.wiring.training import build_browser

        fleet = open_fleet(workspace)
        build_browser(fleet).get_model(model)
        since_at = fleet.clock.now() - timedelta(hours=hours)
        found = build_label_reader(fleet).read(model, since_at=since_at, device=device)
        if as_json:
            print_json({"model": model, "versions": [_to_json(figures) for figures in found]})
            return
        if not found:
            say(
                f"{model}: no labels of the last {hours} hours; applications send them to the"
                " agent (docs/telemetry.md)"
            )
            return
        for figures in found:
            typer.echo(f"{model} {figures.labelled.version}: {_describe(figures)}")
            if not figures.has_names:
                _print_details(figures.parts[0], indent="  ")
                continue
            for part in figures.parts:
                typer.echo(f"  {part.labelled.name}: {_describe_part(part)}")
                _print_details(part, indent="    ")


@app.command("import")
def import_file(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Let labels that are known otherwise give way.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take labels of sampled rows from a file: an export whose columns of labels you filled in.

    Columns _device, _prediction_id and _row say which row, _label what is true of it, or
    _label_NAME of each target or label. They stand beside the rows in every later export; live
    accuracy does not count them. What cannot be used is told by line, the rest is kept.

    Example: edgefleet label import plant rows.parquet
    """
    with fleet_errors():
        from fleet_server.adapters.label_files import read_label_lines
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.samples import build_label_import
        from fleet_server.wiring.trust import user_name

        desk = build_label_import(open_fleet(workspace), actor=user_name())
        made = desk.take(model, read_label_lines(file), path=str(file), is_replacing=replace)
        if as_json:
            print_json({"model": model, **asdict(made)})
        else:
            for line, reason in made.faults:
                say(f"line {line}: {reason}")
            say(
                f"{model}: {made.added} labels added, {made.replaced} replaced, {made.same} known;"
                f" {made.refused} lines refused"
            )
        if made.refused:
            raise typer.Exit(1)


def _describe(figures: "LiveFigures") -> str:
    labelled = figures.labelled
    span = f"{labelled.devices} devices, {labelled.first_at:%m-%d %H:%M} to"
    span += f" {labelled.last_at:%m-%d %H:%M} UTC"
    if not figures.has_names:
        return f"{_describe_part(figures.parts[0])}; {span}"
    kind = "labels" if figures.accuracy is not None else "targets"
    of = f"{len(figures.parts)} of {len(figures.names) or len(figures.parts)} {kind}"
    if figures.accuracy is not None:
        return f"accuracy {_write(figures.accuracy, percent=True)}, the mean of {of}; {span}"
    if figures.absolute_error is None:
        return f"{labelled.rows} labels of {of}, too few for an interval; {span}"
    return f"mean absolute error {_write(figures.absolute_error)}, the mean of {of}; {span}"


def _describe_part(figures: "PartFigures") -> str:
    if figures.accuracy is not None:
        return f"accuracy {_write(figures.accuracy, percent=True)}"
    if figures.absolute_error is None:
        return f"{figures.labelled.rows} label, too few for an interval"
    return f"mean absolute error {_write(figures.absolute_error)}, rmse {figures.rmse:.4g}"


def _write(estimate: "Estimate", *, percent: bool = False) -> str:
    if percent:
        value, low, high = (100 * n for n in (estimate.value, estimate.low, estimate.high))
        return f"{value:.1f} % ({low:.1f} to {high:.1f}) over {estimate.rows} labels"
    return (
        f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
        f" over {estimate.rows} labels"
    )


def _print_details(figures: "PartFigures", *, indent: str) -> None:
    from fleet_server.services.read_labels import name_class, worst_confusions

    for name, recall in figures.recalls.items():
        typer.echo(f"{indent}{name}: found {_write(recall, percent=True)}")
    for cell in worst_confusions(figures.labelled.cells, CONFUSIONS_SHOWN):
        label, predicted = (name_class(n, figures.classes) for n in (cell.label, cell.predicted))
        typer.echo(f"{indent}{label} taken for {predicted}: {cell.rows}")
    if figures.error is not None:
        typer.echo(f"{indent}leans by {_write(figures.error)}")


def _to_json(figures: "LiveFigures") -> dict[str, Any]:
    labelled = figures.labelled
    told: dict[str, Any] = {
        "version": labelled.version,
        "rows": labelled.rows,
        "devices": labelled.devices,
        "first_at": labelled.first_at.isoformat(),
        "last_at": labelled.last_at.isoformat(),
    }
    if not figures.has_names:
        return told | _part_to_json(figures.parts[0])
    mean, error = figures.accuracy, figures.absolute_error
    return told | {
        "accuracy": asdict(mean) if mean else None,
        "absolute_error": asdict(error) if error else None,
        "names": list(figures.names),
        "parts": {
            part.labelled.name: {"rows": part.labelled.rows} | _part_to_json(part)
            for part in figures.parts
        },
    }


def _part_to_json(figures: "PartFigures") -> dict[str, Any]:
    return {
        "accuracy": asdict(figures.accuracy) if figures.accuracy else None,
        "recalls": {name: asdict(found) for name, found in figures.recalls.items()},
        "absolute_error": asdict(figures.absolute_error) if figures.absolute_error else None,
        "error": asdict(figures.error) if figures.error else None,
        "rmse": figures.rmse,
        "classes": list(figures.classes),
        "cells": [list(cell) for cell in figures.labelled.cells],
    }
