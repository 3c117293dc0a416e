"""One world a worker; each attack works in a copy of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attacks import AttackWorld


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackWorld]:
    world = AttackWorld.create(tmp_path_factory.mktemp("attacks") / "template")
    yield world
    world.close()


@pytest.fixture
def world(template: AttackWorld, tmp_path: Path) -> Iterator[AttackWorld]:
    world = template.copy(tmp_path / "world")
    yield world
    world.close()
