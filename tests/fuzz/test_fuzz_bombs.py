"""Small inputs that would unfold to something vast: refused before memory is taken."""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from http import HTTPStatus

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from edge_agent.adapters.golden_vectors import GoldenVectors
from edge_agent.adapters.http_parser import HttpError, HttpLimits, Request, RequestParser
from edge_agent.adapters.inference_json import ModelCodec
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.contract.errors import ContractError, MalformedError, TooLargeError
from edge_agent.contract.metadata import (
    BUNDLE_BYTES_MAX,
    BUNDLE_INFLATED_BYTES_MAX,
    decode_bundle,
    encode_bundle,
)
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import GOLDEN_INPUT, unpack_members
from edge_agent.contract.protobuf_walk import ProtobufWalk
from edge_agent.contract.schema import ModelSchema
from edge_agent.errors import InputError, PackageError
from tests.support.decoders import pack_npy
from tests.support.serving import activate, build_classifier, make_service

MIB = 2**20


def peak_of(
    refused: type[Exception] | tuple[type[Exception], ...], act: Callable[[], object]
) -> tuple[int, str]:
    """Do what must be refused; give the most memory it took, and the words of the refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(refused) as caught:
            act()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


# Metadata bundles


def test_a_bundle_that_inflates_a_thousandfold_stops_at_its_bound() -> None:
    bomb = zlib.compress(b" " * (64 * MIB), 9)
    assert len(bomb) < BUNDLE_BYTES_MAX
    peak, _ = peak_of(TooLargeError, lambda: decode_bundle(bomb))
    assert peak < 2.5 * BUNDLE_INFLATED_BYTES_MAX


def test_a_bundle_within_its_bound_takes_a_bounded_multiple_of_it() -> None:
    text = '{"timestamp.json": "' + "\\u0000" * 1_300_000 + '"}'
    tracemalloc.start()
    files = decode_bundle(zlib.compress(text.encode(), 9))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(files["timestamp.json"]) == 1_300_000
    assert peak < 6 * BUNDLE_INFLATED_BYTES_MAX


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b + b])
def test_a_bundle_that_is_cut_or_goes_on_behind_its_end_is_refused(
    spoil: Callable[[bytes], bytes],
) -> None:
    with pytest.raises(MalformedError, match="cut short, or has something behind"):
        decode_bundle(spoil(encode_bundle({"1.root.json": b"{}"})))


def test_deep_json_in_a_bundle_is_refused() -> None:
    deep = b'{"timestamp.json": ' + b"[" * 4_000_000
    peak, _ = peak_of(MalformedError, lambda: decode_bundle(zlib.compress(deep, 9)))
    assert peak < 40 * MIB


# Packages


def tar_of(info: tarfile.TarInfo, data: bytes = b"", form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sparse_tar() -> bytes:
    """A GNU sparse member of a block that says it is a terabyte when unfolded."""
    info = tarfile.TarInfo("model.onnx")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece of data at the front
    header[483:495] = struct.pack(">BxxxQ", 0x80, 2**40)  # real size, base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(512) + bytes(1024)


def pax_tar(**headers: str) -> bytes:
    info = tarfile.TarInfo("model.onnx")
    info.pax_headers = headers
    return tar_of(info, form=tarfile.PAX_FORMAT)


def with_size(field: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("model.onnx").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def twice() -> bytes:
    header = tarfile.TarInfo("model.onnx").tobuf(tarfile.USTAR_FORMAT)
    return header + header + bytes(1024)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (sparse_tar(), "unexpected member"),
        (pax_tar(**{"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**40)}), "unexpected"),
        (pax_tar(size=str(2**60)), "unexpected member"),
        (pax_tar(path="x" * 5_000), "unexpected member"),
        (with_size(b"77777777777\0"), "bytes where 1024 are left"),
        (with_size(struct.pack(">BxxxQ", 0x80, 2**62)), "is not an octal number"),
        (with_size(b"-0000000001\0"), "is not an octal number"),
        (twice(), "unexpected member"),
        (tarfile.TarInfo("../evil").tobuf(tarfile.USTAR_FORMAT) + bytes(1024), "unexpected member"),
        (b"ustar" * 200, "not a tar"),
        (bytes(10_240), "lacks model.onnx"),
        (b"", "lacks model.onnx"),
    ],
)
def test_a_tar_with_tricks_is_refused_without_unfolding_it(blob: bytes, words: str) -> None:
    peak, said = peak_of(ContractError, lambda: unpack_members(blob))
    assert words in said
    assert peak < MIB


def test_the_general_reader_would_have_unfolded_the_sparse_member() -> None:
    with tarfile.open(fileobj=io.BytesIO(sparse_tar())) as tar:
        member = tar.getmembers()[0]
        assert member.isreg()
        assert member.size == 2**40


# Golden vectors


def npz_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (npz_of((GOLDEN_INPUT, pack_npy("<f4", (32, 4)) + bytes(64 * MIB))), "are read"),
        (npz_of((GOLDEN_INPUT, pack_npy("<f4", (2**40, 4)))), "claims float32"),
        (npz_of((GOLDEN_INPUT, pack_npy("<f4", (-1, 4)))), "golden.npz"),
        (npz_of((GOLDEN_INPUT, pack_npy("|S2000000000", (9,)))), "golden.npz"),
        (npz_of((GOLDEN_INPUT, pack_npy("|O", (1,), b"\x80\x04."))), "golden.npz"),
        (npz_of(*[(f"a{n}", b"") for n in range(40)]), "40 arrays"),
        (npz_of((GOLDEN_INPUT, b"x"), method=zipfile.ZIP_LZMA), "another method"),
        (npz_of((GOLDEN_INPUT, b"x"), method=zipfile.ZIP_BZIP2), "another method"),
    ],
)
def test_golden_vectors_that_claim_more_than_they_hold_are_refused(
    payload: bytes, words: str
) -> None:
    schema = build_classifier().schema
    peak, said = peak_of(PackageError, lambda: GoldenVectors.decode(payload, schema))
    assert words in said
    assert peak < 8 * MIB


def test_numpy_alone_would_have_made_room_for_the_claimed_shape() -> None:
    plain = build_classifier().schema
    assert isinstance(plain, ModelSchema)
    content = npz_of(("input", pack_npy("<f4", (2**21, 4))))
    tracemalloc.start()
    with (
        np.load(io.BytesIO(content), allow_pickle=False) as arrays,
        pytest.raises(ValueError, match="EOF"),
    ):
        arrays["input"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak > 2**21 * 4 * 4


# Graphs


def graph_with(*nodes: NodeProto, **constants: TensorProto) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants.values()),
    )
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def test_no_more_fields_are_looked_at_than_the_bound_says() -> None:
    walk = ProtobufWalk(b"\x48\x00" * 8_388_608, what="it", fields_max=10_000)
    peak, said = peak_of(ContractError, lambda: list(walk.fields(0, 16_777_216)))
    assert "more than 10,000 fields" in said
    assert peak < 2 * MIB


def test_a_constant_of_a_terabyte_in_thirty_bytes_is_refused() -> None:
    vast = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6])
    content = graph_with(helper.make_node("Identity", ["x"], ["y"]), vast=vast)
    peak, said = peak_of(ContractError, lambda: check_onnx(content))
    assert "constant 'w' of 1,000,000,000,000 numbers" in said
    assert peak < MIB


# Requests to the agent


def test_a_long_text_among_numbers_takes_no_room_for_each_of_them() -> None:
    service = make_service()
    activate(service, build_classifier())
    codec = ModelCodec(service.slots()["main"])
    for data in (["x" * 100_000, *[1] * 16_000], [["x" * 2_000, 1], *[[1, 1]] * 8_000]):
        tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": data}
        body = json.dumps({"inputs": [tensor]}).encode()
        peak, said = peak_of(InputError, lambda body=body: codec.decode(body))  # type: ignore[misc]
        assert "must hold only numbers" in said
        assert peak < 16 * MIB


def test_a_compressed_request_is_refused_unread() -> None:
    service = make_service()
    activate(service, build_classifier())
    body = gzip.compress(b" " * (8 * MIB), 9)
    parser = RequestParser(HttpLimits())
    parser.feed(
        b"POST /v2/models/main/infer HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    request = parser.next_request()
    assert isinstance(request, Request)
    response = InferenceRoutes(service).answer(request)
    assert response.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_a_header_line_of_spaces_is_refused_at_once() -> None:
    parser = RequestParser(HttpLimits())
    parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 16_000 + b"\x01\r\n\r\n")
    with pytest.raises(HttpError, match="is not a header line"):
        parser.next_request()
