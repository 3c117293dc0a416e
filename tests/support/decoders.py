"""Every decoder that reads bytes of the network or of a file, for the fuzzers: by name, with seeds.

``tests/fuzz`` tries each with mutated seeds at every test run; ``tests/fuzz/atheris_targets.py``
for as long as one likes. A decoder gives anything or raises one of its declared errors.
"""

import base64
import hashlib
import io
import json
import math
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

from edge_agent.adapters import enrolment, tuf_verifier
from edge_agent.adapters.device_keys import find_certificate_problem, make_request
from edge_agent.adapters.feedback_json import take_feedback
from edge_agent.adapters.golden_vectors import GoldenVectors
from edge_agent.adapters.http_parser import HttpError, HttpLimits, RequestParser
from edge_agent.adapters.inference_json import ModelCodec
from edge_agent.adapters.named_fields import FieldReader
from edge_agent.adapters.request_json import read_object
from edge_agent.adapters.self_test import decode_result, encode_result
from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.contract.encoding import EncodedHead, restore
from edge_agent.contract.errors import ContractError
from edge_agent.contract.join import EnrolGrant, EnrolRequest, JoinTicket
from edge_agent.contract.labels import LabelRow, Labels
from edge_agent.contract.messages import (
    AckRange,
    Reported,
    Running,
    SlotReport,
    SlotState,
    Status,
    TelemetryAck,
)
from edge_agent.contract.metadata import decode_bin, decode_bundle, encode_bundle
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import GOLDEN, MODEL, REFERENCE, SCHEMA, unpack_members
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.rows import (
    Reason,
    Redaction,
    RowBatch,
    RowFeature,
    RowHead,
    SampledLabel,
    decode_rows,
    encode_batch,
    frame_batch,
)
from edge_agent.contract.schema import Feature, ModelSchema
from edge_agent.contract.topics import Channel, device_topic, parse_topic
from edge_agent.contract.transfer import (
    ChunkFrame,
    ChunkRequest,
    Encoding,
    FrameKind,
    PackageOffer,
    Part,
)
from edge_agent.contract.windows import Window, decode_windows, encode_windows
from edge_agent.core.late_labels import Truth
from edge_agent.errors import InputError, PackageError, Refusal
from edge_agent.ports import SelfTestResult
from edge_agent.statistics.reference import Reference
from fleet_server.adapters import mqtt_packets as mqtt
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.errors import RefusedError
from tests.support.clock import FakeClock
from tests.support.encoded import encoded
from tests.support.serving import (
    BuiltPackage,
    activate,
    build_classifier,
    build_regressor,
    make_service,
)

