"""What a prediction through the agent costs: ``make bench NAME=predict``.

In process: ``LocalModel.predict`` with telemetry on (windows into a real outbox, closed by a
second thread as in the agent) beside the bare ``session.run`` of the same graph with the same
session options. Short slices of both alternate, and the ratio is the median over pairs of slices:
a machine that is now faster, now slower, is so for both of a pair.

Over HTTP: the agent's server in its own process, one keep-alive connection, beside the bare
``session.run`` and beside FastAPI on uvicorn serving the same graph to the same client. The goals
are those of the design (0.30 x MLServer's median) expressed in what one run can measure: MLServer
1.7.1 took 100 x the bare run and 1.5 x FastAPI's time for the logistic model, and 21 x the bare
run for a convolutional network.

Models: a scikit-learn logistic regression of 20 features and a convolutional network of 10 million
multiplications on 8 x 8 digits, both built by the converters. What the agent adds to a prediction
hardly depends on the model, so a smaller network has a larger ratio.
"""

import argparse
import hashlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_profiles.catalog import load_profile
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.onnx_model_runner import RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.telemetry_recorder import PENDING_REQUESTS_MAX, WindowLimits
from edge_agent.client import LocalModel
from edge_agent.contract.package import MODEL, unpack_members
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

Rows = NDArray[np.float32]
IMAGE = 8
CLASSES = 10
INPROCESS_GOALS = {"lr20": 1.3, "cnn": 1.02}
HTTP_TO_RAW_GOALS = {"lr20": 30.0, "cnn": 6.2}
HTTP_TO_FASTAPI_GOALS = {"lr20": 0.46}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model, packaged, with rows to ask about."""

    name: str
    blob: bytes
    sha256: str
    rows: Rows

    @property
    def target(self) -> str:
        return f"{self.name}/1/onprem-server.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured ratio and its goal; ``value`` and ``floor`` are microseconds."""

    name: str
    value: float
    floor: float
    ratio: float
    goal: float

    @property
    def ok(self) -> bool:
        return self.ratio <= self.goal

    def line(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "value": round(self.value, 2),
                "floor": round(self.floor, 2),
                "ratio": round(self.ratio, 3),
                "goal": self.goal,
                "ok": self.ok,
            }
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench NAME=predict", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve))
        return 0
    figures: list[Figure] = []
    for subject in (build_lr20(), build_cnn()):
        say(f"{subject.name}: {len(subject.blob)} bytes, {subject.rows.shape[1]} features")
        figures.append(measure_inprocess(subject, arguments.seconds))
        figures += measure_http(subject, arguments.seconds)
    for figure in figures:
        print(figure.line())
    worst = max(figures, key=lambda figure: figure.ratio / figure.goal)
    say(f"last line: {worst.name}, the nearest to its goal")
    print(Figure(**{**_fields(worst), "name": "predict"}).line())
    return 0 if all(figure.ok for figure in figures) else 1


# Models -------------------------------------------------------------------------------------------


def build_lr20(seed: int = 0) -> Subject:
    from sklearn.linear_model import LogisticRegression  # not in the serving child

    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2_000, 20)).astype(np.float32)
    targets = (rows @ rng.normal(size=(20, 2))).argmax(axis=1)
    estimator = LogisticRegression().fit(rows[:1_000], targets[:1_000])
    features = tuple(Feature(name=f"f{n}") for n in range(20))
    return _package("lr20", estimator, features, ("no", "yes"), rows, targets)


