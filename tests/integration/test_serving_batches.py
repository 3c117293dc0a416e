"""Several requests in one run: when it pays, that nobody waits for company, swaps meanwhile."""

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_agent.adapters.batch_gain import GAIN_MIN, ROWS, measure_batch_gain
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.http_parser import Request
from edge_agent.adapters.inference_routes import BATCH_ROWS_MAX, InferenceRoutes
from edge_agent.adapters.inference_service import InferenceService
from edge_agent.errors import InferenceError
from tests.support.serving import (
    BuiltPackage,
    activate,
    build_classifier,
    classifier_graph,
    graph_bytes,
    make_service,
)
from tests.support.serving_http import Client, infer_bytes, tensor

BUILT = build_classifier()
OTHER = build_classifier(seed=1)
Rows = NDArray[np.float32]


# When it pays -------------------------------------------------------------------------------------


class FakeModel:
    """Takes as long as it is told, and answers what it is told."""

    def __init__(self, fixed_s: float, row_s: float, *, shift: float = 0.0) -> None:
        self.fixed_s, self.row_s, self.shift = fixed_s, row_s, shift

    def __call__(self, rows: Rows) -> Sequence[NDArray[Any]]:
        ends_at = time.perf_counter() + self.fixed_s + self.row_s * len(rows)
        while time.perf_counter() < ends_at:
            pass
        moved = rows[:, :1] * 2 + (self.shift if len(rows) > 1 else 0)
        return [np.argmax(rows, axis=1), moved]


@pytest.mark.parametrize(
    ("model", "warm_up_ms", "pays"),
    [
        (FakeModel(0.002, 0.0001), 2.0, True),
        (FakeModel(0, 0.001), 1.0, False),
        (FakeModel(0.002, 0.0001, shift=1e-3), 2.0, False),
        (FakeModel(0.00005, 0), 0.05, False),
        (FakeModel(0.00005, 0), 2.0, False),
        (FakeModel(0.002, 0.0001), 500.0, False),
    ],
    ids=["cheap rows", "rows cost", "rows meet", "fast", "fast when warm", "slow"],
)
def test_batches_pay_where_rows_are_cheap_and_do_not_meet(
    model: FakeModel, warm_up_ms: float, *, pays: bool
) -> None:
    rows = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    assert (measure_batch_gain(model, rows, warm_up_ms) >= GAIN_MIN) is pays


def test_a_graph_that_takes_one_row_is_not_batched() -> None:
    def run(rows: Rows) -> Sequence[NDArray[Any]]:
        if len(rows) > 1:
            raise ValueError("one row at a time")
        return FakeModel(0.001, 0)(rows)

    assert measure_batch_gain(run, BUILT.rows[:8], 1.0) == 1.0


def test_a_small_model_is_not_even_measured() -> None:
    service = make_service()
    activate(service, BUILT)
    assert service.slots()["main"].batch_gain == 1.0
    assert ROWS > 1


# Answering together -------------------------------------------------------------------------------


def batching(built: BuiltPackage = BUILT) -> tuple[InferenceService, InferenceRoutes]:
    service = make_service()
    activate(service, built)
    service.slots()["main"].batch_gain = 4.0
    return service, InferenceRoutes(service)


def infer(data: Any, **more: Any) -> Request:
    body = json.dumps({"inputs": [tensor(data)], **more}).encode()
    path = "/v2/models/main/infer"
    return Request(method="POST", path=path, headers={}, body=body, is_persistent=True)


def data_of(response: Any, output: int = 1) -> list[float]:
    given: list[float] = json.loads(response.body)["outputs"][output]["data"]
    return given


