"""The server over real sockets: the protocol, every bad request, slow and greedy clients."""

import contextlib
import errno
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from edge_agent import __version__
from edge_agent.adapters import http_connection
from edge_agent.adapters.http_connection import Application, ServerLimits
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.http_parser import HttpLimits, Request, Response
from edge_agent.adapters.http_room import BodyRoom
from edge_agent.adapters.inference_routes import HEAVY_BODY_BYTES, InferenceRoutes
from edge_agent.adapters.listening import ListenError
from edge_agent.contract.schema import Feature
from tests.support.serving import (
    CLASSES,
    TARGET,
    activate,
    build_classifier,
    build_regressor,
    make_service,
)
from tests.support.serving_http import Client, World, infer_bytes, serving, tensor

BUILT = build_classifier(
    features=(
        Feature(name="heat", low=-40, high=125),
        Feature(name="pixels", shape=(3,)),
    )
)
LIMITS = ServerLimits(http=HttpLimits(body_bytes_max=1_048_576), connections_max=6)
HASTY = ServerLimits(idle_s=0.6, head_s=0.6, body_s=0.6, write_s=0.8)


GET_SERVER = b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with serving(BUILT, LIMITS) as world:
        yield world


@pytest.fixture(scope="module")
def hasty() -> Iterator[World]:
    """A server with little patience."""
    with serving(BUILT, HASTY) as world:
        yield world


# The protocol -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (
            "/v2",
            {"name": "edge-agent", "version": __version__, "extensions": ["binary_tensor_data"]},
        ),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/main/ready", {"name": "plant", "ready": True}),
        ("/v2/models/plant/ready?x=1", {"name": "plant", "ready": True}),
        ("/v2/models/m%61in/versions/3/ready", {"name": "plant", "ready": True}),
    ],
)
def test_health_and_readiness(world: World, path: str, answer: object) -> None:
    assert world.ask(path) == (200, answer)


def test_metadata_says_what_goes_in_and_comes_out(world: World) -> None:
    status, answer = world.ask("/v2/models/main/versions/3")
    assert (status, answer["name"], answer["versions"]) == (200, "plant", ["3"])
    assert answer["platform"] == "onnx_onnxv1"
    assert answer["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    assert answer["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "class", "datatype": "BYTES", "shape": [-1]},
    ]
    assert answer["parameters"] == {"slot": "main", "target": TARGET, "sha256": BUILT.sha256}


def test_an_answer_is_what_the_service_says(world: World) -> None:
    rows = BUILT.rows[:5]
    status, answer = world.ask("/v2/models/plant/infer", {"id": "é7", "inputs": [tensor(rows)]})
    expected = world.service.predict("main", rows).outputs
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("plant", "3", "é7")
    assert answer["parameters"]["prediction_id"].startswith("0000000000000005-0-")
    label, probabilities, names = answer["outputs"]
    assert label == {
        "name": "label",
        "datatype": "INT64",
        "shape": [5],
        "data": expected["label"].tolist(),
    }
    assert probabilities["shape"] == [5, 3]
    given = np.array(probabilities["data"], np.float32).reshape(5, 3)
    np.testing.assert_array_equal(given, expected["probabilities"])
    assert names["data"] == [CLASSES[n] for n in expected["label"]]


def test_only_the_outputs_asked_for_are_given_in_that_order(world: World) -> None:
    outputs = [{"name": "class"}, {"name": "label", "parameters": {"binary_data": False}}]
    _, answer = world.ask(
        "/v2/models/main/versions/3/infer",
        {"inputs": [tensor(BUILT.rows[:1])], "outputs": outputs},
    )
    assert [output["name"] for output in answer["outputs"]] == ["class", "label"]
    assert "id" not in answer


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP64", [[1.0, 2.0, 0.0, -3.0]]),
        ("FP32", [1, 2, 0, -3]),
        ("INT8", [1, 2, 0, -3]),
        ("INT64", [1.0, 2.0, 0.0, -3.0]),
        ("FP16", [[[1.0, 2.0], [0.0, -3.0]]]),
    ],
)
def test_every_numeric_datatype_is_taken(world: World, datatype: str, data: Any) -> None:
    given = tensor(data, datatype=datatype, shape=[1, 4])
    _, answer = world.ask("/v2/models/main/infer", {"inputs": [given]})
    expected = world.service.predict("main", np.array([[1, 2, 0, -3]], np.float32))
    assert answer["outputs"][0]["data"] == expected.outputs["label"].tolist()


