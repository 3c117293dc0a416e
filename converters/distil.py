"""A smaller student trained on the source's answers to the training rows.

Not the same model, and never called so: it ships only when it was asked for and keeps the limits
on held-out rows. A source of trees gets a small boosted ensemble that learns its labels or values;
any other gets a network of one hidden layer that learns its log-probabilities or values.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.errors import ConversionError, InvalidRequestError
from converters.interface import LABEL, PROBABILITIES, VALUE
from converters.label_interface import join_labels, take_labels
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Task

Array = NDArray[Any]
HIDDEN_UNITS = 32
NETWORK_EPOCHS = 200
BOOSTED_STAGES = 40
BOOSTED_LEAVES = 15
PROBABILITY_MIN = 1e-4
_SEED = 0
_OPSET = 13


def distil(
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array,
    answers: Mapping[str, Array],
    *,
    is_of_trees: bool,
) -> ModelProto:
    """Train a student.

    Args:
        schema: Its outputs.
        profile: A tree student is converted for it.
        rows: Training rows, float32 [N, width].
        answers: The source's, by output name.
        is_of_trees: Family of the source.

    Raises:
        ConversionError: The rows do not show every class, or hold texts, or no student can be
            trained on them.
    """
    if schema.texts:
        raise ConversionError(
            f"a student reads numbers as they are, and {schema.texts[0].name!r} is a text"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_of_trees:
            return _train_trees(schema, profile, rows, answers)
        return _train_network(schema, rows, answers)


def _train_trees(
    schema: ModelSchema, profile: DeviceProfile, rows: Array, answers: Mapping[str, Array]
) -> ModelProto:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor

    from converters.from_sklearn import SklearnSource

    settings: dict[str, Any] = {
        "max_iter": BOOSTED_STAGES,
        "max_leaf_nodes": BOOSTED_LEAVES,
        "early_stopping": False,
        "random_state": _SEED,
    }
    if schema.task is Task.REGRESSION:
        one = HistGradientBoostingRegressor(**settings)
        student = (MultiOutputRegressor(one) if schema.targets else one).fit(rows, answers[VALUE])
    else:
        labels = np.asarray(answers[LABEL])
        _check_classes(schema, labels)
        one = HistGradientBoostingClassifier(**settings)
        student = (MultiOutputClassifier(one) if schema.labels else one).fit(rows, labels)
    source = SklearnSource(
        student,
        schema.task,
        is_fed_float32=True,
        targets=len(schema.targets),
        labels=schema.labels,
    )
    return source.convert(schema, profile).model


def _check_classes(schema: ModelSchema, labels: Array) -> None:
    """Refuse answers that do not show every class of every label."""
    classes = [len(label.classes) for label in schema.labels] or [len(schema.classes)]
    for column, count in zip(labels.reshape(len(labels), -1).T, classes, strict=True):
        if len(np.unique(column)) < count:
            raise InvalidRequestError("the source never answers some classes on the training rows")


def _train_network(schema: ModelSchema, rows: Array, answers: Mapping[str, Array]) -> ModelProto:
    from sklearn.neural_network import MLPRegressor

    finite = np.isfinite(rows).all(axis=1)
    asked = rows[finite].astype(np.float64)
    if len(asked) < 2:
        raise InvalidRequestError("too few training rows without missing values to learn from")
    if schema.task is Task.REGRESSION:
        wanted = np.asarray(answers[VALUE], np.float64)[finite]
        wanted = wanted.reshape(len(wanted), -1)
    else:
        chances = np.asarray(answers[PROBABILITIES], np.float64)[finite]
        wanted = np.log(np.clip(chances, PROBABILITY_MIN, 1.0))
    mean, spread = asked.mean(axis=0), _spread(asked)
    centre, scale = wanted.mean(axis=0), _spread(wanted)
    network = MLPRegressor(
        hidden_layer_sizes=(HIDDEN_UNITS,), max_iter=NETWORK_EPOCHS, random_state=_SEED
    )
    goal = (wanted - centre) / scale
    network.fit((asked - mean) / spread, goal[:, 0] if goal.shape[1] == 1 else goal)
    first, second = network.coefs_
    bias, last = network.intercepts_
    folded = first / spread[:, None]
    return _write_network(
        schema,
        [folded, bias - mean @ folded, second * scale, last * scale + centre],
    )


def _spread(values: Array) -> Array:
    spread = values.std(axis=0)
    safe: Array = np.where(spread > 0, spread, 1.0)
    return safe


def _write_network(schema: ModelSchema, weights: list[Array]) -> ModelProto:
    names = ["w1", "b1", "w2", "b2"]
    nodes: list[NodeProto] = [
        helper.make_node("MatMul", [INPUT_NAME, "w1"], ["product"]),
        helper.make_node("Add", ["product", "b1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["scores"]),
        helper.make_node("Add", ["scores", "b2"], ["answer"]),
    ]
    constants = [
        numpy_helper.from_array(values.astype(np.float32), name)
        for name, values in zip(names, weights, strict=True)
    ]
    if schema.task is Task.REGRESSION:
        sizes = [-1, *([len(schema.targets)] if schema.targets else [])]
        constants.append(numpy_helper.from_array(np.array(sizes, np.int64), "flat"))
        nodes.append(helper.make_node("Reshape", ["answer", "flat"], [VALUE]))
        outputs = [helper.make_tensor_value_info(VALUE, TensorProto.FLOAT, ["N", *sizes[1:]])]
    elif schema.labels:
        columns = schema.probability_columns
        outputs = [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", columns])]
    else:
        nodes.append(helper.make_node("Softmax", ["answer"], [PROBABILITIES], axis=1))
        nodes.append(helper.make_node("ArgMax", [PROBABILITIES], [LABEL], axis=1, keepdims=0))
        outputs = [
            helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info(
                PROBABILITIES, TensorProto.FLOAT, ["N", len(schema.classes)]
            ),
        ]
    features = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", schema.width])
    graph = helper.make_graph(nodes, "student", [features], outputs, constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if schema.labels:
        taken = take_labels(model, "answer", schema.labels, is_positive=False, is_logits=True)
        join_labels(model, taken, schema.labels)
    return model
