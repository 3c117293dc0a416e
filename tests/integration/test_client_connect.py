"""The Python client against the agent's real HTTP server, and against servers that hang up."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.http_access import HttpAccess
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.client import Client, connect
from edge_agent.contract.schema import Feature
from edge_agent.errors import InputError, ServingError, UnknownModelError, UnreachableError
from tests.support.serving import CLASSES, activate, build_classifier, build_regressor, make_service
from tests.support.serving_http import World, serving

BUILT = build_classifier(
    features=(Feature(name="heat", low=-40, high=125), Feature(name="pixels", shape=(3,)))
)
TOKEN = "t" * 43


class Labels:
    """Takes labels as the agent's buffer does."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str | float | Mapping[str, str | float]]] = []

    def add(self, prediction_id: str, label: str | float | Mapping[str, str | float]) -> None:
        if label == "wrong":
            raise InputError("no class is named 'wrong'")
        self.taken.append((prediction_id, label))


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels()


@pytest.fixture(scope="module")
def world(labels: Labels) -> Iterator[World]:
    service = make_service()
    activate(service, BUILT)
    server = HttpInferenceServer(InferenceRoutes(service, labels=labels))
    try:
        yield World(service, server.start())
    finally:
        server.stop()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with connect(url=f"http://127.0.0.1:{world.port}") as client:
        yield client


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_an_array_is_answered_alike_raw_and_as_json(
    world: World, client: Client, dtype: type[np.generic], is_raw: bool
) -> None:
    rows = (BUILT.rows[:7] * 10).astype(dtype)
    client._is_raw = is_raw
    answer = client.predict(rows)
    expected = world.service.predict("main", rows.astype(np.float32))
    np.testing.assert_array_equal(answer.outputs["label"], expected.outputs["label"])
    np.testing.assert_array_equal(
        answer.outputs["probabilities"], expected.outputs["probabilities"]
    )
    assert answer.outputs["probabilities"].dtype == np.float32
    assert list(answer.class_names) == expected.class_names
    assert (answer.model_name, answer.model_version, answer.slot) == ("plant", "3", "main")
    assert answer.prediction_ids[6] == f"{answer.prediction_id}.6"


def test_an_agent_that_offers_the_binary_extension_is_sent_raw_numbers(client: Client) -> None:
    client.predict(BUILT.rows[:2])
    assert client._is_raw is True


def test_records_lists_and_arrays_are_answered_alike(client: Client) -> None:
    row = BUILT.rows[3]
    record = {"heat": row[0], "pixels": row[1:]}  # numpy's own number and array
    answers = [
        client.predict(record),
        client.predict([record, record], model="plant"),
        client.predict([float(n) for n in row]),
        client.predict([row.tolist()]),
    ]
    assert [len(answer) for answer in answers] == [1, 2, 1, 1]
    for answer in answers:
        assert answer.class_names[0] == CLASSES[answer.outputs["label"][0]]
        assert answer.class_names[0] == answers[0].class_names[0]
        np.testing.assert_allclose(
            answer.outputs["probabilities"][0], answers[0].outputs["probabilities"][0], rtol=1e-6
        )


