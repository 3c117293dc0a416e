"""The root of trust as a value: its successors, what they change, and what is never signed.

Nothing here opens a key or a file. Every successor passes ``check_root``: no threshold that the
keys cannot reach, no key under two names, no person's key that the server holds as well.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleet_server.adapters.key_files import canonical_keyid
from fleet_server.errors import RefusedError
from fleet_server.ports.keys import KeyView, RootView

ROOT_DAYS = 730
ROOT_BYTES_MAX = 262_144
CHAIN_MAX = 256
"""Devices follow at most this many root versions (python-tuf)."""
KEYS_MAX = 16
"""Keys of one role; what devices count signatures of is bounded by it."""
PEOPLES_ROLES = (Root.type, Targets.type)
ONLINE_ROLES = (Snapshot.type, Timestamp.type)


def parse_root(data: bytes, *, what: str = "root") -> Metadata[Root]:
    """Read a root; raises RefusedError."""
    if len(data) > ROOT_BYTES_MAX:
        raise RefusedError(f"{what} has {len(data)} bytes, the limit is {ROOT_BYTES_MAX}")
    try:
        metadata = Metadata[Root].from_bytes(data)
    except (RepositoryError, ValueError, RecursionError) as error:
        raise RefusedError(f"{what} is not root metadata: {error}") from error
    if not isinstance(metadata.signed, Root):
        raise RefusedError(f"{what} is {metadata.signed.type} metadata, not root")
    return metadata


def check_successor(current: Root, following: Metadata[Root]) -> None:
    """Check that a root follows another: version, both thresholds, and ``check_root``.

    Raises:
        RefusedError: It does not.
    """
    root = following.signed
    if root.version != current.version + 1:
        raise RefusedError(f"root version {root.version} does not follow {current.version}")
    check_root(root)
    missing = missing_signatures(current, following)
    if missing:
        raise RefusedError(f"root {root.version} is not signed enough: {missing}")


def missing_signatures(current: Root, following: Metadata[Root]) -> str:
    """Say which root keys must still sign; empty when old and new threshold are reached."""
    result = following.signed.get_root_verification_result(
        current, following.signed_bytes, following.signatures
    )
    if result:
        return ""
    unsigned = ", ".join(sorted(keyid[:12] for keyid in result.unsigned))
    return f"{len(result.signed)} root keys signed, waiting for some of {unsigned}"


def check_root(root: Root) -> None:
    """Refuse a root that nobody could use, or that counts one key twice.

    Raises:
        RefusedError: Names the role and the key.
    """
    for name, role in root.roles.items():
        if len(role.keyids) > KEYS_MAX:
            raise RefusedError(
                f"{name} would have {len(role.keyids)} keys, the limit is {KEYS_MAX}"
            )
        if not 1 <= role.threshold <= len(role.keyids):
            raise RefusedError(
                f"{name}: a threshold of {role.threshold} with {len(role.keyids)} keys locks"
                " everybody out; add a key first or choose a lower threshold"
            )
    for keyid, key in root.keys.items():
        if canonical_keyid(key) != keyid:
            raise RefusedError(
                f"key {keyid[:12]} is {canonical_keyid(key)[:12]} under another name: one key"
                " counts once"
            )
    people = {keyid for name in PEOPLES_ROLES for keyid in root.roles[name].keyids}
    online = {keyid for name in ONLINE_ROLES for keyid in root.roles[name].keyids}
    if both := people & online:
        raise RefusedError(
            f"key {min(both)[:12]} is one of the server's: a person's key must not lie there"
        )


def next_root(current: Root, now_at: datetime) -> Root:
    """Give the unchanged successor with a new date; raises RefusedError at the chain's end."""
    if current.version >= CHAIN_MAX:
        raise RefusedError(f"devices follow {CHAIN_MAX} roots; this fleet must be joined anew")
    root = Root.from_dict(current.to_dict())
    root.version += 1
    root.expires = (now_at + timedelta(days=ROOT_DAYS)).replace(microsecond=0)
    return root


def replace_key(root: Root, role: str, old: str, new: Key) -> None:
    """Put a key in the place of another; raises RefusedError when the old one is not there."""
    add_key(root, role, new)
    remove_key(root, role, old, is_replaced=True)


def add_key(root: Root, role: str, key: Key) -> None:
    """Add a key; raises RefusedError when it counts already."""
    if key.keyid in root.roles[role].keyids:
        raise RefusedError(f"key {key.keyid[:12]} is a key of {role} already")
    root.add_key(key, role)


def remove_key(root: Root, role: str, keyid: str, *, is_replaced: bool = False) -> None:
    """Remove a key; raises RefusedError when too few would be left."""
    holder = root.roles[role]
    if keyid not in holder.keyids:
        raise RefusedError(f"key {keyid[:12]} is no key of {role}; `edgefleet keys show {role}`")
    if not is_replaced and len(holder.keyids) - 1 < holder.threshold:
        raise RefusedError(
            f"{role} needs {holder.threshold} of {len(holder.keyids)} keys: removing one locks"
            " everybody out; add a key first, or lower the threshold: `edgefleet keys threshold`"
        )
    root.revoke_key(keyid, role)


def set_threshold(root: Root, role: str, threshold: int) -> None:
    """Choose how many must sign; raises RefusedError when that cannot be reached."""
    keys = len(root.roles[role].keyids)
    if not 1 <= threshold <= keys:
        raise RefusedError(
            f"{role} has {keys} keys, a threshold of {threshold} locks everybody out; add keys"
            " first with `edgefleet keys add-approver`"
        )
    root.roles[role].threshold = threshold


def find_key(root: Root, role: str, start: str) -> str:
    """Find the one key id of a role that begins so; raises RefusedError."""
    found = [keyid for keyid in root.roles[role].keyids if keyid.startswith(start)]
    if len(found) != 1 or not start:
        known = ", ".join(keyid[:12] for keyid in root.roles[role].keyids)
        raise RefusedError(f"{start!r} names {len(found)} keys of {role}; there are {known}")
    return found[0]


def compare_roots(before: Root, after: Root) -> list[str]:
    """Say in sentences what a successor changes, for the person who signs it."""
    sentences = [f"root {before.version} -> {after.version}, holds until {after.expires:%Y-%m-%d}"]
    for name, role in after.roles.items():
        old = before.roles[name]
        sentences += [f"{name}: + key {k}" for k in role.keyids if k not in old.keyids]
        sentences += [f"{name}: - key {k}" for k in old.keyids if k not in role.keyids]
        if role.threshold != old.threshold:
            sentences.append(f"{name}: {old.threshold} -> {role.threshold} must sign")
    if (before.consistent_snapshot, before.unrecognized_fields) != (
        after.consistent_snapshot,
        after.unrecognized_fields,
    ):
        raise RefusedError("this root changes more than keys, thresholds and its date")
    return sentences


def view_chain(chain: Sequence[bytes], fingerprints: Sequence[str]) -> list[RootView]:
    """Describe every root of a chain."""
    roots = [parse_root(data).signed for data in chain]
    return [
        RootView(
            version=root.version,
            sha256=sha256,
            expires_at=root.expires,
            roles={
                name: KeyView(keyids=tuple(role.keyids), threshold=role.threshold)
                for name, role in root.roles.items()
            },
        )
        for root, sha256 in zip(roots, fingerprints, strict=True)
    ]