def test_each_gets_its_own_answer_and_its_own_name() -> None:
    service, routes = batching()
    parts = [BUILT.rows[:1], BUILT.rows[1:4], BUILT.rows[4:5]]
    named = Request(
        method="POST",
        path="/v1/models/plant/predict",
        headers={},
        body=json.dumps({"rows": [dict.fromkeys(("f0", "f1", "f2", "f3"), 1)]}).encode(),
        is_persistent=True,
    )
    requests = [infer(part.tolist(), id=str(n)) for n, part in enumerate(parts)]
    bad = infer([[1, 2, 3]])
    answers = routes.answer_many([*requests, bad, named])
    assert [a.status for a in answers] == [200, 200, 200, 400, 200]
    names = {json.loads(a.body)["parameters"]["prediction_id"] for a in answers[:3]}
    assert len(names) == 3
    for part, answer in zip(parts, answers, strict=False):
        expected = service.predict("main", part).outputs["probabilities"]
        np.testing.assert_allclose(data_of(answer), expected.ravel(), rtol=1e-5)
    assert [a.rows for a in answers] == [1, 3, 1, 0, 1]
    stats = service.probation_stats("main")
    assert (stats.requests, stats.rows, stats.errors) == (4 + 3, 6 + 5, 0)


def test_a_run_is_bounded_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    service, routes = batching()
    served, sizes = service.slots()["main"], []
    run = served._session_run

    def note(names: list[str], inputs: dict[str, Rows], options: None) -> list[NDArray[Any]]:
        sizes.append(len(inputs["features"]))
        return run(names, inputs, options)

    monkeypatch.setattr(served, "_session_run", note)
    rows = np.resize(BUILT.rows, (100, 4)).tolist()
    answers = routes.answer_many([infer(rows) for _ in range(5)])
    assert [a.rows for a in answers] == [100] * 5
    assert sizes == [200, 200, 100]
    assert max(sizes) <= BATCH_ROWS_MAX


def test_when_the_run_fails_each_is_asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    service, routes = batching()
    served = service.slots()["main"]
    run = served._session_run

    def fail(names: list[str], inputs: dict[str, Rows], options: None) -> list[NDArray[Any]]:
        if inputs["features"][:, 0].max() > 90:
            raise RuntimeError("too hot")
        return run(names, inputs, options)

    monkeypatch.setattr(served, "_session_run", fail)
    answers = routes.answer_many([infer([[n, 0, 0, 0]]) for n in (1, 99, 2)])
    assert [a.status for a in answers] == [200, 500, 200]
    assert service.probation_stats("main").errors == 1
    with pytest.raises(InferenceError):
        served.predict_many([np.full((1, 4), 99, np.float32)] * 2)
    assert service.probation_stats("main").errors == 1


def test_only_small_requests_for_rows_of_a_gaining_model_are_batched() -> None:
    service, routes = batching()
    activate(service, build_classifier(seed=2), slot="other", target="sky/1/camera.tar")
    served = service.slots()["main"]
    one = infer([[1, 2, 3, 4]])
    assert routes.batch_key(one) is served
    many = infer(np.resize(BUILT.rows, (4_000, 4)).tolist())
    elsewhere = Request(
        method="POST", path="/v2/models/other/infer", headers={}, body=b"{}", is_persistent=True
    )
    nowhere = Request(
        method="POST", path="/v2/models/x/infer", headers={}, body=b"{}", is_persistent=True
    )
    labels = Request(method="POST", path="/v1/feedback", headers={}, body=b"{}", is_persistent=True)
    assert [routes.batch_key(r) for r in (many, elsewhere, nowhere, labels)] == [None] * 4
    served.latency_ms_last = 1.0
    assert routes.is_heavy(one)
    served.batch_gain = 1.0
    assert not routes.is_heavy(one)


def test_those_who_come_while_their_model_runs_are_answered_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, routes = batching()
    served = service.slots()["main"]
    served.latency_ms_last = 1.0
    run, may_go, begun, sizes = served._session_run, threading.Event(), threading.Semaphore(0), []

    def wait(names: list[str], inputs: dict[str, Rows], options: None) -> list[NDArray[Any]]:
        sizes.append(len(inputs["features"]))
        begun.release()
        may_go.wait(10)
        values = run(names, inputs, options)
        served.latency_ms_last = 1.0
        return values

    monkeypatch.setattr(served, "_session_run", wait)
    server = HttpInferenceServer(routes)
    port = server.start()
    clients = [Client(port) for _ in range(9)]
    try:
        for n, client in enumerate(clients):
            client.send(infer_bytes(BUILT.rows[n : n + 1]))
            if n == 0:
                assert begun.acquire(timeout=10)  # alone: nobody waits for company
        with_all = Client(port)
        with_all.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert with_all.read()[0] == 200  # the loop has read what was sent before
        with_all.close()
        may_go.set()
        labels = [json.loads(client.read()[2])["outputs"][0]["data"][0] for client in clients]
    finally:
        for client in clients:
            client.close()
        server.stop()
    assert sizes == [1, 8]
    assert labels == service.predict("main", BUILT.rows[:9]).outputs["label"].tolist()


