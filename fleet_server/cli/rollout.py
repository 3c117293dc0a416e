"""``edgefleet rollout``: the commands, each in the module of its kind."""

import typer

from fleet_server.cli import rollout_plan, rollout_read, rollout_steer

app = typer.Typer(
    no_args_is_help=True,
    help="Rollouts: plan, start, watch, pause, resume, abort, rollback, ls, show, explain.",
)
app.command()(rollout_plan.plan)
app.command()(rollout_steer.start)
app.command()(rollout_read.watch)
for _steer in (
    rollout_steer.pause,
    rollout_steer.resume,
    rollout_steer.abort,
    rollout_steer.rollback,
):
    app.command()(_steer)
app.command("ls")(rollout_read.list_rollouts)
app.command()(rollout_read.show)
app.command()(rollout_read.explain)