def test_a_regression_answers_values() -> None:
    service, built = make_service(), build_regressor()
    activate(service, built, slot="power", target="load/12/camera.tar")
    server = HttpInferenceServer(InferenceRoutes(service))
    world = World(service, server.start())
    try:
        given = tensor(built.rows[:2], shape=[2, 3])
        _, answer = world.ask("/v2/models/power/infer", {"inputs": [given]})
        (value,) = answer["outputs"]
        assert (value["name"], value["datatype"], value["shape"]) == ("value", "FP32", [2])
        _, metadata = world.ask("/v2/models/load")
        assert [o["name"] for o in metadata["outputs"]] == ["value"]
    finally:
        server.stop()


def test_an_agent_without_a_model_is_live_and_not_ready() -> None:
    service = make_service()
    server = HttpInferenceServer(InferenceRoutes(service))
    world = World(service, server.start())
    try:
        assert world.ask("/v2/health/live") == (200, {"live": True})
        assert world.ask("/v2/health/ready") == (503, {"ready": False})
        status, answer = world.ask("/v2/models/main/ready")
        assert (status, answer["error"]) == (404, "no slot or model 'main'; answering now: none")
        service.deactivate("main", reason="digits/1 was withdrawn")
        status, answer = world.ask("/v2/models/main/ready")
        assert (status, answer["error"]) == (
            503,
            "slot 'main' answers nothing: digits/1 was withdrawn",
        )
    finally:
        server.stop()


# Bad requests -------------------------------------------------------------------------------------

GOOD = tensor([[1.0, 2.0, 3.0, 4.0]])


