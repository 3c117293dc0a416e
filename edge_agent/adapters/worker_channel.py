"""Messages between the agent and the process that serves: bounded JSON objects over a socket.

Each is a length (4 bytes, big-endian) and an object. The agent asks, the worker answers with the
same ``id``; the worker may answer in another order. Whoever's peer is gone is told by ``None`` or
``ChannelClosedError``, never by half a message.
"""

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import dump_object, parse_object
from edge_agent.errors import AgentError

MESSAGE_BYTES_MAX = 262_144
BYTES_MAX = 67_108_864
"""Of one array beside a message."""
SEND_S = 5.0
"""A peer that does not read for this long is as good as gone."""
_LENGTH = struct.Struct(">I")
_READ_BYTES = 65_536


class ChannelClosedError(AgentError):
    """The other process is gone, or says what makes no sense."""


class Channel:
    """One end; ``send`` from any thread, ``receive`` from one."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = connected
        self._sending = threading.Lock()
        self._read = bytearray()

    def fileno(self) -> int:
        """Return the file descriptor, for ``select``."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises:
            ChannelClosedError: The other end is gone or does not read.
        """
        data = dump_object(message)
        if len(data) > MESSAGE_BYTES_MAX:
            raise ChannelClosedError(
                f"a message of {len(data)} bytes, the limit is {MESSAGE_BYTES_MAX}"
            )
        try:
            with self._sending:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise ChannelClosedError(f"the other process does not read: {error}") from error

    def send_bytes(self, parts: Sequence[bytes]) -> None:
        """Send plain bytes after the message that told of them, from the same thread.

        Raises:
            ChannelClosedError: The other end is gone or does not read.
        """
        try:
            with self._sending:
                for part in parts:
                    self._socket.sendall(part)
        except OSError as error:
            raise ChannelClosedError(f"the other process does not read: {error}") from error

    def receive_bytes(self, size: int) -> bytes:
        """Wait for the bytes that follow the newest message.

        Args:
            size: How many, at most BYTES_MAX.

        Raises:
            ChannelClosedError: They will not come, or are too many.
        """
        if not 0 <= size <= BYTES_MAX:
            raise ChannelClosedError(f"{size} bytes, the limit is {BYTES_MAX}")
        while len(self._read) < size:
            self.fill()
        data = bytes(self._read[:size])
        del self._read[:size]
        return data

    def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            ChannelClosedError: There will be none.
        """
        while (message := self._take()) is None:
            self.fill()
        return message

    def fill(self) -> None:
        """Read what has come, waiting when nothing has.

        Raises:
            ChannelClosedError: The other end is gone.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise ChannelClosedError(f"the other process is gone: {error}") from error
        if not data:
            raise ChannelClosedError("the other process is gone")
        self._read += data

    def take_all(self) -> list[dict[str, Any]]:
        """Return the messages that have come whole.

        Raises:
            ChannelClosedError: One makes no sense.
        """
        messages = []
        while (message := self._take()) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _take(self) -> dict[str, Any] | None:
        if len(self._read) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._read)
        if length > MESSAGE_BYTES_MAX:
            raise ChannelClosedError(f"a message of {length} bytes, at most {MESSAGE_BYTES_MAX}")
        end = _LENGTH.size + length
        if len(self._read) < end:
            return None
        data = bytes(self._read[_LENGTH.size : end])
        del self._read[:end]
        try:
            return parse_object(data, what="worker message", limit_bytes=MESSAGE_BYTES_MAX)
        except ContractError as error:
            raise ChannelClosedError(f"a message makes no sense: {error}") from error
