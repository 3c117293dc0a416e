"""What fuzzing and reading found, one test each, so that it stays found."""

import json
from typing import Any

import pytest

from edge_agent.adapters import enrolment
from edge_agent.contract.assignment import read_instant
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.messages import Reported, Status, TelemetryAck
from edge_agent.contract.schema import ModelSchema
from edge_agent.statistics.reference import Reference
from fleet_server.adapters import mqtt_packets as mqtt
from fleet_server.errors import RefusedError
from tests.support.decoders import DECODERS


def seed(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DECODERS[name].seeds()[0])
    return value


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (b'"\\ud800"', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b"1e999", "beyond the numbers"),
        (b"-1e999", "beyond the numbers"),
        (b"18446744073709551616", "more than 64 bits"),
        (b"-9223372036854775809", "more than 64 bits"),
        (b"[" * 33 + b"]" * 33, "nested deeper than 32"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 32"),
        (b'"\xed\xa0\x80"', "invalid continuation byte"),
    ],
)
def test_a_report_whose_unknown_field_could_not_be_stored_is_refused(
    extra: bytes, words: str
) -> None:
    """It would have been offered to the database, refused, and delivered again for ever."""
    body = json.dumps({**seed("reported"), "later": 0}).encode()
    with pytest.raises(MalformedError, match=words):
        Reported.decode(body.replace(b'"later": 0', b'"later": ' + extra))


@pytest.mark.parametrize(
    "extra",
    [
        '"\\ud83d\\ude00"',
        '"\\\\ud800"',
        "18446744073709551615",
        "1.7e308",
        "[" * 31 + "]" * 31,
        '"' + "[" * 500 + '"',
    ],
)
def test_a_report_just_within_the_bounds_is_read_and_written_back(extra: str) -> None:
    body = json.dumps({**seed("reported"), "later": 0}).replace('"later": 0', f'"later": {extra}')
    report = Reported.decode(body.encode())
    assert report.extra["later"] == json.loads(extra)
    assert Reported.decode(report.encode()) == report


@pytest.mark.parametrize(
    "boot", ["0x0000000000000f", "+00000000000000f", "0000_0000_0000_f", "٣" * 16]
)
def test_a_boot_id_is_sixteen_plain_hex_digits(boot: str) -> None:
    with pytest.raises(MalformedError, match="boot must be 16 hex digits"):
        Status.decode(json.dumps({"v": 1, "state": "online", "boot": boot}).encode())


@pytest.mark.parametrize(("stream", "last"), [(2**16, 1), (-1, 1), (0, 2**32)])
def test_an_acknowledgement_beyond_what_a_window_can_be_is_refused(stream: int, last: int) -> None:
    ranges = [["0000000000000007", stream, 0, last]]
    with pytest.raises(MalformedError, match="telack: a range"):
        TelemetryAck.decode(json.dumps({"v": 1, "ranges": ranges}).encode())


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_instant_whose_arithmetic_overflows_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="is not between 1970 and 9998"):
        read_instant(text, what="it")


def test_a_class_of_a_schema_or_reference_is_text() -> None:
    with pytest.raises(MalformedError, match="is not text"):
        ModelSchema.decode(json.dumps({**seed("schema"), "classes": [["deep"], 1, "c"]}).encode())
    reference = seed("reference")
    reference["output"]["classes"] = [{"a": 1}, "b", "c"]
    with pytest.raises(MalformedError, match="is not text"):
        Reference.decode(json.dumps(reference).encode())


def test_an_edge_of_four_hundred_digits_is_refused() -> None:
    reference = seed("reference")
    reference["features"][0]["edges"][0] = 10**400
    with pytest.raises(MalformedError, match="more than 64 bits"):
        Reference.decode(json.dumps(reference).encode())


def test_a_publish_that_ends_inside_its_topic_is_refused_at_qos_0_too() -> None:
    with pytest.raises(mqtt.ProtocolError, match="ends inside its topic"):
        mqtt.split_publish(mqtt.Kind.PUBLISH, b"\x00\x09abc")


def test_a_certificate_request_of_version_64_is_refused() -> None:
    der = DECODERS["csr-der"].seeds()[0]
    at = der.index(b"\x02\x01\x00") + 2
    with pytest.raises(RefusedError, match="not a valid CSR version"):
        DECODERS["csr-der"].decode(der[:at] + b"\x40" + der[at + 1 :])


def test_a_refusal_of_enrolment_that_nests_a_hundred_thousand_deep_is_told_by_its_status() -> None:
    assert enrolment._detail(403, b"[" * 100_000) == "HTTP status 403"
