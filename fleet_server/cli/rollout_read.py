"""``edgefleet rollout`` watch, ls, show, explain."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.cli.rollout_steer import RolloutId

if TYPE_CHECKING:
    from fleet_server.core.rollout_outcome import Outcome
    from fleet_server.services.read_rollouts import RolloutView

ROWS_SHOWN = 20
DEVICES_SHOWN = 50


def watch(
    rollout: RolloutId,
    patience: Annotated[
        str, typer.Option(help="How long nobody may run the workspace before giving up.")
    ] = "60s",
    workspace: WorkspaceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line.")] = False,
) -> None:
    """Follow a rollout to its end; ctrl-c leaves it running.

    Exit 0 when it completed, 1 when it was halted, rolled back or aborted, 3 when nobody runs it.

    Example: edgefleet rollout watch 7
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.rollout_options import parse_seconds
        from fleet_server.cli.rollout_watch import (
            EXIT_INTERRUPTED,
            LineScreen,
            Screen,
            TerminalScreen,
            watch_rollout,
        )
        from fleet_server.core.rollout_machine import RolloutState
        from fleet_server.errors import RefusedError
        from fleet_server.run_state import is_running
        from fleet_server.wiring.rollouts import build_rollout_reader, find_controller_beat

        patience_s = parse_seconds(patience, "--patience")
        fleet = open_fleet(workspace)
        reader = build_rollout_reader(fleet)
        if reader.show(rollout).rollout.state is RolloutState.DRAFT:
            raise RefusedError(
                f"rollout {rollout} is a draft; `edgefleet rollout start {rollout}` starts it"
            )
        is_screen = sys.stdout.isatty() and not as_json
        screen: Screen = TerminalScreen() if is_screen else LineScreen(as_json=as_json)
        try:
            code = watch_rollout(
                lambda: reader.show(rollout),
                screen=screen,
                find_beat=lambda: find_controller_beat(fleet),
                is_up=lambda: is_running(fleet.workspace.lock_file),
                monotonic=fleet.clock.monotonic,
                patience_s=patience_s,
            )
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        finally:
            screen.close()
        if code == EXIT_INTERRUPTED:
            say(f"rollout {rollout} goes on; edgefleet rollout watch {rollout} looks again")
    raise typer.Exit(code)


def list_rollouts(
    last: Annotated[
        int, typer.Option(help="Newest rollouts shown.", min=1, max=1_000)
    ] = ROWS_SHOWN,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List rollouts, newest first.

    Example: edgefleet rollout ls --last 5
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.rollout_views import list_row
        from fleet_server.wiring.rollouts import build_rollout_reader

        fleet = open_fleet(workspace)
        views = build_rollout_reader(fleet).list_newest(last)
        if as_json:
            print_json([view.to_json() for view in views])
            return
        if not views:
            say("no rollout yet; edgefleet rollout plan MODEL VERSION --group GROUP")
            return
        columns = ("#", "release", "group", "state", "stage", "confirmed", "since")
        print_table("", columns, [list_row(view, fleet.clock.now()) for view in views])


def show(
    rollout: RolloutId,
    devices: Annotated[
        str, typer.Option(help="List devices with this outcome, such as failed; `all` for all.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Devices listed.", min=1)] = DEVICES_SHOWN,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a rollout: stages, verdict, failures, who could not be given it.

    Example: edgefleet rollout show 7 --devices failed
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.services.read_rollouts import dump_member
        from fleet_server.wiring.rollouts import build_rollout_reader

        reader = build_rollout_reader(open_fleet(workspace))
        if devices:
            members = reader.list_members(rollout, _read_outcomes(devices), limit)
            if as_json:
                print_json([dump_member(member) for member in members])
                return
            columns = ("device", "profile", "stage", "outcome", "code", "detail", "runs", "tries")
            rows = [
                (
                    m.device,
                    m.profile,
                    m.stage + 1,
                    m.outcome,
                    m.code,
                    m.detail,
                    m.running_target,
                    m.tries,
                )
                for m in members
            ]
            print_table("", columns, rows)
            return
        view = reader.show(rollout)
        left_out = reader.list_left_out(rollout)
        if as_json:
            print_json(
                view.to_json()
                | {
                    "left_out": [
                        {"device": x.device.id, "reason": str(x.reason), "detail": x.detail}
                        for x in left_out
                    ]
                }
            )
            return
        _print_view(view)
        if left_out:
            first = left_out[0]
            typer.echo(
                f"not offered: {len(left_out):,} of the group"
                f" (for example {first.device.id}: {first.detail})"
            )


def _print_view(view: "RolloutView") -> None:
    from fleet_server.cli.output import data_console
    from fleet_server.cli.rollout_views import (
        list_failures,
        list_members,
        list_next,
        list_shadows,
        list_stages,
        title_of,
    )
    from fleet_server.core.rollout_words import say_devices

    console = data_console()
    width = console.width
    is_plain = (console.encoding or "").lower() not in ("utf-8", "utf8")
    lines = [title_of(view), "", *list_stages(view, width, is_plain=is_plain), ""]
    lines += list_shadows(view, width)
    lines += list_members(view, width)
    lines.append(view.rollout.sentence or "not started")
    lines.append(f"{say_devices(view.running)} say they run {view.rollout.release} now")
    if view.failures:
        lines += ["", "newest failures:", *list_failures(view.failures, width)]
    typer.echo("\n".join(lines))
    for command in list_next(view):
        say(f"next: {command}")


def explain(
    rollout: RolloutId,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every verdict with its inputs, and judge it again from them.

    Example: edgefleet rollout explain 7
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.rollouts import build_rollout_reader

        found = build_rollout_reader(open_fleet(workspace)).explain(rollout)
        if as_json:
            print_json(
                [
                    {
                        "at": e.decision.at,
                        "verdict": e.decision.verdict,
                        "sentence": e.decision.sentence,
                        "inputs": dict(e.decision.inputs),
                        "replayed": e.replay.verdict if e.replay else None,
                        "is_same": e.replay.is_same if e.replay else None,
                    }
                    for e in found
                ]
            )
            return
        if not found:
            say(f"rollout {rollout} has no verdict yet")
        for e in found:
            typer.echo(f"{e.decision.at:%Y-%m-%d %H:%M:%S}  {e.decision.verdict}")
            typer.echo(f"  {e.decision.sentence}")
            if e.replay is not None:
                for line in e.replay.workings:
                    typer.echo(f"    {line}")
                same = "the same" if e.replay.is_same else f"NOT the same: {e.replay.verdict}"
                typer.echo(f"    judged again from these: {same}")


def _read_outcomes(text: str) -> "list[Outcome]":
    from fleet_server.core.rollout_outcome import Outcome
    from fleet_server.errors import MisuseError

    if text == "all":
        return list(Outcome)
    try:
        return [Outcome(text)]
    except ValueError as error:
        known = ", ".join(Outcome)
        raise MisuseError(f"--devices {text[:40]!r}: use all or one of {known}") from error
