"""Look into the packages of a version, as who signs them must: hashed and opened here."""

import hashlib
from collections.abc import Sequence

from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import SCHEMA, OnWithdrawn, TargetCustom, unpack_members
from edge_agent.contract.transfer import CHUNK_BYTES
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.devices import ArtifactRecord, Ledgers, PackageStore, VersionRecord
from fleet_server.ports.trust import SignedTarget


def find_versions(ledgers: Ledgers, wanted: Sequence[tuple[str, int]]) -> list[VersionRecord]:
    """Find versions; raises NotFoundError, which names those a model has."""
    found = []
    with ledgers() as ledger:
        for model, version in wanted:
            record = ledger.approvals.find_version(model, version)
            if record is None:
                raise _absent(model, version, ledger.approvals.list_versions(model))
            found.append(record)
    return found


def _absent(model: str, version: int, known: list[int]) -> NotFoundError:
    if not known:
        return NotFoundError(f"no model {model!r}; edgefleet model ls names those there are")
    listed = ", ".join(str(number) for number in known[-10:])
    return NotFoundError(f"{model} has no version {version}; there are {listed}")


def inspect_packages(
    objects: PackageStore, record: VersionRecord, *, slot: str, on_withdrawn: OnWithdrawn
) -> list[SignedTarget]:
    """Hash every package of a version and give what would be signed.

    Raises:
        RefusedError: It has no packages, or a package is not what was registered.
    """
    if not record.artifacts:
        raise RefusedError(
            f"{record.model} {record.number} has no packages; train it for at least one device"
            " profile"
        )
    return [
        _inspect(objects, record, artifact, slot, on_withdrawn) for artifact in record.artifacts
    ]


def _inspect(
    objects: PackageStore,
    record: VersionRecord,
    artifact: ArtifactRecord,
    slot: str,
    on_withdrawn: OnWithdrawn,
) -> SignedTarget:
    blob = objects.read(artifact.sha256)
    try:
        schema = unpack_members(blob)[SCHEMA]
    except ContractError as error:
        raise RefusedError(f"{artifact.target} is not a package: {error}") from error
    found = (len(blob), hashlib.sha256(schema).hexdigest(), hash_chunks(blob))
    registered = (artifact.size_bytes, artifact.schema_sha256, artifact.chunks_sha256)
    if found != registered:
        raise RefusedError(
            f"{artifact.target} in the store is not what was registered (size, schema and"
            f" chunk hashes {found}, registered {registered}); nothing was signed"
        )
    return SignedTarget(
        path=artifact.target,
        sha256=artifact.sha256,
        size_bytes=len(blob),
        custom=TargetCustom(
            model=record.model,
            version=record.number,
            profile=artifact.profile,
            slot=slot,
            schema=artifact.schema_sha256,
            chunks=artifact.chunks_sha256,
            on_withdrawn=on_withdrawn,
        ),
    )


def hash_chunks(blob: bytes) -> str:
    """Give the sha256 over the concatenated sha256 of the package's 64 KiB chunks.

    >>> hash_chunks(b"")[:8]
    'e3b0c442'
    """
    whole = hashlib.sha256()
    for start in range(0, len(blob), CHUNK_BYTES):
        whole.update(hashlib.sha256(blob[start : start + CHUNK_BYTES]).digest())
    return whole.hexdigest()
