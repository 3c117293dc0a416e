"""Packages on disk: addressed by content, checked when read."""

import hashlib
from pathlib import Path

import pytest

from fleet_server.adapters.object_store import ObjectStore
from fleet_server.errors import FleetError, NotFoundError


def test_a_blob_is_read_back_by_its_hash(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    sha256 = store.put(b"model")
    assert sha256 == hashlib.sha256(b"model").hexdigest()
    assert store.read(sha256) == b"model"
    assert store.read_range(sha256, 1, 3) == b"ode"
    assert store.size_bytes(sha256) == 5


def test_storing_the_same_bytes_twice_leaves_one_file_and_no_temporary(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    assert store.put(b"model") == store.put(b"model")
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_a_cut_file_is_written_again(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    sha256 = store.put(b"model")
    store.path(sha256).write_bytes(b"mo")
    store.put(b"model")
    assert store.read(sha256) == b"model"


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    sha256 = store.put(b"model")
    store.path(sha256).write_bytes(b"modeX")
    with pytest.raises(FleetError, match="damaged on disk"):
        store.read(sha256)


@pytest.mark.parametrize("name", ["../etc/passwd", "AB" * 32, "", "a" * 63])
def test_what_is_no_hash_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetError, match="is not a sha256"):
        ObjectStore(tmp_path).path(name)


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not in the object store"):
        ObjectStore(tmp_path).read("a" * 64)
