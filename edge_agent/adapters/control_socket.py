"""A word with the running agent: ``control.sock`` in its directory, for its own user and root.

One request a connection: a JSON object on one line, answered by one. The agent's loop answers, in
order with everything else it does; so an answer also proves that the loop turns. The socket is
opened through the directory's handle, because a socket's own path may have 107 bytes only.
"""

import contextlib
import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.adapters.files import remove_file
from edge_agent.errors import AgentError, NotRunningError, StorageError

NAME = "control.sock"
REQUEST_BYTES_MAX = 4_096
ANSWER_BYTES_MAX = 1_048_576
READ_TIMEOUT_S = 2.0
LOOP_TIMEOUT_S = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """What somebody on the device asks; the loop calls ``answer`` once."""

    words: Mapping[str, Any]
    answers: "queue.SimpleQueue[Mapping[str, Any]]" = field(default_factory=queue.SimpleQueue)

    def answer(self, words: Mapping[str, Any]) -> None:
        """Give the answer; may be called from any thread."""
        self.answers.put(words)


class ControlSocket:
    """Listens in a thread of its own and hands requests to the loop."""

    def __init__(self, directory: Path, give: Callable[[object], None]) -> None:
        """Prepare; ``give`` takes each ControlRequest to the agent's loop."""
        self._directory, self._give = directory, give
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Listen; a file system without sockets costs the commands that need it, nothing else."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            remove_file(self._directory / NAME)
            with _opened(self._directory) as address:
                listener.bind(address)
                os.chmod(address, 0o600)  # noqa: PTH101 - nobody gets in before it listens
            listener.listen(4)
        except (OSError, StorageError) as error:
            listener.close()
            _LOG.warning("no control socket in %s: %s", self._directory, error)
            return
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        """Listen no more and take the socket away."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(READ_TIMEOUT_S)
        listener.close()
        with contextlib.suppress(StorageError):  # the next start takes it away
            remove_file(self._directory / NAME)

    def _run(self) -> None:
        while (listener := self._listener) is not None:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._listener is None:
                    return
                _LOG.warning("the control socket takes no more requests", exc_info=True)
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(READ_TIMEOUT_S)
                connection.sendall(json.dumps(self._ask_loop(connection)).encode() + b"\n")

    def _ask_loop(self, connection: socket.socket) -> Mapping[str, Any]:
        try:
            words = _read_object(connection, REQUEST_BYTES_MAX)
        except ValueError as error:
            return {"error": f"no request: {error}"}
        request = ControlRequest(words)
        self._give(request)
        try:
            return request.answers.get(timeout=LOOP_TIMEOUT_S)
        except queue.Empty:
            return {"error": f"the agent's loop did not answer in {LOOP_TIMEOUT_S:.0f} s"}


def ask_agent(directory: Path, words: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ask the agent that runs on a directory.

    Raises:
        NotRunningError: None runs there, or not one that can be asked.
        AgentError: It did not answer in time, or refused; the message is its own.
    """
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
            _opened(directory) as address,
        ):
            connection.settimeout(READ_TIMEOUT_S + LOOP_TIMEOUT_S)
            connection.connect(address)
            connection.sendall(json.dumps(words).encode() + b"\n")
            answer = _read_object(connection, ANSWER_BYTES_MAX)
    except PermissionError as error:
        raise AgentError(
            f"{directory / NAME} is not open to you; use the account the agent runs as"
        ) from error
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NotRunningError(directory) from error
    except (OSError, ValueError) as error:
        raise AgentError(f"the agent on {directory} does not answer: {error}") from error
    if "error" in answer:
        raise AgentError(str(answer["error"]))
    return answer


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[str]:
    """Give the socket's path through an open handle of its directory."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)


def _read_object(connection: socket.socket, bytes_max: int) -> Mapping[str, Any]:
    """Read one line of JSON; raises ValueError, or OSError of the connection."""
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(65_536)
        if not piece:
            raise ValueError("it ended early")
        data += piece
        if len(data) > bytes_max:
            raise ValueError(f"more than {bytes_max} bytes")
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - all that is wrong with a line
    return value