def inputs(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**GOOD, **changes}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (
            b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,4],"data":[1,2,3,NaN]}]}',
            "NaN",
        ),
        (b'{"a": 1' + b"0" * 5_000 + b"}", "not JSON"),
        ([], "must be a JSON object, got a list"),
        ({}, "inputs must be a list of one tensor"),
        ({"inputs": []}, "one tensor named 'features'"),
        ({"inputs": [GOOD, GOOD]}, "one tensor"),
        ({"inputs": ["features"]}, "one tensor"),
        ({"inputs": [GOOD], "id": 7}, "id must be a string"),
        ({"inputs": [GOOD], "id": "x" * 257}, "at most 256"),
        ({"inputs": [GOOD], "parameters": []}, "parameters of the request must be an object"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "must be a boolean, got 1"),
        (inputs(name="x"), "inputs[0].name must be 'features', got 'x'"),
        (inputs(parameters={"binary_data_size": 16}), "it must be one"),
        (inputs(parameters=7), "must be an object, got a number"),
        (inputs(datatype="BYTES"), "datatype must be one of FP16"),
        (inputs(datatype=None), "got None"),
        (inputs(datatype=["FP32"]), "datatype must be one of"),
        (inputs(shape=[4]), "shape must be [rows, 4], got [4]"),
        (inputs(shape=[1, 5]), "shape must be [rows, 4]"),
        (inputs(shape=[1.0, 4]), "shape must be"),
        (inputs(shape=[True, 4]), "shape must be"),
        (inputs(shape=None), "shape must be"),
        (inputs(shape=[0, 4]), "0 rows"),
        (inputs(shape=[-1, 4]), "-1 rows"),
        (inputs(shape=[4_097, 4]), "4097 rows, a request takes 1 to 4096"),
        (b'{"inputs":[' + b"0," * 20_000 + b"0]}", "more numbers than 4096 rows of 4"),
        (inputs(shape=[2, 4]), "data has 4 numbers, shape [2, 4] needs 8"),
        (inputs(data=[]), "data has 0 numbers"),
        (inputs(data=None), "data must be a list of numbers, got null"),
        (inputs(data="1234"), "got text"),
        (inputs(data=[1, 2, 3, None]), "found text, null"),
        (inputs(data=[1, 2, 3, "4"]), "only numbers"),
        (inputs(data=[1, 2, 3, {}]), "only numbers"),
        (inputs(data=[[1, 2, 3], [4]]), "not an array of numbers"),
        (inputs(data=[True, False, True, True]), "only booleans for BOOL"),
        (inputs(data=[1, 2, 3, True]), "only booleans for BOOL"),
        (inputs(data=[1, 2, 3, 4], datatype="BOOL"), "only booleans for BOOL"),
        (inputs(data=[1, 2, 3, 2**70]), "beyond 64 bits"),
        (inputs(data=[1, 2, 3, 0.5], datatype="INT32"), "fractions"),
        (inputs(data=[1, 2, 3, -4], datatype="UINT8"), "negative"),
        (inputs(data=[1, 2, 1e39, 4]), "row 0: pixels_1 is 1e+39, beyond float32"),
        (inputs(data=[1, 2, -1e308, 4]), "beyond float32"),
        (inputs(data=[126, 2, 3, 4]), "row 0: heat is 126, allowed is -40 to 125"),
        ({"inputs": [GOOD], "outputs": []}, "outputs must be a list of 1 to 3"),
        ({"inputs": [GOOD], "outputs": "label"}, "outputs must be a list"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, "outputs[0].name must be one of label"),
        ({"inputs": [GOOD], "outputs": [{"name": "label"}] * 2}, "outputs[1].name"),
        ({"inputs": [GOOD], "outputs": [7]}, "got None"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"binary_data": 7}}]},
            "parameter binary_data of label must be a boolean",
        ),
        (
            {
                "inputs": [GOOD],
                "outputs": [{"name": "label", "parameters": {"classification": 2}}],
            },
            "parameter classification is not served",
        ),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(world: World, body: Any, words: str) -> None:
    status, answer = world.ask("/v2/models/main/infer", body)
    assert (status, list(answer)) == (400, ["error"])
    assert words in answer["error"]
    assert len(answer["error"]) < 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("GET", "/", {}, 404, "no such path '/'; begin at /v2"),
        ("GET", "/v2/models", {}, 404, "no such path"),
        ("GET", "/v2/models/main/nothing", {}, 404, "no such path"),
        ("GET", "/v2/models/other", {}, 404, "no slot or model 'other'; answering now: main"),
        ("GET", "/v2/models/%ff/ready", {}, 404, "no slot or model"),
        ("GET", "/v2/models/main/versions/4", {}, 404, "answers as version 3, not '4'"),
        ("GET", "/v2/models/main/infer", {}, 405, "use POST"),
        ("POST", "/v2/models/main", {}, 405, "use GET"),
        ("DELETE", "/v2", {}, 405, "use GET"),
        (
            "POST",
            "/v2/models/main/infer",
            {"Inference-Header-Content-Length": "9"},
            400,
            "not JSON",
        ),
        ("POST", "/v2/models/main/infer", {"Content-Encoding": "gzip"}, 415, "compressed"),
        ("POST", "/v2/models/main/infer", {"Transfer-Encoding": "chunked"}, 501, "chunked"),
        ("POST", "/v2/models/main/infer", {"Content-Length": "9999999"}, 413, "limit is 1048576"),
        ("GET", "/v2", {"X": "a" * 20_000}, 431, "exceed 16384 bytes"),
    ],
)
def test_what_is_not_served_is_told_with_its_status(
    world: World, method: str, path: str, headers: dict[str, str], status: int, words: str
) -> None:
    body = gzip.compress(b"{}") if method == "POST" else None
    seen, answer = world.ask(path, body, method=method, headers=headers)
    assert seen == status
    assert words in answer["error"]


def test_a_body_that_would_take_much_memory_is_not_decoded(world: World) -> None:
    body = b'{"x":[' + b"[" * 262_144 + b"1]}"
    status, answer = world.ask("/v2/models/main/infer", body)
    assert (status, "more than 262144 lists" in answer["error"]) == (400, True)


