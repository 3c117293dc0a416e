"""What the stories share."""

import os

import pytest

from tests.support.warm_commands import WarmCommands


@pytest.fixture(scope="session")
def warm_commands(tmp_path_factory: pytest.TempPathFactory) -> WarmCommands:
    folder, run = tmp_path_factory.getbasetemp(), os.getpid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder, run = folder.parent, os.getppid()
    commands = WarmCommands(folder / "warm", run)
    commands.wait()
    return commands
