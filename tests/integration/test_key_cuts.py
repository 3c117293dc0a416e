"""The power fails between any two writes of a change of keys; the same command is given again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from fleet_server.adapters.approver_keys import OperatorKeys
from fleet_server.adapters.key_files import create_key, public_pem
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.adapters.pending_file import PendingFile
from fleet_server.adapters.root_ceremony import RootCeremony
from fleet_server.ports.devices import Ledger
from fleet_server.ports.keys import KeyAct, KeyChange
from fleet_server.services.change_keys import KeyDesk, KeyOutcome
from tests.support.power_cuts import PowerCut, cut_after
from tests.support.target_bins import PATHS, all_files, approve_in_bins
from tests.support.trust import V1, V2, TrustWorld


class Notes:
    """A ledger that only counts."""

    def __init__(self) -> None:
        self.acts: list[str] = []
        self.assignments = self.audit = self

    def append(self, *, act: str, **_: Any) -> None:
        self.acts.append(act)

    def mark_all_stale(self) -> None:
        self.acts.append("stale")

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        yield cast("Ledger", self)


def change_keys(world: TrustWorld, change: KeyChange, notes: Notes) -> KeyOutcome:
    """What the command does, in a process of its own."""
    repository = world.repository
    operator = OperatorKeys(world.operator_dir, world.clock, chain=repository.roots)
    online = OnlineKeys(world.keys_dir)
    desk = KeyDesk(
        ledgers=notes.open,
        packages=repository,
        pending=PendingFile(world.directory / "pending.json", repository),
        ceremony=RootCeremony(operator, online, repository, clock=world.clock, actor="ann"),
        approver=operator,
        republish=repository.republish_online,
        clock=world.clock,
        actor="ann",
    )
    return desk.change(change)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("template"))
    world.approve(V1, V2)
    world.handle(world.refresh(), world.assign(V1, 5))
    return world


def public_key(directory: Path) -> bytes:
    return public_pem(create_key(directory / "second.pem").public_key)


ACTS = [
    *[(KeyAct.ROTATE, role) for role in ("root", "targets", "timestamp", "director")],
    (KeyAct.ADD, "targets"),
]


@pytest.mark.parametrize(("act", "role"), ACTS)
def test_a_change_cut_anywhere_is_completed_by_the_same_command(
    template: TrustWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: KeyAct,
    role: str,
) -> None:
    added = public_key(tmp_path) if act is KeyAct.ADD else b""
    change = KeyChange(act=act, role=role, public_pem=added)
    effects, is_whole = 0, False
    while not is_whole:
        world, notes = template.copy(tmp_path / str(effects)), Notes()
        try:
            with cut_after(effects, monkeypatch):
                change_keys(world, change, notes)
                is_whole = True
        except PowerCut:
            change_keys(world, change, notes)
        where = f"{change.request}, cut after {effects} effects"
        operator = OperatorKeys(world.operator_dir, world.clock, chain=world.repository.roots)
        current = world.repository.current_targets()
        world.repository.store_targets(operator.sign_targets(current, add=[], withdraw=[]))
        counter = 1 if role == "director" else 6
        verified = world.handle(world.refresh(), world.assign(V2, counter))
        assert verified.targets["digits"].path == V2, where
        assert notes.acts.count(act), where
        assert ("stale" in notes.acts) == (role == "director"), where
        assert len(world.repository.roots()) == (1 if role == "director" else 2), where
        left = [*world.directory.rglob("*.next"), *world.directory.rglob("change.json")]
        assert not left, where
        assert not (world.directory / "pending.json").exists(), where
        shutil.rmtree(world.directory)
        effects += 1
    assert effects > 4


@pytest.mark.parametrize(
    ("act", "role"),
    [
        (KeyAct.ROTATE, "targets"),
        (KeyAct.ROTATE, "director"),
        (KeyAct.ADD, "targets"),
        (KeyAct.RENEW, "targets"),
    ],
)
def test_keys_change_in_hash_bins_as_well(tmp_path: Path, act: KeyAct, role: str) -> None:
    world = TrustWorld(tmp_path / "world")
    approve_in_bins(world, *PATHS[:8])
    world.handle(all_files(world.repository), world.assign(V1, 5))
    added = public_key(tmp_path) if act is KeyAct.ADD else b""
    change_keys(world, KeyChange(act=act, role=role, public_pem=added), Notes())
    counter = 1 if role == "director" else 6
    found = world.handle(all_files(world.repository), world.assign(V2, counter))
    assert found.targets["digits"].path == V2
    operator = OperatorKeys(world.operator_dir, world.clock, chain=world.repository.roots)
    current = world.repository.current_targets()
    world.repository.store_targets(operator.sign_targets(current, add=[], withdraw=[V1]))
    assert V1 not in world.repository.approved()
