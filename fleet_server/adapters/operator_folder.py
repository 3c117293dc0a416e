"""One person's folder: keys, the own copy of the root, what this person saw last.

The server never needs it. ``root.pem`` and ``approver.pem`` are keys (or ``root.toml`` and
``approver.toml`` when they are in a token); ``root.json`` is the newest root this person knows,
``seen.json`` the target files last seen in force, ``signed.json`` their version, ``retired.json``
the director keys that must never be named again, ``change.json`` a change of keys that is under
way. Every file is replaced as a whole, so a cut leaves the former or the new one.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from edge_agent.contract.assignment import DIRECTOR_ROLE
from fleet_server.adapters.key_files import UNLOCK_VARIABLE, Ask, load_key, staged_path
from fleet_server.adapters.root_edits import check_successor, parse_root
from fleet_server.adapters.token_signer import load_token
from fleet_server.durable_files import write_durable
from fleet_server.errors import NotFoundError, RefusedError

ROOT_KEY, APPROVER_KEY, ROOT_COPY, SIGNED = "root.pem", "approver.pem", "root.json", "signed.json"
SEEN, RETIRED, CHANGE = "seen.json", "retired.json", "change.json"
APPROVER_PUBLIC = "approver.pub"
FILE_BYTES_MAX = 67_108_864
KEY_FILES = {Root.type: ROOT_KEY, Targets.type: APPROVER_KEY}


class OperatorFolder:
    """Reads and writes one person's folder; keys are opened when they sign.

    Args:
        directory: The folder.
        ask: Asks for a passphrase or PIN; None when nobody can be asked.
    """

    def __init__(self, directory: Path, ask: Ask | None = None) -> None:
        self.directory = directory
        self.ask = ask
        self._signers: dict[Path, Signer] = {}

    # Keys ---------------------------------------------------------------------------------------

    def key_path(self, role: str) -> Path:
        """Where the key of ``root`` or ``targets`` lies, or would: a PEM, or a token's address."""
        path = self.directory / KEY_FILES[role]
        token = path.with_suffix(".toml")
        return token if token.exists() and not path.exists() else path

    def has_key(self, role: str) -> bool:
        """Tell whether this folder can sign for ``root`` or ``targets``."""
        return self.key_path(role).exists()

    def signer(self, role: str) -> Signer:
        """Open the key of ``root`` or ``targets``.

        Raises:
            NotFoundError: It is not here.
            RefusedError: It cannot be opened.
        """
        return self._open(self.key_path(role))

    def signers(self, role: str) -> list[Signer]:
        """Open the key of a role and its staged successor, those that are here."""
        path = self.key_path(role)
        return [self._open(one) for one in (path, staged_path(path)) if one.exists()]

    def staged_keyids(self) -> dict[str, str]:
        """Give the ids of successors that are staged here, by role."""
        return {
            role: self._open(path).public_key.keyid
            for role, name in KEY_FILES.items()
            if (path := staged_path(self.directory / name)).exists()
        }

    def forget_signers(self) -> None:
        """Open the keys anew the next time: their files changed."""
        self._signers.clear()

    def new_passphrase(self, former: Path) -> bytes | None:
        """Give what shall encrypt the successor of a key: None only when that was plain too.

        Raises:
            RefusedError: The former key is encrypted and no passphrase was given.
        """
        text = os.environ.get(UNLOCK_VARIABLE, "")
        if not text and former.exists() and b"ENCRYPTED" in former.read_bytes():
            text = self.ask(f"passphrase of the new {former.name}") if self.ask else ""
            if not text:
                raise RefusedError(
                    f"the new {former.name} needs a passphrase; set {UNLOCK_VARIABLE}"
                )
        return text.encode() or None

    def _open(self, path: Path) -> Signer:
        if path not in self._signers:
            is_token = path.suffix == ".toml"
            self._signers[path] = (load_token if is_token else load_key)(path, self.ask)
        return self._signers[path]

    # Root ---------------------------------------------------------------------------------------

    def root_copy(self) -> bytes:
        """Return this person's copy of the newest root; raises NotFoundError."""
        try:
            return (self.directory / ROOT_COPY).read_bytes()
        except OSError as error:
            raise NotFoundError(
                f"cannot read {self.directory / ROOT_COPY}: {error.strerror}; name the operator's"
                " folder with EDGEFLEET_OPERATOR, or take the root over with `edgefleet keys pin"
                " SHA256`, the fingerprint told by somebody you trust"
            ) from error

    def follow_root(self, chain: Sequence[bytes]) -> Root:
        """Follow the server's chain from the own copy on; the copy becomes its newest.

        Raises:
            RefusedError: The chain does not hold the own copy, or is not signed from there on.
        """
        own = self.root_copy()
        root = parse_root(own, what=str(self.directory / ROOT_COPY)).signed
        if root.version > len(chain) or chain[root.version - 1] != own:
            raise RefusedError(
                f"the server's root is not {self.directory / ROOT_COPY} (version {root.version});"
                " do not sign it before you know why"
            )
        for data in chain[root.version :]:
            following = parse_root(data)
            check_successor(root, following)
            root = following.signed
        if chain[-1] != own:
            write_durable(self.directory / ROOT_COPY, chain[-1])
        return root

    def pin_root(self, chain: Sequence[bytes], sha256: str) -> Root:
        """Take over the root of a fingerprint, then follow the chain; an own copy stays.

        Raises:
            RefusedError: The chain holds no such root, or there is a copy of another one.
        """
        if (self.directory / ROOT_COPY).exists():
            return self.follow_root(chain)
        for data in chain:
            if hashlib.sha256(data).hexdigest() == sha256.lower():
                self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_durable(self.directory / ROOT_COPY, data)
                return self.follow_root(chain)
        raise RefusedError(f"the server has no root with sha256 {sha256}; ask for it again")

    # What was seen ------------------------------------------------------------------------------

    def seen(self) -> dict[str, bytes]:
        """Return the target files this person saw in force last; empty for none."""
        value = self._load(SEEN)
        return {role: text.encode() for role, text in value.items() if isinstance(text, str)}

    def see(self, files: Mapping[str, bytes]) -> None:
        """Remember the target files in force; a director they no longer name is retired."""
        version = Metadata[Targets].from_bytes(files[Targets.type]).signed.version
        before = directors_of(self.seen())
        if gone := before - directors_of(files):
            self.retire_directors(gone)
        self._save(SEEN, {role: data.decode() for role, data in files.items()})
        self.remember(version)

    def remember(self, version: int) -> None:
        """Note the newest version of ``targets`` that the server stored."""
        self._save(SIGNED, {"targets": version})

    def signed_before(self) -> int:
        """Return the newest version of ``targets`` known to be stored, 0 for none."""
        version = self._load(SIGNED).get("targets")
        return version if isinstance(version, int) else 0

    def retired_directors(self) -> frozenset[str]:
        """Return ids of director keys whose old assignments would be fresh again."""
        listed = self._load(RETIRED).get(DIRECTOR_ROLE)
        return frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()

    def retire_directors(self, keyids: Collection[str]) -> None:
        """Remember director keys that must never be named again."""
        self._save(RETIRED, {DIRECTOR_ROLE: sorted(self.retired_directors() | set(keyids))})

    def check_directors(self, files: Mapping[str, bytes]) -> None:
        """Refuse target files that name a retired director.

        Raises:
            RefusedError: Assignments from before would count again.
        """
        if back := directors_of(files) & self.retired_directors():
            raise RefusedError(
                f"these targets name director key {min(back)[:12]}, which was retired: its"
                " old assignments would be fresh again; `edgefleet keys rotate director` makes a"
                " new one"
            )

    # A change under way -------------------------------------------------------------------------

    def change(self) -> dict[str, Any]:
        """Return the change of keys that is under way; empty for none."""
        return self._load(CHANGE)

    def begin_change(self, note: Mapping[str, Any]) -> None:
        """Note a change of keys before its first effect."""
        self._save(CHANGE, note)

    def end_change(self) -> None:
        """Forget the change of keys: it is complete, or never had an effect."""
        (self.directory / CHANGE).unlink(missing_ok=True)

    def _load(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(FILE_BYTES_MAX))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RefusedError(
                f"{path} cannot be read ({error}); restore it, or delete it if its loss is known"
            ) from error
        return value if isinstance(value, dict) else {}

    def _save(self, name: str, value: Mapping[str, Any]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durable(self.directory / name, json.dumps(value).encode(), mode=0o600)


def directors_of(files: Mapping[str, bytes]) -> frozenset[str]:
    """Give the ids of the director keys that target files name."""
    if Targets.type not in files:
        return frozenset()
    delegations = Metadata[Targets].from_bytes(files[Targets.type]).signed.delegations
    roles = (delegations.roles if delegations else None) or {}
    return frozenset(roles[DIRECTOR_ROLE].keyids) if DIRECTOR_ROLE in roles else frozenset()
