"""Convert PyTorch modules and exported programs. The home of torch here.

The module is copied, put into eval mode and exported by ``torch.export`` with an open number of
rows; ``torch.onnx`` writes the graph. Rows stay packed: an input of more than two dimensions is
unpacked at the front of the graph. Whether the answers are probabilities or logits is said by the
caller or read off the module's own answers; a softmax (or sigmoid) is then part of the graph.

Files are not read here but in ``torch_archive.py``; ``torch.load`` is never called.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from converters.attempts import PLAIN, Way, convert_in_turn
from converters.errors import InvalidRequestError, UnsupportedEstimatorError
from converters.graph import fresh_name, list_input_names
from converters.interface import (
    LABEL,
    PROBABILITIES,
    VALUE,
    add_label_from_probabilities,
    finish_classifier,
    finish_regressor,
    unpack_rows,
)
from converters.label_interface import join_labels, take_labels
from converters.onnx_graph import index_targets, is_of_second_classes
from converters.source import Conversion
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.schema import ModelSchema, Task

Array = NDArray[Any]
OPSET = 18
"""What torch.onnx writes by itself; a profile below it has the graph lowered and compared."""
_BATCH = 512
_SUM_TOLERANCE = 1e-3


class Answers(StrEnum):
    """What a classifier of PyTorch answers."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