SHA = "a" * 64
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One way in.

    Attributes:
        decode: Bytes in, anything out.
        errors: What it may raise.
        seeds: Makes valid inputs.
        is_json: Whether an input is one JSON value.
        is_stored: Whether what is read is kept or written on.
    """

    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = (ContractError,)
    seeds: Callable[[], Sequence[bytes]]
    is_json: bool = False
    is_stored: bool = True


@cache
def _classifier() -> BuiltPackage:
    return build_classifier()


@cache
def _regressor() -> BuiltPackage:
    return build_regressor()


def _members(name: str) -> list[bytes]:
    return [unpack_members(built.blob)[name] for built in (_classifier(), _regressor())]


def _reported() -> bytes:
    running = Running(target="digits/3/camera.tar", sha256=SHA)
    return Reported(
        boot=7,
        sequence=2,
        at_ms=1_700_000_000_000,
        agent="0.1.0",
        slots={"main": SlotReport(state=SlotState.CONFIRMED, running=running, code="misfit")},
        assignment_counter=3,
        metadata={"root": 1},
        refusal={"code": "tuf-expired", "detail": "x"},
        capabilities={"cores": 4, "libc": "glibc 2.36"},
        outbox={"waiting": 1, "dropped": 0},
    ).encode()


def _assignment() -> bytes:
    return Assignment(
        fleet="f",
        device="cam-7",
        counter=4,
        issued_at=NOW,
        expires_at=NOW,
        slots={"main": SlotAssignment(target="digits/3/camera.tar")},
    ).encode()


def _envelope() -> bytes:
    return json.dumps(
        {
            "payload": "e30=",
            "payloadType": "application/vnd.edgefleet.assignment+json",
            "signatures": [{"keyid": SHA, "sig": "c2ln"}],
        }
    ).encode()


def _join() -> bytes:
    ticket = JoinTicket(
        host="fleet.example",
        api_port=8443,
        mqtt_port=8883,
        fleet="f",
        device_id="cam-7",
        ca_sha256=SHA,
        root_sha256=SHA,
        secret="s" * 43,
    )
    return ticket.encode().encode()


def _grant() -> bytes:
    return EnrolGrant(
        device_id="cam-7",
        profile="camera",
        fleet="f",
        certificate="pem",
        ca="pem",
        root="{}",
        mqtt_host="fleet.example",
        mqtt_port=8883,
    ).encode()


def _windows() -> bytes:
    window = Window(
        stream=0,
        sequence=1,
        t0_ms=1,
        t1_ms=2,
        reference=b"r" * 8,
        artifact=b"a" * 8,
        rows=3,
        counters=b"\x01\x02",
    )
    return encode_windows(9, [window, window._replace(sequence=2)])


def _rows() -> list[bytes]:
    batch = RowBatch(
        artifact=b"a" * 8,
        stream=0,
        share=0.5,
        features=(
            RowFeature(name="heat", redaction=Redaction.ROUND, step=0.5),
            RowFeature(name="door", redaction=Redaction.HASH, width=2),
        ),
        rows=(RowHead(1, 0, 2, Reason.SHARE, 1.0, 0.5),) * 9,
        values=(bytes(36), bytes(72)),
        labels=(SampledLabel(1, 0, 2.0),),
    )
    packed = frame_batch(7, 1, encode_batch(batch))
    body = zlib.decompress(packed[25:])
    plain = packed[:20] + b"\0" + len(body).to_bytes(4, "big") + body
    named = replace(
        batch,
        names=("flow", "heat"),
        predicted=(bytes(36), bytes(36)),
        labels=(SampledLabel(1, 0, 2.0, 1),),
    )
    return [packed, plain, frame_batch(7, 2, encode_batch(named))]


def _labels() -> list[bytes]:
    rows = (LabelRow(1, b"a" * 8, True, 2, 0, 5), LabelRow(2, b"b" * 8, False, 2.5, 3.0, 6))
    named = tuple(row._replace(name=name) for row, name in zip(rows, ("day", "flow"), strict=True))
    return [Labels(boot=7, rows=rows).encode(), Labels(boot=7, rows=named).encode()]


def _chunk_request() -> bytes:
    return ChunkRequest(request=1, sha256=SHA, part=Part.CHUNKS, first=0, bitmap=5).encode()


def _question() -> bytes:
    return ChunkRequest(
        request=1,
        sha256=SHA,
        part=Part.OFFER,
        first=0,
        bitmap=1,
        bases=(SHA, "b" * 64),
        memory_bytes=64_000_000,
    ).encode()


def _offer() -> bytes:
    return PackageOffer(
        encoding=Encoding.DELTA, sha256=SHA, size_bytes=7, chunks=SHA, window_log=20, base=SHA
    ).encode()


def _encoded_packages() -> list[bytes]:
    blob, base = _classifier().blob, _base()
    return [encoded(blob).data, encoded(blob, base).data]


@cache
def _base() -> bytes:
    return build_classifier(seed=9).blob


def restore_package(data: bytes) -> bytes:
    """Restore as a device does, with and without a base; never more than the signed size."""
    base, size = _base(), len(_classifier().blob)
    names = {hashlib.sha256(base).hexdigest(): base}
    found = EncodedHead.read(io.BytesIO(data)).base
    used = names.get(found)

    def open_frame() -> ZstdDecompressor:
        return ZstdDecompressor(
            zstd_dict=ZstdDict(used, is_raw=True).as_prefix if used else None,
            options={DecompressionParameter.window_log_max: 20},
        )

    pieces = []
    given = 0
    for piece in restore(
        io.BytesIO(data),
        size_bytes=size,
        base=used,
        base_sha256=found if used is not None else "",
        open_frame=open_frame,
    ):
        given += len(piece)
        assert given <= size
        pieces.append(piece)
    return b"".join(pieces)


def _chunk_frame() -> bytes:
    return ChunkFrame(
        kind=FrameKind.CHUNK, request=1, index=0, sha256_prefix=b"x" * 16, body=b"abc"
    ).encode()


def _bundle() -> bytes:
    return encode_bundle({"1.root.json": b'{"signed":{}}', "timestamp.json": b"{}"})


def _bin() -> bytes:
    return encode_bundle({"3.packages-1f.json": b"{}"})


def decode_golden(payload: bytes) -> GoldenVectors:
    """Read golden vectors as the classifier's."""
    schema = ModelSchema.decode(_members(SCHEMA)[0])
    return GoldenVectors.decode(payload, schema)


