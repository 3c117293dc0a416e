"""The commands that change keys; each may be run again after it was interrupted."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.keys_authority import rotate_authority
from fleet_server.cli.output import WorkspaceOption, fleet_errors, say
from fleet_server.cli.passphrase import ask_passphrase
from fleet_server.cli.signing_views import looker, say_outcome
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from fleet_server.ports.keys import KeyChange


class Rotated(StrEnum):
    """A role whose key can be replaced."""

    ROOT = "root"
    APPROVER = "approver"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    DIRECTOR = "director"
    CA = "ca"


class Holder(StrEnum):
    """A role whose keys belong to people."""

    APPROVER = "approver"
    ROOT = "root"


YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")]
HolderOption = Annotated[Holder, typer.Option("--role", help="Whose keys.")]


def rotate(
    role: Annotated[Rotated, typer.Argument(help="Whose key is replaced.")],
    key: Annotated[
        str, typer.Option(help="Id of the key that is replaced, when it is not this folder's.")
    ] = "",
    is_finish: Annotated[
        bool, typer.Option("--finish", help="ca: trust the new authority alone, second step.")
    ] = False,
    is_forced: Annotated[
        bool, typer.Option("--force", help="--finish: also while devices have not followed.")
    ] = False,
    workspace: WorkspaceOption = None,
    yes: YesOption = False,
) -> None:
    """Replace a key; what the former one signed is refused from then on.

    Needs the root key, for the approver's the approver's too when it is there; for the director
    the approver's alone. Snapshot, timestamp and director: after a break-in at the server; devices
    whose counters a thief ran up recover. ca: the authority of certificates, in two steps, with the
    approver's key; between them devices get certificates of the new one.

    Example: edgefleet keys rotate approver
    """
    with fleet_errors():
        if role is Rotated.CA:
            rotate_authority(workspace, is_finish=is_finish, is_forced=is_forced, yes=yes)
            return
        if is_finish or is_forced:
            raise MisuseError("--finish and --force belong to `edgefleet keys rotate ca`")
        from fleet_server.ports.keys import KeyAct, KeyChange

        _change(workspace, KeyChange(act=KeyAct.ROTATE, role=_tuf_role(role), keyid=key), yes=yes)


def renew(
    is_root: Annotated[
        bool, typer.Option("--root", help="Sign the root anew as well (needs its key).")
    ] = False,
    workspace: WorkspaceOption = None,
    yes: YesOption = False,
) -> None:
    """Sign what approvers signed once more, with a new date; nothing else changes.

    Approvals hold 180 days from the newest one, the root two years. After that devices keep
    running what they run, but install nothing.

    Example: edgefleet keys renew --root
    """
    with fleet_errors():
        from fleet_server.ports.keys import KeyAct, KeyChange

        role = "root" if is_root else "targets"
        _change(workspace, KeyChange(act=KeyAct.RENEW, role=role), yes=yes)


def create_approver_key(
    directory: Annotated[Path, typer.Argument(help="The person's own folder.")],
    token: Annotated[
        str, typer.Option(help="Label of a PKCS#11 token that shall hold the key.")
    ] = "",
    slot: Annotated[
        int, typer.Option(min=1, max=65_535, help="Id of the key on the token; 2 is PIV slot 9c.")
    ] = 2,
    module: Annotated[
        Path | None, typer.Option(help="The token's PKCS#11 library. Default: PYKCS11LIB.")
    ] = None,
) -> None:
    """Make a key for one more person, on that person's machine; only the public half travels.

    Needs no workspace. A token without a key gets one that cannot be read out.

    Example: edgefleet keys create-approver ~/approver
    """
    with fleet_errors():
        from fleet_server.wiring.keys import create_approver

        keyid, public = create_approver(
            directory, token=token, slot=slot, module=module, ask=ask_passphrase()
        )
        say(f"key {keyid}")
        typer.echo(str(public))
        say(f"next: who holds the root key runs  edgefleet keys add-approver {public.name}")


def add_approver(
    file: Annotated[Path, typer.Argument(help="Public key: the other person's approver.pub.")],
    role: HolderOption = Holder.APPROVER,
    workspace: WorkspaceOption = None,
    yes: YesOption = False,
) -> None:
    """Let one more person's key count; how many must sign stays (keys threshold).

    Example: edgefleet keys add-approver bea.pub
    """
    with fleet_errors():
        from fleet_server.ports.keys import KeyAct, KeyChange
        from fleet_server.wiring.keys import read_public_key

        keyid, pem = read_public_key(file)
        say(f"key {keyid}: compare it with what its owner reads on their machine")
        change = KeyChange(act=KeyAct.ADD, role=_tuf_role(role), public_pem=pem)
        _change(workspace, change, yes=yes)


def remove_approver(
    keyid: Annotated[str, typer.Argument(help="Beginning of the key's id (keys show).")],
    role: HolderOption = Holder.APPROVER,
    workspace: WorkspaceOption = None,
    yes: YesOption = False,
) -> None:
    """Let a key no longer count; refused when too few would be left.

    Example: edgefleet keys remove-approver 3fb1c0
    """
    with fleet_errors():
        from fleet_server.ports.keys import KeyAct, KeyChange

        change = KeyChange(act=KeyAct.REMOVE, role=_tuf_role(role), keyid=keyid)
        _change(workspace, change, yes=yes)


def threshold(
    number: Annotated[int, typer.Argument(min=1, max=16, help="How many must sign.")],
    role: HolderOption = Holder.APPROVER,
    workspace: WorkspaceOption = None,
    yes: YesOption = False,
) -> None:
    """Choose how many of the approvers, or of the root keys, must sign.

    Example: edgefleet keys threshold 2
    """
    with fleet_errors():
        from fleet_server.ports.keys import KeyAct, KeyChange

        change = KeyChange(act=KeyAct.THRESHOLD, role=_tuf_role(role), threshold=number)
        _change(workspace, change, yes=yes)


def cosign(workspace: WorkspaceOption = None, yes: YesOption = False) -> None:
    """Add a second person's signature to a change of keys that waits.

    Example: EDGEFLEET_OPERATOR=~/approver edgefleet keys cosign
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.keys import build_key_desk

        desk = build_key_desk(open_fleet(workspace), ask=ask_passphrase())
        say_outcome(desk.cosign(show=looker(yes=yes)))


