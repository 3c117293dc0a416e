"""Whoever gets at a device's disk while the agent itself is not replaced.

A person with root on a device owns that device; these are the attempts that stop short of it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.identity_store import identity_directory, load_identity, save_identity
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.state_store import FORMER, FileStateStore
from edge_agent.contract.codes import Code
from edge_agent.contract.transfer import ChunkRequest, Part
from edge_agent.errors import LockedError, SettingsError, StoppedModelError
from edge_agent.ports import Identity
from tests.support.agent import ChunkServer
from tests.support.attack_payloads import COMPACT
from tests.support.attack_server import UNSIGNED, V1, V2, V3, package
from tests.support.attacks import (
    IGNORED,
    RECOVERED,
    TOLD,
    Attack,
    AttackSuite,
    AttackWorld,
    hold,
)

attack = AttackSuite("the device's disk")
EVIL = package(UNSIGNED)


def blob_of(w: AttackWorld, target: str) -> Path:
    return w.device.blobs.path(ChunkServer(package(target)).sha256)


def restart_and_fetch(w: AttackWorld) -> None:
    w.restart()
    w.device.run(60)


# Packages ---------------------------------------------------------------------------------------


@attack(IGNORED)
def swap_the_package_that_runs(w: AttackWorld) -> None:
    """What runs was read and hashed once, and stays in memory."""
    blob_of(w, V1).write_bytes(EVIL)
    w.device.run(60)


@attack(Code.BLOB_HASH)
def swap_the_package_and_cut_the_power(w: AttackWorld) -> None:
    """A package is hashed whenever it is read; a wrong one is removed and fetched anew."""
    blob_of(w, V1).write_bytes(EVIL)
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def flip_one_bit_of_the_package_and_cut_the_power(w: AttackWorld) -> None:
    """A package is hashed whenever it is read; a wrong one is removed and fetched anew."""
    path = blob_of(w, V1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def put_a_link_in_the_place_of_the_package(w: AttackWorld) -> None:
    """What the name leads to is hashed, wherever it lies."""
    path = blob_of(w, V1)
    elsewhere = w.device.directory / "elsewhere"
    elsewhere.write_bytes(EVIL)
    path.unlink()
    path.symlink_to(elsewhere)
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def put_an_endless_file_in_the_place_of_the_package(w: AttackWorld) -> None:
    """Only plain files are read, up to the limit of a package."""
    path = blob_of(w, V1)
    path.unlink()
    path.symlink_to("/dev/zero")
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def put_a_pipe_in_the_place_of_the_package(w: AttackWorld) -> None:
    """Only plain files are read: a pipe would be waited for without end."""
    path = blob_of(w, V1)
    path.unlink()
    os.mkfifo(path)
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def remove_every_package(w: AttackWorld) -> None:
    """What is missing is said and fetched anew."""
    shutil.rmtree(w.device.directory / "blobs")
    restart_and_fetch(w)


@attack(Code.BLOB_HASH)
def swap_the_package_of_an_update_before_it_answers(w: AttackWorld) -> None:
    """The other bank's package is hashed again before it is loaded."""
    blob_of(w, V2).write_bytes(EVIL)
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6), for_s=60)
    w.rightful = V2


def half_fetched(w: AttackWorld) -> str:
    """Fetch a part of ``plant`` 3, then stop answering; return its sha256."""
    sha256, left = ChunkServer(package(V3)).sha256, [1]

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        if request.part is Part.CHUNKS:
            left[0] -= 1
        return w.device.serve_honestly(request) if left[0] >= 0 else ()

    w.device.serve = serve
    w.retained = w.server.refresh(), w.server.order(V3, 6)
    w.device.deliver(*w.retained, for_s=2)
    return sha256


def finish_honestly(w: AttackWorld) -> None:
    w.device.serve = w.device.serve_honestly
    w.restart()
    w.device.run(60)
    assert w.device.ask().target == V3
    w.answers[V3] = w.device.ask()
    w.rightful = V3


@attack(RECOVERED)
def fill_half_a_package_with_other_bytes(w: AttackWorld) -> None:
    """At a resume every chunk on disk is hashed again; a wrong one is fetched again."""
    part = w.device.directory / "parts" / f"{half_fetched(w)}.part"
    part.write_bytes(EVIL[:65_536] + part.read_bytes()[65_536:])
    finish_honestly(w)


@attack(RECOVERED)
def claim_that_every_chunk_is_there(w: AttackWorld) -> None:
    """At a resume a claim counts only for chunks whose bytes are right."""
    sha256 = half_fetched(w)
    (w.device.directory / "parts" / f"{sha256}.bitmap").write_bytes(b"\xff")
    finish_honestly(w)


