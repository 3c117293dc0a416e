"""The edgefleet command: nouns, then verbs.

The modules mounted here import only typer; what a command needs it imports when it runs, so that
``--help`` answers at once.
"""

from collections.abc import Sequence

import typer

from fleet_server.cli import (
    audit,
    device,
    drift,
    group,
    keys,
    label,
    model,
    profile,
    rollout,
    samples,
    user,
)
from fleet_server.cli.demo import demo
from fleet_server.cli.doctor import doctor
from fleet_server.cli.init import init
from fleet_server.cli.train import train
from fleet_server.cli.up import up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, convert, sign and roll out models to a fleet of edge devices, and watch them.",
)


@app.callback()
def _root() -> None:
    """Train, convert, sign and roll out models to a fleet of edge devices, and watch them."""


for _verb in (init, up, doctor, train, demo):
    app.command()(_verb)
for _noun, _app in (
    ("model", model.app),
    ("profile", profile.app),
    ("device", device.app),
    ("group", group.app),
    ("rollout", rollout.app),
    ("group", group.app),
    ("rollout", rollout.app),
    ("drift", drift.app),
    ("label", label.app),
    ("samples", samples.app),
    ("keys", keys.app),
    ("user", user.app),
    ("audit", audit.app),
):
    app.add_typer(_app, name=_noun)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code of the table (docs/cli.md)."""
    app(args=list(arguments) if arguments is not None else None, prog_name="edgefleet")
