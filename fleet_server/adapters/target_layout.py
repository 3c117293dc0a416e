"""How approved packages lie in signed metadata: edits of the target files, without their keys.

Files are handed about by role name: ``{"targets": bytes}``. Nothing here signs, stores or reads a
clock; what is given is edited into the unsigned successors of the files that change. ``targets``
is among them at every edit, so that its version and its date grow with every approval.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.package import TargetCustom
from edge_agent.contract.transfer import check_sha256
from fleet_server.errors import RefusedError
from fleet_server.ports.trust import SignedTarget

TARGETS_DAYS = 180
ISSUED_FIELD = "x-issued"
COMPACT = JSONSerializer(compact=True)


def edit_targets(
    current: Mapping[str, bytes],
    *,
    add: Sequence[SignedTarget],
    withdraw: Sequence[str],
    now_at: datetime,
) -> dict[str, Metadata[Targets]]:
    """Give the unsigned successors of the files that an approval changes.

    Args:
        current: Every target file now in force, by role.
        add: Packages to sign.
        withdraw: Paths to take out; one that is not there is passed over.
        now_at: For the dates.
    """
    metadata = Metadata[Targets].from_bytes(current[Targets.type])
    targets = metadata.signed
    targets.version += 1
    for path in withdraw:
        targets.targets.pop(path, None)
    for target in add:
        targets.targets[target.path] = _target_file(target)
    stamp_targets(targets, now_at)
    metadata.signatures.clear()
    return {Targets.type: metadata}


def read_targets(files: Mapping[str, bytes]) -> dict[str, SignedTarget]:
    """Read every package from target files; raises ContractError for what devices would refuse."""
    found: dict[str, SignedTarget] = {}
    for data in files.values():
        found.update(read_file(Metadata[Targets].from_bytes(data).signed))
    return found


def read_file(targets: Targets) -> dict[str, SignedTarget]:
    """Read the packages of one file; raises ContractError for what devices would refuse."""
    return {
        path: SignedTarget(
            path=path,
            sha256=check_sha256(target.hashes.get("sha256", ""), what=path),
            size_bytes=target.length,
            custom=TargetCustom.from_json(target.custom),
        )
        for path, target in targets.targets.items()
    }


def verify_files(root: Root, files: Mapping[str, bytes]) -> Targets:
    """Verify that the approvers whom ``root`` names signed every file; return ``targets``.

    Raises:
        RefusedError: A file is unreadable or not signed by enough of them.
    """
    try:
        metadata = Metadata[Targets].from_bytes(files[Targets.type])
        root.verify_delegate(Targets.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError, KeyError) as error:
        raise RefusedError(f"not signed by this fleet's approvers ({error})") from error
    return metadata.signed


def stamp_targets(targets: Targets, now_at: datetime) -> None:
    """Date ``targets``: until when it holds, and the date devices may take their floor from."""
    targets.expires = expiry(now_at, TARGETS_DAYS)
    targets.unrecognized_fields[ISSUED_FIELD] = now_at.replace(microsecond=0).isoformat()


def expiry(now_at: datetime, days: float) -> datetime:
    """Give a date as TUF writes it, without fractions of a second."""
    return (now_at + timedelta(days=days)).replace(microsecond=0)


def _target_file(target: SignedTarget) -> TargetFile:
    return TargetFile(
        target.size_bytes,
        {"sha256": target.sha256},
        target.path,
        {"custom": target.custom.to_json()},
    )