def forget_pending(
    workspace: WorkspaceOption = None,
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
) -> None:
    """Drop what waits for a signature; nothing of it was in force.

    Example: edgefleet keys forget-pending --reason "wrong version"
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.keys import build_key_desk

        dropped = build_key_desk(open_fleet(workspace)).forget_pending(reason)
        say(f"dropped: {dropped.act} {dropped.subject}" if dropped else "nothing is waiting")


def pin(
    sha256: Annotated[str, typer.Argument(help="Fingerprint of a root, as keys show prints it.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Take the fleet's root over into a second person's folder.

    The fingerprint comes from somebody you trust, not from the server.

    Example: EDGEFLEET_OPERATOR=~/approver edgefleet keys pin 9f2c…
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.keys import pin_root

        fleet = open_fleet(workspace)
        version = pin_root(fleet, sha256)
        say(f"{fleet.workspace.operator_dir} trusts root {version}")


def _change(workspace: Path | None, change: "KeyChange", *, yes: bool) -> None:
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.keys import build_key_desk, list_roles

    fleet = open_fleet(workspace)
    desk = build_key_desk(fleet, ask=ask_passphrase())
    say_outcome(desk.change(change, show=looker(yes=yes)))
    for role in list_roles(fleet):
        if role.name in ("root", "targets") and role.expires_at:
            say(
                f"{role.name}: version {role.version}, {role.threshold} of {len(role.keyids)} keys,"
                f" holds until {role.expires_at:%Y-%m-%d}"
            )
        for former in role.retired if role.name == change.role else ():
            say(f"former key {former}: destroy it (shred -u) once the new one has a backup")


def _tuf_role(role: Rotated | Holder) -> str:
    return "targets" if role == "approver" else str(role)
