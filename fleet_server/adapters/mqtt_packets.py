"""The MQTT 3.1.1 packets of one subscriber that acknowledges late: encode a few, cut the stream.

Only what ``telemetry_stream.py`` needs: QoS 0 and 1, no properties, no QoS 2. Pure functions.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from edge_agent.contract.windows import FRAME_BYTES_MAX
from fleet_server.errors import FleetError

PACKET_BYTES_MAX = FRAME_BYTES_MAX + 8_192
_REFUSALS = {
    1: "another protocol version",
    2: "client id",
    3: "unavailable",
    4: "user name or secret",
    5: "not authorised",
}
_U16 = struct.Struct(">H")
_LENGTH_BYTES_MAX = 4


class Kind(IntEnum):
    """First byte of a packet without its flags."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30
    PUBACK = 0x40
    SUBSCRIBE = 0x80
    SUBACK = 0x90
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0


class ProtocolError(FleetError):
    """The other side does not speak MQTT 3.1.1 as agreed."""


def encode_connect(
    client_id: str, *, user: str, secret: str, keepalive_s: int, is_clean: bool
) -> bytes:
    """Encode CONNECT with user name and password."""
    flags = 0xC0 | (0x02 if is_clean else 0)
    head = b"\x00\x04MQTT\x04" + bytes((flags,)) + _U16.pack(keepalive_s)
    texts = b"".join(_text(t.encode()) for t in (client_id, user, secret))
    return _packet(Kind.CONNECT, head + texts)


def encode_subscribe(packet_id: int, filters: Sequence[tuple[str, int]]) -> bytes:
    """Encode SUBSCRIBE."""
    wanted = b"".join(_text(name.encode()) + bytes((qos,)) for name, qos in filters)
    return _packet(Kind.SUBSCRIBE | 0x02, _U16.pack(packet_id) + wanted)


def encode_publish(topic: str, payload: bytes, packet_id: int) -> bytes:
    """Encode PUBLISH at QoS 1, not retained."""
    return _packet(Kind.PUBLISH | 0x02, _text(topic.encode()) + _U16.pack(packet_id) + payload)


def encode_puback(packet_id: int) -> bytes:
    """Encode PUBACK."""
    return b"\x40\x02" + _U16.pack(packet_id)


PING = bytes((Kind.PINGREQ, 0))
DISCONNECT = bytes((Kind.DISCONNECT, 0))


def take_packets(buffer: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Cut whole packets off the front; return (first byte, body) pairs and what is left.

    Raises:
        ProtocolError: A packet is larger than anything agreed.

    >>> take_packets(PING + b"x")
    ([(192, b'')], b'x')
    """
    packets: list[tuple[int, bytes]] = []
    offset, end = 0, len(buffer)
    while offset + 2 <= end:
        length, at = buffer[offset + 1], offset + 2
        if length & 0x80:
            found = _take_length(buffer, offset + 1)
            if found is None:
                break
            length, at = found
        if length > PACKET_BYTES_MAX:
            raise ProtocolError(
                f"an MQTT packet of {length} bytes, the limit is {PACKET_BYTES_MAX}"
            )
        if at + length > end:
            break
        packets.append((buffer[offset], buffer[at : at + length]))
        offset = at + length
    return packets, buffer[offset:]


def read_connack(first: int, body: bytes) -> bool:
    """Tell whether the session was kept.

    Raises:
        ProtocolError: Refused, with the reason; or no CONNACK.
    """
    if first != Kind.CONNACK or len(body) != 2:
        raise ProtocolError(f"the broker answered CONNECT with packet {first:#x}")
    if body[1]:
        reason = _REFUSALS.get(body[1], f"code {body[1]}")
        raise ProtocolError(f"the broker refused the connection: {reason}")
    return bool(body[0] & 1)


def split_publish(first: int, body: bytes) -> tuple[bytes, int, bytes]:
    """Take a PUBLISH apart: topic, packet id (0 at QoS 0), payload.

    Raises:
        ProtocolError: Shorter than it says, or QoS 2.
    """
    qos = first >> 1 & 3
    if qos > 1 or len(body) < 2:
        raise ProtocolError("a PUBLISH at QoS 2, or without a topic")
    at = 2 + _U16.unpack_from(body)[0]
    if len(body) < at:
        raise ProtocolError("a PUBLISH that ends inside its topic")
    topic = body[2:at]
    if not qos:
        return topic, 0, body[at:]
    if len(body) < at + 2:
        raise ProtocolError("a PUBLISH that ends before its packet id")
    return topic, _U16.unpack_from(body, at)[0], body[at + 2 :]


def _take_length(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Read a remaining length; None when it is not whole yet."""
    length = 0
    for shift in range(_LENGTH_BYTES_MAX):
        if at + shift >= len(buffer):
            return None
        byte = buffer[at + shift]
        length |= (byte & 0x7F) << 7 * shift
        if not byte & 0x80:
            return length, at + shift + 1
    raise ProtocolError("an MQTT packet whose length has more than four bytes")


def _packet(first: int, body: bytes) -> bytes:
    head, length = bytearray((first,)), len(body)
    while True:
        length, byte = divmod(length, 128)
        head.append(byte | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def _text(data: bytes) -> bytes:
    return _U16.pack(len(data)) + data
