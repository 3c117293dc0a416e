"""Look at keys, signed metadata and what waits for a signature, for ``edgefleet doctor``."""

import contextlib
import grp
import pwd
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fleet_server.adapters.operator_folder import KEY_FILES
from fleet_server.bootstrap import Fleet
from fleet_server.core.checkup import (
    EXPIRY_WARN,
    ROOT_WARN,
    TARGETS_WARN,
    FilePermission,
    Finding,
    Grade,
    judge_expiry,
    judge_operator_keys,
    judge_pending,
    may_read,
)
from fleet_server.errors import FleetError
from fleet_server.wiring.trust import build_pending, build_repository

PEOPLES_METADATA: dict[str, tuple[timedelta, str]] = {
    "root": (ROOT_WARN, "edgefleet keys renew --root"),
    "targets": (TARGETS_WARN, "edgefleet keys renew"),
}


def check_operator_keys(fleet: Fleet) -> Finding:
    """Look whether the user who owns the server's folder can read a key of people.

    Both the folder in use and the one beside the server are looked at, former keys too.
    """
    workspace = fleet.workspace
    owner = workspace.server_dir.stat()
    groups = _groups_of(owner.st_uid, owner.st_gid)
    folders = dict.fromkeys((workspace.operator_dir, workspace.root / "operator"))
    keys = [
        path
        for folder in folders
        for name in KEY_FILES.values()
        for path in (*_find(folder, name), *_find(folder, f"{name}.*"))
    ]
    return judge_operator_keys(
        [str(path) for path in keys if _is_readable(path, owner.st_uid, groups)]
    )


def check_metadata(fleet: Fleet, now_at: datetime) -> Iterator[Finding]:
    """Look when signatures run out: the people's months before, the server's when it is off."""
    try:
        roles = build_repository(fleet).roles()
    except FleetError as error:
        yield Finding(Grade.BAD, str(error), "restore server/tuf from a backup")
        return
    for name, role in roles.items():
        warn_before, step = PEOPLES_METADATA.get(name, (EXPIRY_WARN, "run `edgefleet up`"))
        expires_at = role.expires.replace(tzinfo=UTC)
        finding = judge_expiry(
            f"{name} metadata", expires_at, now_at, step, warn_before=warn_before
        )
        if name not in PEOPLES_METADATA and finding.grade is Grade.WARNING:
            finding = Finding(Grade.GOOD, finding.what)  # the running server signs these anew
        yield finding


def check_pending(fleet: Fleet, now_at: datetime) -> Iterator[Finding]:
    """Look whether something has waited too long for a signature."""
    try:
        proposal = build_pending(fleet).load()
    except FleetError as error:
        yield Finding(Grade.BAD, str(error), "edgefleet keys forget-pending")
        return
    if proposal is not None:
        yield judge_pending(f"{proposal.act} {proposal.subject}", proposal.proposed_at, now_at)


def _find(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def _groups_of(uid: int, gid: int) -> set[int]:
    """Give the groups of a user; one that has no entry has the folder's group at most."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return {gid}
    listed = (group.gr_gid for group in grp.getgrall() if user.pw_name in group.gr_mem)
    return {user.pw_gid, *listed}


def _is_readable(path: Path, uid: int, groups: set[int]) -> bool:
    """Tell whether a user may read a file: all folders above must let the user in."""
    path = path.resolve()
    try:
        return all(
            may_read(_permission(one), uid=uid, groups=groups) for one in (path, *path.parents)
        )
    except OSError:  # we cannot look; the server's user may be somebody else
        return False


def _permission(path: Path) -> FilePermission:
    found = path.stat()
    return FilePermission(
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        group=found.st_gid,
        is_folder=stat.S_ISDIR(found.st_mode),
    )
