"""How many elements operators make out of nothing: what a written shape or repeat implies.

A file of a hundred bytes can ask for a tensor of a terabyte. Shapes that the graph only computes
when it runs are not seen here; the memory limit of the process that runs it is for those.
"""

import math
from collections.abc import Mapping, Sequence

Numbers = tuple[float, ...]
GROWING = frozenset(
    {
        *(
            "AffineGrid",
            "AveragePool",
            "BlackmanWindow",
            "CenterCropPad",
            "Col2Im",
            "ConstantOfShape",
        ),
        *("Conv", "ConvInteger", "ConvTranspose", "DFT", "Expand", "HammingWindow", "HannWindow"),
        *("LpPool", "MaxPool", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad", "QLinearConv"),
        *("RandomNormal", "RandomUniform", "Range", "Resize", "Tile", "Upsample"),
    }
)
"""Operators whose inputs or attributes are looked at."""
ATTRIBUTES = frozenset({"shape", "pads", "output_shape", "output_padding", "scales"})
_SHAPE_INPUT = {
    "ConstantOfShape": 0,
    "Expand": 1,
    "Tile": 1,
    "OneHot": 1,
    "CenterCropPad": 1,
    "AffineGrid": 1,
    "Col2Im": 1,
    "HannWindow": 0,
    "HammingWindow": 0,
    "BlackmanWindow": 0,
    "DFT": 1,
}
_PRODUCT_INPUTS = {"Upsample": (1,), "Resize": (2, 3), "MelWeightMatrix": (0, 1), "MaxUnpool": (2,)}


def count_implied(
    operator: str, inputs: Sequence[Numbers | None], attributes: Mapping[str, Numbers]
) -> float:
    """Count the elements that constants of one node ask for, 0 when they ask for none.

    Args:
        operator: Its type.
        inputs: Values of each input that is a small constant, None for the others.
        attributes: Number lists of the node by name, those of ``ATTRIBUTES``.

    >>> count_implied("ConstantOfShape", [(1000.0, 1000.0)], {})
    1000000.0
    >>> count_implied("Range", [(0.0,), (10.0,), (0.5,)], {})
    20.0
    """
    found = [0.0]
    places = _PRODUCT_INPUTS.get(operator, ())
    if operator in _SHAPE_INPUT:
        places = (_SHAPE_INPUT[operator],)
    for place in places:
        value = inputs[place] if place < len(inputs) else None
        if value:
            found.append(_product(value))
    if operator == "Range":
        found.append(_count_range(inputs))
    if operator == "Pad" and len(inputs) > 1 and inputs[1]:
        found.append(_pad(inputs[1]))
    for name, value in attributes.items():
        found.append(_pad(value) if name in ("pads", "output_padding") else _product(value))
    return max(found)


def _product(values: Numbers) -> float:
    """Multiply as floats: too much is infinite, never an error."""
    product = 1.0
    for value in values:
        product *= abs(value)
    return math.inf if math.isnan(product) else product


def _pad(pads: Numbers) -> float:
    """Elements of a one-element tensor after padding: begins first, then ends."""
    half = len(pads) // 2
    product = 1.0
    for begin, end in zip(pads[:half], pads[half:], strict=False):
        product *= 1 + max(0.0, begin) + max(0.0, end)
    return product if product > 1 else 0.0


def _count_range(inputs: Sequence[Numbers | None]) -> float:
    if len(inputs) != 3 or any(not value for value in inputs):
        return 0.0
    start, limit, delta = (value[0] for value in inputs if value)
    if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
        return math.inf
    return max(0.0, (limit - start) / delta)
