"""``edgefleet keys rotate ca``: one certificate authority after another, in two steps."""

from pathlib import Path
from typing import TYPE_CHECKING

from fleet_server.cli.output import say
from fleet_server.cli.passphrase import ask_passphrase
from fleet_server.cli.signing_views import looker, say_outcome
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from fleet_server.services.hand_over_authority import Handover
    from fleet_server.workspace import Config

SHOWN_MAX = 20


def rotate_authority(
    workspace: Path | None, *, is_finish: bool, is_forced: bool, yes: bool
) -> None:
    """Do one of the two steps, or say how far the change is."""
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.authority import build_authority_desk

    if is_forced and not is_finish:
        raise MisuseError("--force belongs to --finish")
    fleet = open_fleet(workspace)
    desk = build_authority_desk(fleet, ask=ask_passphrase())
    show = looker(yes=yes)
    outcome = desk.conclude(is_forced=is_forced, show=show) if is_finish else desk.begin(show=show)
    standing = desk.look()
    if outcome is not None:
        say_outcome(outcome)
        if not outcome.waiting:
            _say_next(fleet.workspace.config)
    _say_standing(standing)


def _say_standing(standing: "Handover") -> None:
    if not standing.is_under_way:
        say(f"authority {standing.authorities[0]} alone is trusted")
        return
    say(f"authority {standing.authorities[0]} is trusted beside {standing.authorities[1]}")
    done = standing.devices - len(standing.waiting)
    say(f"{done} of {standing.devices} devices hold a certificate of the new one")
    if standing.waiting:
        more = len(standing.waiting) - SHOWN_MAX
        say(
            f"waiting for {', '.join(standing.waiting[:SHOWN_MAX])}"
            + (f" and {more} more" if more > 0 else "")
        )
    say("next, when all have followed: edgefleet keys rotate ca --finish")


def _say_next(config: "Config") -> None:
    if config.is_broker_external:
        say(
            "now write the files of the external broker anew (edgefleet keys broker-config), copy"
            " them there and start it again: until then it knows nothing of the new authority"
        )
    else:
        say("a running `edgefleet up` starts broker, gateway and API anew by itself")
