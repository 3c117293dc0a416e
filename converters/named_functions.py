"""Functions of numpy that a graph can hold: FunctionTransformer and TransformedTargetRegressor.

A function of Python cannot be written out, but its name can be known. All of them compute in
float64, as numpy does for float64 rows. ``log1p`` and ``expm1`` are the formulas of Kahan: as exact
near 0 as numpy's own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces

Write = Callable[["Numbers", str], str]
ADVICE = (
    "Use a function of numpy's own ({names}), without kw_args, or compute it before the rows come."
)


class Numbers:
    """Nodes that compute in float64."""

    def __init__(self, pieces: Pieces) -> None:
        self.node = pieces.node
        self._pieces = pieces

    def constant(self, value: float) -> str:
        """Add a number."""
        from onnx import TensorProto

        return self._pieces.add(name="number", kind=TensorProto.DOUBLE, value=np.float64(value))


def _simple(operator: str) -> Write:
    return lambda numbers, given: numbers.node(operator, given)


def _scaled_log(divisor: float) -> Write:
    def write(numbers: Numbers, given: str) -> str:
        return numbers.node("Div", numbers.node("Log", given), numbers.constant(divisor))

    return write


def write_log1p(numbers: Numbers, given: str) -> str:
    """Write log(1 + x)."""
    node, one = numbers.node, numbers.constant(1.0)
    more = node("Add", given, one)
    logged = node("Log", more)
    near = node("Div", node("Mul", given, logged), node("Sub", more, one))
    kept = node("Where", node("Equal", more, one), given, near)
    return node("Where", node("IsInf", given), logged, kept)


def write_expm1(numbers: Numbers, given: str) -> str:
    """Write exp(x) - 1."""
    node, one = numbers.node, numbers.constant(1.0)
    power = node("Exp", given)
    less = node("Sub", power, one)
    near = node("Div", node("Mul", less, given), node("Log", power))
    kept = node("Where", node("Equal", power, one), given, near)
    is_far = node("Less", numbers.constant(1.0), node("Abs", given))
    return node("Where", is_far, less, kept)


def _power(base: float) -> Write:
    return lambda numbers, given: numbers.node("Pow", numbers.constant(base), given)


def _square(numbers: Numbers, given: str) -> str:
    return numbers.node("Mul", given, given)


def _truncate(numbers: Numbers, given: str) -> str:
    return numbers.node(
        "Mul", numbers.node("Sign", given), numbers.node("Floor", numbers.node("Abs", given))
    )


_WRITERS: Mapping[str, Write] = {
    "log": _simple("Log"),
    "log2": _scaled_log(float(np.log(2))),
    "log10": _scaled_log(float(np.log(10))),
    "log1p": write_log1p,
    "exp": _simple("Exp"),
    "exp2": _power(2.0),
    "expm1": write_expm1,
    "sqrt": _simple("Sqrt"),
    "square": _square,
    "absolute": _simple("Abs"),
    "fabs": _simple("Abs"),
    "negative": _simple("Neg"),
    "positive": _simple("Identity"),
    "reciprocal": _simple("Reciprocal"),
    "sign": _simple("Sign"),
    "floor": _simple("Floor"),
    "ceil": _simple("Ceil"),
    "trunc": _truncate,
    "rint": _simple("Round"),
    "sin": _simple("Sin"),
    "cos": _simple("Cos"),
}
NAMES = tuple(_WRITERS)


def find_name(function: Any, arguments: Mapping[str, Any] | None, what: str) -> str:
    """Give the name of a function that a graph can hold; empty for none at all.

    Args:
        function: Of numpy; None for one that changes nothing.
        arguments: What it is called with beside the rows.
        what: Named in the refusal.

    Raises:
        UnsupportedEstimatorError: Any other function.
    """
    if function is None:
        return ""
    name = getattr(function, "__name__", type(function).__name__)
    if name not in _WRITERS or function is not getattr(np, name) or arguments:
        given = f"{name} with {sorted(arguments)}" if arguments else name
        raise UnsupportedEstimatorError(
            what,
            f"it calls the function {given}, which no graph holds",
            ADVICE.format(names=", ".join(NAMES)),
        )
    return name


def write_function(pieces: Pieces, name: str, given: str) -> str:
    """Write a function of numbers in the type of the rows; ``name`` as of ``find_name``."""
    from onnx import TensorProto

    if not name:
        return given
    wide = pieces.node("Cast", given, to=TensorProto.DOUBLE)
    made = _WRITERS[name](Numbers(pieces), wide)
    return pieces.node("Cast", made, to=pieces.kind)