def test_a_wide_network_answers_more_requests_in_batches() -> None:
    service, width = make_service(), 256
    rng = np.random.default_rng(0)
    weights = {
        "a": (rng.normal(size=(width, 3_000)) / 16).astype(np.float32),
        "b": (rng.normal(size=(3_000, 3_000)) / 55).astype(np.float32),
        "c": rng.normal(size=(3_000, 3)).astype(np.float32),
    }
    graph = graph_bytes(
        [
            helper.make_node("MatMul", ["features", "a"], ["x"]),
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("MatMul", ["y", "b"], ["z"]),
            helper.make_node("MatMul", ["z", "c"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        width=width,
        constants=weights,
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
        ],
    )
    activate(service, build_classifier(width=width, model=graph))
    assert service.slots()["main"].batch_gain > GAIN_MIN


def test_rows_that_meet_in_a_graph_keep_it_from_batches() -> None:
    """As dynamic quantization does: a scale of the whole tensor."""
    service, width = make_service(), 2_000
    rng = np.random.default_rng(0)
    largest = helper.make_node("ReduceMax", ["scores"], ["largest"], keepdims=0)
    scaled = helper.make_node("Div", ["scores", "largest"], ["shaped"])
    graph = classifier_graph(
        rng.normal(size=(width, 3)).astype(np.float32), extra=(largest, scaled)
    )
    activate(service, build_classifier(width=width, model=graph))
    served = service.slots()["main"]
    rows = rng.normal(size=(8, width)).astype(np.float32)

    def run(features: Rows) -> Sequence[NDArray[Any]]:
        FakeModel(0.001, 0)(features)
        return served._session_run(served.output_names, {"features": features}, None)

    assert measure_batch_gain(run, rows, 1.0) == 1.0


# Swaps --------------------------------------------------------------------------------------------


END, STATUS, VERSION = b'"]}]}', re.compile(rb"HTTP/1.1 (\d+)"), re.compile(rb'version":"(\d+)"')


@pytest.mark.parametrize("is_batching", [False, True])
def test_ten_thousand_requests_over_twenty_swaps_fail_not_once(*, is_batching: bool) -> None:
    service = make_service()
    activate(service, BUILT, target="plant/1/camera.tar")
    server = HttpInferenceServer(InferenceRoutes(service))
    port = server.start()
    clients, requests_each, swaps, in_a_row = 2, 500 if is_batching else 5_000, 20, 25
    request = infer_bytes(OTHER.rows[:1]) * in_a_row
    statuses: Counter[bytes] = Counter()
    versions: set[int] = set()
    answered = threading.Semaphore(0)

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            for _ in range(requests_each // in_a_row):
                client.sendall(request)
                given = b""
                while given.count(END) < in_a_row:
                    given += client.recv(1 << 16)
                statuses.update(STATUS.findall(given))
                versions.update(map(int, VERSION.findall(given)))
                answered.release()

    def swap(version: int) -> None:
        built = OTHER if version % 2 else BUILT
        activate(service, built, target=f"plant/{version}/camera.tar")
        if is_batching:
            served = service.slots()["main"]
            served.batch_gain, served.latency_ms_last = 4.0, 1.0

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    turns = clients * requests_each // in_a_row
    for n in range(turns):
        assert answered.acquire(timeout=30)
        if n % (turns // swaps) == 0:
            swap(2 + n // (turns // swaps))
    for thread in threads:
        thread.join(30)
    took_s = time.monotonic() - began
    server.stop()
    assert statuses == {b"200": clients * requests_each}
    assert len(versions) > swaps // 2
    assert service.slots()["main"].swaps == swaps
    assert took_s < 60
