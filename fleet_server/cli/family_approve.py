"""``edgefleet model approve`` and ``reject`` of a whole family: one list, one signature."""

from pathlib import Path
from typing import TYPE_CHECKING

from fleet_server.cli.family_views import say_family, write_listing_file
from fleet_server.cli.model_approve import say_waiting
from fleet_server.cli.output import say
from fleet_server.cli.passphrase import ask_passphrase
from fleet_server.cli.signing_views import confirm_signing, say_targets_review
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from fleet_server.bootstrap import Fleet
    from fleet_server.ports.keys import TargetsReview
    from fleet_server.services.release import Approval

PACKAGES_SHOWN_MAX = 10


def approve_family(
    fleet: "Fleet",
    pattern: str,
    reason: str,
    on_withdrawn: str,
    listing: Path | None,
    *,
    cosign: bool,
    yes: bool,
) -> None:
    """Show the family and what is signed, sign it, and say what came of it."""
    from edge_agent.contract.package import OnWithdrawn
    from fleet_server.services.release import APPROVED
    from fleet_server.training.spec_family import name_slot
    from fleet_server.wiring.training import build_family_browser
    from fleet_server.wiring.trust import build_approver

    view = build_family_browser(fleet).view(pattern)
    release = view.to_approve()

    def look(review: "TargetsReview") -> None:
        say_family(view, len(release.members))
        _look(review, listing, yes=yes)

    desk = build_approver(fleet, ask=ask_passphrase())
    if cosign:
        approval = desk.cosign_release(APPROVED, release, show=look)
    else:
        approval = desk.approve_release(
            release,
            reason,
            slot=name_slot(pattern),
            on_withdrawn=OnWithdrawn(on_withdrawn),
            show=look,
        )
    if approval.waiting:
        say_waiting(approval)
    elif approval.metadata_version:
        say(
            f"approved: {_count(approval)} in targets {approval.metadata_version},"
            f" key {approval.keyid[:12]}, slot {name_slot(pattern)}"
        )
    else:
        say(f"{pattern} was signed before; nothing had to be signed")


def reject_family(fleet: "Fleet", pattern: str, reason: str, *, cosign: bool, yes: bool) -> None:
    """Withdraw every approved newest version of a family with one signature."""
    from fleet_server.services.release import REJECTED
    from fleet_server.wiring.training import build_family_browser
    from fleet_server.wiring.trust import build_approver

    view = build_family_browser(fleet).view(pattern)
    if not cosign and not view.states.get("approved"):
        raise MisuseError(
            f"no newest version of {pattern} is approved; there is nothing to withdraw"
        )
    release = view.to_reject()
    desk = build_approver(fleet, ask=ask_passphrase())

    def look(review: "TargetsReview") -> None:
        say(f"about to withdraw {len(release.members):,} members of {pattern}")
        _look(review, None, yes=yes)

    if cosign:
        rejected = desk.cosign_release(REJECTED, release, show=look)
    else:
        rejected = desk.reject_release(release, reason, show=look)
    if rejected.waiting:
        say_waiting(rejected)
        return
    say(f"rejected: {_count(rejected)} withdrawn")


def _look(review: "TargetsReview", listing: Path | None, *, yes: bool) -> None:
    from fleet_server.services.release import hash_listing

    say_targets_review(review, shown_max=PACKAGES_SHOWN_MAX)
    targets = [after for _, after in review.mine.values() if after is not None]
    if targets:
        say(f"list of all {len(targets):,}: sha256 {hash_listing(targets)}")
    if listing is not None:
        write_listing_file(listing, targets)
        say(f"written to {listing}, as sha256sum writes it")
    elif len(targets) > PACKAGES_SHOWN_MAX:
        say("read it in full with --listing FILE")
    confirm_signing(yes=yes)


def _count(approval: "Approval") -> str:
    return f"{approval.model}, {len(approval.targets):,} packages"
