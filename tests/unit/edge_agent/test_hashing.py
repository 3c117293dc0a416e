"""Small and large bytes have the sha256 that everybody else finds."""

import hashlib
import sys

import pytest

from edge_agent.contract.hashing import SMALL_BYTES_MAX, sha256_of


@pytest.mark.parametrize("size", [0, 1, 1_000, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1])
def test_the_hash_is_that_of_hashlib(size: int) -> None:
    data = bytes(size)
    assert sha256_of(data) == hashlib.sha256(data).digest()


def test_a_python_without_its_own_takes_openssls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    assert sha256_of(b"x") == hashlib.sha256(b"x").digest()
