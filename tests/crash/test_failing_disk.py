"""A disk that fails in the midst of an update: the model that answers goes on, people are told.

EIO and a read-only remount are injected at the seam, at every call of the update and for all that
follow; a full disk is real in ``test_full_disk.py``.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters import files
from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState
from edge_agent.errors import StorageError
from tests.support.agent_world import SLOT, World
from tests.support.power_cut_search import ram_directory
from tests.support.power_cut_world import V1, V2, CutWorld, assigning, confirmed, having

IS_ALL = os.environ.get("EDGEFLEET_POWER_CUTS") == "all"
CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "link", "mkdir")
STRIDE = 4


class FailingOs:
    """Stands for ``os`` in the seam; from one call on it refuses, once or until it is healed."""

    def __init__(self, at: int, code: int, *, is_once: bool = False) -> None:
        self.at, self.code, self.is_once = at, code, is_once
        self.count = self.refused = 0
        self.is_healed = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        return self._failing(call) if name in CALLS else call

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            is_due = self.count == self.at if self.is_once else self.count >= self.at
            if is_due and not self.is_healed:
                self.refused += 1
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return made


def told_codes(world: World) -> set[str]:
    """Every code that left the device."""
    codes = {str(report.refusal["code"]) for report in world.reports if report.refusal}
    return codes | {str(slot.code) for r in world.reports for slot in r.slots.values() if slot.code}


def go_on(world: CutWorld, seconds: int = 300) -> None:
    world.run(seconds, step_s=5)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "read-only"])
def test_a_disk_that_fails_from_some_call_on(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at, refused = 1, 1
    while refused:
        with ram_directory() as root:
            refused = _fail_from(root, FailingOs(at, code), monkeypatch)
        at += 1 if IS_ALL else STRIDE
    assert at > 60


def _fail_from(root: Path, failing: FailingOs, monkeypatch: pytest.MonkeyPatch) -> int:
    having(V1)(root)
    world = CutWorld(root)
    world.work()
    before = dict(world.inference.served)
    assert before
    monkeypatch.setattr(files, "os", failing)
    assigning(V2, 2, 2)(world)
    go_on(world)
    served = set(world.inference.served)
    assert served == {SLOT}, f"nothing answers once call {failing.at} fails"
    if failing.refused and world.slot().phase is not SlotState.CONFIRMED:
        assert Code.DISK_ERROR in told_codes(world), f"nobody is told of call {failing.at}"
        assert world.slot().bad == (), "the disk's fault is held against the package"
    failing.is_healed = True
    refused = failing.refused
    world.disconnect()
    world.connect()
    assert world.run_until(confirmed(V2)), f"stuck after call {failing.at}: {world.slot()}"
    assert world.agent.refusal is None
    monkeypatch.undo()
    world.cut_power()
    world.work()
    assert confirmed(V2)(world)
    return refused


def test_one_failure_at_any_call_costs_at_most_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    at, refused = 1, 1
    while refused:
        with ram_directory() as root:
            having(V1)(root)
            world = CutWorld(root)
            world.work()
            failing = FailingOs(at, errno.EIO, is_once=True)
            monkeypatch.setattr(files, "os", failing)
            assigning(V2, 2, 2)(world)
            go_on(world, 200)
            assert world.run_until(confirmed(V2)), f"stuck after call {at}: {world.slot()}"
            refused = failing.refused
            monkeypatch.undo()
        at += 1 if IS_ALL else STRIDE
    assert at > 60


def test_a_confirmed_package_that_cannot_be_read_is_told_of_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    having(V1)(tmp_path)
    read, is_healed = Path.read_bytes, False

    def read_or_fail(path: Path) -> bytes:
        if path.parent.name == "blobs" and not is_healed:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_or_fail)
    world = CutWorld(tmp_path)
    world.connect()
    go_on(world, 20)
    assert world.inference.served == {}
    said = world.reports[-1].slots[SLOT]
    assert (said.code, said.state, said.running) == (Code.DISK_ERROR, SlotState.CONFIRMED, None)
    assert said.confirmed is not None
    assert "Input/output error" in said.detail
    is_healed = True
    assert world.run_until(confirmed(V1)), "it is not asked for again"
    go_on(world, 20)
    said = world.reports[-1].slots[SLOT]
    assert (said.code, said.detail) == (None, "")
    assert said.running == said.confirmed


def test_an_agent_does_not_start_on_a_read_only_disk_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is there may be opened and synced; the lock's file cannot be made.
    monkeypatch.setattr(files, "os", FailingOs(3, errno.EROFS))
    with pytest.raises(StorageError, match=r"agent\.lock: Read-only file system") as error:
        DirectoryLock(tmp_path).acquire()
    assert error.value.code is Code.DISK_ERROR