class TorchSource:
    """A module or exported program made in this process, or read by the child that may.

    Args:
        model: ``nn.Module`` or ``ExportedProgram`` of one input and one output.
        schema: What goes in and comes out.
        answers: What a classifier answers; None looks at its answers to random rows.

    Raises:
        InvalidRequestError: It takes or answers something else than the schema says.
    """

    def __init__(self, model: Any, schema: ModelSchema, *, answers: Answers | None = None) -> None:
        self.name = f"torch {type(model).__name__}"
        self._schema = schema
        self._program = model if isinstance(model, torch.export.ExportedProgram) else None
        self._shape = _find_shape(schema, self._program)
        if self._program is None:
            module = copy.deepcopy(model).eval()
            self.name = f"torch {type(model).__name__}"
        else:
            module = self._program.module()
        self._module = module
        self._answers = answers or self._look_at_answers()

    def convert(
        self, schema: ModelSchema, profile: DeviceProfile, rows: Array | None = None
    ) -> Conversion:
        """Give the graph with the contract's input and outputs.

        Raises:
            UnsupportedEstimatorError: torch.onnx refuses it.
        """
        way = Way(name=PLAIN, make=self._export)
        return convert_in_turn([way], schema, profile, rows, self.answer)

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows, rounded to float32, by output name; labels as class indexes.

        Raises:
            InvalidRequestError: The module refuses these rows.
        """
        raw = self._ask(rows)
        if self._schema.task is Task.REGRESSION:
            return {VALUE: raw if self._schema.targets else raw.reshape(-1)}
        if self._schema.labels:
            return self._answer_labels(raw)
        probabilities = self._to_probabilities(raw)
        return {LABEL: np.argmax(probabilities, axis=1), PROBABILITIES: probabilities}

    def index_targets(self, targets: Array) -> Array:
        """Check that targets are class indexes; values of a regression stay."""
        return index_targets(self._schema, targets)

    def _answer_labels(self, raw: Array) -> dict[str, Array]:
        if self._is_positive(raw.shape[1]):
            shares = self._to_probabilities(raw.reshape(-1, 1)).reshape(len(raw), -1)
        else:
            columns = slice_labels(self._schema.labels)
            shares = np.hstack([self._to_probabilities(raw[:, own]) for own in columns])
        each = [shares[:, own].argmax(axis=1) for own in slice_labels(self._schema.labels)]
        return {LABEL: np.stack(each, axis=1), PROBABILITIES: shares}

    def _is_positive(self, columns: int) -> bool:
        return is_of_second_classes(self._schema, columns)

    def _ask(self, rows: Array) -> Array:
        packed = np.ascontiguousarray(rows, np.float32).reshape(len(rows), *self._shape)
        parts = []
        for start in range(0, len(packed), _BATCH):
            part = packed[start : start + _BATCH]
            short = len(part)
            # An exported program may not take a single row: two are asked.
            asked = np.concatenate([part, part]) if short == 1 else part
            parts.append(_run(self._module, asked)[:short])
        raw = np.concatenate(parts)
        width = max(1, self._schema.probability_columns, len(self._schema.targets))
        if raw.ndim == 2 and self._is_positive(raw.shape[1]):
            width = raw.shape[1]
        is_value = self._schema.task is Task.REGRESSION and raw.size == width * len(raw)
        is_one_logit = width == 2 and raw.size == len(raw)
        if not is_value and not is_one_logit and raw.shape != (len(rows), width):
            raise InvalidRequestError(
                f"{self.name} answers {list(raw.shape)} for {len(rows)} rows, the schema needs"
                f" [{len(rows)}, {width}]"
            )
        return raw.reshape(len(rows), -1).astype(np.float64)

    def _look_at_answers(self) -> Answers:
        if self._schema.task is Task.REGRESSION:
            return Answers.LOGITS
        draw = np.random.default_rng(0)
        raw = self._ask(draw.normal(size=(64, self._schema.width)) * 3)
        columns = slice_labels(self._schema.labels) or (slice(None),)
        sums = np.stack([raw[:, own].sum(axis=1) for own in columns], axis=1)
        if raw.shape[1] == 1 or self._is_positive(raw.shape[1]):
            sums = np.ones((len(raw), 1))
        is_share = bool(np.all((raw >= 0) & (raw <= 1)) and np.all(abs(sums - 1) < _SUM_TOLERANCE))
        return Answers.PROBABILITIES if is_share else Answers.LOGITS

    def _to_probabilities(self, raw: Array) -> Array:
        if raw.shape[1] == 1:
            with np.errstate(over="ignore"):
                one = 1 / (1 + np.exp(-raw)) if self._answers is Answers.LOGITS else raw
            return np.hstack([1 - one, one])
        if self._answers is Answers.PROBABILITIES:
            return raw
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def _export(self) -> ModelProto:
        try:
            with _quiet():
                program = self._program or _export_program(self._module, self._shape)
                written = torch.onnx.export(
                    program,
                    dynamo=True,
                    opset_version=OPSET,
                    external_data=False,
                    verbose=False,
                )
        except Exception as error:
            raise UnsupportedEstimatorError(
                self.name,
                f"torch.onnx says: {_first(error)}",
                "Rewrite that part with plain tensor operators.",
            ) from error
        if written is None:
            raise UnsupportedEstimatorError(self.name, "torch.onnx wrote no graph", "Update it.")
        model = ModelProto.FromString(written.model_proto.SerializeToString())
        return self._finish(model)

    def _finish(self, model: ModelProto) -> ModelProto:
        names = [output.name for output in model.graph.output]
        inputs = list_input_names(model.graph)
        if len(inputs) != 1 or len(names) != 1:
            raise UnsupportedEstimatorError(
                self.name,
                f"its graph has {len(inputs)} inputs and {len(names)} outputs",
                "Wrap it in a module of one input and one output.",
            )
        unpack_rows(model, self._schema.width, self._shape)
        if self._schema.task is Task.REGRESSION:
            finish_regressor(model, names[0], len(self._schema.targets))
            return model
        if self._schema.labels:
            return self._finish_labels(model, names[0])
        width = len(self._schema.classes)
        numbers = _add_probabilities(model, names[0], self._answers, self._columns())
        label = add_label_from_probabilities(model, numbers)
        finish_classifier(model, label, numbers, range(width))
        return model

    def _finish_labels(self, model: ModelProto, name: str) -> ModelProto:
        labels, is_positive = self._schema.labels, self._is_positive(self._columns())
        shares = name
        if self._answers is Answers.LOGITS and is_positive:
            shares = fresh_name(model, "shares_of_labels")
            model.graph.node.append(onnx.helper.make_node("Sigmoid", [name], [shares]))
        taken = take_labels(
            model,
            shares,
            labels,
            is_positive=is_positive,
            is_logits=self._answers is Answers.LOGITS and not is_positive,
        )
        join_labels(model, taken, labels)
        return model

    def _columns(self) -> int:
        return int(self._ask(np.zeros((2, self._schema.width))).shape[1])


def _add_probabilities(model: ModelProto, name: str, answers: Answers, columns: int) -> str:
    """Append what makes probabilities of a classifier's answers; returns their tensor."""
    last, flat = name, fresh_name(model, "answers_by_row")
    node = onnx.helper.make_node
    if columns == 1:
        sizes, one = fresh_name(model, "one_column"), fresh_name(model, "one")
        model.graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), sizes),
                onnx.numpy_helper.from_array(np.array(1, np.float32), one),
            ]
        )
        model.graph.node.append(node("Reshape", [name, sizes], [flat]))
        last = flat
        if answers is Answers.LOGITS:
            last = fresh_name(model, "probability")
            model.graph.node.append(node("Sigmoid", [flat], [last]))
        other, both = fresh_name(model, "other_probability"), fresh_name(model, "both")
        model.graph.node.append(node("Sub", [one, last], [other]))
        model.graph.node.append(node("Concat", [other, last], [both], axis=1))
        return both
    if answers is Answers.LOGITS:
        last = fresh_name(model, "softmax_of_answers")
        model.graph.node.append(node("Softmax", [name], [last], axis=1))
    return last