def _golden_squeezed() -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(_members(GOLDEN)[0])) as plain,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as squeezed,
    ):
        for name in plain.namelist():
            squeezed.writestr(zipfile.ZipInfo(name), plain.read(name))
    return buffer.getvalue()


def parse_http(payload: bytes) -> list[object]:
    """Feed bytes in pieces whose sizes the first byte chooses; give the requests."""
    step = payload[0] + 1 if payload else 1
    parser = RequestParser(HttpLimits(body_bytes_max=65_536))
    found: list[object] = []
    for at in range(0, len(payload), step):
        parser.feed(payload[at : at + step])
        while (request := parser.next_request()) is not None:
            found.append(request)
    return found


HTTP_SEEDS = (
    b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n",
    b"GET / HTTP/1.0\r\n\r\nGET /two HTTP/1.1\r\nHost : a\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
)


@cache
def _codec() -> ModelCodec:
    service = make_service()
    activate(service, _classifier())
    return ModelCodec(service.slots()["main"])


def _infer() -> list[bytes]:
    tensor: dict[str, Any] = {"name": "features", "shape": [1, 4], "datatype": "FP32"}
    return [
        json.dumps({"id": "a", "inputs": [{**tensor, "data": data}]}).encode()
        for data in ([1, 2.5, 3, 4], [[1, 2, 3, 4]])
    ]


def read_raw_infer(data: bytes) -> object:
    """Read a request with raw tensors; the first two bytes are the length of its JSON."""
    size = str(int.from_bytes(data[:2], "little")).encode()
    return _codec().decode(data[2:], size)


def _raw_infer() -> list[bytes]:
    tensor: dict[str, Any] = {"name": "features", "shape": [1, 4]}
    seeds = []
    for datatype, itemsize in (("FP32", 4), ("BF16", 2), ("BOOL", 1)):
        raw = bytes(4 * itemsize)
        parameters = {"binary_data_size": len(raw)}
        asked = {"inputs": [{**tensor, "datatype": datatype, "parameters": parameters}]}
        text = json.dumps({**asked, "parameters": {"binary_data_output": True}}).encode()
        seeds.append(len(text).to_bytes(2, "little") + text + raw)
    return seeds


def read_named_rows(data: bytes) -> object:
    """Read rows by field name of a model with numbers, whole numbers and lists."""
    features = (
        Feature(name="heat", low=-40, high=125),
        Feature(name="door", dtype="int64"),
        Feature(name="pixels", shape=(2, 2)),
    )
    schema = replace(_classifier().schema, features=features)
    return FieldReader(schema).read(read_object(data).get("rows"))


class _NoLabels:
    def add(self, prediction_id: str, label: Truth) -> None:
        assert isinstance(prediction_id, str)
        for one in label.values() if isinstance(label, Mapping) else (label,):
            assert isinstance(one, str) or math.isfinite(one)


def _self_test() -> bytes:
    return encode_result(SelfTestResult(ok=True, latency_ms_p95=1.0, rss_bytes=5))


def take_mqtt(payload: bytes) -> list[object]:
    """Cut a stream into packets and take each apart."""
    found: list[object] = []
    packets, _ = mqtt.take_packets(payload)
    for first, body in packets:
        if first & 0xF0 == mqtt.Kind.PUBLISH:
            found.append(mqtt.split_publish(first, body))
        elif first == mqtt.Kind.CONNACK:
            found.append(mqtt.read_connack(first, body))
    return found


def _mqtt() -> list[bytes]:
    return [
        mqtt.encode_publish("ef/v1/be/cam-7/up/tel", b"payload", 7) + mqtt.PING,
        b"\x20\x02\x01\x00" + mqtt.encode_publish("t", b"x" * 300, 1),
    ]


@cache
def _authority() -> CertificateAuthority:
    return CertificateAuthority(Path(tempfile.gettempdir()) / "nobody-writes-here", FakeClock(NOW))


@cache
def _csr() -> bytes:
    return make_request(generate_private_key(SECP256R1()), "cam-7")


