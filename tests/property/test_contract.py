"""Laws of the wire contract: round trips hold and no bytes from outside do harm."""

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.assignment import Assignment
from edge_agent.contract.errors import (
    ContractError,
    MalformedError,
    TooLargeError,
    UnsupportedVersionError,
)
from edge_agent.contract.messages import REPORTED_BYTES_MAX, Reported, Status, TelemetryAck
from edge_agent.contract.metadata import BUNDLE_INFLATED_BYTES_MAX, decode_bundle, encode_bundle
from edge_agent.contract.package import MEMBERS, pack_members, unpack_members
from edge_agent.contract.schema import ModelSchema
from edge_agent.contract.targets import check_target_path
from edge_agent.contract.topics import (
    META_TOPIC,
    Channel,
    bucket_of,
    check_device_id,
    device_topic,
    parse_topic,
)
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, FrameKind
from edge_agent.contract.windows import Window, decode_windows, encode_windows

Decoder = Callable[[bytes], object]
DECODERS: list[Decoder] = [
    Status.decode,
    Reported.decode,
    TelemetryAck.decode,
    ChunkRequest.decode,
    ChunkFrame.decode,
    Assignment.decode,
    ModelSchema.decode,
    decode_windows,
    decode_bundle,
    unpack_members,
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=20,
)
device_ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True).filter(
    lambda i: i not in ("server", "broker")
)
windows = st.builds(
    Window,
    stream=st.integers(0, 2**16 - 1),
    sequence=st.integers(0, 2**32 - 1),
    t0_ms=st.integers(0, 10**12),
    t1_ms=st.integers(10**12, 10**13),
    reference=st.binary(min_size=8, max_size=8),
    artifact=st.binary(min_size=8, max_size=8),
    rows=st.integers(0, 2**32 - 1),
    counters=st.binary(max_size=500),
)


@given(st.binary(max_size=600), st.sampled_from(DECODERS))
def test_random_bytes_are_refused_with_an_error_of_the_contract(
    payload: bytes, decode: Decoder
) -> None:
    with pytest.raises(ContractError):
        decode(payload)


@given(st.dictionaries(st.text(max_size=12), json_values), st.sampled_from(DECODERS[:7]))
def test_random_objects_are_refused_or_read(value: dict[str, object], decode: Decoder) -> None:
    with suppress(ContractError):  # any other error fails the test
        decode(json.dumps({"v": 1, **value}).encode())


@given(device_ids, st.sampled_from(Channel))
def test_a_topic_is_taken_apart_as_it_was_built(device_id: str, channel: Channel) -> None:
    address = parse_topic(device_topic(device_id, channel))
    assert (address.device_id, address.channel) == (device_id, channel)


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        (META_TOPIC, "is not ef/v1"),
        ("ef/v1/00/cam-7/up/tel", "bucket '00' is not that of cam-7"),
        (f"ef/v1/{bucket_of('cam-7')}/cam-7/up/nothing", "unknown channel"),
        ("ef/v1/be/server/up/tel", "device id 'server'"),
        ("ef/v1/be/" + "x" * 5_000 + "/up/tel", "device id"),
    ],
)
def test_a_topic_that_is_no_devices_is_refused(topic: str, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        parse_topic(topic)


@pytest.mark.parametrize("device_id", ["", "-a", "A", "a/b", "a+", "a" * 64, "server", "ü", "a\n"])
def test_a_device_id_outside_the_alphabet_is_refused(device_id: str) -> None:
    with pytest.raises(MalformedError, match="use 1 to 63"):
        check_device_id(device_id)


@given(st.integers(0, 2**63 - 1), st.lists(windows, min_size=1, max_size=5))
def test_a_frame_of_windows_survives_the_wire(boot: int, sent: list[Window]) -> None:
    frame = decode_windows(encode_windows(boot, sent))
    assert (frame.boot, list(frame.windows)) == (boot, sent)


@given(st.lists(windows, min_size=1, max_size=3), st.data())
def test_a_cut_frame_is_refused(sent: list[Window], data: st.DataObject) -> None:
    payload = encode_windows(1, sent)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(MalformedError):
        decode_windows(payload[:cut])


def test_a_message_one_byte_beyond_its_bound_is_refused() -> None:
    with pytest.raises(TooLargeError, match=f"the limit is {REPORTED_BYTES_MAX}"):
        Reported.decode(b" " * (REPORTED_BYTES_MAX + 1))


def test_a_message_of_a_newer_contract_says_upgrade() -> None:
    with pytest.raises(UnsupportedVersionError, match="upgrade"):
        Status.decode(b'{"v":2,"state":"online","boot":"0000000000000007"}')


def test_a_request_for_more_than_four_chunks_is_refused() -> None:
    asked = {"v": 1, "request": 1, "sha256": "a" * 64, "part": "chunks", "first": 0, "bitmap": 31}
    with pytest.raises(MalformedError, match="5 pieces, at most 4"):
        ChunkRequest.decode(json.dumps(asked).encode())


def test_a_chunk_frame_with_a_wrong_length_is_refused() -> None:
    frame = ChunkFrame(
        kind=FrameKind.CHUNK, request=1, index=0, sha256_prefix=b"x" * 16, body=b"abc"
    )
    with pytest.raises(MalformedError, match="length"):
        ChunkFrame.decode(frame.encode() + b"more")


def test_a_decompression_bomb_stops_at_its_bound() -> None:
    bomb = zlib.compress(b" " * (BUNDLE_INFLATED_BYTES_MAX + 1), 9)
    with pytest.raises(TooLargeError, match="metadata bundle"):
        decode_bundle(bomb)


@pytest.mark.parametrize("name", ["../root.json", "1.director.json", "root.json/x", "a"])
def test_a_bundle_holds_metadata_files_only(name: str) -> None:
    with pytest.raises(MalformedError, match="not a metadata file"):
        decode_bundle(encode_bundle({name: b"{}"}))


def test_a_package_has_the_same_bytes_each_time_and_is_read_back() -> None:
    members = {name: name.encode() for name in MEMBERS}
    assert pack_members(members) == pack_members(dict(reversed(members.items())))
    assert unpack_members(pack_members(members)) == members


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_package_with_anything_but_regular_files_is_refused(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("model.onnx")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(MalformedError, match="unexpected member"):
        unpack_members(buffer.getvalue())


@pytest.mark.parametrize(
    "path", ["a/1/b", "a/x/b.tar", "../1/b.tar", "a/1/c/b.tar", "a//b.tar", "a/1/.tar", "A/1/b.tar"]
)
def test_a_target_path_of_another_shape_is_refused(path: str) -> None:
    with pytest.raises(MalformedError, match=r"MODEL/VERSION/PROFILE\.tar"):
        check_target_path(path)