def test_a_regression_answers_values_and_two_slots_need_a_name() -> None:
    load = build_regressor()
    with serving(BUILT) as world:
        activate(world.service, load, slot="power", target="load/1/camera.tar")
        with connect(url=f"http://127.0.0.1:{world.port}") as client:
            with pytest.raises(UnknownModelError, match=r"name a slot or model.*main, power"):
                client.predict(load.rows[:1])
            values = client.predict(load.rows[:2], "power").outputs["value"]
            named = client.predict([dict.fromkeys(("f0", "f1", "f2"), 1.0)], "load")
            assert values.shape == (2,)
            assert named.outputs["value"].shape == (1,)
            assert named.class_names == ()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"heat": 126, "pixels": [1, 2, 3]}, "row 0: heat is 126, allowed is -40 to 125"),
        ({"heat": 1}, "field pixels is missing"),
        ({"heat": float("nan"), "pixels": [1, 2, 3]}, "cannot be sent as JSON"),
        ({"heat": object()}, "object is neither number nor text"),
        ([[1, 2]], r"shape must be \[rows, 4\]"),
        (np.zeros((4_097, 4)), "4097 rows, a request takes 1 to 4096"),
        ([], "at least one row"),
        ([[1], [2, 3]], "table of numbers"),
        (np.zeros((1, 4), complex), "got complex128"),
        ("1234", "got <U4"),
    ],
)
def test_a_wrong_row_is_an_input_error_in_the_agents_words(
    client: Client, rows: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        client.predict(rows)


def test_feedback_reaches_the_agent_or_is_refused_in_its_words(
    client: Client, labels: Labels
) -> None:
    answer = client.predict(BUILT.rows[:2])
    client.feedback(answer.prediction_ids[1], "storm")
    client.feedback(answer.prediction_ids[0], 2.5)
    assert labels.taken == [(answer.prediction_ids[1], "storm"), (answer.prediction_ids[0], 2.5)]
    with pytest.raises(InputError, match="no class is named"):
        client.feedback("5-0-a", "wrong")
    with pytest.raises(InputError, match="got bool"):
        client.feedback("5-0-a", True)


def test_an_agent_that_takes_no_labels_says_so() -> None:
    with (
        serving(BUILT) as world,
        connect(url=f"http://127.0.0.1:{world.port}") as client,
        pytest.raises(ServingError, match="takes no labels"),
    ):
        client.feedback("5-0-a", "storm")


def test_a_token_is_sent_and_its_lack_told() -> None:
    with serving(BUILT, access=HttpAccess(token=TOKEN.encode())) as world:
        url = f"http://127.0.0.1:{world.port}"
        with connect(url=url, token=TOKEN) as client:
            assert len(client.predict(BUILT.rows[:1])) == 1
        with connect(url=url) as client, pytest.raises(ServingError, match="no token"):
            client.predict(BUILT.rows[:1])


def test_the_directory_tells_address_and_token(tmp_path: Path) -> None:
    with connect(tmp_path) as client, pytest.raises(UnreachableError, match="edge-agent run"):
        client.predict(BUILT.rows[:1])
    (tmp_path / "agent.toml").write_text('http_token_file = "http.token"\n')
    token = tmp_path / "http.token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    try:
        with serving(BUILT, access=HttpAccess(token=TOKEN.encode())) as world:
            lock.describe({"http_host": "0.0.0.0", "http_port": world.port})  # noqa: S104
            with connect(tmp_path) as client:
                assert len(client.predict(BUILT.rows[:1])) == 1
    finally:
        lock.release()


@pytest.mark.parametrize(
    "url", ["ftp://a", "127.0.0.1:8090", "http://", "http://a:x", "http://u@a"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="url"):
        connect(url=url)


def test_threads_and_a_closed_client_open_connections_of_their_own(client: Client) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(len(client.predict(BUILT.rows[:2]))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [2] * 4
    client.close()
    assert len(client.predict(BUILT.rows[:1])) == 1


# Servers that hang up -----------------------------------------------------------------------------

ANSWER = b'{"models":[]}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


@pytest.fixture
def scripted() -> Iterator[Callable[[list[list[bytes]]], tuple[Client, list[int]]]]:
    """A server whose n-th connection answers its questions with these bytes, then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[Client] = []
    threads: list[threading.Thread] = []

    def run(connections: list[list[bytes]], questions: list[int]) -> None:
        for n, answers in enumerate(connections):
            try:
                opened, _ = listener.accept()
            except OSError:
                return
            with opened:
                for answer in [*answers, b""]:
                    if not opened.recv(65_536):
                        break
                    questions.append(n)
                    opened.sendall(answer)
                    if answer == b"" or not answer.endswith(ANSWER):
                        break

    def start(connections: list[list[bytes]]) -> tuple[Client, list[int]]:
        questions: list[int] = []
        thread = threading.Thread(target=run, args=(connections, questions))
        thread.start()
        threads.append(thread)
        clients.append(connect(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=5))
        return clients[-1], questions

    yield start
    for client in clients:
        client.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


Start = Callable[[list[list[bytes]]], tuple[Client, list[int]]]


def test_a_connection_closed_unanswered_is_tried_once_more(scripted: Start) -> None:
    client, questions = scripted([[GOOD], [GOOD]])
    assert client.models() == []
    assert client.models() == []
    assert questions == [0, 0, 1]


def test_a_second_hang_up_is_told(scripted: Start) -> None:
    client, questions = scripted([[b""], [b""], [GOOD]])
    with pytest.raises(UnreachableError, match="hung up twice"):
        client.models()
    assert questions == [0, 1]


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK\r\nConte", GOOD[:-1]])
def test_nothing_is_repeated_after_the_first_byte_of_an_answer(
    scripted: Start, part: bytes
) -> None:
    client, questions = scripted([[part], [GOOD]])
    with pytest.raises(UnreachableError, match=r"did not answer|broken off"):
        client.models()
    assert questions == [0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER, "without a length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n\r\n" + ANSWER, "the limit is 67108864"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 13\r\n\r\n" + ANSWER, "status 500 without a reason"),
    ],
)
def test_an_answer_that_is_no_agents_is_told(scripted: Start, answer: bytes, words: str) -> None:
    client, _ = scripted([[answer]])
    with pytest.raises(ServingError, match=words):
        client.models()


def test_a_silent_agent_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            connect(url=url, timeout_s=0.2) as client,
            pytest.raises(UnreachableError, match="within its time"),
        ):
            client.models()


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        connect(url=f"http://127.0.0.1:{port}") as client,
        pytest.raises(UnreachableError, match=f"no agent answers on 127.0.0.1 port {port}"),
    ):
        client.models()


def test_a_program_that_connects_loads_no_runtime(world: World) -> None:
    heavy = ["onnxruntime", "paho", "tuf", "cryptography", "pyarrow", "PIL"]
    program = (
        "import sys\nfrom edge_agent.client import connect\n"
        f"with connect(url='http://127.0.0.1:{world.port}') as agent:\n"
        "    agent.predict([1, 2, 3, 4])\n"
        f"print([n for n in {heavy!r} if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.stdout.strip() == "[]"
