"""``edgefleet samples``: raw rows that devices let out for retraining."""

from pathlib import Path
from typing import Annotated

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)

app = typer.Typer(no_args_is_help=True, help="Sampled raw rows: ls, export.")

DAYS_MAX = 3_650


@app.command("ls")
def list_samples(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List how many sampled rows there are, by model and version.

    Devices send rows only when their own settings name features (docs/telemetry.md).

    Example: edgefleet samples ls digits
    """
    with fleet_errors():
        from dataclasses import asdict

        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.samples import build_sample_desk
        from fleet_server.wiring.trust import user_name

        desk = build_sample_desk(open_fleet(workspace), actor=user_name())
        found = desk.add_up(model)
        if as_json:
            print_json({"versions": [asdict(each) for each in found]})
            return
        if not found:
            say("no sampled rows; devices send them when their settings say so (docs/telemetry.md)")
            return
        print_table(
            "sampled rows",
            ("model", "version", "rows", "labelled", "files", "bytes", "first", "last"),
            [
                (
                    each.model,
                    each.version,
                    each.rows,
                    each.labels,
                    each.files,
                    each.size_bytes,
                    f"{each.first_at:%Y-%m-%d %H:%M}" if each.first_at else "",
                    f"{each.last_at:%Y-%m-%d %H:%M}" if each.last_at else "",
                )
                for each in found
            ],
        )


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to make, or CSV.")],
    version: Annotated[int | None, typer.Option(min=1, help="Only this version.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=DAYS_MAX, help="Only what came within so many days.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model's sampled rows, with labels that became known, into one file.

    Columns that begin with _ say whose a row is, when and why it was taken, what was answered and
    what is true, one each of several targets or labels; the others are the model's. A feature that
    some devices hash and others do not has two columns. The export is written down in the audit
    log; only you may read the file.

    Example: edgefleet samples export digits --out rows.parquet --days 30
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.services.export_samples import Export
        from fleet_server.wiring.samples import build_sample_desk
        from fleet_server.wiring.trust import user_name

        desk = build_sample_desk(open_fleet(workspace), actor=user_name())
        made = desk.export(Export(model=model, out=out, version=version, days=days))
        if as_json:
            apart = {"apart": dict(made.apart)} if made.apart else {}
            print_json({"model": model, "rows": made.rows, "path": str(out)} | apart)
            return
        say(f"{made.rows} rows of {model} are in {out}")
        for column, rows in made.apart.items():
            say(
                f"  {rows} of them have column {column!r}: redacted otherwise, or another version's"
            )
