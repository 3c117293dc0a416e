"""What the stories share."""

from collections.abc import Iterator

import pytest

from tests.support.warm_commands import WarmCommands


@pytest.fixture(scope="session")
def warm_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommands]:
    commands = WarmCommands(tmp_path_factory.mktemp("warm"))
    try:
        commands.wait()
        yield commands
    finally:
        commands.stop()
