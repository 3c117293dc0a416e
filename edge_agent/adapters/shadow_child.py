"""The process of a candidate in shadow: ``python -m edge_agent.adapters.shadow_child FD``.

It is the child of whatever answers (``shadow_run.py``) and says nothing to anybody else. It limits
its memory before it loads anything, gives way to every other process, and volunteers to be killed
first when the device's memory runs out. It ends with its parent.

Operations, answered one after another:

* ``load`` once, first: ``package`` and ``beside`` (each ``path`` and ``sha256``), ``threads``,
  ``arena``, ``rss_bytes_max``. Answer: ``{}``, ``{"skip": why}`` when the two cannot be compared,
  or ``code`` and ``detail``.
* ``compare``: ``rows`` and ``arrays``, a list of ``dtype`` and ``shape``: the input, then the
  outputs that were given, in the order of the schema; their bytes follow the message. Answer:
  counts, ``ms`` and ``cpu_s``, or ``code`` and ``detail`` when it cannot go on.
"""

import contextlib
import hashlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.adapters.child_side import settle_as_child
from edge_agent.adapters.worker_channel import Channel, ChannelClosedError
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import dump_object, parse_object
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.schema import SCHEMA_BYTES_MAX, ModelSchema, Role
from edge_agent.contract.shadow import DIFFERENCE_EDGES
from edge_agent.errors import PackageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.adapters.onnx_model_runner import LoadedModel
    from edge_agent.statistics.agreement import Answers, Comparison

MEMORY_HEADROOM_BYTES = 536_870_912
"""Mapped but untouched memory counts in the limit and not in what is resident."""
LOADING_NICE, COMPARING_NICE = 10, 9
"""Added one after the other; 19 is the most."""
_OUTPUT_BYTES_MAX = 1_048_576
_OOM_SCORE = 1_000
_MEMORY_WORDS = ("bad_alloc", "allocate memory")
_ABOUT_THE_MODEL = ("model", "task", "outputs", "classes", "format")
_ABOUT_RANGES = ("low", "high", "unit")


