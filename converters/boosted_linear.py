"""Write a linear booster of XGBoost (``gblinear``) as a product, a sum and the link.

XGBoost computes in float32 and leaves missing values out of the sum; so does the graph. The
weights are read from the library's own JSON, the base score is brought through the link first.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_LOG_LINKS = ("count:poisson", "reg:gamma", "reg:tweedie")
_FLOAT, _DOUBLE, _INT64 = 1, 11, 7


def read_weights(booster: Any) -> tuple[Array, Array]:
    """Give weights [features, outputs] and bias [outputs] of the margin, float32."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    described = learner["learner_model_param"]
    features, outputs = int(described["num_feature"]), max(1, int(described["num_class"]))
    numbers = np.array(learner["gradient_booster"]["model"]["weights"], np.float32)
    table = numbers.reshape(features + 1, outputs)
    # The library adds that of the first class to every one, which a softmax does not feel.
    base = np.atleast_1d(np.array(json.loads(described["base_score"]), np.float64))[0]
    objective = learner["objective"]["name"]
    if objective == "binary:logistic":
        base = np.log(base / (1 - base))
    elif objective in _LOG_LINKS:
        base = np.log(base)
    return table[:-1], (table[-1] + base).astype(np.float32)


def convert_linear(scope: Any, operator: Any, container: Any, booster: Any) -> None:
    """Add the nodes of a linear booster to a graph of skl2onnx."""
    nodes = _Nodes(scope, container)
    weights, bias = read_weights(booster)
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    rows = nodes.add("Cast", operator.inputs[0].full_name, to=_FLOAT)
    zero = nodes.constant(np.zeros(1, np.float32))
    known = nodes.add("Where", nodes.add("IsNaN", rows), zero, rows)
    product = nodes.add("MatMul", known, nodes.constant(weights))
    margin = nodes.add("Add", product, nodes.constant(bias))
    is_classifier = len(operator.outputs) > 1
    if not is_classifier:
        answer = nodes.add("Exp", margin) if objective in _LOG_LINKS else margin
    elif weights.shape[1] > 1:
        answer = nodes.add("Softmax", margin, axis=1)
    else:
        chance = nodes.add("Sigmoid", margin)
        one = nodes.constant(np.ones(1, np.float32))
        answer = nodes.add("Concat", nodes.add("Sub", one, chance), chance, axis=1)
    if is_classifier:
        label = nodes.add("ArgMax", answer, axis=1, keepdims=0)
        nodes.end("Cast", label, operator.outputs[0].full_name, to=_INT64)
    is_double = type(operator.outputs[-1].type).__name__ == "DoubleTensorType"
    kind = _DOUBLE if is_double else _FLOAT
    nodes.end("Cast", answer, operator.outputs[-1].full_name, to=kind)


class _Nodes:
    """Nodes and constants with names that nobody has."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def constant(self, numbers: Array) -> str:
        name = str(self._scope.get_unique_variable_name("linear_constant"))
        self._container.add_initializer(name, _FLOAT, list(numbers.shape), numbers.ravel())
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = str(self._scope.get_unique_variable_name("linear"))
        self._write(kind, inputs, output, attributes)
        return output

    def end(self, kind: str, value: str, output: str, **attributes: Any) -> None:
        self._write(kind, (value,), output, attributes)

    def _write(
        self, kind: str, inputs: tuple[str, ...], output: str, attributes: dict[str, Any]
    ) -> None:
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, list(inputs), [output], name=name, **attributes)
