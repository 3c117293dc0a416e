"""``edgefleet rollout plan``: who gets what in which stage."""

from enum import StrEnum
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
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleet_server.services.plan_rollout import RolloutPlan


class InconclusiveChoice(StrEnum):
    """What an undecided stage does, as the command line spells it."""

    PAUSE = "pause"
    ADVANCE = "advance"
    HALT = "halt"


class HaltChoice(StrEnum):
    """What a halt does, as the command line spells it."""

    ROLLBACK = "rollback"
    ROLLBACK_STAGE = "rollback-stage"
    STAY = "stay"


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    version: Annotated[
        int, typer.Argument(metavar="[VERSION]", min=0, help="Left out for a family.")
    ] = 0,
    *,
    group: Annotated[str, typer.Option(help="Who; see `edgefleet group ls`.")],
    stages: Annotated[
        str, typer.Option(help="Totals (5%,25%,100% or 2,20,rest) or names of groups.")
    ] = "5%,25%,100%",
    slot: Annotated[str, typer.Option(help="Slot on the device; the model's name if empty.")] = "",
    soak: Annotated[str, typer.Option(help="Wait between a decision and the next stage.")] = "0s",
    goal: Annotated[str, typer.Option(help="Failure rate a good release keeps.")] = "2%",
    never_above: Annotated[
        str, typer.Option("--never-above", help="Failure rate that must stop it.")
    ] = "10%",
    fixed: Annotated[
        str, typer.Option(help="A plain share that may fail, instead of goal and never above.")
    ] = "",
    fixed_after: Annotated[
        int, typer.Option("--fixed-after", help="Devices that must have finished for --fixed.")
    ] = 20,
    on_inconclusive: Annotated[
        InconclusiveChoice, typer.Option(help="When a finished stage decides neither.")
    ] = InconclusiveChoice.PAUSE,
    on_halt: Annotated[
        HaltChoice, typer.Option(help="Who returns when the gate halts.")
    ] = HaltChoice.ROLLBACK,
    max_parallel: Annotated[
        int, typer.Option(help="Devices in flight at once; 0 grows with what is proven.", min=0)
    ] = 0,
    is_despite_alarms: Annotated[
        bool, typer.Option("--despite-alarms", help="New drift alarms do not hold a stage.")
    ] = False,
    deadline: Annotated[
        str, typer.Option(help="Silence after an offer counts as failure from here on.")
    ] = "1h",
    tries: Annotated[
        int, typer.Option(help="Offers to a device whose network or disk failed.", min=1)
    ] = 3,
    is_again: Annotated[
        bool, typer.Option("--again", help="Devices on which it failed before try it once more.")
    ] = False,
    probation: Annotated[str, typer.Option(help="Shortest probation on the device.")] = "60s",
    probation_rows: Annotated[
        int, typer.Option(help="Rows to answer in probation; 0: time alone.", min=0)
    ] = 30,
    probation_timeout: Annotated[str, typer.Option(help="Longest wait for these rows.")] = "1h",
    shadow: Annotated[
        str,
        typer.Option(help="Compare at least so long with what runs before it answers; empty: not."),
    ] = "",
    shadow_rows: Annotated[int, typer.Option(help="Rows to compare; 0: time alone.", min=0)] = 200,
    shadow_timeout: Annotated[str, typer.Option(help="Longest wait for these rows.")] = "1h",
    shadow_share: Annotated[str, typer.Option(help="Of the requests, to be compared.")] = "10%",
    shadow_cpu: Annotated[str, typer.Option(help="Of one core, for comparing.")] = "5%",
    disagree_goal: Annotated[
        str, typer.Option(help="Share of rows that may differ in shadow; a fifth of never above.")
    ] = "",
    disagree_never_above: Annotated[
        str,
        typer.Option(help="Share that differs in shadow and must stop it; empty: not judged."),
    ] = "",
    disagree_by: Annotated[
        str,
        typer.Option(help="Numbers off by so much of 1 + |a| differ (0.001, 0.01 …), not labels."),
    ] = "",
    error_rate_max: Annotated[str, typer.Option(help="Failed requests in probation.")] = "5%",
    output_shift_max: Annotated[
        str, typer.Option(help="Shift of the mix of answers in probation; 100% is off.")
    ] = "35%",
    by: Annotated[
        list[str] | None,
        typer.Option(help="Of a family: COLUMN=LABEL, where a device label has another name."),
    ] = None,
    is_only_better: Annotated[
        bool, typer.Option("--only-better", help="Of a family: leave members that are not better.")
    ] = False,
    member_false_alarms: Annotated[
        str,
        typer.Option(
            help="Of a family: share of rollouts in which any good member is taken out; 0%: none is"
            " judged by itself."
        ),
    ] = "5%",
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; store nothing.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Work out who gets what in which stage, and store it as a draft.

    Nothing changes on any device until `rollout start`.

    A family goes out as one: each device takes the member that its label names, else the fallback.

    Example: edgefleet rollout plan digits 3 --group cameras --stages 5%,25%,100% --soak 10m
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.rollout_options import PolicyOptions, make_policy, parse_share
        from fleet_server.services.plan_rollout import PlanRequest
        from fleet_server.wiring.rollouts import build_planner

        policy = make_policy(
            PolicyOptions(
                soak=soak,
                goal=goal,
                never_above=never_above,
                fixed=fixed,
                fixed_after=fixed_after,
                on_inconclusive=on_inconclusive,
                on_halt=on_halt,
                max_parallel=max_parallel,
                is_despite_alarms=is_despite_alarms,
                deadline=deadline,
                tries=tries,
                is_again=is_again,
                probation=probation,
                probation_rows=probation_rows,
                probation_timeout=probation_timeout,
                shadow=shadow,
                shadow_rows=shadow_rows,
                shadow_timeout=shadow_timeout,
                shadow_share=shadow_share,
                shadow_cpu=shadow_cpu,
                disagree_goal=disagree_goal,
                disagree_never_above=disagree_never_above,
                disagree_by=disagree_by,
                error_rate_max=error_rate_max,
                output_shift_max=output_shift_max,
            )
        )
        planner = build_planner(open_fleet(workspace))
        found = planner.plan(
            PlanRequest(
                model=model,
                version=version,
                group=group,
                stages=stages,
                policy=policy,
                slot=slot,
                labels=_read_labels(by or ()),
                is_only_better=is_only_better,
                member_alpha=parse_share(member_false_alarms, "--member-false-alarms"),
            )
        )
        number = None if is_dry_run else planner.store(found)
        _print_plan(found, number, as_json=as_json)


