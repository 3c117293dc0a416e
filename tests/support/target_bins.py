"""A fleet with few, small hash bins, and a TUF client that knows nothing of this project."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Key, Metadata, Root, TargetFile, Targets
from tuf.ngclient import Updater

from edge_agent.adapters.tuf_metadata import ReceivedFiles, set_reference_time
from fleet_server.adapters.target_layout import COMPACT, edit_targets
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.ports.trust import SignedTarget
from tests.support.trust import TrustServer, make_target

FLAT_MAX, BIN_BITS = 4, 2
PATHS = tuple(f"digits/{n}/camera.tar" for n in range(1, 13))


def sign_edit(
    server: TrustServer,
    *,
    add: Iterable[str] = (),
    withdraw: Iterable[str] = (),
    director: Key | None = None,
) -> dict[str, bytes]:
    """Edit what is in force and sign it; bins begin with the fifth package, and are four."""
    edited = edit_targets(
        server.repository.current_targets(),
        root=Metadata[Root].from_bytes(server.repository.root()).signed,
        add=[make_target(path) for path in add],
        withdraw=withdraw,
        now_at=server.clock.now(),
        director=director,
        flat_targets_max=FLAT_MAX,
        bin_bits=BIN_BITS,
    )
    return sign_with_approver(server, edited)


def sign_with_approver(
    server: TrustServer, edited: Mapping[str, Metadata[Targets]]
) -> dict[str, bytes]:
    """Sign files with the approver's key alone."""
    for metadata in edited.values():
        metadata.signatures.clear()
        metadata.sign(server.key("approver"))
    return {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}


def approve_in_bins(
    server: TrustServer, *paths: str, withdraw: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """Approve and withdraw; return what was signed."""
    files = sign_edit(server, add=paths, withdraw=withdraw)
    server.repository.store_targets(files)
    return files


def all_files(repository: TufRepository) -> dict[str, bytes]:
    """Everything a client may ask for: the bundle and every bin it names."""
    bundle = repository.bundle()
    bins = {f"{b.version}.{b.role}.json": repository.read_bin(b) for b in repository.bins(bundle)}
    return {**bundle, **bins}


def look_up(
    directory: Path, root: bytes, files: Mapping[str, bytes], path: str, now_at: datetime
) -> TargetFile | None:
    """Look a path up as python-tuf's client does, with what ``directory`` remembers."""
    updater = Updater(
        metadata_dir=str(directory),
        metadata_base_url="memory:",
        fetcher=ReceivedFiles(files),
        bootstrap=root,
    )
    set_reference_time(updater, now_at)
    updater.refresh()
    return updater.get_targetinfo(path)


def is_as_signed(found: TargetFile | None, wanted: SignedTarget | None) -> bool:
    """Tell whether a client found what was approved, or nothing where nothing was."""
    if found is None or wanted is None:
        return found is None and wanted is None
    return (found.length, found.hashes["sha256"], found.custom) == (
        wanted.size_bytes,
        wanted.sha256,
        wanted.custom.to_json(),
    )
