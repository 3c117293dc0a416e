"""What is known of the ways a version's packages travel."""

from typing import Any

from sqlmodel import col, select

from edge_agent.contract.transfer import Encoding
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import ArtifactRow
from fleet_server.adapters.encoding_store import DirectoryEncodingStore
from fleet_server.bootstrap import Fleet
from fleet_server.ports.registry import Version


def list_encodings(fleet: Fleet, version: Version) -> list[dict[str, Any]]:
    """List the encodings devices have asked for: profile, base (its target), encoding and bytes."""
    store = DirectoryEncodingStore(fleet.workspace.encodings_dir, is_reader=True)
    listed = []
    for artifact in version.artifacts:
        for found in store.list_of(artifact.package.sha256):
            is_identity = found.offer.encoding is Encoding.IDENTITY
            listed.append(
                {
                    "profile": artifact.package.profile,
                    "base": _name(fleet, found.pair.base) if found.pair.base else "",
                    "encoding": str(found.offer.encoding),
                    "way": found.way,
                    "bytes": found.package_bytes if is_identity else found.offer.size_bytes,
                    "package_bytes": found.package_bytes,
                }
            )
    return listed


def _name(fleet: Fleet, sha256: str) -> str:
    statement = select(ArtifactRow.target).where(col(ArtifactRow.sha256) == sha256)
    with read_session(fleet.engine) as session:
        return session.exec(statement).first() or sha256[:12]
