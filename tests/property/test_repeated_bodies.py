"""Bodies read the short way mean what they mean when they are read whole, or are read whole."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.adapters.inference_json import REPEATED_ROWS_MAX, InferRequest, ModelCodec
from edge_agent.adapters.repeated_bodies import KEPT_BYTES_MAX, learn_body
from edge_agent.adapters.served_model import ServedModel
from edge_agent.errors import InputError
from tests.support.serving import activate, build_classifier, make_service

WIDTH = 3
numbers = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**20), 10**20)
    | st.sampled_from([0, -0.0, 1e-300, 3.5e38, 2**53, 2**53 + 1])
)
middles = st.lists(numbers, min_size=WIDTH - 1, max_size=WIDTH + 1).map(
    lambda row: json.dumps(row)[1:-1]
) | st.sampled_from(
    ["1,2", "1,2,3,4", "1,2,", "1,,2", "+1,2,3", "1,2,.5", "01,2,3", "1 2,3", "[1,2,3]", "1,[2],3",
     "true,2,3", "null,2,3", '"1",2,3', "NaN,2,3", "1],[2,3", '1,2,3],"data":[4,5,6', "1\t,2\n, 3",
     "1e400,2,3", "", " ", "1,2,3]}],\"id\":\"x\",\"a\":[{\"b\":[0"]
)  # fmt: skip
learned = st.sampled_from(
    [
        '{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[%s]}]}',
        '{"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP64", "data": [%s]}]}',
        '{"inputs":[{"data":[[%s]],"name":"features","datatype":"FP32","shape":[1,3]}],'
        '"outputs":[{"name":"label"}]}',
    ]
)


@pytest.fixture(scope="module")
def served() -> Iterator[ServedModel]:
    service = make_service()
    activate(service, build_classifier(width=WIDTH))
    yield service.slots()["main"]
    service.close()


def read(codec: ModelCodec, body: bytes) -> InferRequest | str:
    try:
        return codec.decode(body)
    except InputError as error:
        return str(error)


@settings(max_examples=50)
@given(learned, middles, middles)
@example('{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[%s]}]}', "1,2", "")
def test_a_body_read_the_short_way_is_read_as_if_whole(
    served: ServedModel, around: str, middle: str, other: str
) -> None:
    codec = ModelCodec(served)
    read(codec, (around % "1,2,3").encode())
    for text in (middle, other):
        body = (around % text).encode()
        short, whole = read(codec, body), read(ModelCodec(served), body)
        if isinstance(short, str) or isinstance(whole, str):
            assert short == whole
            continue
        assert short.features.dtype == whole.features.dtype == np.float32
        assert short.features.tobytes() == whole.features.tobytes()
        assert (short.request_id, *short[2:]) == (whole.request_id, *whole[2:])


@pytest.mark.parametrize(
    "body",
    [
        b'{"parameters":{"data":[7,8,9]},"inputs":[{"d\\u0061ta":[1,2,3]}]}',
        b'{"parameters":{"data":[7,8,9]},"inputs":[{"data":[1,2,3]}]}',
        b'{"inputs":[{"data":[[1,2],[3]]}]}',
        b'{"inputs":[{"data":[1,2,3,4]}]}',
        b'{"inputs":[{"data":[]}]}',
        b'{"inputs":[{"data":"1,2,3"}]}',
        b'{"parameters":{"a":"%s"},"inputs":[{"data":[1,2,3]}]}' % (b"x" * KEPT_BYTES_MAX),
    ],
)
def test_nothing_is_learned_where_the_numbers_are_not_certain(body: bytes) -> None:
    assert learn_body(body, np.array([[1, 2, 3]], np.float32)) is None


def test_a_large_body_is_not_read_the_short_way() -> None:
    known = learn_body(b'{"inputs":[{"data":[1,2,3]}]}', np.array([[1, 2, 3]], np.float32))
    assert known is not None
    for spaces, is_read in ((1, True), (KEPT_BYTES_MAX, False)):
        body = b'{"inputs":[{"data":[1,2,%s3]}]}' % (b" " * spaces)
        assert (known.read(body) is not None) == is_read


def test_one_client_does_not_read_by_what_another_one_wrote(served: ServedModel) -> None:
    codec, around = ModelCodec(served), '"datatype":"FP32","shape":[1,3],"data":'
    for name, data, said in (
        ("features", "[1,2,3]", None),
        ("other", "[1,2,3]", "inputs[0].name must be 'features'"),
        ("features", "[1,2]", "inputs[0].data has 2 numbers"),
        ("features", "[4,5,6]", None),
    ):
        found = read(codec, f'{{"inputs":[{{"name":"{name}",{around}{data}}}]}}'.encode())
        if said is None:
            assert isinstance(found, InferRequest)
            assert found.features.tolist() == [json.loads(data)]
        else:
            assert said in str(found)


def test_many_rows_and_named_requests_are_read_whole(served: ServedModel) -> None:
    codec = ModelCodec(served)
    rows = REPEATED_ROWS_MAX + 1
    tensor = {"name": "features", "datatype": "FP32", "shape": [rows, 3], "data": [0] * rows * 3}
    for extra in ({}, {"id": "a"}, {"id": "b"}):
        found = read(codec, json.dumps({"inputs": [tensor], **extra}).encode())
        assert isinstance(found, InferRequest)
        assert found.request_id == extra.get("id")
