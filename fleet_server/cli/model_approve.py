"""``edgefleet model approve`` and ``model reject``: the approver's word, alone or with others."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import JsonOption, WorkspaceOption, fleet_errors, print_json, say
from fleet_server.cli.passphrase import ask_passphrase
from fleet_server.cli.signing_views import (
    confirm_signing,
    pending_to_json,
    say_pending,
    say_targets_review,
)
from fleet_server.errors import MisuseError, RefusedError

if TYPE_CHECKING:
    from fleet_server.bootstrap import Fleet
    from fleet_server.ports.keys import TargetsReview
    from fleet_server.ports.registry import Version
    from fleet_server.services.approve_model import Approval

NameArgument = Annotated[str, typer.Argument(help="Name of the model.")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="Version.")]
ReasonOption = Annotated[str, typer.Option(help="Kept with the decision.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")]
CosignOption = Annotated[
    bool, typer.Option("--cosign", help="Add a second person's signature to what waits.")
]


def is_pattern(name: str) -> bool:
    """Tell whether a name is that of a family: it has columns in braces."""
    return "{" in name


class Withdrawn(StrEnum):
    """What devices do with a package that is withdrawn later."""

    STOP = "stop"
    KEEP = "keep"


def approve(
    name: Annotated[str, typer.Argument(help="Name of the model.")] = "",
    version: Annotated[int, typer.Argument(min=0, help="Version.")] = 0,
    *,
    workspace: WorkspaceOption = None,
    reason: ReasonOption = "",
    on_withdrawn: Annotated[
        Withdrawn, typer.Option(help="What devices that run it do when it is withdrawn later.")
    ] = Withdrawn.STOP,
    cosign: CosignOption = False,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only show what waits for a signature.")
    ] = False,
    listing: Annotated[
        Path | None, typer.Option(help="Of a family: write path and sha256 of every package here.")
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sign every package of a version, or of every member of a family, with the approver's key.

    Shows first what is signed, and what others signed since. Nothing that is not signed can ever
    run on a device. Where several approvers must sign, the others add --cosign. A family is named
    with its columns in braces, without a version: the newest of each member, but for rejected
    ones, with one signature.

    Example: edgefleet model approve digits 3
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet

        fleet = open_fleet(workspace)
        if pending:
            _show_pending(fleet, as_json=as_json)
            return
        if is_pattern(name):
            from fleet_server.cli.family_approve import approve_family

            if version:
                raise MisuseError(f"{name} is a family; approve one member by its own name")
            approve_family(fleet, name, reason, str(on_withdrawn), listing, cosign=cosign, yes=yes)
            return
        if not name or not version:
            raise MisuseError("say what: edgefleet model approve NAME VERSION")
        _approve(fleet, name, version, reason, on_withdrawn, cosign=cosign, yes=yes)


def reject(
    name: NameArgument,
    version: Annotated[int, typer.Argument(min=0, help="Version.")] = 0,
    workspace: WorkspaceOption = None,
    reason: ReasonOption = "",
    cosign: CosignOption = False,
    yes: YesOption = False,
) -> None:
    """Note that a version must not run; what was signed before is withdrawn.

    Devices stop what is withdrawn, unless it was approved with --on-withdrawn keep.

    Example: edgefleet model reject digits 3 --reason "confuses 3 and 8 at dusk"
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.services.approve_model import REJECTED
        from fleet_server.wiring.trust import build_approver

        if not reason.strip() and not cosign:
            raise MisuseError("a rejection needs a reason: --reason 'what is wrong'")
        if is_pattern(name):
            from fleet_server.cli.family_approve import reject_family

            reject_family(open_fleet(workspace), name, reason, cosign=cosign, yes=yes)
            return
        if not version:
            raise MisuseError("say what: edgefleet model reject NAME VERSION")
        desk = build_approver(open_fleet(workspace), ask=ask_passphrase())

        def look(review: "TargetsReview") -> None:
            say(f"about to withdraw {name} {version}")
            say_targets_review(review)
            confirm_signing(yes=yes)

        if cosign:
            rejected = desk.cosign(REJECTED, name, version, show=look)
        else:
            rejected = desk.reject(name, version, reason, show=look)
        if rejected.waiting:
            say_waiting(rejected)
            return
        withdrawn = f", {len(rejected.targets)} packages withdrawn" if rejected.targets else ""
        say(f"rejected: {name} {version}{withdrawn}")


def _approve(
    fleet: "Fleet",
    name: str,
    version: int,
    reason: str,
    on_withdrawn: Withdrawn,
    *,
    cosign: bool,
    yes: bool,
) -> None:
    from edge_agent.contract.package import OnWithdrawn
    from fleet_server.services.approve_model import APPROVED
    from fleet_server.wiring.training import build_browser
    from fleet_server.wiring.trust import build_approver

    found = build_browser(fleet).get_version(name, version)
    if found.forced_reason and not reason.strip() and not cosign:
        raise RefusedError(
            f"{name} {version} misses limits of its spec and was forced"
            f' ("{found.forced_reason}"); approving it needs --reason "why it may run"'
        )

    def look(review: "TargetsReview") -> None:
        _say_version(found)
        say_targets_review(review)
        confirm_signing(yes=yes)

    desk = build_approver(fleet, ask=ask_passphrase())
    if cosign:
        approval = desk.cosign(APPROVED, name, version, show=look)
    else:
        withdrawn = OnWithdrawn(on_withdrawn)
        approval = desk.approve(name, version, reason, on_withdrawn=withdrawn, show=look)
    if approval.waiting:
        say_waiting(approval)
        return
    if approval.metadata_version:
        say(
            f"approved: {name} {version}, {len(approval.targets)} packages in targets"
            f" {approval.metadata_version}, key {approval.keyid[:12]}"
        )
    else:
        say(f"{name} {version} was signed before; nothing had to be signed")
    say(f"next: edgefleet rollout plan {name} {version} --group GROUP --stages 5%,25%,100%")


def say_waiting(approval: "Approval") -> None:
    """Say whose signature is missing, and what they run."""
    verb = "approve" if approval.decision == "approved" else "reject"
    what = f"{approval.model} {approval.version}" if approval.version else f"'{approval.model}'"
    say(f"signed, not in force: {approval.waiting}")
    say(f"next: they run  edgefleet model {verb} {what} --cosign")


def _show_pending(fleet: "Fleet", *, as_json: bool) -> None:
    from fleet_server.wiring.trust import build_pending

    store = build_pending(fleet)
    proposal = store.load()
    if as_json:
        print_json(
            [] if proposal is None else [pending_to_json(proposal, store.standing(proposal))]
        )
    elif proposal is None:
        say("nothing waits for a signature")
    else:
        say_pending(proposal, store.standing(proposal), fleet.clock.now())


def _say_version(version: "Version") -> None:
    """Say which version it is and how it did."""
    say(f"about to sign {version.model} {version.number}   data {version.data_sha256[:12]}")
    for gate in version.evaluation.get("gates", ()):
        say(f"  {gate['verdict']:<13} {gate['sentence']}")
    if version.forced_reason:
        say(f"  forced: {version.forced_reason}")
