"""The shared table is the one skl2onnx builds, and what it converts stays the same."""

from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common._container import ModelComponentContainer
from sklearn.linear_model import Ridge

from converters.operator_table import read_operator_table, share_operator_table


class _Container:
    """Takes the place of what skl2onnx fills a table into."""

    _op_versions: dict[Any, Any]


def test_the_table_is_the_exporters_own() -> None:
    container = _Container()
    ModelComponentContainer._build_op_version(container)
    assert read_operator_table() == container._op_versions


def test_conversions_with_and_without_are_the_same_bytes() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = Ridge().fit(rows, rows[:, 0])
    if hasattr(ModelComponentContainer, "_op_versions"):
        del ModelComponentContainer._op_versions
    before = to_onnx(model, rows[:1]).SerializeToString()
    assert share_operator_table()
    assert ModelComponentContainer._op_versions is read_operator_table()
    assert to_onnx(model, rows[:1]).SerializeToString() == before
