"""Rows by field name, labels that become known later, and the metrics, over a real socket."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters.feedback_json import LABELS_PER_REQUEST_MAX
from edge_agent.contract.schema import Feature
from tests.support.serving import CLASSES, TARGET, activate, build_classifier, build_regressor
from tests.support.serving_http import World, serving, tensor

BUILT = build_classifier(
    features=(
        Feature(name="heat", low=-40, high=125, unit="degC"),
        Feature(name="door", dtype="int64", low=0),
        Feature(name="pixels", shape=(2, 2)),
    )
)
ROW = {"heat": 21.5, "door": 1, "pixels": [[0.1, 0.2], [0.3, 0.4]]}
PACKED = np.array([[21.5, 1, 0.1, 0.2, 0.3, 0.4]], np.float32)
PREDICT = "/v1/models/main/predict"
OUTBOX = {"waiting": 3, "dropped": 1}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with serving(BUILT, takes_labels=True, outbox_counts=lambda: OUTBOX) as world:
        yield world


# Rows by field name -------------------------------------------------------------------------------


def test_the_fields_are_told(world: World) -> None:
    status, answer = world.ask("/v1/models/plant")
    assert (status, answer["slot"], answer["version"]) == (200, "main", "3")
    assert answer["fields"][0] == {
        "name": "heat",
        "dtype": "float32",
        "shape": [],
        "low": -40,
        "high": 125,
        "unit": "degC",
    }
    assert answer["classes"] == list(CLASSES)
    assert answer["batching"] == {"is_on": False, "gain": 1.0}
    _, listed = world.ask("/v1/models")
    assert listed["models"] == [
        {
            "slot": "main",
            "name": "plant",
            "version": "3",
            "target": TARGET,
            "sha256": BUILT.sha256,
        }
    ]


@pytest.mark.parametrize("pixels", [[[0.1, 0.2], [0.3, 0.4]], [0.1, 0.2, 0.3, 0.4]])
def test_a_row_by_name_is_answered_like_the_packed_one(world: World, pixels: Any) -> None:
    shuffled = {"pixels": pixels, "door": 1.0, "heat": 21.5}
    status, answer = world.ask(PREDICT, {"rows": [shuffled]})
    expected = world.service.predict("main", PACKED)
    (given,) = answer["predictions"]
    assert (status, given["class"]) == (200, expected.class_names[0])
    assert given["label"] == expected.outputs["label"][0]
    assert list(given["probabilities"]) == list(CLASSES)
    np.testing.assert_array_equal(
        np.array(list(given["probabilities"].values()), np.float32),
        expected.outputs["probabilities"][0],
    )
    assert given["prediction_id"] == answer["prediction_id"]


def test_each_row_has_a_name_of_its_own(world: World) -> None:
    _, answer = world.ask(PREDICT, {"rows": [ROW, {**ROW, "heat": 5}]})
    name = answer["prediction_id"]
    ids = [given["prediction_id"] for given in answer["predictions"]]
    assert ids == [f"{name}.0", f"{name}.1"]


def test_a_regression_answers_values() -> None:
    with serving(build_regressor()) as world:
        _, answer = world.ask(PREDICT, {"rows": [{"f0": 1, "f1": 2, "f2": 3}]})
        expected = world.service.predict("main", np.array([[1, 2, 3]], np.float32))
        (given,) = answer["predictions"]
        assert given["value"] == pytest.approx(expected.outputs["value"][0])
        assert "class" not in given


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        ([ROW], "must be a JSON object, got a list"),
        ({"rows": [ROW], "row": 1}, "field 'row', it takes rows alone"),
        ({}, "rows must be a list of 1 to 4096 objects, got null"),
        ({"rows": []}, "got 0 rows"),
        ({"rows": [ROW] * 4_097}, "got 4097 rows"),
        ({"rows": ROW}, "got an object"),
        ({"rows": [ROW, 7]}, "row 1 must be an object by field name, got a number"),
        (
            {"rows": [ROW, {"door": 1, "pixels": [0] * 4}]},
            "row 1: field heat is missing, it takes a number from -40 to 125 degC",
        ),
        (
            {"rows": [{**ROW, "haet": 1}]},
            "row 0: field 'haet' is not one of the model's (heat, door, pixels);"
            " did you mean heat?",
        ),
        (
            {"rows": [{**ROW, "heat": "hot"}]},
            'field heat is "hot", it takes a number from -40 to 125 degC',
        ),
        ({"rows": [{**ROW, "heat": None}]}, "field heat is null"),
        ({"rows": [{**ROW, "heat": True}]}, "field heat is true"),
        ({"rows": [{**ROW, "heat": [1]}]}, "field heat is a list"),
        ({"rows": [{**ROW, "heat": {}}]}, "field heat is an object"),
        ({"rows": [{**ROW, "heat": 126}]}, "row 0: heat is 126, allowed is -40 to 125"),
        ({"rows": [{**ROW, "heat": 1e39}]}, "field heat is 1e+39, the largest number is 3.4"),
        ({"rows": [{**ROW, "heat": 10**400}]}, "row 0: field heat is beyond 3.4e+38"),
        (b'{"rows":[{"heat":1e999,"door":0,"pixels":[0,0,0,0]}]}', "field heat is inf"),
        (
            {"rows": [{**ROW, "door": 0.5}]},
            "field door is 0.5, it takes a whole number from 0",
        ),
        (b'{"rows":[{"heat":1,"door":1e999,"pixels":[0,0,0,0]}]}', "field door is inf"),
        ({"rows": [{**ROW, "pixels": 1}]}, "field pixels is 1, it takes a list of 4 numbers"),
        (b'{"rows":[{"heat":1,"door":0,"pixels":1e999}]}', "field pixels is inf, it takes a list"),
        (
            {"rows": [{**ROW, "pixels": [1, 2, 3]}]},
            "field pixels has 3 numbers, it takes a list of 4 numbers (shape 2 x 2)",
        ),
        ({"rows": [{**ROW, "pixels": [[1, 2], [3, "4"]]}]}, 'field pixels is "4"'),
        ({"rows": [{**ROW, "pixels": [[[1], 2], [3, 4]]}]}, "field pixels is a list"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_takes(world: World, body: Any, words: str) -> None:
    status, answer = world.ask(PREDICT, body)
    assert status == 400
    assert words in answer["error"]
    assert len(answer["error"]) < 400


def test_what_is_not_served_under_v1_is_told(world: World) -> None:
    assert world.ask("/v1/models/other/predict", {"rows": [ROW]})[0] == 404
    assert world.ask("/v1/models/main/nothing")[0] == 404
    assert world.ask(PREDICT)[0] == 405
    assert world.ask("/v1/models", b"{}")[0] == 405
    assert world.ask(PREDICT, {"rows": [ROW]}, headers={"Content-Encoding": "gzip"})[0] == 415


# Labels -------------------------------------------------------------------------------------------


def test_a_label_is_handed_on(world: World) -> None:
    _, answer = world.ask(PREDICT, {"rows": [ROW, ROW]})
    first, second = (given["prediction_id"] for given in answer["predictions"])
    assert world.ask("/v1/feedback", {"prediction_id": first, "label": "fog"}) == (
        200,
        {"taken": 1, "refused": 0},
    )
    several = [
        {"prediction_id": second, "label": "calm"},
        {"prediction_id": "0000000000000006-0-0", "label": "fog"},
    ]
    status, told = world.ask("/v1/feedback", several)
    assert (status, told["taken"], told["refused"], told["errors"][0]["index"]) == (200, 1, 1, 1)
    assert "not of this start of this agent" in told["errors"][0]["error"]
    world.service.close_due()
    assert world.service._outbox.counts()["labels"] == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (7, "must be an object with prediction_id, got a number"),
        ({"label": "fog"}, "prediction_id must be a text"),
        ({"prediction_id": "x" * 129, "label": "fog"}, "at most 128 characters"),
        ({"prediction_id": "x", "label": "fog"}, "'x' is no prediction id"),
        ({"prediction_id": f"{5:016x}-0-0.\u0660", "label": "fog"}, "is no prediction id"),
        ({"prediction_id": "x"}, "either label (name of a class) or value"),
        ({"prediction_id": "x", "label": "a", "value": 1}, "either label"),
        ({"prediction_id": "x", "label": 1}, "must be the name of a class as text, got a number"),
        ({"prediction_id": "x", "label": "x" * 1_025}, "must be the name of a class"),
        ({"prediction_id": "x", "value": "1"}, "must be a number, got text"),
        ({"prediction_id": "x", "value": True}, "must be a number, got a boolean"),
        ({"prediction_id": "x", "value": 10**400}, "beyond a double's range"),
        ({"prediction_id": "x", "label": "a", "note": 1}, "has field 'note'; known are label"),
        ([], "0 labels, a request takes 1 to 1000"),
        ([{}] * (LABELS_PER_REQUEST_MAX + 1), "1001 labels"),
        ([{}] * LABELS_PER_REQUEST_MAX, "none of 1000 labels was taken; the first: "),
    ],
)
def test_wrong_feedback_is_told(world: World, body: Any, words: str) -> None:
    status, answer = world.ask("/v1/feedback", body)
    assert (status, words in answer["error"]) == (400, True)


def test_an_agent_without_a_place_for_labels_says_so() -> None:
    with serving(BUILT) as world:
        status, _ = world.ask("/v1/feedback", {"prediction_id": "x", "label": "fog"})
        assert status == 501


# Metrics ------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z0-9_]+="[^"]*",?)+)\})? ([0-9.e+-]+)')


def read_metrics(world: World) -> dict[tuple[str, str], float]:
    with world.client() as client:
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = client.read()
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples: dict[tuple[str, str], float] = {}
    kinds = {}
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert any(match[1].startswith(name) for name in kinds), line
            samples[match[1], match[2] or ""] = float(match[3])
    return samples


def test_the_metrics_count_requests_errors_rows_swaps_and_the_outbox() -> None:
    with serving(BUILT, outbox_counts=lambda: OUTBOX) as world:
        for _ in range(3):
            world.ask(PREDICT, {"rows": [ROW, ROW]})
        rows = np.repeat(PACKED, 5, axis=0).tolist()
        world.ask("/v2/models/main/infer", {"inputs": [tensor(rows)]})
        world.ask("/v2/models/main/infer", b"{}")
        world.ask("/v2/models/nothing/infer", b"{}")
        activate(world.service, BUILT, target="plant/4/camera.tar")
        with world.client() as client:
            client.send(b"BAD / HTTP/9.9\r\n\r\n")
            assert client.read()[0] == 505
        seen = read_metrics(world)
    requests = "edge_agent_requests_total"
    assert seen[requests, 'slot="main",endpoint="predict",code="200"'] == 3
    assert seen[requests, 'slot="main",endpoint="infer",code="400"'] == 1
    assert seen[requests, 'slot="",endpoint="infer",code="404"'] == 1
    assert seen[requests, 'slot="",endpoint="",code="505"'] == 1
    assert seen["edge_agent_errors_total", 'slot="",fault="caller"'] == 2
    assert seen["edge_agent_rows_total", 'slot="main"'] == 11
    assert seen["edge_agent_request_seconds_count", 'slot="main"'] == 4
    assert seen["edge_agent_request_seconds_bucket", 'slot="main",le="+Inf"'] == 4
    assert 0 < seen["edge_agent_request_seconds_sum", 'slot="main"'] < 10
    assert seen["edge_agent_swaps_total", 'slot="main"'] == 1
    assert seen["edge_agent_outbox", 'count="waiting"'] == 3
    assert seen["process_resident_memory_bytes", ""] > 1e7
    assert seen["process_start_time_seconds", ""] > 1e9
    info = f'slot="main",model="plant",version="4",sha256="{BUILT.sha256}"'
    assert seen["edge_agent_model_info", info] == 1
