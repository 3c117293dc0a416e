"""Open Inference Protocol v2: infer requests in, answers out, tensors as JSON or as raw bytes.

Everything a caller can send wrongly is an ``InputError`` that names the field, what it holds and
what is wanted. Left out: inputs of several tensors (the schema packs all features into one, but
for texts: ``text_codec.py``), and extensions other than the binary one; those that would change an
answer are refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.inference_binary import (
    BINARY_HEADER,
    raw_numbers,
    raw_texts,
    read_raw,
    split_body,
)
from edge_agent.adapters.label_answers import describe_labels, pick_names
from edge_agent.adapters.named_fields import describe_kind
from edge_agent.adapters.repeated_bodies import RepeatedBody, learn_body
from edge_agent.adapters.request_json import (
    encode_json,
    read_flag,
    read_numbers,
    read_object,
    read_parameters,
)
from edge_agent.adapters.served_model import ROWS_PER_REQUEST_MAX, Prediction, ServedModel
from edge_agent.contract.image import IMAGE_CHANNELS, IMAGE_INPUT
from edge_agent.contract.schema import INPUT_NAME, Feature, ModelSchema, Role, Task
from edge_agent.contract.texts import TEXTS_INPUT
from edge_agent.errors import InferenceError, InputError

ID_CHARS_MAX = 256
CLASS_OUTPUT = "class"
"""Beside the graph's own outputs: the names of the predicted classes."""
ANSWER_NUMBERS_MAX = 2_097_152
"""Of one answer, all outputs together: rows times classes, mostly."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_KIND_OF_DATATYPE = {
    **dict.fromkeys(("FP16", "FP32", "FP64", "BF16"), "f"),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), "i"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), "u"),
    "BOOL": "b",
}
_FLOATS = frozenset(name for name, kind in _KIND_OF_DATATYPE.items() if kind == "f")
COMMAS_BESIDE = 1_024
"""Of a request, beside those between its numbers."""
REPEATED_ROWS_MAX = 16
"""Beyond, reading the numbers costs so much that nothing else matters."""
_DATATYPE_OF_ROLE = {Role.LABEL: "INT64", Role.PROBABILITIES: "FP32", Role.VALUE: "FP32"}


class InferRequest(NamedTuple):
    """A checked request; a tuple, as ``Request`` is.

    Attributes:
        request_id: Echoed in the answer; None when not given.
        features: float32 [rows, width], finite but for NaN where a value may be missing.
        outputs: Names to answer, in that order.
        raw_outputs: Those of them to answer as raw bytes.
    """

    request_id: str | None
    features: NDArray[np.float32]
    outputs: Sequence[str]
    raw_outputs: frozenset[str] = frozenset()


class InferAnswer(NamedTuple):
    """An encoded answer.

    Attributes:
        body: JSON, and behind it what was asked for as raw bytes.
        json_bytes: Length of the JSON when something is behind it, else None.
    """

    body: bytes
    json_bytes: int | None = None


class ModelCodec:
    """Reads requests for one served model and writes its answers.

    What is the same in every answer is encoded once, here.
    """

    input_name = INPUT_NAME

    def __init__(self, served: ServedModel) -> None:
        schema = served.schema
        self._columns, self._width = schema.columns, schema.width
        is_packed = not schema.texts and schema.image is None
        self._commas_max = ROWS_PER_REQUEST_MAX * self._width + COMMAS_BESIDE if is_packed else None
        self._takes_missing = any(f.is_nullable for f in schema.features)
        self._target = served.target
        each = [label.classes for label in schema.labels] or [schema.classes]
        self._classes = [[encode_json(name) for name in own] for own in each]
        self._raw_classes = [[name.encode() for name in own] for own in each]
        self._names = [output.name for output in schema.outputs]
        if schema.task is Task.CLASSIFICATION:
            self._names.append(CLASS_OUTPUT)
        self._widths = dict.fromkeys(self._names, 1)
        if Role.PROBABILITIES in self._widths:
            self._widths[Role.PROBABILITIES] = schema.probability_columns
        if schema.targets:
            self._widths[Role.VALUE] = len(schema.targets)
        if schema.labels:
            self._widths[Role.LABEL] = self._widths[CLASS_OUTPUT] = len(schema.labels)
        self._numbers_a_row = sum(self._widths.values())
        self._repeated: tuple[RepeatedBody, Sequence[str]] | None = None
        self._datatypes = {o.name: _DATATYPE_OF_ROLE[o.role] for o in schema.outputs}
        self._datatypes[CLASS_OUTPUT] = "BYTES"
        self._openings = {
            name: f'{{"name":"{name}","datatype":"{self._datatypes[name]}","shape":'
            for name in self._names
        }
        self._head = (
            f'{{"model_name":{encode_json(served.model_name)}'
            f',"model_version":{encode_json(served.version)}'
        )
        self.read_parameters = (
            f',"slot":{encode_json(served.slot)},"target":{encode_json(served.target)}'
        )

    def decode(self, body: bytes, json_bytes: bytes | None = None) -> InferRequest:
        """Read the body of an infer request.

        Args:
            body: JSON, or JSON and raw tensors.
            json_bytes: Header ``Inference-Header-Content-Length`` as it came; None without it.

        Raises:
            InputError: What is wrong with which field.
        """
        known = self._repeated  # once: other threads may replace it
        if known is not None and json_bytes is None:
            repeated, names = known
            numbers = repeated.read(body)
            if numbers is not None:
                return InferRequest(None, numbers, names)
        text, raw = split_body(body, json_bytes)
        if self._commas_max is not None and text.count(b",") > self._commas_max:
            raise InputError(
                f"the body has more numbers than {ROWS_PER_REQUEST_MAX} rows of {self._width}"
            )
        request = read_object(text)
        request_id = request.get("id")
        if request_id is not None and (
            not isinstance(request_id, str) or len(request_id) > ID_CHARS_MAX
        ):
            raise InputError(f"id must be a string of at most {ID_CHARS_MAX} characters")
        is_raw = read_flag(
            read_parameters(request, "the request"), "binary_data_output", "the request"
        )
        names, raw_names = _decode_wanted(request.get("outputs"), self._names, is_raw=is_raw)
        features = self._decode_inputs(request.get("inputs"), raw)
        if names is self._names:
            check_answer_size(len(features), self._numbers_a_row)
        else:
            check_answer_size(len(features), sum(self._widths[name] for name in names))
        if request_id is None and raw is None and not raw_names:
            self._learn(request, text, features, names)
        return InferRequest(request_id, features, names, raw_names)

    def _learn(
        self, request: Mapping[str, Any], text: bytes, features: NDArray[Any], names: Sequence[str]
    ) -> None:
        """Let bodies that differ from this one in their numbers alone be read the short way."""
        is_plain = self.input_name == INPUT_NAME and request["inputs"][0]["datatype"] in _FLOATS
        if is_plain and len(features) <= REPEATED_ROWS_MAX and features.ndim == 2:
            repeated = learn_body(text, features)
            self._repeated = None if repeated is None else (repeated, names)

    def encode(self, prediction: Prediction, asked: InferRequest) -> InferAnswer:
        """Encode an answer.

        Raises:
            InferenceError: An output to be told as JSON is NaN or infinite, which JSON cannot say.
        """
        asked_id = "" if asked.request_id is None else f',"id":{encode_json(asked.request_id)}'
        outputs = prediction.outputs
        opening = (
            f'{self._head}{asked_id},"parameters":{{"prediction_id":"{prediction.prediction_id}"'
            f'{self.read_parameters}}},"outputs":['
        )
        if not asked.raw_outputs:
            told = ",".join([self._encode_output(name, outputs) for name in asked.outputs])
            return InferAnswer(f"{opening}{told}]}}".encode())
        parts = [opening]
        blocks = []
        for n, name in enumerate(asked.outputs):
            if name in asked.raw_outputs:
                shape, block = self._raw_output(name, outputs)
                blocks.append(block)
                text = (
                    f"{self._openings[name]}{shape}"
                    f',"parameters":{{"binary_data_size":{len(block)}}}}}'
                )
            else:
                text = self._encode_output(name, outputs)
            parts.append(f",{text}" if n else text)
        parts.append("]}")
        head = "".join(parts).encode()
        return InferAnswer(b"".join([head, *blocks]), json_bytes=len(head))

    def _raw_output(
        self, name: str, outputs: Mapping[str, NDArray[Any]]
    ) -> tuple[list[int], bytes]:
        if name == CLASS_OUTPUT:
            labels = outputs[Role.LABEL]
            return list(labels.shape), raw_texts(pick_names(labels, self._raw_classes, b""))
        return list(outputs[name].shape), raw_numbers(outputs[name])

    def _encode_output(self, name: str, outputs: Mapping[str, NDArray[Any]]) -> str:
        if name == CLASS_OUTPUT:
            labels = outputs[Role.LABEL]
            data = ",".join(pick_names(labels, self._classes, '""'))
            shape = list(labels.shape)
            return f'{self._openings[name]}{shape},"data":[{data}]}}'
        array = outputs[name]
        # The repr of a list of finite numbers is JSON; only nan and inf have this letter.
        data = repr(array.ravel().tolist())
        if "n" in data:
            raise InferenceError(
                f"{self._target} answered NaN or infinity in {name}, which JSON cannot say"
            )
        return f'{self._openings[name]}{list(array.shape)},"data":{data}}}'

    def _decode_inputs(self, inputs: Any, raw: memoryview | None) -> NDArray[Any]:
        """Give what the model is fed."""
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise InputError(f"inputs must be a list of one tensor named {self.input_name!r}")
        return self._decode_features(inputs[0], raw)

    def _decode_features(
        self, tensor: Mapping[str, Any], raw: memoryview | None
    ) -> NDArray[np.float32]:
        name = tensor.get("name")
        if name != INPUT_NAME:
            raise InputError(f"inputs[0].name must be {INPUT_NAME!r}, got {name!r:.80}")
        datatype = tensor.get("datatype")
        kind = _KIND_OF_DATATYPE.get(datatype) if isinstance(datatype, str) else None
        if kind is None or not isinstance(datatype, str):
            raise InputError(
                f"inputs[0].datatype must be one of {', '.join(_KIND_OF_DATATYPE)},"
                f" got {datatype!r:.80}"
            )
        rows = check_shape(tensor.get("shape"), self._width)
        array: NDArray[Any]
        if is_raw_tensor(tensor, raw):
            array = read_raw(raw or memoryview(b""), datatype, rows * self._width)
        else:
            array = read_numbers(tensor.get("data"), kind)
        if array.size != rows * self._width:
            raise InputError(
                f"inputs[0].data has {array.size} numbers, shape [{rows}, {self._width}]"
                f" needs {rows * self._width}"
            )
        array = array.reshape(rows, self._width)
        if array.dtype.kind == "f":
            self._check_magnitude(array)
        return array.astype(np.float32)

    def _check_magnitude(self, array: NDArray[Any]) -> None:
        if self._takes_missing:
            array = np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf)
        if np.maximum.reduce(np.abs(array), axis=None) <= _FLOAT32_MAX:
            return
        row, column = np.unravel_index(int(np.abs(array).argmax()), array.shape)
        raise InputError(
            f"row {row}: {self._columns[column]} is {array[row, column]:g},"
            f" {'no number' if np.isnan(array[row, column]) else 'beyond float32'}"
            f" (largest is {_FLOAT32_MAX:.3g})"
        )


def check_answer_size(rows: int, numbers_a_row: int) -> None:
    """Refuse a request whose answer would be too long; raises InputError."""
    if rows * numbers_a_row > ANSWER_NUMBERS_MAX:
        raise InputError(
            f"{rows} rows of {numbers_a_row} numbers make an answer beyond"
            f" {ANSWER_NUMBERS_MAX} numbers; send at most {ANSWER_NUMBERS_MAX // numbers_a_row}"
            " rows, or ask for fewer outputs"
        )


def describe_model(schema: ModelSchema) -> dict[str, Any]:
    """Give the tensors of the model metadata."""
    shapes = {Role.PROBABILITIES: [-1, schema.probability_columns]}
    several = [-1, len(schema.answer_names)] if schema.answer_names else [-1]
    shapes |= {Role.VALUE: several, Role.LABEL: several}
    outputs: list[dict[str, Any]] = [
        {
            "name": output.name,
            "datatype": _DATATYPE_OF_ROLE[output.role],
            "shape": shapes[output.role],
        }
        | ({"parameters": {"targets": list(output.targets)}} if output.targets else {})
        | ({"parameters": {"labels": describe_labels(output.labels)}} if output.labels else {})
        for output in schema.outputs
    ]
    if schema.task is Task.CLASSIFICATION:
        outputs.append({"name": CLASS_OUTPUT, "datatype": "BYTES", "shape": several})
    if schema.image is not None:
        pictures = {
            "name": IMAGE_INPUT,
            "datatype": "UINT8",
            "shape": [-1, -1, -1, IMAGE_CHANNELS],
            "parameters": {"pixels_max": schema.image.pixels_max, "colours": "rgb"},
        }
        return {"inputs": [pictures], "outputs": outputs}
    packed = [feature for feature in schema.features if not feature.is_text]
    features = _describe_input(INPUT_NAME, "FP32", sum(f.width for f in packed))
    texts = _describe_input(TEXTS_INPUT, "BYTES", len(schema.texts))
    if not schema.is_numeric:
        features["parameters"] = {"fields": _describe_fields(packed)}
        texts["parameters"] = {"fields": _describe_fields(schema.texts)}
    inputs = ([features] if packed else []) + ([texts] if schema.texts else [])
    return {"inputs": inputs, "outputs": outputs}


def _describe_input(name: str, datatype: str, width: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, width]}


def _describe_fields(features: Sequence[Feature]) -> list[dict[str, Any]]:
    return [{"name": f.name, "dtype": f.dtype} | describe_kind(f) for f in features]


def check_shape(shape: Any, width: int, what: str = "inputs[0]") -> int:
    """Check that a tensor is [rows, width]; gives the rows. Raises InputError."""
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or any(isinstance(n, bool) or not isinstance(n, int) for n in shape)
        or shape[1] != width
    ):
        raise InputError(f"{what}.shape must be [rows, {width}], got {shape!r:.80}")
    rows: int = shape[0]
    if not 1 <= rows <= ROWS_PER_REQUEST_MAX:
        raise InputError(f"{rows} rows, a request takes 1 to {ROWS_PER_REQUEST_MAX}")
    return rows


def is_raw_tensor(
    tensor: Mapping[str, Any], raw: memoryview | None, what: str = "inputs[0]"
) -> bool:
    """Tell whether the tensor's numbers follow the JSON; checks that they are all that does."""
    size = read_parameters(tensor, what).get("binary_data_size")
    if size is None:
        if raw:
            raise InputError(
                f"{len(raw)} bytes follow the JSON, {what} declares no binary_data_size"
            )
        return False
    if "data" in tensor:
        raise InputError(f"{what} has data and parameter binary_data_size, it must be one")
    if raw is None:
        raise InputError(f"{what} has parameter binary_data_size without header {BINARY_HEADER}")
    if isinstance(size, bool) or not isinstance(size, int) or size != len(raw):
        raise InputError(
            f"{what} has parameter binary_data_size {size!r:.40}, {len(raw)} bytes follow the JSON"
        )
    return True


def _decode_wanted(
    outputs: Any, known: Sequence[str], *, is_raw: bool
) -> tuple[Sequence[str], frozenset[str]]:
    """Give the names to answer and those of them to answer raw."""
    if outputs is None:
        return known, frozenset(known) if is_raw else frozenset()
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= len(known):
        raise InputError(f"outputs must be a list of 1 to {len(known)} of {', '.join(known)}")
    names: list[str] = []
    raw_names: set[str] = set()
    for n, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in known or name in names:
            raise InputError(
                f"outputs[{n}].name must be one of {', '.join(known)}, once; got {name!r:.80}"
            )
        parameters = read_parameters(output, f"outputs[{n}]")
        if "classification" in parameters:
            raise InputError(
                "parameter classification is not served; output class tells the name of the class"
            )
        if read_flag(parameters, "binary_data", name, default=is_raw):
            raw_names.add(name)
        names.append(name)
    return names, frozenset(raw_names)
