"""Where the tensors of a package lie, so that they can be regrouped before they travel.

Trained numbers hardly compress as they stand; their bytes by significance do, and so do the
differences to those of a former version of the same shape. Only places are found here, nothing is
decoded; a model that cannot be walked has none, which costs bytes and nothing else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_agent.contract.encoding import SEGMENTS_MAX, Segment
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import MODEL, find_members
from edge_agent.contract.protobuf_walk import ProtobufWalk, Wire

TENSOR_BYTES_MIN = 256
"""Shorter ones gain less than naming them costs."""
_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
_TENSOR_TYPE, _TENSOR_NAME, _ATTRIBUTE_NAME = 2, 8, 1
_DATA = {4: 4, 9: 0, 10: 8}
"""Fields of TensorProto with packed numbers: bytes of one, 0: as the type says."""
_WIDTHS = {1: 4, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of one element by TensorProto.DataType; others are single bytes or odd."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Bytes of one tensor: ``at`` and ``length`` in the package, ``width`` of an element."""

    at: int
    length: int
    width: int


def find_tensors(blob: bytes) -> dict[str, TensorPlace]:
    """Find the tensors of a package, or of a bare ONNX file, by name; none in anything else."""
    try:
        try:
            start, end = find_members(blob)[MODEL]
        except ContractError:
            start, end = 0, len(blob)
        walk = ProtobufWalk(blob, what="model")
        found: dict[str, TensorPlace] = {}
        for name, place in _of_model(walk, start, end):
            found.setdefault(name, place)
    except ContractError:
        return {}
    longest = sorted(found, key=lambda name: -found[name].length)[:SEGMENTS_MAX]
    return {name: found[name] for name in longest}


def plan_segments(
    target: Mapping[str, TensorPlace], base: Mapping[str, TensorPlace]
) -> tuple[Segment, ...]:
    """Pair each tensor with that of the same name and shape in the base, if there is one."""
    segments = []
    for name, place in target.items():
        other = base.get(name)
        is_pair = other is not None and (other.length, other.width) == (place.length, place.width)
        segments.append(
            Segment(
                at=place.at,
                length=place.length,
                width=place.width,
                base_at=other.at if other is not None and is_pair else None,
            )
        )
    return tuple(sorted(segments, key=lambda segment: segment.at))


def _of_model(walk: ProtobufWalk, start: int, end: int) -> Iterator[tuple[str, TensorPlace]]:
    for number, kind, begin, stop in walk.fields(start, end):
        if number == _GRAPH and kind == Wire.BYTES:
            yield from _of_graph(walk, begin, stop)


def _of_graph(walk: ProtobufWalk, start: int, end: int) -> Iterator[tuple[str, TensorPlace]]:
    nodes = 0
    for number, kind, begin, stop in walk.fields(start, end):
        if number == _INITIALIZER and kind == Wire.BYTES:
            yield from _of_tensor(walk, begin, stop, "")
        elif number == _NODE and kind == Wire.BYTES:
            nodes += 1
            yield from _of_node(walk, begin, stop, nodes)


def _of_node(
    walk: ProtobufWalk, start: int, end: int, node: int
) -> Iterator[tuple[str, TensorPlace]]:
    """Give the tensors of a Constant; lists of numbers stay as they are."""
    for number, kind, begin, stop in walk.fields(start, end):
        if number == _ATTRIBUTE and kind == Wire.BYTES and stop - begin < TENSOR_BYTES_MIN:
            continue
        if number == _ATTRIBUTE and kind == Wire.BYTES:
            first = next(walk.fields(begin, stop), None)
            name = walk.text(first[2], first[3]) if first and first[0] == _ATTRIBUTE_NAME else ""
            if name == "value":
                for inner, wire, at, to in walk.fields(begin, stop):
                    if inner == _TENSOR and wire == Wire.BYTES:
                        yield from _of_tensor(walk, at, to, f"node {node}")


def _of_tensor(
    walk: ProtobufWalk, start: int, end: int, name: str
) -> Iterator[tuple[str, TensorPlace]]:
    width, data = 1, None
    for number, kind, begin, stop in walk.fields(start, end):
        if number == _TENSOR_TYPE and kind == Wire.VARINT:
            width = _WIDTHS.get(begin, 1)
        elif number == _TENSOR_NAME and kind == Wire.BYTES:
            name = name or walk.content[begin:stop].decode(errors="replace")
        elif number in _DATA and kind == Wire.BYTES:
            data = (begin, stop, _DATA[number])
    if data is not None and data[1] - data[0] >= TENSOR_BYTES_MIN:
        begin, stop, own = data
        yield name, TensorPlace(begin, stop - begin, own or width)