def main() -> int:
    """Obey until the parent is gone."""
    settle_as_child(oom_score=_OOM_SCORE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends it in good order
    _lower(resource.RLIMIT_FSIZE, _OUTPUT_BYTES_MAX)
    os.nice(LOADING_NICE)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    with contextlib.suppress(ChannelClosedError):  # the parent is gone, and so is the work
        Child(channel).run()
    return 0


class Child:
    """One candidate."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._model: LoadedModel | None = None
        self._comparison: Comparison | None = None
        self._given: ModelSchema | None = None
        self._counted_s = 0.0

    def run(self) -> None:
        """Answer one operation after another.

        Raises:
            ChannelClosedError: The parent is gone.
        """
        while True:
            message = self._channel.receive()
            try:
                answer = self._obey(message)
            except PackageError as error:
                answer = {"code": error.code, "detail": error.detail[:512]}
            except OSError as error:
                answer = {"code": Code.DISK_ERROR, "detail": str(error)[:512]}
            except MemoryError:
                answer = {"code": Code.SHADOW_MEMORY, "detail": "memory ran out"}
            self._channel.send(answer)

    def _obey(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        match message["op"]:
            case "load":
                return self._load(message)
            case "compare":
                return self._compare(message)
            case unknown:
                raise ValueError(f"unknown operation {unknown!r:.40}")

    def _load(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        _lower(resource.RLIMIT_DATA, message["rss_bytes_max"] + MEMORY_HEADROOM_BYTES)
        from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
        from edge_agent.statistics.agreement import Comparison

        beside = _read_schema(**message["beside"])
        candidate = _read_schema(**message["package"])
        difference = find_difference(beside, candidate)
        if difference:
            return {"skip": difference}
        options = RuntimeOptions(intra_op_threads=message["threads"], arena=message["arena"])
        given = message["package"]
        self._model = LoadedModel.from_package(
            Path(given["path"]).read_bytes(), given["sha256"], options
        )
        self._given = beside
        self._comparison = Comparison(
            _name_columns(beside), _name_columns(candidate), DIFFERENCE_EDGES
        )
        os.nice(COMPARING_NICE)
        self._counted_s = time.process_time()
        return {}

    def _compare(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        arrays = self._read_arrays(message["arrays"])
        model, comparison, given = self._model, self._comparison, self._given
        rows = message["rows"]
        if model is None or comparison is None or given is None:
            raise ValueError("nothing is loaded yet")
        began = time.perf_counter()
        try:
            feed = {model.schema.input_name: arrays[0]}
            values = model.session_run(model.output_names, feed, None)
        except Exception as error:  # the runtime raises what it likes
            if any(word in str(error) for word in _MEMORY_WORDS):
                raise MemoryError from error
            return {"errors": rows, "cpu_s": self._count_cpu_s()}
        latency_ms = (time.perf_counter() - began) * 1e3
        found = comparison.compare(
            _answers(given, arrays[1:], rows), _answers(model.schema, values, rows)
        )
        return {
            "rows": rows,
            "differs": found.differs,
            "non_finite": found.non_finite,
            "difference": list(found.difference),
            "ms": latency_ms,
            "cpu_s": self._count_cpu_s(),
        }

    def _count_cpu_s(self) -> float:
        """Return the processor time since this was asked last."""
        former_s, self._counted_s = self._counted_s, time.process_time()
        return self._counted_s - former_s

    def _read_arrays(self, described: Sequence[Mapping[str, Any]]) -> "list[NDArray[Any]]":
        import numpy as np

        arrays = []
        for each in described:
            dtype = np.dtype(each["dtype"])
            size = dtype.itemsize * int(np.prod(each["shape"], dtype=np.int64))
            data = self._channel.receive_bytes(size)
            arrays.append(np.frombuffer(data, dtype).reshape(each["shape"]))
        return arrays


def find_difference(beside: ModelSchema, candidate: ModelSchema) -> str:
    """Say why answers of two models to the same input cannot be compared; empty when they can."""
    if beside.task is not candidate.task:
        return f"one is for {beside.task}, the other for {candidate.task}"
    if _input_digest(beside) != _input_digest(candidate):
        return "the two models take different inputs"
    if set(beside.targets) != set(candidate.targets):
        return "the two models answer different targets"
    if {label.name for label in beside.labels} != {label.name for label in candidate.labels}:
        return "the two models answer different labels"
    if beside.image is not None:
        return "models of pictures are not compared"
    return ""


def _input_digest(schema: ModelSchema) -> bytes:
    """Digest what an input means: names, kinds and categories in order, not their ranges."""
    said = parse_object(schema.encode(), what="schema", limit_bytes=SCHEMA_BYTES_MAX)
    meaning = {name: value for name, value in said.items() if name not in _ABOUT_THE_MODEL}
    meaning["features"] = [
        {name: value for name, value in feature.items() if name not in _ABOUT_RANGES}
        for feature in said["features"]
    ]
    return hashlib.sha256(dump_object(meaning)).digest()


def _read_schema(path: str, sha256: str) -> ModelSchema:
    blob = Path(path).read_bytes()
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise PackageError(Code.BLOB_HASH, f"the bytes of {sha256[:12]} are not what was signed")
    try:
        return ModelSchema.decode(package.unpack_members(blob)[package.SCHEMA])
    except ContractError as error:
        raise PackageError(Code.PACKAGE_FORMAT, str(error)) from error


def _name_columns(schema: ModelSchema) -> Sequence[Hashable]:
    """Name the columns of the numbers an answer has: classes, targets, or classes of labels."""
    several = [(label.name, one) for label in schema.labels for one in label.classes]
    return several or schema.classes or schema.targets


def _answers(schema: ModelSchema, values: "Sequence[NDArray[Any]]", rows: int) -> "Answers":
    import numpy as np

    from edge_agent.statistics.agreement import Answers

    labels, columns = None, []
    for output, value in zip(schema.outputs, values, strict=False):
        if output.role is Role.LABEL:
            several = bool(schema.labels)
            labels = (
                _place_labels(schema, value.reshape(rows, -1)) if several else value.reshape(rows)
            )
        elif value.dtype.kind == "f":
            columns.append(value.reshape(rows, -1))
    numbers = np.concatenate(columns, 1) if columns else np.zeros((rows, 1), np.float32)
    return Answers(labels=labels, numbers=numbers)


def _place_labels(schema: ModelSchema, labels: "NDArray[Any]") -> "NDArray[Any]":
    """Count the classes of all labels as one list; what no label has comes behind it."""
    import numpy as np

    places = slice_labels(schema.labels)
    first = np.array([place.start for place in places], np.int64)
    counts = np.array([place.stop - place.start for place in places], np.int64)
    is_known = (labels >= 0) & (labels < counts)
    placed: NDArray[Any] = np.where(
        is_known, first + labels, schema.probability_columns + np.abs(labels)
    )
    return placed


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
