"""Check an ONNX file before any runtime sees it: bounded, self-contained, plain operators.

The bytes are walked, never built into a model, with the standard library alone, so device and
builder refuse the same files. Refused: data in other files, operators of other domains, functions
(calls of calls double at every step), training information, control flow beyond a bound, tensors
whose shape is not that of their data, shapes written in the graph that ask for more than memory
has. What parsers could read in two ways, a single field written twice, is refused as well.

Not here: whether the graph is sound (the runtime says), and what a graph only computes when it
runs (the child process's limits are for that).
"""

from dataclasses import dataclass

from edge_agent.contract.errors import ModelRefusedError, TooLargeError
from edge_agent.contract.onnx_growth import ATTRIBUTES, GROWING, Numbers, count_implied
from edge_agent.contract.onnx_tensors import TensorReader
from edge_agent.contract.protobuf_walk import Field, ProtobufWalk, Wire, run_of

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operators of ONNX itself; builds use no others, quantized ones included."""
_WHAT = "model.onnx"
_RUNS = run_of(floats=7, integers=8, strings=9)
_GRAPH_KINDS = {1, 5, 10, 11, 12, 13, 14, 15, 16, 2}
_TYPE_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxLimits:
    """What a file may ask for.

    Attributes:
        bytes_max: Size; protobuf itself ends at 2 GiB.
        nodes_max: Operators, those of inner graphs included.
        tensors_max: Constants, those in attributes included.
        elements_max: Numbers in all constants.
        implied_elements_max: Numbers that written shapes ask for.
        graphs_max: Inner graphs, of If, Loop, Scan and the like.
        depth_max: Graphs inside graphs.
        text_bytes_max: Documentation, metadata and names.
        name_bytes_max: One name.
    """

    bytes_max: int = 1_073_741_824
    nodes_max: int = 100_000
    tensors_max: int = 200_000
    elements_max: int = 1_073_741_824
    implied_elements_max: int = 134_217_728
    graphs_max: int = 256
    depth_max: int = 4
    text_bytes_max: int = 67_108_864
    name_bytes_max: int = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOutline:
    """What a file that passed asks for."""

    nodes: int
    tensors: int
    elements: int
    implied_elements: int
    graphs: int
    depth: int


def check_onnx(content: bytes, limits: OnnxLimits = OnnxLimits()) -> OnnxOutline:
    """Check a file; about a microsecond a node and nothing a number.

    Raises:
        TooLargeError: The file itself.
        MalformedError: Not protobuf, or more fields than are looked at.
        ModelRefusedError: Anything else; names culprit, value and limit.
    """
    if len(content) > limits.bytes_max:
        raise TooLargeError(_WHAT, len(content), limits.bytes_max)
    return _Check(content, limits).run()


class _Check:
    """One pass over one file."""

    def __init__(self, content: bytes, limits: OnnxLimits) -> None:
        self._walk = ProtobufWalk(content, what=_WHAT)
        self._content, self._limits = content, limits
        self._tensors = TensorReader(self._walk, elements_max=limits.elements_max)
        self._nodes = self._graphs = self._depth = self._text_bytes = 0
        self._growing: list[tuple[str, list[bytes], dict[str, Numbers]]] = []

    def run(self) -> OnnxOutline:
        graphs = 0
        for number, kind, start, end in self._walk.fields(0, len(self._content)):
            if number == 7:
                graphs += 1
                _once(graphs, "the graph")
                self._graph(*_bytes(kind, start, end), depth=0)
            elif number == 8:
                _bytes(kind, start, end)
            elif number in (2, 3, 4, 6) or number == 14:
                self._take_text(*_bytes(kind, start, end))
            elif number == 20:
                raise ModelRefusedError(
                    "training information", "is there: a device only infers; export without it"
                )
            elif number == 25:
                raise ModelRefusedError(
                    "a model-local function", "is there: export with functions inlined"
                )
        if not self._nodes:
            raise ModelRefusedError("the graph", "has no nodes: this is not an ONNX model")
        return OnnxOutline(
            nodes=self._nodes,
            tensors=self._tensors.count,
            elements=self._tensors.elements,
            implied_elements=self._count_implied(),
            graphs=self._graphs,
            depth=self._depth,
        )

    def _graph(self, start: int, end: int, *, depth: int) -> None:
        self._depth = max(self._depth, depth)
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number in _GRAPH_KINDS:
                _bytes(kind, begin, stop)
            if number == 1:
                self._node(begin, stop, depth)
            elif number == 5:
                self._tensor(begin, stop, name=None)
            elif number == 15:
                self._tensors.read_sparse(begin, stop)
                self._bound_tensors()
            elif number in (11, 12, 13):
                self._value(begin, stop)
            elif number in (2, 10, 16):
                self._take_text(begin, stop)

    def _node(self, start: int, end: int, depth: int) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes_max:
            raise ModelRefusedError("the graph", f"has over {self._limits.nodes_max:,} nodes")
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        texts: dict[int, bytes] = {}
        attributes: list[Field] = []
        for field in self._walk.fields(start, end):
            number, kind, begin, stop = field
            _bytes(kind, begin, stop)
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(self._content[begin:stop])
                self._take_text(begin, stop, name="the name of a tensor")
            elif number in (3, 4, 7, 8):
                _once(1 + (number in texts), "a text of a node")
                texts[number] = self._content[begin:stop]
                self._take_text(begin, stop, name="a text of a node")
            elif number == 5:
                attributes.append(field)
            else:
                self._take_text(begin, stop)
        operator = self._check_operator(texts, outputs)
        is_growing, values = operator in GROWING, dict[str, Numbers]()
        for _, _, begin, stop in attributes:
            constant = outputs[0] if operator == "Constant" and outputs else None
            self._attribute(begin, stop, depth, operator, constant, values if is_growing else None)
        if is_growing:
            self._growing.append((operator, inputs, values))

    def _check_operator(self, texts: dict[int, bytes], outputs: list[bytes]) -> str:
        try:
            operator, domain = texts.get(4, b"").decode("ascii"), texts.get(7, b"").decode("ascii")
        except UnicodeDecodeError:
            operator, domain = "", ""
        where = f"the node that makes {(outputs or [b''])[0].decode(errors='replace')[:80]!a}"
        if not operator.isidentifier() or len(operator) > 64:
            raise ModelRefusedError(where, f"has no operator name but {operator[:64]!r}")
        if domain not in DOMAINS:
            raise ModelRefusedError(
                where,
                f"is {operator} of domain {domain[:80]!r}: only the operators of ONNX itself run"
                " everywhere; export with standard operators",
            )
        if texts.get(8):
            raise ModelRefusedError(where, f"calls an overload of {operator}; inline functions")
        return operator

    def _attribute(
        self,
        start: int,
        end: int,
        depth: int,
        operator: str,
        constant: bytes | None,
        values: dict[str, Numbers] | None,
    ) -> None:
        """Look at one attribute; of operators that grow (``values``) keep the short lists."""
        single: dict[int, int] = {}
        name = ""
        # Runs of numbers are skipped unread, except where they may be a shape.
        runs = None if values is not None or constant is not None else _RUNS
        numbers: list[float] = []
        for number, kind, begin, stop in self._walk.fields(start, end, runs=runs):
            if number in (1, 2, 3, 4, 5, 6, 14, 20, 21, 22):
                single[number] = single.get(number, 0) + 1
                _once(single[number], f"field {number} of an attribute of {operator}")
            if number == 1:
                name = self._walk.text(*_bytes(kind, begin, stop))
            elif number in (5, 10):
                self._tensor(*_bytes(kind, begin, stop), name=constant)
            elif number in (6, 11):
                self._inner_graph(*_bytes(kind, begin, stop), depth, operator)
            elif number in (22, 23):
                self._tensors.read_sparse(*_bytes(kind, begin, stop))
                self._bound_tensors()
            elif number in (14, 15):
                self._type(*_bytes(kind, begin, stop), 0)
            elif number == 13:
                self._take_text(*_bytes(kind, begin, stop))
            elif number in (2, 3, 7, 8) and runs is None:
                self._tensors.append_numbers(numbers, kind, begin, stop, is_float=number in (2, 7))
        if constant is not None and numbers:
            self._tensors.keep(constant, numbers)
        if values is not None and name in ATTRIBUTES and numbers:
            values[name] = tuple(numbers)

    def _inner_graph(self, start: int, end: int, depth: int, operator: str) -> None:
        self._graphs += 1
        if self._graphs > self._limits.graphs_max:
            raise ModelRefusedError(
                f"operator {operator}",
                f"brings the inner graphs above {self._limits.graphs_max}: less control flow",
            )
        if depth + 1 > self._limits.depth_max:
            raise ModelRefusedError(
                f"operator {operator}",
                f"nests graphs deeper than {self._limits.depth_max}: less control flow",
            )
        self._graph(start, end, depth=depth + 1)

    def _tensor(self, start: int, end: int, *, name: bytes | None) -> None:
        self._tensors.read(start, end, name=name)
        self._bound_tensors()

    def _bound_tensors(self) -> None:
        if self._tensors.count > self._limits.tensors_max:
            raise ModelRefusedError("the graph", f"has over {self._limits.tensors_max:,} constants")

    def _value(self, start: int, end: int) -> None:
        """Look at a declared input, output or inner value."""
        types = 0
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number == 2:
                types += 1
                _once(types, "the type of a value")
                self._type(*_bytes(kind, begin, stop), 0)
            elif kind == Wire.BYTES:
                self._take_text(begin, stop, name="the name of a value" if number == 1 else "")

    def _type(self, start: int, end: int, depth: int) -> None:
        if depth > _TYPE_DEPTH_MAX:
            raise ModelRefusedError("a type", f"nests deeper than {_TYPE_DEPTH_MAX}")
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number == 7:
                raise ModelRefusedError("a value", "is of an opaque type")
            if number not in (4, 5, 9):
                continue
            for inner, inner_kind, at, to in self._walk.fields(*_bytes(kind, begin, stop)):
                if inner == (2 if number == 5 else 1) and inner_kind == Wire.BYTES:
                    self._type(at, to, depth + 1)

    def _take_text(self, start: int, end: int, *, name: str = "") -> None:
        size = end - start
        self._text_bytes += size
        if name and size > self._limits.name_bytes_max:
            raise ModelRefusedError(
                name, f"has {size} bytes, the limit is {self._limits.name_bytes_max}"
            )
        if self._text_bytes > self._limits.text_bytes_max:
            raise ModelRefusedError(
                "names and documentation",
                f"have over {self._limits.text_bytes_max} bytes: export without metadata",
            )

    def _count_implied(self) -> int:
        total = 0.0
        limit = self._limits.implied_elements_max
        for operator, inputs, attributes in self._growing:
            values = [self._tensors.numbers.get(name) for name in inputs]
            total += count_implied(operator, values, attributes)
            if not total <= limit:
                where = ascii((inputs or [b""])[-1].decode(errors="replace")[:80])
                raise ModelRefusedError(
                    f"operator {operator} with {where}",
                    f"asks for {total:.3g} numbers out of nothing, the limit is {limit:,}",
                )
        return int(total)


def _bytes(kind: int, start: int, end: int) -> tuple[int, int]:
    """Insist on a field of bytes; others would be skipped by some parsers and read by none."""
    if kind != Wire.BYTES:
        raise ModelRefusedError("a field", f"is of wire kind {kind} where bytes belong")
    return start, end


def _once(count: int, what: str) -> None:
    """Refuse a second value of a single field: parsers merge the two."""
    if count > 1:
        raise ModelRefusedError(what, "is written twice")
