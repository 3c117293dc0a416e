"""Tensors as raw bytes over a real socket: every datatype, mixed answers, every wrong length."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters import inference_json
from edge_agent.contract.schema import Feature
from tests.support.serving import CLASSES, build_classifier, build_regressor
from tests.support.serving_http import World, serving

BUILT = build_classifier(
    features=(Feature(name="heat", low=-40, high=125), Feature(name="pixels", shape=(3,)))
)
HEADER = "Inference-Header-Content-Length"
PATH = "/v2/models/main/infer"
ROW = np.array([[1, 2, 0, 3]])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with serving(BUILT) as world:
        yield world


def ask(world: World, asked: Any, raw: bytes, header: str | None = None) -> tuple[int, Any, bytes]:
    """Send JSON and what follows it; give the status, the JSON and what follows it."""
    text = json.dumps(asked).encode()
    connection = HTTPConnection("127.0.0.1", world.port, timeout=10)
    try:
        headers = {HEADER: str(len(text)) if header is None else header}
        connection.request("POST", PATH, text + raw, headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    size = int(response.headers.get(HEADER, len(body)))
    is_raw = HEADER in response.headers
    wanted = "application/octet-stream" if is_raw else "application/json"
    assert response.headers["Content-Type"] == wanted
    return response.status, json.loads(body[:size]), body[size:]


def raw_tensor(raw: bytes, *, rows: int = 1, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": len(raw)}
    return {
        "name": "features",
        "datatype": datatype,
        "shape": [rows, 4],
        "parameters": parameters,
        **more,
    }


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("FP16", "<f2"),
        ("FP32", "<f4"),
        ("FP64", "<f8"),
        ("INT8", "<i1"),
        ("INT16", "<i2"),
        ("INT32", "<i4"),
        ("INT64", "<i8"),
        ("UINT8", "<u1"),
        ("UINT16", "<u2"),
        ("UINT32", "<u4"),
        ("UINT64", "<u8"),
    ],
)
def test_every_datatype_is_read_as_its_bytes(world: World, datatype: str, dtype: str) -> None:
    raw = ROW.astype(dtype).tobytes()
    status, answer, rest = ask(world, {"inputs": [raw_tensor(raw, datatype=datatype)]}, raw)
    expected = world.service.predict("main", ROW.astype(np.float32)).outputs
    assert (status, rest) == (200, b"")
    given = np.array(answer["outputs"][1]["data"], np.float32)
    np.testing.assert_array_equal(given, expected["probabilities"].ravel())


def test_half_precision_of_the_other_kind_and_booleans_are_read(world: World) -> None:
    upper_halves = (ROW.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    _, of_bf16, _ = ask(
        world, {"inputs": [raw_tensor(upper_halves, datatype="BF16")]}, upper_halves
    )
    _, of_json, _ = ask(
        world,
        {
            "inputs": [
                {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 0, 3]}
            ]
        },
        b"",
    )
    assert of_bf16["outputs"] == of_json["outputs"]
    bits = b"\x01\x00\x00\x01"
    status, _, _ = ask(world, {"inputs": [raw_tensor(bits, datatype="BOOL")]}, bits)
    assert status == 200


def test_all_outputs_are_raw_when_the_request_says_so(world: World) -> None:
    rows = BUILT.rows[:3]
    raw = rows.tobytes()
    asked = {
        "id": "a",
        "inputs": [raw_tensor(raw, rows=3)],
        "parameters": {"binary_data_output": True},
    }
    status, answer, rest = ask(world, asked, raw)
    expected = world.service.predict("main", rows).outputs
    assert (status, answer["id"]) == (200, "a")
    assert [(o["name"], o["shape"]) for o in answer["outputs"]] == [
        ("label", [3]),
        ("probabilities", [3, 3]),
        ("class", [3]),
    ]
    assert all("data" not in output for output in answer["outputs"])
    sizes = [output["parameters"]["binary_data_size"] for output in answer["outputs"]]
    assert sum(sizes) == len(rest)
    assert rest[: sizes[0]] == expected["label"].astype("<i8").tobytes()
    assert rest[sizes[0] : sizes[0] + sizes[1]] == expected["probabilities"].tobytes()
    texts, at = [], sizes[0] + sizes[1]
    while at < len(rest):
        size = int.from_bytes(rest[at : at + 4], "little")
        texts.append(rest[at + 4 : at + 4 + size].decode())
        at += 4 + size
    assert texts == [CLASSES[n] for n in expected["label"]]


def test_an_output_may_be_asked_for_otherwise_than_the_rest(world: World) -> None:
    raw = ROW.astype("<f4").tobytes()
    asked = {
        "inputs": [raw_tensor(raw)],
        "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "class", "parameters": {"binary_data": False}},
            {"name": "label"},
        ],
    }
    _, answer, rest = ask(world, asked, raw)
    names, label = answer["outputs"]
    assert names["data"][0] in CLASSES
    assert label["parameters"] == {"binary_data_size": 8}
    assert CLASSES[int.from_bytes(rest, "little")] == names["data"][0]


def test_a_regression_answers_raw_values() -> None:
    built = build_regressor()
    with serving(built) as world:
        raw = built.rows[:2].tobytes()
        tensor = {**raw_tensor(raw, rows=2), "shape": [2, 3]}
        asked = {
            "inputs": [tensor],
            "outputs": [{"name": "value", "parameters": {"binary_data": True}}],
        }
        _, _, rest = ask(world, asked, raw)
        expected = world.service.predict("main", built.rows[:2]).outputs["value"]
        assert rest == expected.tobytes()


def test_raw_bytes_may_say_what_json_cannot(world: World) -> None:
    largest = float(np.finfo(np.float32).max)
    raw = np.array([[0, largest, -largest, largest]], "<f4").tobytes()
    asked = {"inputs": [raw_tensor(raw)], "parameters": {"binary_data_output": True}}
    status, _, rest = ask(world, asked, raw)
    assert status == 200
    assert np.isnan(np.frombuffer(rest[8:20], "<f4")).any()


GOOD = ROW.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("tensor", "raw", "header", "words"),
    [
        (raw_tensor(GOOD), GOOD, "x", "is b'x', it must be a length"),
        (raw_tensor(GOOD), GOOD, "-1", "must be a length"),
        (raw_tensor(GOOD), GOOD, "9" * 13, "must be a length"),
        (raw_tensor(GOOD), GOOD, "5000", "is 5000, the body has"),
        (raw_tensor(GOOD), GOOD, "20", "not JSON"),
        (raw_tensor(GOOD), GOOD + b"x", None, "binary_data_size 16, 17 bytes follow"),
        (raw_tensor(GOOD), GOOD[:-1], None, "binary_data_size 16, 15 bytes follow"),
        (raw_tensor(GOOD, parameters={"binary_data_size": True}), GOOD, None, "True"),
        (raw_tensor(GOOD, parameters={"binary_data_size": "16"}), GOOD, None, "'16'"),
        (raw_tensor(GOOD, parameters={}, data=[1, 2, 0, 3]), GOOD, None, "declares no binary"),
        (raw_tensor(GOOD, data=[1, 2, 0, 3]), GOOD, None, "it must be one"),
        (raw_tensor(GOOD, rows=2), GOOD, None, "16 bytes, 8 numbers of FP32 need 32"),
        (raw_tensor(GOOD, datatype="FP64"), GOOD, None, "4 numbers of FP64 need 32"),
        (raw_tensor(GOOD + b"x"), GOOD + b"x", None, "17 bytes, 4 numbers of FP32 need 16"),
        (raw_tensor(GOOD, datatype="BYTES"), GOOD, None, "datatype must be one of"),
        (raw_tensor(b"\0\1\2\1", datatype="BOOL"), b"\0\1\2\1", None, "neither 0 nor 1"),
    ],
)
def test_a_wrong_length_or_kind_is_told(
    world: World, tensor: dict[str, Any], raw: bytes, header: str | None, words: str
) -> None:
    status, answer, _ = ask(world, {"inputs": [tensor]}, raw, header)
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, np.nan, 0, 3], "row 0: pixels_0 is nan, no number"),
        ([1, 2, np.inf, 3], "pixels_1 is inf, beyond float32"),
        ([126, 2, 0, 3], "row 0: heat is 126, allowed is -40 to 125"),
    ],
)
def test_raw_numbers_are_checked_like_written_ones(
    world: World, values: list[float], words: str
) -> None:
    raw = np.array([values], "<f4").tobytes()
    status, answer, _ = ask(world, {"inputs": [raw_tensor(raw)]}, raw)
    assert (status, words in answer["error"]) == (400, True)


def test_raw_bytes_without_the_header_are_named(world: World) -> None:
    status, answer = world.ask(PATH, {"inputs": [raw_tensor(GOOD)]})
    assert status == 400
    assert "without header Inference-Header-Content-Length" in answer["error"]


def test_an_answer_too_long_is_refused_before_the_model_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_json, "ANSWER_NUMBERS_MAX", 9)
    two = {"name": "features", "datatype": "FP32", "shape": [2, 4], "data": [0] * 8}
    status, answer = world.ask(PATH, {"inputs": [two]})
    assert (status, "send at most 1 rows, or ask for fewer outputs" in answer["error"]) == (
        400,
        True,
    )
    label = [{"name": "label"}]
    assert world.ask(PATH, {"inputs": [two], "outputs": label})[0] == 200