@attack(RECOVERED)
def swap_the_list_of_chunk_hashes_of_half_a_package(w: AttackWorld) -> None:
    """The whole is hashed before it becomes a package; a wrong one is fetched anew."""
    sha256, lying = half_fetched(w), ChunkServer(bytes(len(package(V3))))
    (w.device.directory / "parts" / f"{sha256}.hashes").write_bytes(lying.hashes)
    lying.sha256 = sha256

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        if request.part is Part.HASHES:
            return w.device.serve_honestly(request)
        is_asked_anew = Code.BLOB_HASH in w.device.said_codes()
        server = ChunkServer(package(V3)) if is_asked_anew else lying
        return [frame.encode() for frame in server.answer(request)]

    w.device.serve = serve
    w.restart()
    w.device.run(120)
    assert Code.BLOB_HASH in w.device.said_codes()
    finish_honestly(w)


# State ------------------------------------------------------------------------------------------


@attack(IGNORED)
def spoil_the_state_file(w: AttackWorld) -> None:
    """A state that its checksum does not fit is put aside for the one before it."""
    state = w.device.directory / "state.json"
    state.write_bytes(state.read_bytes()[:-20])
    w.restart()


@attack(IGNORED)
def name_another_package_in_the_state_file(w: AttackWorld) -> None:
    """A state that its checksum does not fit is put aside for the one before it."""
    state = w.device.directory / "state.json"
    evil, good = (ChunkServer(package(t)).sha256.encode() for t in (UNSIGNED, V1))
    state.write_bytes(state.read_bytes().replace(good, evil))
    w.device.blobs.path(evil.decode()).write_bytes(EVIL)
    w.restart()


@attack(RECOVERED)
def forge_a_whole_state_that_runs_another_package(w: AttackWorld) -> None:
    """What runs is looked up in the metadata trusted before: unsigned, it is let go of at once."""
    w.device.blobs.path(ChunkServer(EVIL).sha256).write_bytes(EVIL)
    for name in ("state.json", FORMER):
        path = w.device.directory / name
        _, _, body = path.read_bytes().partition(b"\n")
        for said, forged in ((V1, UNSIGNED), (sha_of(V1), sha_of(UNSIGNED))):
            body = body.replace(said.encode(), forged.encode())
        path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    w.device.restart()
    with pytest.raises(StoppedModelError):
        w.device.ask()
    assert Code.WITHDRAWN in w.device.said_codes()
    w.update(V1, 6)


def sha_of(target: str) -> str:
    return ChunkServer(package(target)).sha256


@attack(RECOVERED)
def remove_every_state_file(w: AttackWorld) -> None:
    """Everything is verified and fetched anew; nothing is taken from what lies about."""
    for name in ("state.json", FORMER):
        (w.device.directory / name).unlink(missing_ok=True)
    restart_and_fetch(w)


@attack(RECOVERED)
def fill_the_state_file_with_garbage_of_every_kind(w: AttackWorld) -> None:
    """What cannot be understood is not guessed at; the device begins anew."""
    for junk in (b"", b"\0" * 4_096, b"{}", b"\xff" * 100, b"[" * 50_000):
        for name in ("state.json", FORMER):
            (w.device.directory / name).write_bytes(junk)
        restart_and_fetch(w)


@attack(Code.ASSIGN_REPLAY)
def restore_the_disk_from_a_backup_and_replay(w: AttackWorld) -> None:
    """After the backup the newest assignment counts again; what is older than it is refused."""
    backup = w.device.directory.with_name("backup")
    old = w.server.order(V1, 4)
    shutil.copytree(w.device.directory, backup, symlinks=True)
    w.update(V2, 6)
    w.device.close()
    shutil.rmtree(w.device.directory)
    shutil.copytree(backup, w.device.directory, symlinks=True)
    w.restart()
    assert w.device.ask() == w.answers[V2]
    w.device.forget_reports()
    w.device.deliver(w.server.refresh(), old)


@attack(Code.TUF_EXPIRED)
def restore_a_backup_and_replay_the_metadata_of_its_day(w: AttackWorld) -> None:
    """Metadata of the backup's day has expired; what runs after a restore is still approved."""
    old, envelope = w.server.refresh(), w.server.order(V2, 6)
    backup = w.device.directory.with_name("backup")
    shutil.copytree(w.device.directory, backup, symlinks=True)
    w.advance(days=3)
    w.update(V2, 7)
    w.device.close()
    shutil.rmtree(w.device.directory)
    shutil.copytree(backup, w.device.directory, symlinks=True)
    w.retained = None
    w.restart()
    w.rightful = V1
    w.device.deliver(old, envelope)


# Trust ------------------------------------------------------------------------------------------


