"""The common client of the protocol works unchanged: metadata, JSON and binary tensors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.schema import NamedLabel
from tests.support.serving import CLASSES, build_classifier, build_several
from tests.support.serving_http import World, serving

# Not imported before it is known to be there: it brings gevent.
triton = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed; nothing else needs it"
)
BUILT = build_classifier()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with serving(BUILT) as world:
        yield world


@pytest.fixture
def client(world: World) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{world.port}")
    yield client
    client.close()


def test_it_reads_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("main", "3")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("plant")["inputs"][0]["shape"] == [-1, 4]


@pytest.mark.parametrize("is_raw_in", [True, False])
@pytest.mark.parametrize("is_raw_out", [True, False])
def test_it_gets_the_same_answer_whatever_it_asks_with(
    client: Any, world: World, *, is_raw_in: bool, is_raw_out: bool
) -> None:
    rows = BUILT.rows[:5]
    given = triton.InferInput("features", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows, binary_data=is_raw_in)
    wanted = [
        triton.InferRequestedOutput(name, binary_data=is_raw_out)
        for name in ("class", "probabilities", "label")
    ]
    answer = client.infer("main", [given], outputs=wanted, request_id="7")
    expected = world.service.predict("main", rows).outputs
    np.testing.assert_array_equal(answer.as_numpy("label"), expected["label"])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected["probabilities"])
    names = [n.decode() if isinstance(n, bytes) else n for n in answer.as_numpy("class")]
    assert names == [CLASSES[n] for n in expected["label"]]
    assert answer.get_response()["id"] == "7"


def test_it_asks_for_all_outputs_by_default(client: Any) -> None:
    given = triton.InferInput("features", [1, 4], "FP32")
    given.set_data_from_numpy(BUILT.rows[:1])
    answer = client.infer("main", [given])
    assert answer.as_numpy("probabilities").shape == (1, 3)


def test_it_understands_errors(client: Any) -> None:
    given = triton.InferInput("features", [1, 3], "FP32")
    given.set_data_from_numpy(BUILT.rows[:1, :3])
    failure = pytest.importorskip("tritonclient.utils").InferenceServerException
    with pytest.raises(failure, match=r"shape must be \[rows, 4\]"):
        client.infer("main", [given])


def test_it_gets_several_labels_in_the_shapes_of_the_metadata() -> None:
    days = NamedLabel(name="day", classes=("work", "rest", "feast"))
    built = build_several((days, NamedLabel(name="rain", classes=("no", "yes"))))
    with serving(built) as world:
        client = triton.InferenceServerClient(f"127.0.0.1:{world.port}")
        given = triton.InferInput("features", [4, 4], "FP32")
        given.set_data_from_numpy(built.rows[:4])
        for is_raw in (True, False):
            wanted = [
                triton.InferRequestedOutput(name, binary_data=is_raw)
                for name in ("label", "probabilities", "class")
            ]
            answer = client.infer("main", [given], outputs=wanted)
            for output in client.get_model_metadata("main")["outputs"]:
                found = answer.as_numpy(output["name"])
                assert list(found.shape) == [4, *output["shape"][1:]]
            expected = world.service.predict("main", built.rows[:4]).outputs
            np.testing.assert_array_equal(answer.as_numpy("label"), expected["label"])
            name = answer.as_numpy("class")[2, 0]
            name = name.decode() if isinstance(name, bytes) else name
            assert name == days.classes[expected["label"][2, 0]]
        client.close()
