"""A small convolutional network for the digits table, trained without a deep learning library."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

from converters.from_onnx import OnnxSource
from converters.request import BuildRequest, MeasurementPlan, ProfileLimits
from device_profiles.catalog import load_profile
from tests.support.convert import QUICK, fit_quietly, load_table, schema_of

Array = NDArray[Any]
FILTERS = (16, 32)
UNITS = 256


@cache
def digits_cnn(*, is_spoiled: bool = False) -> bytes:
    """Give a graph of two convolutions with drawn filters and a trained dense head, 0.6 MB.

    Input ``x`` [N, 64], outputs ``p`` [N, 10]; accuracy 0.97 on rows it has not seen.

    Args:
        is_spoiled: Let a unit that is never lit set the scale of the large dense layer: the same
            answers in float32, none worth having in int8.
    """
    constants, unlit = _train()
    constants = {name: values.copy() for name, values in constants.items()}
    if is_spoiled:
        constants["w1"][unlit] = 1e4
    same: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Div", ["x", "scale"], ["share"]),
        helper.make_node("Reshape", ["share", "shape"], ["picture"]),
        helper.make_node("Conv", ["picture", "c1"], ["m1"], **same),
        helper.make_node("Relu", ["m1"], ["r1"]),
        helper.make_node("Conv", ["r1", "c2"], ["m2"], **same),
        helper.make_node("Relu", ["m2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["g1"]),
        helper.make_node("Relu", ["g1"], ["h1"]),
        helper.make_node("Gemm", ["h1", "w2", "b2"], ["g2"]),
        helper.make_node("Softmax", ["g2"], ["p"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    content: bytes = model.SerializeToString()
    return content


@cache
def _train() -> tuple[dict[str, Array], int]:
    """Give the constants, and a unit before the dense head that no row lights."""
    rows, targets = load_table("digits")
    cut = len(rows) * 6 // 10
    random = np.random.default_rng(0)
    first, second = (
        (random.normal(size=(made, taken, 3, 3)) * np.sqrt(2 / (9 * taken))).astype(np.float32)
        for made, taken in ((FILTERS[0], 1), (FILTERS[1], FILTERS[0]))
    )
    maps = _filter(_filter(rows[:cut].reshape(-1, 1, 8, 8) / 16, first), second)
    pooled = maps.reshape(len(maps), FILTERS[1], 4, 2, 4, 2).max(axis=(3, 5)).reshape(cut, -1)
    head = MLPClassifier((UNITS,), max_iter=25, random_state=0)
    fit_quietly(head, pooled, targets[:cut])
    constants = {
        "shape": np.array([-1, 1, 8, 8], np.int64),
        "scale": np.array(16, np.float32),
        "c1": first,
        "c2": second,
        "w1": head.coefs_[0].astype(np.float32),
        "b1": head.intercepts_[0].astype(np.float32),
        "w2": head.coefs_[1].astype(np.float32),
        "b2": head.intercepts_[1].astype(np.float32),
    }
    return constants, int(np.flatnonzero(pooled.max(axis=0) == 0)[0])


def request_of_cnn(
    *,
    limits: ProfileLimits | None = None,
    plan: MeasurementPlan = QUICK,
    is_spoiled: bool = False,
    **settings: Any,
) -> BuildRequest:
    """Ask for a package of the network for ``camera``."""
    rows, targets = load_table("digits")
    cut = len(rows) * 6 // 10
    profile = load_profile("camera")
    schema = schema_of(64, [str(digit) for digit in range(10)])
    return BuildRequest(
        estimator=OnnxSource(digits_cnn(is_spoiled=is_spoiled), schema, profile),
        schema=schema,
        profile=profile,
        calibration=rows[:cut],
        holdout=rows[cut:],
        holdout_targets=targets[cut:],
        limits=limits or ProfileLimits(),
        plan=plan,
        **settings,
    )


def _filter(maps: Array, filters: Array) -> Array:
    """Convolve [N, taken, 8, 8] with [made, taken, 3, 3], as wide as before, and rectify."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    made: Array = np.einsum("ncijkl,mckl->nmij", windows, filters, optimize=True)
    return np.maximum(made, 0)