def test_a_wrong_method_is_told_the_right_one(world: World) -> None:
    with world.client() as client:
        client.send(b"PUT /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        status, headers, _ = client.read()
        assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v2", 200), ("/v2/health/ready", 200), ("/no", 404), ("/v1/feedback", 405)],
)
def test_head_is_answered_as_get_without_a_body(world: World, path: str, status: int) -> None:
    with world.client() as client:
        client.send(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() + GET_SERVER)
        assert client.file.readline().split()[1] == str(status).encode()
        headers = list(iter(client.file.readline, b"\r\n"))
        assert any(line.startswith(b"Content-Length: ") for line in headers)
        seen, _, body = client.read()
        assert (seen, b"edge-agent" in body) == (200, True)


def test_rows_out_of_range_are_counted_as_rejected() -> None:
    service = make_service()
    activate(service, BUILT)
    routes = InferenceRoutes(service)
    body = json.dumps(inputs(data=[126, 2, 3, 4])).encode()
    request = Request(
        method="POST", path="/v2/models/main/infer", headers={}, body=body, is_persistent=True
    )
    assert routes.answer(request).status == 400
    recorder = service.find("main").recorder
    recorder.retire()
    (window,) = service._waiting.take()[1]
    assert window.rows == 0
    assert service.probation_stats("main").errors == 0


def test_refused_requests_tell_of_a_package_where_the_one_before_has_answered() -> None:
    service = make_service()
    activate(service, BUILT)
    routes = InferenceRoutes(service)

    def ask(row: list[float]) -> int:
        body = json.dumps(inputs(data=row)).encode()
        path = "/v2/models/main/infer"
        request = Request(method="POST", path=path, headers={}, body=body, is_persistent=True)
        return routes.answer(request).status

    assert ask([126, 2, 3, 4]) == 400
    assert service.probation_stats("main").refused == 0, "nobody knows whose fault that is"
    assert ask([1, 2, 3, 4]) == 200
    for former in (False, True):
        activate(service, BUILT)
        assert [ask([126, 2, 3, 4]), ask([1, 2])] == [400, 400]
        assert service.probation_stats("main").refused == 2, former
    service.reset_stats("main")
    assert service.probation_stats("main").refused == 0


def test_an_answer_json_cannot_say_is_the_models_fault(world: World) -> None:
    largest = float(np.finfo(np.float32).max)
    status, answer = world.ask(
        "/v2/models/main/infer", inputs(data=[0, largest, -largest, largest])
    )
    assert status == 500
    assert answer["error"].startswith("plant/3/camera.tar answered NaN or infinity in prob")


def test_a_mistake_of_ours_is_answered_and_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(world.service, "find", fail)
    assert world.ask("/v2/models/main") == (500, {"error": "the agent failed; its log says why"})
    assert "secret" in caplog.text


# Connections --------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    with world.client() as client:
        rows = [BUILT.rows[n : n + 1] for n in range(60)]
        client.send(b"".join(infer_bytes(row) for row in rows))
        expected = world.service.predict("main", BUILT.rows[:60]).outputs["label"].tolist()
        given = []
        for _ in rows:
            status, _, body = client.read()
            assert status == 200
            given += json.loads(body)["outputs"][0]["data"]
        assert given == expected


def test_heavy_and_light_requests_of_one_connection_keep_their_order(world: World) -> None:
    heavy = infer_bytes(np.resize(BUILT.rows, (4_000, 4)))
    assert len(heavy) > HEAVY_BODY_BYTES
    with world.client() as client:
        client.send(heavy + infer_bytes(BUILT.rows[:2]) + heavy)
        sizes = [json.loads(client.read()[2])["outputs"][0]["shape"] for _ in range(3)]
        assert sizes == [[4_000], [2], [4_000]]


def test_a_request_in_small_pieces_is_answered(world: World) -> None:
    with world.client() as client:
        data = infer_bytes(BUILT.rows[:1])
        for start in range(0, len(data), 50):
            client.send(data[start : start + 50])
            time.sleep(0.01)
        assert client.read()[0] == 200


def test_a_client_that_closes_its_side_still_gets_its_answers(world: World) -> None:
    with world.client() as client:
        client.send(infer_bytes(np.resize(BUILT.rows, (4_000, 4))) + infer_bytes(BUILT.rows[:1]))
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.read()[0] for _ in range(2)] == [200, 200]
        assert client.ends()


