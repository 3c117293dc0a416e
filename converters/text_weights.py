"""Write what a vectorizer makes of the counts of its terms as nodes, to the last bit.

Only the terms that are there are weighed, one after the other as scikit-learn has them in a sparse
row, so that every sum has its order: trees behind a vectorizer compare with weights that differ in
no more than that.
"""

import numpy as np
from onnx import TensorProto

from converters.graph_pieces import Pieces
from converters.text_plan import Weights

_INT64, _FLOAT64 = TensorProto.INT64, TensorProto.DOUBLE
_LOGS = 256
"""Counts whose logarithm is a constant: the operator's is off in the last bit now and then."""


def write_weights(pieces: Pieces, counts: str, weights: Weights) -> str:
    """Give counts, float64 [rows, columns], as they are weighed, in the type of the rows."""
    node = pieces.node
    if weights.are_none:
        return node("Cast", counts, to=pieces.kind)
    places = node("NonZero", node("Less", _numbers(pieces, 0.0), counts))
    where = node("Transpose", places, perm=[1, 0])
    row = node("Gather", places, pieces.constant("row", 0), axis=0)
    column = node("Gather", places, pieces.constant("column", 1), axis=0)
    found = node("GatherND", counts, where)
    if weights.is_binary:
        found = node("Min", found, _numbers(pieces, 1.0))
    if weights.is_sublinear:
        found = _log(pieces, found)
    if weights.idf is not None:
        idf = node("Gather", _numbers(pieces, weights.idf), column, axis=0)
        found = node("Mul", found, idf)
    shape = node("Shape", counts)
    if weights.norm:
        zero, one = pieces.constant("first", [0]), pieces.constant("second", [1])
        found = _normalise(pieces, found, row, node("Slice", shape, zero, one), weights.norm)
    empty = node("Expand", pieces.constant("no_weight", [0.0]), shape)
    return node("ScatterND", empty, where, node("Cast", found, to=pieces.kind))


def _log(pieces: Pieces, found: str) -> str:
    """Give 1 + log of counts: numpy's own where they are small, which are nearly all."""
    node = pieces.node
    logs = _numbers(pieces, 1 + np.log(np.arange(1.0, _LOGS + 1)))
    place = node("Cast", node("Sub", found, _numbers(pieces, 1.0)), to=_INT64)
    inside = node("Min", place, pieces.constant("last", _LOGS - 1))
    beyond = node("Add", node("Log", found), _numbers(pieces, 1.0))
    is_known = node("Less", place, pieces.constant("logs", _LOGS))
    return node("Where", is_known, node("Gather", logs, inside, axis=0), beyond)


def _normalise(pieces: Pieces, found: str, row: str, rows: str, norm: str) -> str:
    """Divide weights by the size of their row; a row of size 0 stays."""
    node = pieces.node
    size = node("Abs", found) if norm == "l1" else node("Mul", found, found)
    empty = node("Expand", _numbers(pieces, [0.0]), rows)
    sums = node("ScatterElements", empty, row, size, axis=0, reduction="add")
    sums = sums if norm == "l1" else node("Sqrt", sums)
    is_none = node("Equal", sums, _numbers(pieces, 0.0))
    sums = node("Where", is_none, _numbers(pieces, 1.0), sums)
    return node("Div", found, node("Gather", sums, row, axis=0))


def _numbers(pieces: Pieces, values: object) -> str:
    return pieces.add(name="numbers", kind=_FLOAT64, value=np.asarray(values, np.float64))