def _find_shape(schema: ModelSchema, program: Any) -> tuple[int, ...]:
    """Give the dimensions of one row: the program's, or those of the only feature."""
    if program is None:
        only = schema.features[0] if len(schema.features) == 1 else None
        shape = only.shape if only is not None and len(only.shape) > 1 else (schema.width,)
        return tuple(shape)
    names = program.graph_signature.user_inputs
    places = {node.name: node.meta.get("val") for node in program.graph.nodes}
    if len(names) != 1 or not isinstance(places.get(names[0]), torch.Tensor):
        raise InvalidRequestError(
            f"the exported program takes {len(names)} inputs, needs one tensor of rows"
        )
    sizes = list(places[names[0]].shape)
    if not sizes or isinstance(sizes[0], int):
        raise InvalidRequestError(
            f"the exported program takes {sizes} only; export it with an open number of rows:"
            " dynamic_shapes=({0: torch.export.Dim('rows')},)"
        )
    shape = tuple(int(size) for size in sizes[1:])
    if int(np.prod(shape)) != schema.width:
        raise InvalidRequestError(
            f"the exported program takes rows of {list(shape)}, the schema has {schema.width}"
            " columns"
        )
    if places[names[0]].dtype != torch.float32:
        raise InvalidRequestError(
            f"the exported program takes {places[names[0]].dtype}, rows are float32"
        )
    return shape


def _export_program(module: Any, shape: tuple[int, ...]) -> Any:
    rows = torch.zeros((3, *shape), dtype=torch.float32)
    return torch.export.export(module, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))


def _run(module: Any, rows: Array) -> Array:
    try:
        with torch.no_grad(), _quiet():
            answer = module(torch.from_numpy(np.ascontiguousarray(rows)))
    except Exception as error:
        raise InvalidRequestError(f"the PyTorch model refuses the rows: {_first(error)}") from error
    if not isinstance(answer, torch.Tensor):
        raise InvalidRequestError(
            f"the PyTorch model answers {type(answer).__name__}, needs one tensor"
        )
    return np.asarray(answer.detach().cpu().numpy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk, which is not for our caller."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