@cache
def _issued() -> tuple[bytes, bytes, EllipticCurvePrivateKey]:
    """A certificate, its authority's, and the key it is for."""
    key = generate_private_key(SECP256R1())
    with tempfile.TemporaryDirectory() as home:
        authority = CertificateAuthority(Path(home), FakeClock(NOW))
        authority.create([])
        issued = authority.issue_device(make_request(key, "cam-7"), "cam-7")
        return issued.pem, authority.ca_pem, key


def _judge_certificate(payload: bytes) -> str:
    _, ca_pem, key = _issued()
    return find_certificate_problem(payload, ca_pem, key, "cam-7")


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def _pem(label: str, der: bytes) -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def decode_tables(payload: bytes) -> object:
    """Read a table file as Parquet or CSV, as the bytes say."""
    from fleet_server.adapters.table_files import PyarrowTableReader

    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(payload)
        file.flush()
        reader = PyarrowTableReader()
        names = reader.list_columns(Path(file.name))
        return reader.read(Path(file.name), numbers=names[:1], words=names[1:2])


def _tables() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": ["x", "y"]}), buffer)
    return [b"a,b\n1,x\n2,y\n", buffer.getvalue()]


def _skops() -> list[bytes]:
    from sklearn.linear_model import Ridge

    from converters.skops_library import import_skops

    content: bytes = import_skops().dumps(Ridge().fit(np.eye(3), np.arange(3)))
    return [content]


def decode_skops(payload: bytes) -> object:
    """Read an estimator as the server does."""
    from fleet_server.adapters.estimator_files import read_estimator

    return read_estimator(payload)


