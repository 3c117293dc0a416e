"""A foreign ONNX graph at work: adapted to the contract, loaded and asked in this process.

Only the child process of ``guarded.py`` makes one; everybody else holds an ``OnnxSource``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto

from converters.attempts import PLAIN, Way, convert_in_turn
from converters.errors import InvalidRequestError
from converters.foreign_forms import straighten
from converters.graph import find_opset, parse_foreign, tensor_shape, tensor_type
from converters.interface import (
    add_label_from_probabilities,
    finish_classifier,
    finish_regressor,
    set_input,
)
from converters.label_interface import join_labels, take_labels
from converters.normalise import normalise
from converters.opsets import RAISED_BELOW, bring_up, is_within, plan_graph
from converters.original import Answer, load_original
from converters.runtime import GraphRunner
from converters.source import Conversion, check_indexes
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.contract.schema import ModelSchema, Task

Array = NDArray[Any]


class OnnxGraph:
    """The ``SourceModel`` of a foreign graph; its own fp32 answers are the truth.

    Args:
        content: The ``.onnx`` bytes.
        schema: What it takes and answers.
        profile: Its threads and limits are used to run the source.

    Raises:
        InvalidRequestError: Not such a graph.
        ProfileMisfitError: It is of newer operator sets, and an operator cannot be lowered.
        RuntimeRefusedError: Nothing here runs it.
    """

    def __init__(self, content: bytes, schema: ModelSchema, profile: DeviceProfile) -> None:
        self._schema = schema
        self._model = adapt_graph(parse_foreign(content, what="the source"), schema)
        self._is_within = is_within(self._model, profile)
        plan_graph(self._model, profile)
        self._run: Answer = (
            GraphRunner(normalise(self._model, profile), profile).run
            if self._is_within
            else load_original(self._model, profile)
        )

    @property
    def name(self) -> str:
        """The kind."""
        return "onnx"

    def convert(
        self,
        schema: ModelSchema,
        profile: DeviceProfile,
        rows: Array | None = None,
    ) -> Conversion:
        """Give the graph with the contract's input and outputs, in operator sets of the profile.

        Raises:
            ProfileMisfitError: Newer than the profile allows, and it cannot be lowered.
        """
        plain = Way(name=PLAIN, make=lambda: self._model)
        version = find_opset(self._model, "")
        if not self._is_within:
            return convert_in_turn([plain], schema, profile, rows, self.answer)
        if not 0 < version < RAISED_BELOW:
            return Conversion(model=self._model)
        raised = Way(
            name=f"operator set {version} raised to {RAISED_BELOW}",
            make=lambda: bring_up(self._model, RAISED_BELOW),
        )
        return convert_in_turn([raised, plain], schema, profile, rows, self.answer)

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows, rounded to float32, by output name."""
        return self._run(np.asarray(rows, np.float32))

    def index_targets(self, targets: Array) -> Array:
        """Check that targets are class indexes; values of a regression stay."""
        return index_targets(self._schema, targets)


def index_targets(schema: ModelSchema, targets: Array) -> Array:
    """Check that targets are class indexes of the schema; values of a regression stay."""
    if schema.task is Task.REGRESSION:
        return np.asarray(targets, np.float64)
    if schema.labels:
        columns = zip(np.asarray(targets).T, schema.labels, strict=True)
        return np.stack([check_indexes(one, len(own.classes)) for one, own in columns], axis=1)
    return check_indexes(targets, len(schema.classes))


def adapt_graph(model: ModelProto, schema: ModelSchema) -> ModelProto:
    """Give a graph the contract's input and outputs, in place.

    Raises:
        InvalidRequestError: Its inputs or outputs are not those of such a model.
    """
    straighten(model)
    set_input(model, schema.width)
    graph = model.graph
    names = [output.name for output in graph.output]
    types = {name: tensor_type(graph, name) for name in names}
    floats = [name for name in names if types[name] == TensorProto.FLOAT]
    integers = [name for name in names if types[name] == TensorProto.INT64]
    if schema.task is Task.REGRESSION:
        if len(names) != 1 or len(floats) != 1:
            raise InvalidRequestError(
                f"a regression graph has one float32 output, this one {_list(types)}; keep that"
                " one alone (onnx.utils.extract_model)"
            )
        _check_value(graph, names[0], len(schema.targets))
        finish_regressor(model, names[0], len(schema.targets))
        return model
    if len(floats) != 1 or len(integers) > 1 or len(names) != len(floats) + len(integers):
        raise InvalidRequestError(
            "a classification graph has probabilities (float32) and, if it wants, labels (int64);"
            f" this one has {_list(types)}. Keep these two outputs alone"
            " (onnx.utils.extract_model)."
        )
    shape = tensor_shape(graph, floats[0])
    if schema.labels:
        _adapt_labels(model, floats[0], integers, schema)
        return model
    if len(shape) != 2 or shape[1] not in (None, len(schema.classes)):
        raise InvalidRequestError(
            f"output {floats[0]!r} has shape {_shape(graph, floats[0])},"
            f" needs a column for each of the {len(schema.classes)} classes"
        )
    label = integers[0] if integers else add_label_from_probabilities(model, floats[0])
    finish_classifier(model, label, floats[0], range(len(schema.classes)))
    return model


def _adapt_labels(model: ModelProto, shares: str, integers: list[str], schema: ModelSchema) -> None:
    """Give a graph of several labels the outputs of the contract."""
    labels, columns = schema.labels, tensor_shape(model.graph, shares)
    is_positive = is_of_second_classes(schema, columns[-1] if len(columns) == 2 else None)
    wanted = len(labels) if is_positive else schema.probability_columns
    if len(columns) != 2 or columns[1] not in (None, wanted):
        raise InvalidRequestError(
            f"output {shares!r} has shape {_shape(model.graph, shares)}; {len(labels)} labels of"
            f" {schema.probability_columns} classes need a column for each class, or one for the"
            " second class of each label where all have two"
        )
    own = integers[0] if integers else ""
    if own and tensor_shape(model.graph, own)[-1:] not in ((None,), (len(labels),)):
        raise InvalidRequestError(
            f"output {own!r} has shape {_shape(model.graph, own)}, needs a column for each of"
            f" {len(labels)} labels"
        )
    join_labels(model, take_labels(model, shares, labels, is_positive=is_positive), labels, own)


def is_of_second_classes(schema: ModelSchema, columns: int | None) -> bool:
    """Tell whether so many columns are the second classes of labels that have two each."""
    return columns == len(schema.labels) and all(len(one.classes) == 2 for one in schema.labels)


def _check_value(graph: GraphProto, name: str, targets: int) -> None:
    shape = tensor_shape(graph, name)
    if shape in (((None, targets), (None, None)) if targets else ((None,), (None, 1))):
        return
    columns = shape[1] if len(shape) == 2 else None
    if not targets and columns is not None and columns > 1:
        raise InvalidRequestError(
            f"output {name!r} answers {columns} numbers a row and the schema one; name"
            f" {columns} targets (at most {TARGETS_MAX}) of its value"
        )
    wanted = f"['N', {targets}]" if targets else "['N'] or ['N', 1]"
    raise InvalidRequestError(
        f"output {name!r} has shape {_shape(graph, name)}, this regression answers {wanted}"
    )


def _shape(graph: GraphProto, name: str) -> list[int | str]:
    return ["N" if size is None else size for size in tensor_shape(graph, name)]


def _list(types: dict[str, int]) -> str:
    return ", ".join(
        f"{name} ({TensorProto.DataType.Name(kind).lower() if kind else 'not a tensor'})"
        for name, kind in types.items()
    )