def _read_labels(said: "Sequence[str]") -> dict[str, str]:
    found = {}
    for one in said:
        column, equals, label = one.partition("=")
        if not (column and equals and label):
            raise MisuseError(f"--by {one}: say COLUMN=LABEL, as in --by route=line")
        found[column] = label
    return found


def _print_plan(found: "RolloutPlan", number: int | None, *, as_json: bool) -> None:
    from fleet_server.cli.rollout_views import plan_rows, plan_sentences

    request = found.request
    if as_json:
        print_json(
            {
                "id": number,
                "model": request.model,
                "version": request.version,
                "slot": request.slot,
                "group": request.group,
                "devices": found.devices,
                "stages": [
                    {"name": stage.name, "devices": [device.id for device in stage.devices]}
                    for stage in found.stages
                ],
                "packages": {p.profile: p.target for p in found.packages.values()},
                "targets": dict(found.targets),
                "left_out": [
                    {"device": x.device.id, "reason": str(x.reason), "detail": x.detail}
                    for x in found.left_out
                ],
                "notes": list(found.notes),
                "policy": request.policy.to_json(),
            }
        )
        return
    columns = ("#", "stage", "devices", "total", "profiles", "first devices")
    release = f"{request.model} {request.version}" if request.version else request.model
    title = f"{release} to group {request.group}, slot {request.slot}"
    print_table(title, columns, plan_rows(found))
    for sentence in plan_sentences(found):
        say(sentence)
    if number is None:
        say("dry run: nothing was stored")
    else:
        say(f"rollout {number} is a draft; next: edgefleet rollout start {number}")