def test_a_client_that_expects_to_be_told_is_told_to_go_on(world: World) -> None:
    head, _, body = infer_bytes(BUILT.rows[:1]).partition(b"\r\n\r\n")
    with world.client() as client:
        client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert client.read()[0] == 100
        client.send(body)
        assert client.read()[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2 HT", 408),
        (b"POST /v2/models/main/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", 408),
    ],
)
def test_a_slow_client_is_told_and_let_go(hasty: World, sent: bytes, status: int) -> None:
    with hasty.client() as client:
        began = time.monotonic()
        client.send(sent)
        seen, _, body = client.read()
        assert (seen, "too slowly" in body.decode()) == (status, True)
        assert client.ends()
        assert time.monotonic() - began < 20


def test_a_byte_now_and_then_does_not_keep_a_connection_open(hasty: World) -> None:
    with hasty.client() as client:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                client.send(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("empty", [b"\r\n", b"\r"])
def test_empty_lines_do_not_keep_a_connection_open(hasty: World, empty: bytes) -> None:
    with hasty.client() as client:
        began = time.monotonic()
        client.send(GET_SERVER)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                client.send(empty)
                time.sleep(0.05)
                empty = {b"\r": b"\n", b"\n": b"\r"}.get(empty, empty)
        assert time.monotonic() - began < 20


def test_an_idle_connection_is_closed_quietly(hasty: World) -> None:
    with hasty.client() as client:
        client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read()[0] == 200
        assert client.ends()


def test_a_client_that_does_not_read_its_answers_is_let_go(hasty: World) -> None:
    request = infer_bytes(np.resize(BUILT.rows, (300, 4)))
    with hasty.client() as client:
        began = time.monotonic()
        client.socket.settimeout(20)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                client.send(request)
        assert time.monotonic() - began < 20


def test_who_speaks_tls_to_a_plain_port_is_told_at_once(world: World) -> None:
    with world.client() as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00")
        status, _, body = client.read()
        assert (status, b"ask with http://" in body) == (400, True)


def test_a_large_body_is_read_when_there_is_room_for_it() -> None:
    body = json.dumps({"inputs": [tensor(BUILT.rows[:1])]}).encode().ljust(400_000)
    head = f"POST /v2/models/main/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    with (
        serving(BUILT, limits=ServerLimits(bodies_bytes_max=500_000)) as world,
        world.client() as first,
        world.client() as second,
        world.client() as third,
    ):
        first.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert first.read()[0] == 100
        second.send(f"{head}\r\n".encode() + body)
        third.send(GET_SERVER)
        assert third.read()[0] == 200
        second.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.socket.recv(1)
        second.socket.settimeout(10)
        first.send(body)
        assert [first.read()[0], second.read()[0]] == [200, 200]


def test_room_goes_to_who_came_first_and_not_to_who_left() -> None:
    room, seen = BodyRoom(10), list[str]()
    assert room.take("a", 11, lambda: None)  # one always fits
    for name, size in (("b", 6), ("c", 6), ("d", 6), ("e", 4)):
        assert not room.take(name, size, partial(seen.append, name))
    room.give_back(11)
    assert seen == ["b"]
    room.forget("c")
    assert seen == ["b"]
    room.give_back(6)
    assert seen == ["b", "d", "e"]


def test_one_connection_too_many_is_told_so_and_a_place_becomes_free(world: World) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(world.client()) for _ in range(LIMITS.connections_max)]
        for client in clients:
            client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read()[0] == 200
        with world.client() as surplus:
            status, headers, body = surplus.read()
            assert (status, headers["Retry-After"]) == (503, "1")
            assert b"6 connections are open" in body
            assert surplus.ends()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with world.client() as client:
            client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
            if client.read()[0] == 200:
                return
        time.sleep(0.05)
    pytest.fail("no place became free")


def test_silent_clients_do_not_keep_others_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "SILENT_S", 0.0)
    with contextlib.ExitStack() as stack:
        asking = stack.enter_context(world.client())
        asking.send(GET_SERVER)
        assert asking.read()[0] == 200
        silent = [stack.enter_context(world.client()) for _ in range(LIMITS.connections_max - 1)]
        for client in silent:
            client.send(b"GET /v2 HT")
        time.sleep(0.1)
        for _ in range(3):
            late = stack.enter_context(world.client())
            late.send(GET_SERVER)
            assert late.read()[0] == 200
        asking.send(GET_SERVER)
        assert asking.read()[0] == 200


