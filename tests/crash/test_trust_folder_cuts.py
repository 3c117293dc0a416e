"""What a power cut leaves of python-tuf's folder, which nothing syncs: trust gets on all the same.

The folder is a cache: each file is verified when it is read, and what does not pass is fetched
again. What must survive of trust (counter, floors) is in the agent's state.
"""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from tests.support.trust import DEVICE, V1, V2, TrustWorld

FATES: Mapping[str, Callable[[Path], None]] = {
    "zeroed": lambda path: _spoil(path, bytes(path.stat().st_size)),
    "torn": lambda path: _spoil(path, path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: _spoil(path, b""),
    "missing": lambda path: path.unlink(),
}


def _spoil(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("template"))
    world.approve(V1, V2)
    world.handle(world.refresh(), world.assign(V1, 5))
    world.rotate()
    world.handle(world.refresh(), world.assign(V1, 6))
    return world


def files_of(world: TrustWorld) -> list[str]:
    home = world.directory / f"device-{DEVICE}"
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("fate", FATES)
def test_each_file_of_trust_may_be_lost(template: TrustWorld, tmp_path: Path, fate: str) -> None:
    names = files_of(template)
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= set(names)
    pairs = list(itertools.combinations(names, 2))
    for number, spoiled in enumerate([*((name,) for name in names), *pairs, tuple(names)]):
        world = template.copy(tmp_path / str(number))
        home = world.directory / f"device-{DEVICE}"
        for name in spoiled:
            if (home / name).exists():
                FATES[fate](home / name)
        world.verifier = world.make_verifier()
        refused = world.verifier.judge(world.verifier.stored_files(), b"", world.accepted)
        assert refused.standing is None or refused.standing.withdrawn == frozenset(), spoiled
        assert world.handle(world.refresh(), world.assign(V2, 7)).accepted.counter == 7, spoiled
        shutil.rmtree(world.directory)


def test_an_old_assignment_stays_refused_when_all_of_it_is_lost(
    template: TrustWorld, tmp_path: Path
) -> None:
    world = template.copy(tmp_path / "world")
    shutil.rmtree(world.directory / f"device-{DEVICE}")
    world.verifier = world.make_verifier()
    with pytest.raises(Refusal) as refusal:
        world.handle(world.refresh(), world.assign(V2, 3))
    assert refusal.value.code is Code.ASSIGN_REPLAY