def forged_root(w: AttackWorld) -> bytes:
    root = Metadata[Root].from_bytes(w.device.root)
    mine = CryptoSigner.generate_ed25519()
    for role in ("root", "timestamp", "snapshot", "targets"):
        root.signed.roles[role].keyids.clear()
        root.signed.add_key(mine.public_key, role)
    root.signatures.clear()
    root.sign(mine)
    return root.to_bytes(COMPACT)


@attack(Code.TUF_SIGNATURE)
def swap_the_pinned_root(w: AttackWorld) -> None:
    """With another root the fleet's own metadata is refused, loudly; what runs goes on."""
    honest, w.device.root = w.device.root, forged_root(w)
    for path in (w.device.directory / "tuf").rglob("*root*.json"):
        path.unlink()
    w.device.restart()
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))
    w.device.root = honest
    w.device.serve = w.device.serve_honestly
    shutil.rmtree(w.device.directory / "tuf")
    codes = w.device.said_codes()
    w.device.restart()
    assert w.device.said_codes() == codes


@attack(IGNORED)
def swap_the_root_among_the_cached_metadata(w: AttackWorld) -> None:
    """The cache is verified from the pinned root at every message."""
    for path in (w.device.directory / "tuf").rglob("*root*.json"):
        path.unlink()
        path.write_bytes(forged_root(w))
    w.restart()


@attack(IGNORED)
def empty_every_file_of_the_cached_metadata(w: AttackWorld) -> None:
    """The cache is verified when it is read, and received anew."""
    for path in (w.device.directory / "tuf").rglob("*.json"):
        path.write_bytes(b"")
    w.restart()


@attack(Code.WRONG_DEVICE)
def give_the_device_the_identity_of_another(w: AttackWorld) -> None:
    """An assignment names its device; the broker's certificate decides who is spoken to."""
    w.device.device_id = "cam-2"
    w.device.restart()
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))
    w.device.device_id = "cam-1"
    w.device.restart()


@attack("SettingsError", seen=TOLD)
def edit_the_identity_file(w: AttackWorld) -> str:
    """A damaged identity is refused by name with the next step."""
    home = identity_directory(w.device.directory)
    save_identity(
        Identity(
            device_id="cam-1",
            profile="camera",
            fleet="fleet-1",
            host="127.0.0.1",
            mqtt_port=1,
            api_port=1,
            root=w.device.root,
            directory=home,
        ),
        ca_pem=b"ca",
        certificate_pem=b"certificate",
        key_pem=b"key",
    )
    file = home / "identity.json"
    value = json.loads(file.read_bytes())
    for wrong in ({"device_id": "../../x"}, {"root": "%%%"}, {"mqtt_port": 0}, {"v": 99}):
        file.write_text(json.dumps({**value, **wrong}))
        with pytest.raises(SettingsError, match=r"identity\.json is damaged"):
            load_identity(w.device.directory)
    return SettingsError.__name__


@attack("LockedError", seen=TOLD)
def run_a_second_agent_on_the_same_directory(w: AttackWorld) -> str:
    """The kernel's lock lets one agent at a directory, and frees it with the process."""
    first, second = DirectoryLock(w.device.directory), DirectoryLock(w.device.directory)
    first.acquire()
    with pytest.raises(LockedError, match=str(os.getpid())):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    return LockedError.__name__


@attack(IGNORED)
def spoil_the_outbox(w: AttackWorld) -> None:
    """Telemetry that cannot be read is put aside and counted; the model does not wait for it."""
    path = w.device.directory / "outbox.db"
    for junk in (b"SQLite format 3\0" + b"\xff" * 4_096, b"\0" * 10_000, b"junk"):
        path.write_bytes(junk)
        outbox = Outbox(path)
        assert outbox.counts()["waiting"] == 0
        outbox.close()
    w.restart()


@attack(IGNORED)
def copy_an_old_outbox_back(w: AttackWorld) -> None:
    """A window has one key for ever; the server counts it once however often it is sent."""
    path = w.device.directory / "outbox.db"
    Outbox(path).close()
    old = path.read_bytes()
    path.write_bytes(old)
    Outbox(path).close()
    w.restart()


@attack(IGNORED)
def leave_strange_files_everywhere(w: AttackWorld) -> None:
    """Only names the agent made are read; the rest is removed or left alone."""
    for name in ("blobs/../state.json.tmp", "blobs/x.tmp", "parts/x.part", "tuf/evil.json", "a"):
        (w.device.directory / name).write_bytes(EVIL)
    store = FileStateStore(w.device.directory)
    assert store.load() is not None
    w.restart()


@attack.cases()
def test_an_attack_on_the_devices_disk_is_refused_and_seen(
    attack: Attack, world: AttackWorld
) -> None:
    hold(world, attack)
