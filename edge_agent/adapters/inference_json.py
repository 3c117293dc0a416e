"""Open Inference Protocol v2 tensors as JSON, in and out.

Everything a caller can send wrongly is an ``InputError`` that names the field, what it holds and
what is wanted. Left out: the binary tensor extension (refused by name, since common clients use
it unless told otherwise) and inputs of several tensors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.inference_service import (
    ROWS_PER_REQUEST_MAX,
    Prediction,
    ServedModel,
)
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Role, Task
from edge_agent.errors import InferenceError, InputError

ID_CHARS_MAX = 256
CLASS_OUTPUT = "class"
"""Beside the graph's own outputs: the names of the predicted classes."""
BINARY_HINT = (
    "binary tensors are not served; send and ask for JSON"
    " (tritonclient: binary_data=False on inputs and on requested outputs)"
)
_NUMBERS = frozenset({int, float, bool})
_NESTED_MAX = 8
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_KIND_OF_DATATYPE = {
    **dict.fromkeys(("FP16", "FP32", "FP64"), "f"),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), "i"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), "u"),
    "BOOL": "b",
}
_DATATYPE_OF_ROLE = {Role.LABEL: "INT64", Role.PROBABILITIES: "FP32", Role.VALUE: "FP32"}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A checked request.

    Attributes:
        request_id: Echoed in the answer; None when not given.
        features: float32 [rows, width], finite.
        outputs: Names asked for, in that order; None means all.
    """

    request_id: str | None
    features: NDArray[np.float32]
    outputs: Sequence[str] | None


class ModelCodec:
    """Reads requests for one served model and writes its answers.

    What is the same in every answer is encoded once, here.
    """

    def __init__(self, served: ServedModel) -> None:
        schema = served.schema
        self._columns, self._width = schema.columns, schema.width
        self._target = served.target
        self._classes = [encode_json(name) for name in schema.classes]
        self._names = [output.name for output in schema.outputs]
        if schema.task is Task.CLASSIFICATION:
            self._names.append(CLASS_OUTPUT)
        self._datatypes = {o.name: _DATATYPE_OF_ROLE[o.role] for o in schema.outputs}
        self._head = (
            f'{{"model_name":{encode_json(served.model_name)}'
            f',"model_version":{encode_json(served.version)}'
        )
        self._parameters = (
            f',"slot":{encode_json(served.slot)},"target":{encode_json(served.target)}'
        )

    def decode(self, body: bytes) -> InferRequest:
        """Read the body of an infer request.

        Raises:
            InputError: What is wrong with which field.
        """
        try:
            request = _decode(body.decode())
        except (ValueError, RecursionError) as error:
            raise InputError(f"the body is not JSON: {error}") from error
        if not isinstance(request, dict):
            raise InputError(f"the body must be a JSON object, got {_name_type(request)}")
        request_id = request.get("id")
        if request_id is not None and (
            not isinstance(request_id, str) or len(request_id) > ID_CHARS_MAX
        ):
            raise InputError(f"id must be a string of at most {ID_CHARS_MAX} characters")
        if _parameters(request, "the request").get("binary_data_output"):
            raise InputError(f"parameter binary_data_output: {BINARY_HINT}")
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise InputError(f"inputs must be a list of one tensor named {INPUT_NAME!r}")
        return InferRequest(
            request_id=request_id,
            features=self._decode_features(inputs[0]),
            outputs=_decode_wanted(request.get("outputs"), self._names),
        )

    def encode(
        self, prediction: Prediction, request_id: str | None, wanted: Sequence[str] | None
    ) -> bytes:
        """Encode an answer.

        Raises:
            InferenceError: An output is NaN or infinite, which JSON cannot say.
        """
        parts = [self._head]
        if request_id is not None:
            parts.append(f',"id":{encode_json(request_id)}')
        parts.append(f',"parameters":{{"prediction_id":"{prediction.prediction_id}"')
        parts.append(self._parameters)
        parts.append('},"outputs":[')
        outputs = [self._encode_output(name, prediction.outputs) for name in wanted or self._names]
        parts.append(",".join(outputs))
        parts.append("]}")
        return "".join(parts).encode()

    def _encode_output(self, name: str, outputs: Mapping[str, NDArray[Any]]) -> str:
        if name == CLASS_OUTPUT:
            labels = outputs[Role.LABEL].tolist()
            known = len(self._classes)
            data = ",".join(self._classes[n] if 0 <= n < known else '""' for n in labels)
            return f'{{"name":"class","datatype":"BYTES","shape":[{len(labels)}],"data":[{data}]}}'
        array = outputs[name]
        # The repr of a list of finite numbers is JSON; only nan and inf have this letter.
        data = repr(array.ravel().tolist())
        if "n" in data:
            raise InferenceError(
                f"{self._target} answered NaN or infinity in {name}, which JSON cannot say"
            )
        return (
            f'{{"name":"{name}","datatype":"{self._datatypes[name]}"'
            f',"shape":{list(array.shape)},"data":{data}}}'
        )

    def _decode_features(self, tensor: Mapping[str, Any]) -> NDArray[np.float32]:
        name = tensor.get("name")
        if name != INPUT_NAME:
            raise InputError(f"inputs[0].name must be {INPUT_NAME!r}, got {name!r:.80}")
        if "binary_data_size" in _parameters(tensor, "inputs[0]"):
            raise InputError(f"parameter binary_data_size: {BINARY_HINT}")
        datatype = tensor.get("datatype")
        kind = _KIND_OF_DATATYPE.get(datatype) if isinstance(datatype, str) else None
        if kind is None:
            raise InputError(
                f"inputs[0].datatype must be one of {', '.join(_KIND_OF_DATATYPE)},"
                f" got {datatype!r:.80}"
            )
        rows = _check_shape(tensor.get("shape"), self._width)
        array = _read_numbers(tensor.get("data"), kind)
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
        if array.max() <= _FLOAT32_MAX and array.min() >= -_FLOAT32_MAX:
            return
        row, column = np.unravel_index(int(np.abs(array).argmax()), array.shape)
        raise InputError(
            f"row {row}: {self._columns[column]} is {array[row, column]:g},"
            f" beyond float32 ({_FLOAT32_MAX:.3g})"
        )


def describe_model(schema: ModelSchema) -> dict[str, Any]:
    """Give the tensors of the model metadata."""
    shapes = {Role.PROBABILITIES: [-1, len(schema.classes)]}
    outputs = [
        {
            "name": output.name,
            "datatype": _DATATYPE_OF_ROLE[output.role],
            "shape": shapes.get(output.role, [-1]),
        }
        for output in schema.outputs
    ]
    if schema.task is Task.CLASSIFICATION:
        outputs.append({"name": CLASS_OUTPUT, "datatype": "BYTES", "shape": [-1]})
    features = {"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, schema.width]}
    return {"inputs": [features], "outputs": outputs}


def _check_shape(shape: Any, width: int) -> int:
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or any(isinstance(n, bool) or not isinstance(n, int) for n in shape)
        or shape[1] != width
    ):
        raise InputError(f"inputs[0].shape must be [rows, {width}], got {shape!r:.80}")
    rows: int = shape[0]
    if not 1 <= rows <= ROWS_PER_REQUEST_MAX:
        raise InputError(f"{rows} rows, a request takes 1 to {ROWS_PER_REQUEST_MAX}")
    return rows


def _read_numbers(data: Any, kind: str) -> NDArray[Any]:
    if not isinstance(data, list):
        raise InputError(f"inputs[0].data must be a list of numbers, got {_name_type(data)}")
    if not _holds_plain(data):
        raise _not_numbers(data)
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"inputs[0].data is not an array of numbers: {error}") from error
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "b") != (kind == "b"):
        raise _not_numbers(data)
    if kind in "iu" and array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise InputError("inputs[0].data has fractions, its datatype is an integer's")
    if kind == "u" and array.size and array.min() < 0:
        raise InputError("inputs[0].data has negative numbers, its datatype is unsigned")
    return array


def _not_numbers(data: list[Any]) -> InputError:
    return InputError(
        "inputs[0].data must hold only numbers, or only booleans for BOOL"
        f" (found text, null, an object or an integer beyond 64 bits near {str(data[:3])[:60]})"
    )


def _holds_plain(data: list[Any], depth: int = 0) -> bool:
    """Tell whether a list holds numbers or booleans only, in lists no deeper than tensors go.

    numpy would give every place the width of the longest text: 8 MB of body, terabytes of memory.
    """
    kinds = set(map(type, data))
    if kinds <= _NUMBERS:
        return True
    if kinds != {list} or depth == _NESTED_MAX:
        return False
    return all(_holds_plain(inner, depth + 1) for inner in data)


def _decode_wanted(outputs: Any, known: Sequence[str]) -> list[str] | None:
    if outputs is None:
        return None
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= len(known):
        raise InputError(f"outputs must be a list of 1 to {len(known)} of {', '.join(known)}")
    names: list[str] = []
    for n, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in known or name in names:
            raise InputError(
                f"outputs[{n}].name must be one of {', '.join(known)}, once; got {name!r:.80}"
            )
        if _parameters(output, f"outputs[{n}]").get("binary_data"):
            raise InputError(f"parameter binary_data of {name}: {BINARY_HINT}")
        names.append(name)
    return names


def _parameters(value: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError(f"parameters of {what} must be an object, got {_name_type(parameters)}")
    return parameters


def _name_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
