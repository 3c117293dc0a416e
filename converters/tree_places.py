"""Write the thresholds of trees into a graph to the last bit, whatever their converter does.

Converters write thresholds as float32. Rows of a package are float32, so thresholds can be folded
to ask the same question (``tree_thresholds.py``), but behind steps that compute (weights of terms,
principal components) trees of scikit-learn compare float64 numbers, and those of a graph of float32
answer otherwise wherever a number and its threshold differ in the last bits. So: each split is
converted with its place in the threshold's stead, and gets the threshold it is to have in the end.

In a graph of float32 that is the largest float32 below it. In one of float64, trees that compare
float64 (HistGradientBoosting, LightGBM) compare with the very number, and all others get their
input rounded to float32 first, as they do it themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.boosted import is_xgboost
from converters.graph import ML_DOMAIN, find_opset, fresh_name, set_opset
from converters.tree_thresholds import is_tree_model, iterate_splits, rounds_to_float32

Array = NDArray[Any]
OPSET_ML = 3
"""The first that holds thresholds of float64."""
_VALUES, _TENSOR = "nodes_values", "nodes_values_as_tensor"
_FIRST_KEY = int(np.float32(2.0**100).view(np.uint32))
_STEP = 8
"""Between two places: converters move a threshold by a float32 or two."""
_SPLITS_MAX = 2**22
_FLOAT = TensorProto.FLOAT


class Places:
    """The splits of an estimator's trees by number.

    Attributes:
        thresholds: Of every split.
        is_rounded: Whether its tree rounds to float32 before it compares.
    """

    def __init__(self, trees: list[Any]) -> None:
        self._parts = [
            (len(old), rounds_to_float32(tree), old, write)
            for tree in trees
            for _, old, write in iterate_splits(tree)
        ]
        nothing = np.empty(0)
        self.thresholds = np.concatenate([nothing, *(old for _, _, old, _ in self._parts)])
        rounded = [np.full(count, is_rounded) for count, is_rounded, _, _ in self._parts]
        self.is_rounded = np.concatenate([nothing.astype(bool), *rounded])

    @property
    def are_plain(self) -> bool:
        """Whether a graph of float32 needs none of this: every threshold is a float32."""
        wide = self.thresholds[~self.is_rounded]
        with np.errstate(over="ignore"):
            return bool(np.array_equal(wide, wide.astype(np.float32)))

    @contextmanager
    def written(self) -> Iterator[None]:
        """Let each split have its place for a threshold meanwhile."""
        if len(self.thresholds) > _SPLITS_MAX:
            yield
            return
        keys = _FIRST_KEY + _STEP * np.arange(len(self.thresholds))
        marks = keys.astype(np.uint32).view(np.float32).astype(np.float64)
        self._write(marks)
        try:
            yield
        finally:
            self._write(self.thresholds)

    def _write(self, values: Array) -> None:
        start = 0
        for count, _, _, write in self._parts:
            write(values[start : start + count])
            start += count


def is_loose(estimator: Any) -> bool:
    """Tell trees that compare float64 with thresholds that are no float32."""
    if not _is_fitted_tree(estimator) or rounds_to_float32(estimator):
        return False
    return not Places([estimator]).are_plain


def list_placed(estimators: Iterator[Any]) -> list[Any]:
    """Give the trees among estimators whose thresholds can be placed, whole ensembles alone.

    XGBoost asks ``x < t`` of float32 by itself: its thresholds are what they are to be.
    """
    found: list[Any] = []
    inside: set[int] = set()
    for one in estimators:
        if id(one) in inside or is_xgboost(one) or not _is_fitted_tree(one):
            continue
        found.append(one)
        members = getattr(one, "estimators_", None)
        inside.update(id(tree) for tree in (np.ravel(members) if members is not None else ()))
    return found


def set_thresholds(model: ModelProto, places: Places, *, is_wide: bool) -> None:
    """Write every threshold for its place, in place.

    Args:
        model: Converted while ``places`` were written.
        places: Those.
        is_wide: Whether what trees read is float64.
    """
    lower = _floor(places.thresholds)
    for node in list(model.graph.node):
        if node.domain != ML_DOMAIN or not node.op_type.startswith("TreeEnsemble"):
            continue
        values = next(one for one in node.attribute if one.name == _VALUES)
        found = np.array(values.floats, np.float32)
        at = _find_places(found, len(places.thresholds))
        is_placed = at >= 0
        is_exact = is_wide and is_placed.any() and not places.is_rounded[at[is_placed]].any()
        if is_exact:
            wide = np.where(is_placed, places.thresholds[at], found)
            node.attribute.remove(values)
            tensor = numpy_helper.from_array(wide.astype(np.float64))
            node.attribute.append(helper.make_attribute(_TENSOR, tensor))
            _read_float64(model, node)
            continue
        if is_placed.any():
            with np.errstate(over="ignore"):
                narrow = np.where(is_placed, lower[at], found).astype(np.float32)
            del values.floats[:]
            values.floats.extend(narrow.tolist())
        if is_wide:
            _round_input(model, node)


def _find_places(values: Array, count: int) -> Array:
    """Give the place each value stands for, -1 where it is a threshold of its own."""
    keys = values.view(np.uint32).astype(np.int64)
    at = (keys - _FIRST_KEY + _STEP // 2) // _STEP
    is_mark = (values > 0) & (at >= 0) & (at < count)
    found: Array = np.where(is_mark, at, -1)
    return found


def _floor(thresholds: Array) -> Array:
    """Give the largest float32 that is no larger than each."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    too_large = nearest.astype(np.float64) > thresholds
    return np.where(too_large, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _read_float64(model: ModelProto, node: NodeProto) -> None:
    """Take away the rounding that a converter put before trees."""
    before = _find_rounding(model, node)
    if before is not None:
        node.input[0] = before.input[0]
    if find_opset(model, ML_DOMAIN) < OPSET_ML:
        set_opset(model, ML_DOMAIN, OPSET_ML)


def _round_input(model: ModelProto, node: NodeProto) -> None:
    if _find_rounding(model, node) is not None:
        return
    rounded = fresh_name(model, "rounded_for_trees")
    cast = helper.make_node("Cast", [node.input[0]], [rounded], to=_FLOAT)
    node.input[0] = rounded
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, cast)


def _find_rounding(model: ModelProto, node: NodeProto) -> NodeProto | None:
    """Give the node that rounds to float32 what trees read; None when none does."""
    for one in model.graph.node:
        if node.input[0] in one.output:
            is_cast = one.op_type == "Cast" and one.attribute[0].i == _FLOAT
            return one if is_cast else None
    return None


def _is_fitted_tree(estimator: Any) -> bool:
    has_trees = any(hasattr(estimator, name) for name in ("tree_", "estimators_", "_predictors"))
    return (has_trees or hasattr(estimator, "booster_")) and is_tree_model(estimator)
