"""The ``fleet-sim`` command: real agents by the thousand, for tests, demos and load."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fleet_server.cli.output import WorkspaceOption, fleet_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Simulate devices: the real agent, many times in one process.",
)


@app.callback()
def _root() -> None:
    """Simulate devices: the real agent, many times in one process."""


@app.command(
    epilog="example: fleet-sim load --devices 100 --rows field.csv --drift-at 60"
    " --drift brightness:+4"
)
def load(  # noqa: PLR0913, PLR0917 - one parameter an option
    devices: Annotated[int, typer.Option(min=1, max=20_000, help="How many.")],
    workspace: WorkspaceOption = None,
    profiles: Annotated[
        str, typer.Option(help="Device profiles, dealt out in turn, separated by commas.")
    ] = "camera",
    prefix: Annotated[str, typer.Option(help="Device ids are PREFIX-0001 and so on.")] = "sim",
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of new devices; may be repeated.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of inputs (default: golden rows).")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, max=1_000, help="Rows a second and device.")] = 20,
    window_s: Annotated[
        float | None, typer.Option(min=1, max=86_400, help="Longest telemetry window, seconds.")
    ] = None,
    drift: Annotated[
        str | None, typer.Option(help="FEATURE:+X, FEATURE:-X or FEATURE:*X; brightness: all.")
    ] = None,
    drift_at: Annotated[
        float | None, typer.Option(min=0, help="Seconds from the start until the drift.")
    ] = None,
    drift_when: Annotated[
        Path | None, typer.Option(help="The drift begins when this file exists.")
    ] = None,
    drift_profile: Annotated[
        str, typer.Option(help="Only devices of these profiles drift; commas between.")
    ] = "",
    fail_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of devices a new package fails on.")
    ] = 0.0,
    disconnect_rate: Annotated[
        float, typer.Option(min=0, max=3_600, help="Broken connections an hour and device.")
    ] = 0.0,
    duration: Annotated[
        float | None, typer.Option(min=1, help="Seconds to run (default: until Ctrl-C).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Names one course of faults.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the last figures as JSON.")
    ] = False,
) -> None:
    """Connect devices to the workspace's broker; each is a real agent.

    They are enrolled at the first run and the same ones after that. The server must be up.
    """
    import logging

    from simulators.load import describe_figures, run_load, say
    from simulators.planning import LoadRequest, plan_load

    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(message)s")
    with fleet_errors():
        request = LoadRequest(
            workspace=workspace,
            devices=devices,
            profiles=_split(profiles),
            prefix=prefix,
            labels=label or [],
            rows=rows,
            rate=rate,
            window_s=window_s,
            drift=drift,
            drift_at_s=drift_at,
            drift_when=drift_when,
            drift_profiles=_split(drift_profile),
            fail_rate=fail_rate,
            disconnect_rate=disconnect_rate,
            duration_s=duration,
            seed=seed,
        )
        plan = plan_load(request, say)
        figures = run_load(plan, lambda figures: say(describe_figures(figures)))
    typer.echo(json.dumps(figures, indent=2) if as_json else describe_figures(figures))


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    app(args=list(arguments) if arguments is not None else None, prog_name="fleet-sim")
