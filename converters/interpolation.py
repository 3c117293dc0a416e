"""Interpolate between knots as numpy.interp does, in nodes: binary search by Gather, no loop.

Exact at knots, beside them and beyond them: the same places, the same order of operations, in
float64. Takes about five nodes for each doubling of the knots and no memory for each knot and row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.graph_pieces import Pieces

Array = NDArray[Any]


def write_interpolation(
    pieces: Pieces,
    given: str,
    knots: Array,
    values: Array,
    *,
    below: float | None = None,
    above: float | None = None,
) -> str:
    """Interpolate numbers between knots.

    Args:
        pieces: Takes the nodes.
        given: Name of numbers, float64 [rows, columns].
        knots: Of each column, in order, one at least [columns, knots]; of equal ones the last
            counts from there on.
        values: Of each knot [columns, knots].
        below: Answer below the first knot; its value where None.
        above: Answer above the last knot; its value where None.

    Returns:
        The name of the answers, float64 [rows, columns].
    """
    from onnx import TensorProto

    def numbers(name: str, values: Any) -> str:
        cells = np.asarray(values, np.float64)
        return pieces.add(name=name, kind=TensorProto.DOUBLE, value=cells)

    node, (columns, count) = pieces.node, knots.shape
    steps, rises = np.diff(knots, axis=1), np.diff(values, axis=1)
    slopes = np.zeros((columns, count))
    np.divide(rises, steps, out=slopes[:, :-1], where=steps > 0)
    xs, ys = numbers("knots", knots.ravel()), numbers("values", values.ravel())
    first = count * np.arange(columns)[None, :]
    place = node("Expand", pieces.constant("first", first), node("Shape", given))
    highest = pieces.constant("last", first + count - 1)
    for power in reversed(range((count - 1).bit_length())):
        further = node("Add", place, pieces.constant("step", 2**power))
        further = node("Min", further, highest)
        is_behind = node("LessOrEqual", node("Gather", xs, further, axis=0), given)
        place = node("Where", is_behind, further, place)
    distance = node("Sub", given, node("Gather", xs, place, axis=0))
    slope = node("Gather", numbers("slopes", slopes.ravel()), place, axis=0)
    answer = node("Add", node("Mul", slope, distance), node("Gather", ys, place, axis=0))
    is_below = node("Less", given, numbers("lowest", knots[:, 0]))
    left = values[:, 0] if below is None else below
    answer = node("Where", is_below, numbers("below", left), answer)
    is_above = node("Less", numbers("highest", knots[:, -1]), given)
    return node(
        "Where", is_above, numbers("above", values[:, -1] if above is None else above), answer
    )