def seal_headers(payload: bytes) -> bytes:
    """Make the checksums of tar headers right again, so that what is in them is looked at."""
    blocks = bytearray(payload)
    for at in range(0, len(blocks) - 511, 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            total = sum(blocks[at : at + 512])
            blocks[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(blocks)


def _join_json(payload: bytes) -> JoinTicket:
    return JoinTicket.decode("ef1:" + base64.urlsafe_b64encode(payload).decode())


DECODERS: dict[str, Decoder] = {
    "bundle-json": Decoder(
        decode=lambda data: decode_bundle(zlib.compress(data)),
        seeds=lambda: [zlib.decompress(_bundle())],
        is_json=True,
    ),
    "join-json": Decoder(
        decode=_join_json,
        seeds=lambda: [base64.urlsafe_b64decode(_join()[4:] + b"===")],
        is_json=True,
    ),
    "package-headers": Decoder(
        decode=lambda data: unpack_members(seal_headers(data)),
        seeds=lambda: [_classifier().blob],
    ),
    "status": Decoder(
        decode=Status.decode,
        seeds=lambda: [Status(is_online=True, boot=7).encode()],
        is_json=True,
    ),
    "reported": Decoder(decode=Reported.decode, seeds=lambda: [_reported()], is_json=True),
    "telack": Decoder(
        decode=TelemetryAck.decode,
        seeds=lambda: [TelemetryAck(ranges=(AckRange(7, 0, 1, 4),)).encode()],
        is_json=True,
    ),
    "windows": Decoder(decode=decode_windows, seeds=lambda: [_windows()]),
    "rows": Decoder(decode=decode_rows, seeds=_rows),
    "labels": Decoder(decode=Labels.decode, seeds=_labels, is_json=True),
    "chunk-request": Decoder(
        decode=ChunkRequest.decode, seeds=lambda: [_chunk_request()], is_json=True
    ),
    "question": Decoder(
        decode=ChunkRequest.decode,
        seeds=lambda: [_question()],
        is_json=True,
    ),
    "offer": Decoder(decode=PackageOffer.decode, seeds=lambda: [_offer()], is_json=True),
    "encoded-package": Decoder(
        decode=restore_package, errors=(ContractError, ZstdError), seeds=_encoded_packages
    ),
    "chunk-frame": Decoder(decode=ChunkFrame.decode, seeds=lambda: [_chunk_frame()]),
    "assignment": Decoder(decode=Assignment.decode, seeds=lambda: [_assignment()], is_json=True),
    "bundle": Decoder(decode=decode_bundle, seeds=lambda: [_bundle()]),
    "bin": Decoder(decode=lambda data: decode_bin("packages-1f", data), seeds=lambda: [_bin()]),
    "renew": Decoder(
        decode=RenewRequest.decode,
        seeds=lambda: [RenewRequest(csr="pem", serial="1f").encode()],
        is_json=True,
    ),
    "certificate": Decoder(
        decode=CertificateAnswer.decode,
        seeds=lambda: [b'{"v":1,"serial":"1f","certificate":"pem"}'],
        is_json=True,
    ),
    "join": Decoder(
        decode=lambda data: JoinTicket.decode(data.decode("utf-8", "replace")),
        seeds=lambda: [_join()],
    ),
    "enrol-request": Decoder(
        decode=EnrolRequest.decode,
        seeds=lambda: [EnrolRequest(secret="s", csr="pem", root_sha256=SHA).encode()],
        is_json=True,
    ),
    "enrol-grant": Decoder(decode=EnrolGrant.decode, seeds=lambda: [_grant()], is_json=True),
    "topic": Decoder(
        decode=lambda data: parse_topic(data.decode("utf-8", "replace")),
        seeds=lambda: [device_topic("cam-7", Channel.STATUS).encode()],
    ),
    "package": Decoder(
        decode=unpack_members, seeds=lambda: [_classifier().blob, _regressor().blob]
    ),
    "schema": Decoder(decode=ModelSchema.decode, seeds=lambda: _members(SCHEMA), is_json=True),
    "reference": Decoder(decode=Reference.decode, seeds=lambda: _members(REFERENCE), is_json=True),
    "golden": Decoder(
        decode=decode_golden,
        errors=(PackageError,),
        seeds=lambda: [_members(GOLDEN)[0], _golden_squeezed()],
    ),
    "onnx": Decoder(decode=check_onnx, seeds=lambda: _members(MODEL)),
    "envelope": Decoder(
        decode=tuf_verifier._open_envelope,
        errors=(Refusal,),
        seeds=lambda: [_envelope()],
        is_json=True,
    ),
    "http": Decoder(decode=parse_http, errors=(HttpError,), seeds=lambda: HTTP_SEEDS),
    "infer-json": Decoder(
        decode=lambda data: _codec().decode(data),
        errors=(InputError,),
        seeds=_infer,
        is_json=True,
        is_stored=False,
    ),
    "infer-raw": Decoder(
        decode=read_raw_infer, errors=(InputError,), seeds=_raw_infer, is_stored=False
    ),
    "named-rows": Decoder(
        decode=read_named_rows,
        errors=(InputError,),
        seeds=lambda: [b'{"rows": [{"heat": 1.5, "door": 1, "pixels": [[1, 2], [3, 4]]}]}'],
        is_json=True,
        is_stored=False,
    ),
    "feedback": Decoder(
        decode=lambda data: take_feedback(_NoLabels(), data),
        errors=(InputError,),
        seeds=lambda: [
            b'{"prediction_id": "a", "label": "fog"}',
            b'[{"prediction_id": "a", "value": 1}]',
            b'{"prediction_id": "a", "labels": {"flow": 3.1, "day": "rest"}}',
        ],
        is_json=True,
        is_stored=False,
    ),
    "self-test": Decoder(
        decode=decode_result,
        errors=(ContractError, ValueError),
        seeds=lambda: [_self_test()],
        is_json=True,
    ),
    "mqtt": Decoder(decode=take_mqtt, errors=(mqtt.ProtocolError,), seeds=_mqtt),
    "csr": Decoder(
        decode=lambda data: _authority().read_key(data),
        errors=(RefusedError,),
        seeds=lambda: [_csr()],
    ),
    "csr-der": Decoder(
        decode=lambda data: _authority().read_key(_pem("CERTIFICATE REQUEST", data)),
        errors=(RefusedError,),
        seeds=lambda: [_der(_csr())],
    ),
    "certificate-der": Decoder(
        decode=lambda data: _judge_certificate(_pem("CERTIFICATE", data)),
        errors=(),
        seeds=lambda: [_der(_issued()[0])],
    ),
    "join-problem": Decoder(
        decode=lambda data: enrolment._detail(403, data),
        errors=(),
        seeds=lambda: [b'{"status":403,"detail":"the join string was used"}'],
        is_json=True,
        is_stored=False,
    ),
    "granted-certificate": Decoder(
        decode=_judge_certificate, errors=(), seeds=lambda: [_issued()[0]]
    ),
    "tables": Decoder(decode=decode_tables, errors=(RefusedError,), seeds=_tables),
    "skops": Decoder(decode=decode_skops, errors=(RefusedError,), seeds=_skops),
}


def pack_npy(dtype: str, shape: Sequence[int], data: bytes = b"") -> bytes:
    """Write an ``.npy`` whose header need not be true."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)!r}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
