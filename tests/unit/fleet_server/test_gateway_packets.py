"""The few MQTT packets of the telemetry connection, byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.adapters.mqtt_packets import (
    DISCONNECT,
    PACKET_BYTES_MAX,
    PING,
    Kind,
    ProtocolError,
    encode_connect,
    encode_puback,
    encode_publish,
    encode_subscribe,
    read_connack,
    split_publish,
    take_packets,
)


def test_connect_is_that_of_the_standard() -> None:
    assert encode_connect("me", user="u", secret="s", keepalive_s=30, is_clean=False) == (
        b"\x10\x14\x00\x04MQTT\x04\xc0\x00\x1e\x00\x02me\x00\x01u\x00\x01s"
    )
    clean = encode_connect("me", user="u", secret="s", keepalive_s=30, is_clean=True)
    assert clean[9] == 0xC2


def test_the_other_packets_are_those_of_the_standard() -> None:
    assert encode_subscribe(1, [("a/+", 1), ("b", 0)]) == (
        b"\x82\x0c\x00\x01\x00\x03a/+\x01\x00\x01b\x00"
    )
    assert encode_publish("t", b"hi", 513) == b"\x32\x07\x00\x01t\x02\x01hi"
    assert (encode_puback(258), PING, DISCONNECT) == (b"\x40\x02\x01\x02", b"\xc0\x00", b"\xe0\x00")


@pytest.mark.parametrize(
    ("size", "length"),
    [(122, b"\x7f"), (123, b"\x80\x01"), (16_378, b"\xff\x7f"), (16_379, b"\x80\x80\x01")],
)
def test_lengths_take_as_many_bytes_as_they_need(size: int, length: bytes) -> None:
    packet = encode_publish("t", bytes(size), 1)
    assert packet[1 : 1 + len(length)] == length
    ((first, body),), rest = take_packets(packet)
    assert (first, len(body), rest) == (0x32, size + 5, b"")


@given(
    st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=300), st.integers(1, 65_535))),
    st.lists(st.integers(1, 97), min_size=1),
)
def test_a_stream_cut_anywhere_gives_the_same_packets(
    sent: list[tuple[str, bytes, int]], cuts: list[int]
) -> None:
    stream = b"".join(encode_publish(topic, payload, n) for topic, payload, n in sent)
    got, rest, at, turn = [], b"", 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        packets, rest = take_packets(rest + stream[at : at + size])
        got += [split_publish(first, body) for first, body in packets]
        at, turn = at + size, turn + 1
    assert got == [(topic.encode(), n, payload) for topic, payload, n in sent]
    assert rest == b""


def test_a_message_at_qos_0_has_no_packet_id() -> None:
    assert split_publish(0x31, b"\x00\x01tpayload") == (b"t", 0, b"payload")


@pytest.mark.parametrize(
    ("first", "body"), [(0x34, b"\x00\x01t\x00\x01"), (0x32, b"\x00\x01t\x00"), (0x30, b"\x00")]
)
def test_broken_messages_are_refused(first: int, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        split_publish(first, body)


@pytest.mark.parametrize(
    "data",
    [b"\x30\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f"],
    ids=["five length bytes", "256 MiB"],
)
def test_absurd_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        take_packets(data)


def test_the_largest_packet_agreed_passes() -> None:
    packet = encode_publish("t", bytes(PACKET_BYTES_MAX - 5), 1)
    assert len(take_packets(packet)[0]) == 1
    with pytest.raises(ProtocolError, match=str(PACKET_BYTES_MAX)):
        take_packets(encode_publish("t", bytes(PACKET_BYTES_MAX - 4), 1))


@pytest.mark.parametrize(
    ("first", "body", "words"),
    [(Kind.CONNACK, b"\x00\x05", "not authorised"), (Kind.PUBACK, b"\x00\x00", "0x40")],
)
def test_refusals_are_told(first: int, body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        read_connack(first, body)


def test_the_session_flag_is_read() -> None:
    assert read_connack(Kind.CONNACK, b"\x01\x00")
    assert not read_connack(Kind.CONNACK, b"\x00\x00")
