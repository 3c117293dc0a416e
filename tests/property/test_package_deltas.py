"""Laws of encoded packages, for any bytes and any pair of them."""

import hashlib
import io

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_agent.contract.encoding import EncodedHead, Segment, needed_bytes
from edge_agent.contract.package import MEMBERS, MODEL, pack_members
from edge_agent.contract.transfer import Encoding
from fleet_server.adapters.package_encoder import (
    BASE_BYTES_MIN,
    Encoded,
    decode,
    encode_delta,
    encode_plain,
    is_worth,
    measure_encodings,
)
from tests.support.encoded import noise

BYTES = st.binary(min_size=1, max_size=5_000) | st.builds(
    lambda pattern, count, tail: pattern * count + tail,
    st.binary(min_size=1, max_size=40),
    st.integers(1, 3_000),
    st.binary(max_size=100),
)


@st.composite
def tensor_packages(draw: st.DrawFn) -> bytes:
    """Packages whose models hold tensors of any kind and size."""
    tensors = []
    for n in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from([TensorProto.FLOAT, TensorProto.INT8, TensorProto.DOUBLE]))
        width = {TensorProto.FLOAT: 4, TensorProto.INT8: 1, TensorProto.DOUBLE: 8}[kind]
        count = draw(st.integers(1, 1_000))
        data = noise(count * width, seed=draw(st.integers(0, 3)))
        tensors.append(helper.make_tensor(f"t{n}", kind, [count], data, raw=True))
    graph = helper.make_graph([], "g", [], [], initializer=tensors)
    members = {name: draw(st.binary(max_size=300)) for name in MEMBERS}
    return pack_members({**members, MODEL: helper.make_model(graph).SerializeToString()})


ANY = BYTES | tensor_packages()


def restored(encoded: Encoded, target: bytes, base: bytes | None) -> bytes:
    assert hashlib.sha256(encoded.data).hexdigest() == encoded.offer.sha256
    return decode(
        encoded.data, size_bytes=len(target), base=base, window_log=encoded.offer.window_log
    )


@settings(max_examples=60, deadline=None)
@given(target=ANY, base=ANY)
def test_what_is_encoded_comes_back_from_any_base(target: bytes, base: bytes) -> None:
    for encoded, used in ((encode_plain(target), None), (encode_delta(target, base), base)):
        if encoded is None:
            assert used is not None
            assert len(used) < BASE_BYTES_MIN
            continue
        assert restored(encoded, target, used) == target
        need = needed_bytes(base_bytes=len(used or b""), window_log=encoded.offer.window_log)
        base_bytes = len(used or b"")
        assert need <= base_bytes + max(base_bytes, 2 * len(target), 1_024) + 4_194_304


@settings(max_examples=40, deadline=None)
@given(target=ANY, base=ANY)
def test_what_travels_is_never_more_than_any_other_way_but_for_the_margin(
    target: bytes, base: bytes
) -> None:
    sizes = measure_encodings(target, base)
    ways = (sizes.zstd, sizes.zstd_regrouped, sizes.patch, sizes.patch_regrouped)
    found = [way for way in ways if way is not None]
    assert sizes.chosen <= sizes.package
    assert not any(is_worth(way, sizes.chosen) for way in found)
    assert sizes.chosen in [*found, sizes.package]
    assert (sizes.encoding is Encoding.IDENTITY) == (sizes.chosen == sizes.package)


@settings(max_examples=20, deadline=None)
@given(target=ANY, base=ANY)
def test_the_same_pair_gives_the_same_bytes(target: bytes, base: bytes) -> None:
    assert encode_delta(target, base) == encode_delta(target, base)
    assert encode_plain(target) == encode_plain(target)


@given(
    gaps=st.lists(
        st.tuples(
            st.integers(0, 2**40), st.integers(1, 2**30), st.integers(1, 16), st.integers(-1, 2**40)
        ),
        max_size=20,
    )
)
def test_segments_are_read_as_they_were_written(gaps: list[tuple[int, int, int, int]]) -> None:
    segments, at = [], 0
    for gap, length, width, base_at in gaps:
        at += gap
        segments.append(
            Segment(at=at, length=length, width=width, base_at=base_at if base_at >= 0 else None)
        )
        at += length
    head = EncodedHead(sha256="ab" * 32, size_bytes=at, base="cd" * 32, segments=tuple(segments))
    assert EncodedHead.read(io.BytesIO(head.encode())) == head
