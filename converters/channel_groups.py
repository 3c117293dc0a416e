"""Groups of channels that are dropped together, and what counts them. Values only.

``channel_walk.py`` finds them in a graph.
"""

from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, helper


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A constant with an axis that counts the channels of a group.

    Attributes:
        tensor: Its name.
        axis: Which.
        block: Consecutive numbers of one channel on it: places of a flattened map.
        is_read: Whether the layer reads the group with it, instead of making it.
    """

    tensor: str
    axis: int
    block: int = 1
    is_read: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A layer that multiplies the channels of a group.

    Attributes:
        place: Of its node.
        takes: Tensor it reads.
        output: Tensor it makes.
        block: As of its weights.
        is_map: Whether the channels are the second axis; the last one otherwise.
        makes: Number of the group that it makes.
    """

    place: int
    takes: str
    output: str
    block: int
    is_map: bool
    makes: int


@dataclass(slots=True, kw_only=True)
class Group:
    """Channels that are dropped together.

    Attributes:
        channels: How many.
        makers: Weights that make them: name and axis.
        readers: Who multiplies them.
        cuts: Every constant that counts them, those of makers and readers included.
        depthwise: Places of nodes whose attribute ``group`` counts them.
        reshapes: Places of nodes whose constant shape counts them.
        has_convolution: Whether a convolution makes them.
        pinned: Why they stay; empty when they may be dropped.
    """

    channels: int
    makers: list[Cut] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    depthwise: list[int] = field(default_factory=list)
    reshapes: list[int] = field(default_factory=list)
    has_convolution: bool = False
    pinned: str = ""


def read_attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Give an attribute of a node, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
