"""An agent's directory whose HTTP server answers in this process, for commands beside the agent."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.http_access import HttpAccess
from tests.support.serving import BuiltPackage
from tests.support.serving_http import World, serving


@contextlib.contextmanager
def agent_directory(
    directory: Path,
    built: BuiltPackage,
    *,
    access: HttpAccess | None = None,
    takes_labels: bool = False,
) -> Iterator[World]:
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        with serving(built, access=access, takes_labels=takes_labels) as world:
            lock.describe({"http_host": "127.0.0.1", "http_port": world.port})
            yield world
    finally:
        lock.release()


def write_certificate(directory: Path, name: str) -> None:
    """Write a certificate that vouches for itself, NAME.pem, and its NAME.key."""
    key = directory / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "3650", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(directory / f"{name}.pem")),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
