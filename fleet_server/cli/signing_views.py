"""What a person reads before signing: the difference, hashes in full, and whose it is."""

import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from fleet_server.cli.output import say
from fleet_server.errors import RefusedError

if TYPE_CHECKING:
    from fleet_server.ports.keys import Change, KeyReview, Proposal, Standing, TargetsReview
    from fleet_server.ports.trust import SignedTarget
    from fleet_server.services.change_keys import KeyOutcome

OTHERS_SHOWN_MAX = 200


def confirm_signing(*, yes: bool) -> None:
    """Ask on a terminal whether to sign; raises RefusedError on no."""
    if not yes and sys.stdin.isatty() and not typer.confirm("Sign?", err=True):
        raise RefusedError("nothing was signed")


def say_targets_review(review: "TargetsReview", *, shown_max: int | None = None) -> None:
    """Say what others signed since this person looked, then what this signature changes.

    Args:
        review: The difference.
        shown_max: Of the packages that are signed; None shows all.
    """
    from fleet_server.ports.keys import name_keys

    if not review.seen_version:
        say(
            f"this folder has not seen targets before: {review.in_force} packages are in force"
            " that it cannot compare"
        )
    elif review.others:
        say(
            f"since you looked (targets {review.seen_version} -> {review.current_version}) others"
            f" changed {len(review.others)} packages, signed by {name_keys(review.others_keyids)}:"
        )
        _say_changes(review.others, shown_max=OTHERS_SHOWN_MAX)
    say(f"you sign (targets {review.current_version} -> {review.following_version}):")
    _say_changes(review.mine, shown_max=len(review.mine) if shown_max is None else shown_max)
    if not review.mine:
        say("  the same packages once more")
    old, new = review.director
    if old != new:
        say(f"  director {name_keys(old) or 'none'} -> {name_keys(new)}")


def say_key_review(review: "KeyReview") -> None:
    """Say what a change of keys does."""
    for sentence in review.sentences:
        say(f"  {sentence}")
    if review.targets is not None:
        say_targets_review(review.targets)


def looker(*, yes: bool) -> "Callable[[KeyReview], None]":
    """Return what shows a change of keys and asks whether to sign."""

    def look(review: "KeyReview") -> None:
        say("about to change keys:")
        say_key_review(review)
        confirm_signing(yes=yes)

    return look


def say_outcome(outcome: "KeyOutcome") -> None:
    """Say what became of a change of keys."""
    if outcome.waiting:
        say(f"signed, not in force: {outcome.waiting}")
        say("next: they run  edgefleet keys cosign")
    elif outcome.is_completed:
        say(f"completed what was interrupted: {outcome.change}")
    else:
        say(f"in force: {outcome.change}")


def say_pending(proposal: "Proposal", standing: "Standing", now_at: datetime) -> None:
    """Say what waits, since when, and for whom."""
    hours = (now_at - proposal.proposed_at).total_seconds() / 3_600
    say(
        f"waiting since {proposal.proposed_at:%Y-%m-%d %H:%M} ({hours:.0f} h):"
        f" {proposal.act} {proposal.subject}, proposed by {proposal.proposed_by}"
    )
    if proposal.reason:
        say(f"  reason: {proposal.reason}")
    say(f"  {standing.missing or 'signed enough; run the command again to put it in force'}")


def pending_to_json(proposal: "Proposal", standing: "Standing") -> dict[str, Any]:
    """Give what waits as JSON values."""
    return {
        "act": proposal.act,
        "subject": proposal.subject,
        "reason": proposal.reason,
        "proposed_at": proposal.proposed_at.isoformat(),
        "proposed_by": proposal.proposed_by,
        "signed_by": list(standing.signed),
        "missing": standing.missing,
    }


def _say_changes(changes: Mapping[str, "Change"], *, shown_max: int) -> None:
    for path, (before, after) in list(changes.items())[:shown_max]:
        if after is None:
            assert before is not None  # noqa: S101 - a change has a side
            say(f"  - {path}   sha256 {before.sha256}")
            continue
        sign = "+" if before is None else "~"
        say(f"  {sign} {path}   {after.size_bytes:,} bytes   {_rules(after)}")
        say(f"    sha256 {after.sha256}")
        if before is not None:
            say(f"    before {before.sha256}   {_rules(before)}")
    if len(changes) > shown_max:
        say(f"  ... and {len(changes) - shown_max} more")


def _rules(target: "SignedTarget") -> str:
    return f"slot {target.custom.slot or 'any'}   when withdrawn: {target.custom.on_withdrawn}"
