"""A disk that is really full: the model that answers goes on, people are told, room heals it.

A small tmpfs in a private mount namespace refuses with the kernel's own ENOSPC.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SIZE = "3m"
MOUNT = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'


def private_mount() -> list[str]:
    """Find a way to mount that touches nothing outside; skip when there is none."""
    for flags in ("-Urm", "-m"):
        command = ["unshare", flags, "sh", "-c", "mount -t tmpfs -o size=64k none /tmp"]
        if shutil.which("unshare") is None:
            continue
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return ["unshare", flags, "sh", "-c", MOUNT]
    pytest.skip("neither a user namespace nor root may mount a small disk here")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    disk = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        [*private_mount(), str(disk), sys.executable, "-m", "tests.support.full_disk", str(disk)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_model_answers_on_whenever_the_disk_fills(lines: list[dict[str, Any]]) -> None:
    updates = [line for line in lines if "free_kib" in line]
    assert {update["is_done"] for update in updates} == {True, False}
    for update in updates:
        assert update["answers"], update
        assert update["answers_after_restart"], update
        assert update["is_done"] or "disk-full" in update["codes"], update
        assert not update["is_bad"], "the disk's fault is held against the package"
        assert update["is_reached"], update


def test_a_reserve_is_kept_free_beside_a_package(lines: list[dict[str, Any]]) -> None:
    (update,) = (line for line in lines if "is_reserve" in line)
    assert not update["is_done"]
    assert update["codes"] == ["disk-full"]


def test_the_outbox_keeps_what_it_took_and_says_what_it_refused(
    lines: list[dict[str, Any]],
) -> None:
    outbox = lines[-1]
    assert outbox["refused"] > 0
    assert outbox["taken"] == outbox["waiting"]
    assert outbox["kept"] == outbox["taken"] + 1