def build_cnn() -> Subject:
    """Three convolutions and two dense layers on digits; random weights, only the time matters."""
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.datasets import load_digits

    from converters.from_onnx import OnnxSource

    rng = np.random.default_rng(0)
    digits = load_digits().data.astype(np.float32)

    def weights(*shape: int) -> Rows:
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return (rng.normal(size=shape) * fan_in**-0.5).astype(np.float32)

    constants: dict[str, NDArray[Any]] = {
        "image": np.array([-1, 1, IMAGE, IMAGE], np.int64),
        "w1": weights(64, 1, 3, 3),
        "w2": weights(128, 64, 3, 3),
        "w3": weights(256, 128, 3, 3),
        "w4": weights(1024, 128),
        "w5": weights(128, CLASSES),
    }

    def conv(n: int, came: str) -> list[Any]:
        return [
            helper.make_node("Conv", [came, f"w{n}"], [f"conv{n}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv{n}"], [f"relu{n}"]),
        ]

    def pool(came: str, gone: str) -> Any:
        return helper.make_node("MaxPool", [came], [gone], kernel_shape=[2, 2], strides=[2, 2])

    nodes = [
        helper.make_node("Reshape", ["features", "image"], ["pixels"]),
        *conv(1, "pixels"),
        *conv(2, "relu1"),
        pool("relu2", "pool2"),
        *conv(3, "pool2"),
        pool("relu3", "pool3"),
        helper.make_node("Flatten", ["pool3"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w4"], ["dense"]),
        helper.make_node("Relu", ["dense"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w5"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", IMAGE * IMAGE])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", CLASSES]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    features = (Feature(name="pixel", shape=(IMAGE, IMAGE)),)
    classes = tuple(str(n) for n in range(CLASSES))
    schema = _schema("cnn", features, classes)
    source = OnnxSource(content, schema, load_profile("onprem-server"))
    targets = np.asarray(source.answer(digits)["label"])
    return _package("cnn", source, features, classes, digits, targets)


def _schema(name: str, features: tuple[Feature, ...], classes: tuple[str, ...]) -> ModelSchema:
    return ModelSchema(
        model=name,
        task=Task.CLASSIFICATION,
        features=features,
        outputs=(
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        classes=classes,
    )


def _package(
    name: str,
    estimator: Any,
    features: tuple[Feature, ...],
    classes: tuple[str, ...],
    rows: Rows,
    targets: NDArray[Any],
) -> Subject:
    from converters.build import build_package
    from converters.request import BuildRequest, MeasurementPlan

    half = len(rows) // 2
    built = build_package(
        BuildRequest(
            estimator=estimator,
            schema=_schema(name, features, classes),
            profile=load_profile("onprem-server"),
            calibration=rows[:half],
            holdout=rows[half:],
            holdout_targets=targets[half:],
            plan=MeasurementPlan(rounds=3),
        )
    )
    say(f"{name}: {built.decision}")
    return Subject(name=name, blob=built.blob, sha256=built.sha256, rows=rows)


# In process ---------------------------------------------------------------------------------------


def measure_inprocess(subject: Subject, seconds: float) -> Figure:
    """Alternate slices of the agent's way and of the bare run."""
    with running_service(subject) as service:
        model, bare = LocalModel(service, "main"), open_session(subject)
        row = subject.rows[:1].copy()
        own, floor = measure_pairs(
            lambda: model.predict(row), lambda: bare.run(None, {"features": row}), seconds
        )
    return Figure(
        name=f"predict.inprocess.{subject.name}",
        value=float(np.median(own)) * 1e6,
        floor=float(np.median(floor)) * 1e6,
        ratio=float(np.median(np.array(own) / np.array(floor))),
        goal=INPROCESS_GOALS[subject.name],
    )


def measure_pairs(
    one: Callable[[], object], other: Callable[[], object], seconds: float
) -> tuple[list[float], list[float]]:
    """Time both in alternating slices; seconds a call of each slice.

    A slice is as many requests as telemetry counts together, so that every slice bears its share
    of the counting, and short, so that both of a pair meet the same state of the machine.
    """
    runs = PENDING_REQUESTS_MAX
    times: tuple[list[float], list[float]] = ([], [])
    time_calls(one, runs)
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at or len(times[0]) < 5:
        order = (0, 1) if len(times[0]) % 2 else (1, 0)
        for which in order:
            times[which].append(time_calls((one, other)[which], runs))
    return times


def time_calls(call: Callable[[], object], runs: int) -> float:
    began = time.perf_counter()
    for _ in range(runs):
        call()
    return (time.perf_counter() - began) / runs


@contextmanager
def running_service(subject: Subject) -> Iterator[InferenceService]:
    """A service with one model, a real outbox and the thread that closes windows."""
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        outbox = Outbox(Path(directory) / "outbox.db")
        service = InferenceService(
            clock=SystemClock(),
            outbox=outbox,
            boot=1,
            windows=WindowLimits(window_s=5, window_rows_max=10_000),
            options=RuntimeOptions(),
        )
        service.activate("main", blob=subject.blob, target=subject.target, sha256=subject.sha256)

        def close_windows() -> None:
            while not stop.wait(1.0):
                service.close_due()

        closing = threading.Thread(target=close_windows)
        closing.start()
        try:
            yield service
        finally:
            stop.set()
            closing.join()
            service.close()
            say(f"{subject.name}: {outbox.counts()['waiting']} windows written meanwhile")
            outbox.close()


def open_session(subject: Subject) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        unpack_members(subject.blob)[MODEL], options, providers=["CPUExecutionProvider"]
    )


# Over HTTP ----------------------------------------------------------------------------------------


def measure_http(subject: Subject, seconds: float) -> list[Figure]:
    """Alternate slices of the agent's server and of FastAPI's; medians of single requests."""
    row = subject.rows[:1]
    bare = open_session(subject)
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / f"{subject.name}.tar"
        package.write_bytes(subject.blob)
        with serving(package, "agent") as agent, serving(package, "fastapi") as fastapi:
            own, other, bare_runs = measure_requests(
                (agent, fastapi),
                infer_request(row),
                lambda: bare.run(None, {"features": row}),
                seconds,
            )
    value, floor, raw = (float(np.median(times)) for times in (own, other, bare_runs))
    say(
        f"{subject.name}: p50/p99 us on one connection: agent {value * 1e6:.0f}"
        f"/{np.percentile(own, 99) * 1e6:.0f}, FastAPI {floor * 1e6:.0f}"
        f"/{np.percentile(other, 99) * 1e6:.0f}, bare run {raw * 1e6:.1f}"
    )
    floors = {"to_raw": (raw, HTTP_TO_RAW_GOALS), "to_fastapi": (floor, HTTP_TO_FASTAPI_GOALS)}
    return [
        Figure(
            name=f"predict.http.{subject.name}.{name}",
            value=value * 1e6,
            floor=beside * 1e6,
            ratio=value / beside,
            goal=goals[subject.name],
        )
        for name, (beside, goals) in floors.items()
        if subject.name in goals
    ]


def infer_request(row: Rows) -> bytes:
    tensor = {
        "name": "features",
        "datatype": "FP32",
        "shape": list(row.shape),
        "data": [round(float(value), 4) for value in row.ravel()],
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        "POST /v2/models/main/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One keep-alive connection; as little work a request as Python allows."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def time_request(self, request: bytes) -> float:
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(1 << 20)
        while b"\r\n\r\n" not in answer or len(answer) < _length(answer):
            answer += self._socket.recv(1 << 20)
        took = time.perf_counter() - began
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
        return took

    def close(self) -> None:
        self._socket.close()


def _length(answer: bytes) -> int:
    head, _, _ = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(head) + 4 + int(line.split(b":")[1])
    return 0


def measure_requests(
    ports: tuple[int, int], request: bytes, bare: Callable[[], object], seconds: float
) -> tuple[list[float], list[float], list[float]]:
    """Alternate slices of requests to either server and of bare runs; seconds of each single."""
    connections = [Connection(port) for port in ports]
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for connection in connections:
        for _ in range(50):
            connection.time_request(request)
    ends_at = time.perf_counter() + 2 * seconds
    while time.perf_counter() < ends_at:
        for connection, seen in zip(connections, times, strict=False):
            seen.extend(connection.time_request(request) for _ in range(50))
        times[2].extend(time_calls(bare, 1) for _ in range(50))
    for connection in connections:
        connection.close()
    return times


@contextmanager
def serving(package: Path, stack: str) -> Iterator[int]:
    """Run a server in its own process; give its port."""
    command = [sys.executable, "-m", "benchmarks.bench_predict", "--serve", f"{package}:{stack}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


def serve(argument: Path) -> None:
    """The child: serve until standard input ends."""
    path, _, stack = str(argument).rpartition(":")
    blob = Path(path).read_bytes()
    sha256 = hashlib.sha256(blob).hexdigest()
    no_rows = np.empty((0, 0), np.float32)
    subject = Subject(name=Path(path).stem, blob=blob, sha256=sha256, rows=no_rows)
    if stack == "fastapi":
        serve_fastapi(subject)
        return
    with running_service(subject) as service:
        server = HttpInferenceServer(InferenceRoutes(service))
        print(server.start(), flush=True)
        sys.stdin.read()
        server.stop()


def serve_fastapi(subject: Subject) -> None:
    """The common way: pydantic models, one route, no telemetry, no checks of ours."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Tensor(BaseModel):
        name: str
        datatype: str
        shape: list[int]
        data: list[Any]

    class Asked(BaseModel):
        id: str | None = None
        inputs: list[Tensor]

    class Answer(BaseModel):
        model_name: str
        outputs: list[Tensor]

    session, app = open_session(subject), FastAPI()
    datatypes = {"float32": "FP32", "int64": "INT64"}

    async def infer(asked: Asked) -> Answer:
        tensor = asked.inputs[0]
        features = np.asarray(tensor.data, np.float32).reshape(tensor.shape)
        outputs = session.run(None, {"features": features})
        return Answer(
            model_name=subject.name,
            outputs=[
                Tensor(
                    name=node.name,
                    datatype=datatypes[array.dtype.name],
                    shape=list(array.shape),
                    data=array.ravel().tolist(),
                )
                for node, array in zip(session.get_outputs(), outputs, strict=True)
            ],
        )

    app.post("/v2/models/main/infer", response_model=Answer)(infer)
    # uvicorn must bind itself: a listener of ours would lack TCP_NODELAY and cost it 40 ms.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False))

    def watch() -> None:
        while not server.started:
            time.sleep(0.02)
        print(port, flush=True)
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    server.run()


def _fields(figure: Figure) -> dict[str, Any]:
    return {name: getattr(figure, name) for name in ("name", "value", "floor", "ratio", "goal")}


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
