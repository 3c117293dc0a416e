"""Small real packages, built without the converters: a linear classifier and a linear regression.

The graphs are written by hand with ``onnx.helper`` so that a test can break one part of one.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.onnx_model_runner import RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.row_sampler import RowPool
from edge_agent.adapters.telemetry_recorder import WindowLimits
from edge_agent.contract import package
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task
from edge_agent.ports import Clock
from edge_agent.statistics.reference import build_reference
from tests.support.clock import FakeClock

TARGET = "plant/3/camera.tar"
CLASSES = ("calm", "storm", "fog")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPackage:
    blob: bytes
    sha256: str
    schema: ModelSchema
    rows: NDArray[np.float32]
    """Rows of the training distribution."""


Edit = Callable[[dict[str, bytes]], dict[str, bytes]]


def build_classifier(
    *,
    width: int = 4,
    seed: int = 0,
    features: tuple[Feature, ...] | None = None,
    model: bytes | None = None,
    edit: Edit | None = None,
) -> BuiltPackage:
    """Build a package of a linear classifier over CLASSES; ``edit`` may break its members."""
    rng = np.random.default_rng(seed)
    schema = ModelSchema(
        model="plant",
        task=Task.CLASSIFICATION,
        features=features or tuple(Feature(name=f"f{n}") for n in range(width)),
        outputs=(
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        classes=CLASSES,
    )
    weights = rng.normal(size=(schema.width, len(CLASSES))).astype(np.float32)
    rows = rng.normal(size=(500, schema.width)).astype(np.float32)
    return _build(schema, model or classifier_graph(weights), rows, edit)


def build_regressor(
    *, width: int = 3, seed: int = 0, targets: tuple[str, ...] = (), edit: Edit | None = None
) -> BuiltPackage:
    rng = np.random.default_rng(seed)
    schema = ModelSchema(
        model="load",
        task=Task.REGRESSION,
        features=tuple(Feature(name=f"f{n}") for n in range(width)),
        outputs=(Output(name="value", role=Role.VALUE, targets=targets),),
    )
    rows = rng.normal(size=(500, width)).astype(np.float32)
    weights = rng.normal(size=(width, len(targets) or 1)).astype(np.float32)
    if targets:
        shape: list[str | int | None] = ["rows", len(targets)]
        graph = graph_bytes(
            [helper.make_node("MatMul", ["features", "w"], ["value"])],
            width=width,
            constants={"w": weights},
            outputs=[helper.make_tensor_value_info("value", TensorProto.FLOAT, shape)],
        )
        return _build(schema, graph, rows, edit)
    graph = graph_bytes(
        [
            helper.make_node("MatMul", ["features", "w"], ["column"]),
            helper.make_node("Squeeze", ["column", "axis"], ["value"]),
        ],
        width=width,
        constants={"w": weights, "axis": np.array([1], np.int64)},
        outputs=[helper.make_tensor_value_info("value", TensorProto.FLOAT, ["rows"])],
    )
    return _build(schema, graph, rows, edit)


def build_several(
    labels: tuple[NamedLabel, ...], *, seed: int = 0, edit: Edit | None = None
) -> BuiltPackage:
    """Build a package of a linear classifier of each label over 4 columns."""
    rng = np.random.default_rng(seed)
    schema = ModelSchema(
        model="sky",
        task=Task.CLASSIFICATION,
        features=tuple(Feature(name=f"f{n}") for n in range(4)),
        outputs=(
            Output(name="label", role=Role.LABEL, labels=labels),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
    )
    nodes, constants, count = [], dict[str, NDArray[Any]](), len(labels)
    for n, place in enumerate(slice_labels(labels)):
        constants[f"w{n}"] = rng.normal(size=(4, place.stop - place.start)).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", ["features", f"w{n}"], [f"s{n}"]),
            helper.make_node("Softmax", [f"s{n}"], [f"p{n}"], axis=1),
            helper.make_node("ArgMax", [f"p{n}"], [f"l{n}"], axis=1),
        ]
    for letter, name in (("l", "label"), ("p", "probabilities")):
        nodes.append(
            helper.make_node("Concat", [f"{letter}{n}" for n in range(count)], [name], axis=1)
        )
    graph = graph_bytes(
        nodes,
        width=4,
        constants=constants,
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows", count]),
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["rows", schema.probability_columns]
            ),
        ],
    )
    return _build(schema, graph, rng.normal(size=(500, 4)).astype(np.float32), edit)


def classifier_graph(
    weights: NDArray[np.float32], *, extra: tuple[NodeProto, ...] = (), rows: str | int = "rows"
) -> bytes:
    """Softmax regression; ``extra`` nodes turn ``scores`` into ``shaped`` scores."""
    scores = "shaped" if extra else "scores"
    return graph_bytes(
        [
            helper.make_node("MatMul", ["features", "w"], ["scores"]),
            *extra,
            helper.make_node("Softmax", [scores], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        width=len(weights),
        rows=rows,
        constants={"w": weights},
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["rows", weights.shape[1]]
            ),
        ],
    )


def graph_bytes(
    nodes: list[NodeProto],
    *,
    width: int,
    constants: Mapping[str, NDArray[Any]],
    outputs: list[Any],
    rows: str | int = "rows",
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, width])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def golden_bytes(
    features: NDArray[np.float32],
    outputs: Mapping[str, NDArray[Any]],
    *,
    tolerance: float = 1e-4,
) -> bytes:
    arrays: dict[str, NDArray[Any]] = {package.GOLDEN_INPUT: features}
    for name, array in outputs.items():
        arrays[package.GOLDEN_OUTPUT_PREFIX + name] = array
        if array.dtype.kind == "f":
            arrays[package.GOLDEN_TOLERANCE_PREFIX + name] = np.array(tolerance)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes **kwds for a flag
    return buffer.getvalue()


def run_graph(
    model: bytes, features: NDArray[np.float32], schema: ModelSchema
) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in schema.outputs]
    return dict(zip(names, session.run(names, {"features": features}), strict=True))


def _build(
    schema: ModelSchema, model: bytes, rows: NDArray[np.float32], edit: Edit | None
) -> BuiltPackage:
    outputs = run_graph(model, rows, schema)
    members = {
        package.MODEL: model,
        package.SCHEMA: schema.encode(),
        package.GOLDEN: golden_bytes(rows[:8], {name: o[:8] for name, o in outputs.items()}),
        package.REFERENCE: build_reference(schema, rows, outputs).encode(),
        package.EVIDENCE: b"{}",
    }
    blob = package.pack_members(edit(members) if edit else members)
    return BuiltPackage(
        blob=blob, sha256=hashlib.sha256(blob).hexdigest(), schema=schema, rows=rows
    )


def make_service(
    *,
    clock: Clock | None = None,
    outbox: Outbox | None = None,
    windows: WindowLimits | None = None,
    boot: int = 5,
    rows: RowPool | None = None,
) -> InferenceService:
    return InferenceService(
        clock=clock or FakeClock(),
        outbox=outbox or Outbox(None),
        boot=boot,
        windows=windows or WindowLimits(),
        options=RuntimeOptions(),
        rows=rows,
    )


def activate(
    service: InferenceService, built: BuiltPackage, *, slot: str = "main", target: str = TARGET
) -> None:
    service.activate(slot, blob=built.blob, target=target, sha256=built.sha256)
