"""An agent's directory whose HTTP server answers in this process, for commands beside the agent."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edge_agent.adapters.directory_lock import DirectoryLock
from tests.support.serving import BuiltPackage
from tests.support.serving_http import World, serving


@contextlib.contextmanager
def agent_directory(directory: Path, built: BuiltPackage) -> Iterator[World]:
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        with serving(built) as world:
            lock.describe({"http_host": "127.0.0.1", "http_port": world.port})
            yield world
    finally:
        lock.release()
