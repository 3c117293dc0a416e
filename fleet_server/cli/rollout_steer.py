"""``edgefleet rollout`` start, pause, resume, abort, rollback."""

from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import WorkspaceOption, fleet_errors, say

if TYPE_CHECKING:
    from fleet_server.bootstrap import Fleet
    from fleet_server.services.steer_rollout import RolloutDesk, Steered

RolloutId = Annotated[int, typer.Argument(metavar="ROLLOUT", min=1)]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, 8 to 400 characters; kept in the audit log.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")
]


def start(
    rollout: RolloutId,
    is_dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Open the first stage of a draft.

    Example: edgefleet rollout start 7
    """
    with fleet_errors():
        fleet, desk = _open(workspace)
        steered = desk.start(rollout, is_dry_run=is_dry_run)
        _say_steered(fleet, steered, is_dry_run=is_dry_run)
        if not is_dry_run:
            say(f"next: edgefleet rollout watch {rollout}")


def pause(
    rollout: RolloutId,
    reason: ReasonOption,
    is_dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Offer nothing more for now; what is in flight finishes.

    Example: edgefleet rollout pause 7 --reason "line 2 is being moved"
    """
    with fleet_errors():
        fleet, desk = _open(workspace)
        _say_steered(
            fleet, desk.pause(rollout, reason, is_dry_run=is_dry_run), is_dry_run=is_dry_run
        )


def resume(
    rollout: RolloutId,
    reason: ReasonOption,
    is_dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Go on; a stage that was left undecided is let pass.

    Example: edgefleet rollout resume 7 --reason "the one failure was a broken lamp"
    """
    with fleet_errors():
        fleet, desk = _open(workspace)
        _say_steered(
            fleet, desk.resume(rollout, reason, is_dry_run=is_dry_run), is_dry_run=is_dry_run
        )


def abort(
    rollout: RolloutId,
    reason: ReasonOption,
    is_dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """End it here: devices that run the version keep it, unfinished ones are taken back.

    Example: edgefleet rollout abort 7 --reason "digits 4 is ready"
    """
    with fleet_errors():
        fleet, desk = _open(workspace)
        _say_steered(
            fleet, desk.abort(rollout, reason, is_dry_run=is_dry_run), is_dry_run=is_dry_run
        )


def rollback(
    rollout: RolloutId,
    reason: ReasonOption,
    is_dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Let every device of it return to what it ran before.

    Example: edgefleet rollout rollback 7 --reason "sorters jam on blurred labels"
    """
    with fleet_errors():
        fleet, desk = _open(workspace)
        _say_steered(
            fleet, desk.roll_back(rollout, reason, is_dry_run=is_dry_run), is_dry_run=is_dry_run
        )


def _open(workspace: WorkspaceOption) -> "tuple[Fleet, RolloutDesk]":
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.rollouts import build_rollout_desk

    fleet = open_fleet(workspace)
    return fleet, build_rollout_desk(fleet)


def _say_steered(fleet: "Fleet", steered: "Steered", *, is_dry_run: bool) -> None:
    from fleet_server.core.rollout_machine import say_word
    from fleet_server.run_state import is_running

    rollout = steered.rollout
    would = "would be" if is_dry_run else "is"
    say(f"rollout {rollout.id} {would} {say_word(rollout.state)}: {steered.effect}")
    if not is_dry_run and not is_running(fleet.workspace.lock_file):
        say("`edgefleet up` is not running: devices hear of it when it does")