def test_a_refused_body_is_drained_so_that_the_answer_arrives(world: World) -> None:
    with world.client() as client:
        client.send(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1500000\r\n\r\n")
        for _ in range(15):
            client.send(b"x" * 100_000)
        assert client.read()[0] == 413


def test_garbage_never_brings_the_server_down(world: World) -> None:
    rng = np.random.default_rng(11)
    whole = infer_bytes(BUILT.rows[:2])
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        with world.client() as client:
            client.send(bytes(data))
            client.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError, IndexError):
                assert client.read()[0] in (100, 200, 400, 404, 405, 411, 413, 415, 431, 501, 505)
    assert world.ask("/v2/health/live")[0] == 200


# Starting and stopping ----------------------------------------------------------------------------


def test_a_taken_port_is_named() -> None:
    service = make_service()
    first = HttpInferenceServer(InferenceRoutes(service))
    port = first.start()
    try:
        second = HttpInferenceServer(InferenceRoutes(service), port=port)
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1 port {port}.*in use"):
            second.start()
        second.stop()
        with pytest.raises(ListenError, match="port 70000"):
            HttpInferenceServer(InferenceRoutes(service), port=70_000).start()
    finally:
        first.stop()


class SlowApplication(Application):
    """Answers in the pool after it is let go."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def is_heavy(self, request: Request) -> bool:
        return request.path == "/slow"

    def answer(self, request: Request) -> Response:
        if request.path == "/slow":
            self.begun.set()
            self.may_end.wait(10)
        return Response(body=b"{}")


def test_a_heavy_request_does_not_hold_up_the_others() -> None:
    application = SlowApplication()
    server = HttpInferenceServer(application)
    port = server.start()
    slow, quick = Client(port), Client(port)
    try:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert application.begun.wait(10)
        quick.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert quick.read()[0] == 200
        application.may_end.set()
        assert slow.read()[0] == 200
    finally:
        slow.close()
        quick.close()
        server.stop()


def test_stopping_finishes_what_was_begun_and_closes_the_rest() -> None:
    application = SlowApplication()
    server = HttpInferenceServer(application)
    port = server.start()
    slow, idle = Client(port), Client(port)
    slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    assert application.begun.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert idle.ends()
    application.may_end.set()
    status, headers, _ = slow.read()
    assert (status, headers["Connection"]) == (200, "close")
    stopping.join(10)
    assert not stopping.is_alive()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    slow.close()
    idle.close()


class Hello(Application):
    def is_heavy(self, _request: Request) -> bool:
        return False

    def answer(self, _request: Request) -> Response:
        return Response(body=b'{"hello":true}')


def test_who_was_accepted_in_the_moment_of_the_end_is_answered() -> None:
    server = HttpInferenceServer(Hello())
    port = server.start()
    loop = server._loop
    assert loop is not None
    held, gone = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gone.wait(10)

    loop.call_soon_threadsafe(hold)
    assert held.wait(10)
    client = Client(port)  # waits in the queue of the kernel, and so does what it asks
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    stopping = threading.Thread(target=lambda: server.stop(drain_s=5.0))
    stopping.start()
    time.sleep(0.1)
    gone.set()
    try:
        assert client.read()[0] == 200
    finally:
        client.close()
        stopping.join(10)


def test_a_want_of_file_descriptors_is_told_once_and_other_faults_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = HttpInferenceServer(Hello())
    server.start()
    try:
        loop = server._loop
        assert loop is not None
        for error in [OSError(errno.EMFILE, "Too many open files")] * 50 + [ValueError("odd")] * 2:
            context = {"message": "as asyncio says it", "exception": error}
            loop.call_soon_threadsafe(loop.call_exception_handler, context)
    finally:
        server.stop()
    assert caplog.text.count("no further client can be taken") == 1
    assert caplog.text.count("ValueError: odd") == 2
