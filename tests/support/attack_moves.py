"""What several attacks do with keys they hold: add targets, split the approval, swap a package."""

import hashlib
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edge_agent.contract.package import SCHEMA, TargetCustom, unpack_members
from tests.support.agent import ChunkServer
from tests.support.attack_device import PackageServer
from tests.support.attack_payloads import COMPACT
from tests.support.attack_server import MODEL, PROFILE, UNSIGNED, AttackedServer, package
from tests.support.attacks import AttackWorld


def target_of(path: str, blob: bytes, **changes: Any) -> TargetFile:
    """The signed entry of a package; ``changes`` lie about it (``length``, ``sha256``, custom)."""
    server = ChunkServer(blob)
    length = changes.pop("length", len(blob))
    sha256 = changes.pop("sha256", server.sha256)
    custom = TargetCustom(
        model=MODEL,
        version=int(path.split("/")[1]),
        profile=PROFILE,
        slot=MODEL,
        schema=hashlib.sha256(unpack_members(package(path))[SCHEMA]).hexdigest(),
        chunks=server.chunks,
    )
    fields = {"custom": {**custom.to_json(), **changes}}
    return TargetFile(length, {"sha256": sha256}, path, fields)


def add_unsigned(server: AttackedServer, *signers: CryptoSigner) -> None:
    """Publish targets that hold a package nobody approved, signed by whoever is given."""

    def edit(targets: Targets) -> None:
        targets.targets[UNSIGNED] = target_of(UNSIGNED, package(UNSIGNED))

    server.publish_targets(edit, *signers)


def need_two_approvers(server: AttackedServer) -> CryptoSigner:
    """Let the root ask for two approvers; return the second one's key."""
    second = CryptoSigner.generate_ed25519()
    root = Metadata[Root].from_bytes(server.repository.root())
    root.signed.version += 1
    root.signed.add_key(second.public_key, "targets")
    root.signed.roles["targets"].threshold = 2
    root.sign(server.key("root"))
    server.repository.store_root(root.to_bytes(COMPACT))
    server.publish_targets(lambda _: None, server.key("approver"), second)
    return second


def edit_root(w: AttackWorld, signer: CryptoSigner, edit: Any) -> dict[str, bytes]:
    """Files with a next root that ``signer`` signed."""
    root = Metadata[Root].from_bytes(w.server.repository.root())
    root.signed.version += 1
    edit(root.signed)
    root.signatures.clear()
    root.sign(signer)
    return w.server.refresh() | {f"{root.signed.version}.root.json": root.to_bytes(COMPACT)}


def run_approved(w: AttackWorld, blob: bytes, *, for_s: float = 30, **changes: Any) -> None:
    """Let an approver sign a package as ``plant`` 99, and assign it."""

    def edit(targets: Targets) -> None:
        targets.targets[UNSIGNED] = target_of(UNSIGNED, blob, **changes)

    w.server.publish_targets(edit, w.server.key("approver"))
    server = PackageServer([blob])
    if "sha256" in changes:
        lying = ChunkServer(blob)
        lying.sha256 = changes["sha256"]
        server.by_sha256[lying.sha256] = lying
    w.device.serve = server
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6), for_s=for_s)
