"""The channel between the agent and what serves: whole messages, bounded, or an end."""

import socket
import struct
from collections.abc import Iterator

import pytest

from edge_agent.adapters.worker_channel import MESSAGE_BYTES_MAX, Channel, ChannelClosedError


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    mine, theirs = socket.socketpair()
    mine.settimeout(5)
    with mine, theirs:
        yield Channel(mine), theirs


def test_messages_come_whole_however_they_are_cut(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    other = Channel(theirs.dup())
    other.send({"op": "turn", "id": 1})
    other.send({"op": "stop", "id": 2})
    assert channel.receive() == {"op": "turn", "id": 1}
    assert channel.take_all() == [{"op": "stop", "id": 2}]
    body = b'{"id":3}'
    theirs.sendall(struct.pack(">I", len(body)) + body[:3])
    channel.fill()
    assert channel.take_all() == []
    theirs.sendall(body[3:])
    assert channel.receive() == {"id": 3}
    other.close()


def test_a_peer_that_is_gone_is_told(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosedError, match="gone"):
        channel.receive()
    with pytest.raises(ChannelClosedError, match="does not read"):
        channel.send({"op": "turn"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">I", MESSAGE_BYTES_MAX + 1), "at most"),
        (struct.pack(">I", 2) + b"[]", "makes no sense"),
        (struct.pack(">I", 3) + b"\xff\xfe{", "makes no sense"),
    ],
)
def test_what_makes_no_sense_ends_it(
    ends: tuple[Channel, socket.socket], data: bytes, words: str
) -> None:
    channel, theirs = ends
    theirs.sendall(data)
    channel.fill()
    with pytest.raises(ChannelClosedError, match=words):
        channel.take_all()


def test_a_message_that_is_too_long_is_not_sent(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    with pytest.raises(ChannelClosedError, match="the limit is"):
        channel.send({"text": "x" * MESSAGE_BYTES_MAX})
