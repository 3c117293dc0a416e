"""What any ONNX file is made of, read field by field and never built into a model.

Unlike ``check_onnx``, which refuses what a package may not have, this tells of it: data in other
files, operators of other domains, functions, loops. Work is bounded by the walk's budget. Pure.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from edge_agent.contract.protobuf_walk import ProtobufWalk, Wire, run_of, signed

_RUNS = run_of(floats=7, integers=8, strings=9)
DEPTH_MAX = 16
NAME_CHARS_MAX = 120
PART_BYTES_MIN = 64
"""Smaller attributes are not counted as parts of their own."""
LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
_INT8, _FLOAT16, _RANK_OF_WEIGHTS = 3, 10, 2
_REDUCED_MAX = 64
ELEMENTS = dict(
    enumerate(
        (
            *("undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64"),
            *("string", "bool", "float16", "float64", "uint32", "uint64", "complex64"),
            *("complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2"),
            *("float8e5m2fnuz", "uint4", "int4", "float4e2m1"),
        )
    )
)
"""Names of element types by TensorProto.DataType."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output: its element type and shape, an open size by its name or ``?``."""

    name: str
    element: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something with a size: a constant, or a large attribute such as the nodes of a tree.

    Attributes:
        name: Of the constant, or ``OPERATOR.ATTRIBUTE``.
        element: Type of its numbers; empty for an attribute.
        shape: Of the constant.
        size_bytes: In this file.
        file: Where its data lies, when that is another file.
    """

    name: str
    element: str = ""
    shape: tuple[int, ...] = ()
    size_bytes: int = 0
    file: str = ""


@dataclass(slots=True, kw_only=True)
class Outline:
    """What a file holds.

    Attributes:
        ir: File format.
        producer: Who says to have written it.
        opsets: Imported operator sets by domain; ``ai.onnx`` is the empty domain.
        inputs: What must be fed; constants that are also inputs are left out.
        outputs: What is answered.
        operators: How often each occurs, ``Gemm`` or ``DOMAIN:NAME``, inner graphs included.
        parts: Constants and large attributes, in the order of the file.
        inner_graphs: Bodies of control flow.
        functions: Functions the file brings itself.
        has_training: Whether it holds training information.
        is_full_range: Whether int8 weights use all 8 bits; not those cast before they are used.
    """

    ir: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    parts: list[Part] = field(default_factory=list)
    inner_graphs: int = 0
    functions: int = 0
    has_training: bool = False
    is_full_range: bool = False

    @property
    def files(self) -> list[str]:
        """Other files that data lies in."""
        return sorted({part.file for part in self.parts if part.file})

    @property
    def has_float16(self) -> bool:
        """Whether weights are stored in half precision."""
        return any(p.element == "float16" and len(p.shape) >= 1 for p in self.parts)


def read_outline(content: bytes, *, what: str) -> Outline:
    """Read a file.

    Raises:
        MalformedError: Not protobuf, or more fields than are looked at.
    """
    return _Reader(ProtobufWalk(content, what=what)).read()


class _Reader:
    def __init__(self, walk: ProtobufWalk) -> None:
        self._walk, self._found = walk, Outline()
        self._full_range: set[str] = set()
        self._used: set[str] = set()

    def read(self) -> Outline:
        found = self._found
        for number, kind, begin, stop in self._walk.fields(0, len(self._walk.content)):
            if number == 1 and kind == Wire.VARINT:
                found.ir = begin
            elif kind != Wire.BYTES:
                continue
            elif number == 2:
                found.producer = self._walk.text(begin, stop)
            elif number == 7:
                self._graph(begin, stop, depth=0)
            elif number == 8:
                self._import(begin, stop)
            elif number == 20:
                found.has_training = True
            elif number == 25:
                found.functions += 1
                self._function(begin, stop)
        found.is_full_range = not self._full_range.isdisjoint(self._used)
        constants = {part.name for part in found.parts}
        found.inputs = [value for value in found.inputs if value.name not in constants]
        return found

    def _import(self, start: int, end: int) -> None:
        domain, version = "", 0
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number == 1 and kind == Wire.BYTES:
                domain = self._text(begin, stop)
            elif number == 2 and kind == Wire.VARINT:
                version = signed(begin)
        domain = "" if domain == "ai.onnx" else domain
        self._found.opsets[domain] = max(version, self._found.opsets.get(domain, 0))

    def _graph(self, start: int, end: int, *, depth: int) -> None:
        for number, kind, begin, stop in self._walk.fields(start, end):
            if kind != Wire.BYTES:
                continue
            if number == 1:
                self._node(begin, stop, depth)
            elif number == 5:
                self._tensor(begin, stop, name="")
            elif number == 15:
                self._sparse(begin, stop)
            elif number in (11, 12) and depth == 0:
                values = self._found.inputs if number == 11 else self._found.outputs
                values.append(self._value(begin, stop))

    def _function(self, start: int, end: int) -> None:
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number == 7 and kind == Wire.BYTES:
                self._node(begin, stop, 0)

    def _node(self, start: int, end: int, depth: int) -> None:
        operator = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[tuple[int, int]] = []
        for number, kind, begin, stop in self._walk.fields(start, end):
            if kind != Wire.BYTES:
                continue
            if number == 1:
                inputs.append(self._text(begin, stop))
            elif number == 2 and not outputs:
                outputs.append(self._text(begin, stop))
            elif number == 4:
                operator = self._text(begin, stop)
            elif number == 7:
                domain = self._text(begin, stop)
            elif number == 5:
                attributes.append((begin, stop))
        name = operator if domain in ("", "ai.onnx") else f"{domain}:{operator}"
        self._found.operators[name] += 1
        if name != "Cast":
            self._used.update(inputs)
        for begin, stop in attributes:
            self._attribute(begin, stop, operator, (outputs or [""])[0], depth)

    def _attribute(self, start: int, end: int, operator: str, output: str, depth: int) -> None:
        name, has_own_parts = "", False
        for number, kind, begin, stop in self._walk.fields(start, end, runs=_RUNS):
            if kind != Wire.BYTES:
                continue
            if number == 1:
                name = self._text(begin, stop)
            elif number in (5, 10):
                self._tensor(begin, stop, name=output)
                has_own_parts = True
            elif number in (22, 23):
                self._sparse(begin, stop)
                has_own_parts = True
            elif number in (6, 11):
                self._found.inner_graphs += 1
                has_own_parts = True
                if depth < DEPTH_MAX:
                    self._graph(begin, stop, depth=depth + 1)
        if not has_own_parts and end - start >= PART_BYTES_MIN:
            self._found.parts.append(Part(name=f"{operator}.{name}", size_bytes=end - start))

    def _sparse(self, start: int, end: int) -> None:
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number in (1, 2) and kind == Wire.BYTES:
                self._tensor(begin, stop, name="a sparse constant")

    def _tensor(self, start: int, end: int, *, name: str) -> None:
        dims: list[int] = []
        element, file, raw = 0, "", (0, 0)
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number == 1:
                dims += [signed(begin)] if kind == Wire.VARINT else self._dims(kind, begin, stop)
            elif number == 2 and kind == Wire.VARINT:
                element = begin
            elif kind != Wire.BYTES:
                continue
            elif number == 8:
                name = self._text(begin, stop) or name
            elif number == 9:
                raw = (begin, stop)
            elif number == 13:
                file = self._place(begin, stop) or file
        if element == _INT8 and len(dims) >= _RANK_OF_WEIGHTS and raw[1] > raw[0]:
            values = np.frombuffer(self._walk.content, np.int8, raw[1] - raw[0], raw[0])
            if max(-int(values.min()), int(values.max())) > _REDUCED_MAX:
                self._full_range.add(name)
        self._found.parts.append(
            Part(
                name=name,
                element=ELEMENTS.get(element, f"type {element}"),
                shape=tuple(dims),
                size_bytes=end - start,
                file=file,
            )
        )

    def _dims(self, kind: int, start: int, end: int) -> list[int]:
        return self._walk.varints(start, min(end, start + 320)) if kind == Wire.BYTES else []

    def _place(self, start: int, end: int) -> str:
        """Read one entry of where external data lies; only ``location`` is told."""
        texts = {
            number: self._text(begin, stop)
            for number, kind, begin, stop in self._walk.fields(start, end)
            if kind == Wire.BYTES
        }
        return texts.get(2, "") if texts.get(1) == "location" else ""

    def _value(self, start: int, end: int) -> Value:
        name, element, shape = "", "not a tensor", None
        for number, kind, begin, stop in self._walk.fields(start, end):
            if kind != Wire.BYTES:
                continue
            if number == 1:
                name = self._text(begin, stop)
            elif number == 2:
                element, shape = self._type(begin, stop)
        return Value(name=name, element=element, shape=shape)

    def _type(self, start: int, end: int) -> tuple[str, tuple[int | str, ...] | None]:
        element, shape = "not a tensor", None
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number != 1 or kind != Wire.BYTES:
                continue
            for inner, inner_kind, at, to in self._walk.fields(begin, stop):
                if inner == 1 and inner_kind == Wire.VARINT:
                    element = ELEMENTS.get(at, f"type {at}")
                elif inner == 2 and inner_kind == Wire.BYTES:
                    shape = tuple(self._sizes(at, to))
        return element, shape

    def _sizes(self, start: int, end: int) -> list[int | str]:
        sizes: list[int | str] = []
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number != 1 or kind != Wire.BYTES:
                continue
            size: int | str = "?"
            for inner, inner_kind, at, to in self._walk.fields(begin, stop):
                if inner == 1 and inner_kind == Wire.VARINT:
                    size = signed(at)
                elif inner == 2 and inner_kind == Wire.BYTES:
                    size = self._text(at, to) or "?"
            sizes.append(size)
        return sizes

    def _text(self, start: int, end: int) -> str:
        content = self._walk.content[start : min(end, start + NAME_CHARS_MAX)]
        return "".join(c if c.isprintable() else "?" for c in content.decode(errors="replace"))
