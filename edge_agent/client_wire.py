"""Questions of the Python client into bytes, and the agent's answers into arrays.

Arrays go as tensors of the Open Inference Protocol, raw where the agent offers it and as JSON
elsewhere; records go by field name. Whether a value fits the schema is the agent's to say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.client_connection import RawAnswer
from edge_agent.contract.image import IMAGE_INPUT
from edge_agent.contract.schema import INPUT_NAME
from edge_agent.contract.texts import TEXTS_INPUT
from edge_agent.errors import (
    InferenceError,
    InputError,
    ServingError,
    StoppedModelError,
    UnknownModelError,
)

BINARY_HEADER = "Inference-Header-Content-Length"
BINARY_EXTENSION = "binary_tensor_data"
CLASS_OUTPUT = "class"
_DATATYPES: Mapping[str, str] = {
    "f2": "FP16", "f4": "FP32", "f8": "FP64", "b1": "BOOL",
    "i1": "INT8", "i2": "INT16", "i4": "INT32", "i8": "INT64",
    "u1": "UINT8", "u2": "UINT16", "u4": "UINT32", "u8": "UINT64",
}  # fmt: skip
_PICTURE_DIMS = 4
_DTYPES = {datatype: np.dtype(f"<{code}") for code, datatype in _DATATYPES.items()}
_ERROR_OF_STATUS: Mapping[int, type[ServingError]] = {
    HTTPStatus.BAD_REQUEST: InputError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: InputError,
    HTTPStatus.NOT_FOUND: UnknownModelError,
    HTTPStatus.SERVICE_UNAVAILABLE: StoppedModelError,
    HTTPStatus.INTERNAL_SERVER_ERROR: InferenceError,
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the agent answered to one question.

    Attributes:
        prediction_id: Names the answer; of one row also the row.
        outputs: By name: ``label`` int64 [rows] and ``probabilities`` float32 [rows, classes], or
            ``value`` float32 [rows]; [rows, labels] and the classes of all of them, or
            [rows, targets], where a row has several.
        class_names: Of each row, the name of the predicted class, of several labels a tuple of
            them; empty for a regression.
        model_name: What answered.
        model_version: As text.
        slot: Where it runs.
        target: The package.
        targets: Names of the columns of ``value``, where the question was by field name; else
            ``Client.describe`` tells them.
        labels: Of several labels the classes of each by its name, in the order of the columns,
            known as ``targets`` are.
    """

    prediction_id: str
    outputs: Mapping[str, NDArray[Any]]
    class_names: tuple[Any, ...]
    model_name: str
    model_version: str
    slot: str
    target: str
    targets: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.outputs.values())))

    @cached_property
    def prediction_ids(self) -> tuple[str, ...]:
        """One for each row, for ``Client.feedback``."""
        if len(self) == 1:
            return (self.prediction_id,)
        return tuple(f"{self.prediction_id}.{n}" for n in range(len(self)))

    def row(self, number: int) -> dict[str, Any]:
        """Give what was answered to one row, by output name; several answers by theirs."""
        told = {name: values[number].tolist() for name, values in self.outputs.items()}
        if self.targets:
            told["value"] = dict(zip(self.targets, told["value"], strict=True))
        if self.class_names:
            told["class"] = self.class_names[number]
        return _name_labels(told, self.labels) if self.labels else told


def _name_labels(told: dict[str, Any], labels: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Put the labels, classes and probabilities of a row under the names of its labels."""
    shares = iter(told["probabilities"])
    by_class = {
        name: dict(zip(classes, islice(shares, len(classes)), strict=True))
        for name, classes in labels.items()
    }
    named = {key: dict(zip(labels, told[key], strict=True)) for key in ("label", "class")}
    return told | named | {"probabilities": by_class}


def as_rows(given: Any) -> NDArray[Any]:
    """Make a table of numbers of an array or nested lists; one row may come flat.

    uint8 [height, width, 3], or several of them, stay as they are: pictures.

    Raises:
        InputError: Not numbers, not a table, or no row.
    """
    try:
        array: NDArray[Any] = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"rows must be a table of numbers: {error}") from error
    if array.dtype == np.uint8 and array.ndim in (_PICTURE_DIMS - 1, _PICTURE_DIMS):
        return array[None] if array.ndim < _PICTURE_DIMS else array
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2 or not array.size or array.dtype.str[1:] not in _DATATYPES:
        raise InputError(
            "rows must be numbers as [rows, columns] with at least one row, got"
            f" {array.dtype} {list(array.shape)}"
        )
    return array


def encode_rows(array: NDArray[Any], *, is_raw: bool) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an infer request; raises InputError."""
    tensor: dict[str, Any] = {
        "name": IMAGE_INPUT if array.ndim == _PICTURE_DIMS else INPUT_NAME,
        "datatype": _DATATYPES[array.dtype.str[1:]],
        "shape": list(array.shape),
    }
    if not is_raw:
        return encode_json({"inputs": [tensor | {"data": array.ravel().tolist()}]}), {}
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = encode_json({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + raw, {BINARY_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}


def encode_texts(
    texts: Sequence[Sequence[str | None]], features: NDArray[Any] | None, *, is_raw: bool
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an infer request of a model of texts.

    Args:
        texts: Of each row, in the order of the schema's texts; None for a missing one.
        features: [rows, columns] of all other features; None when there are none.
        is_raw: Whether the agent takes raw tensors; a missing text goes as JSON all the same.

    Raises:
        InputError: No rows, or not as many texts in each.
    """
    if not texts or any(len(row) != len(texts[0]) for row in texts):
        raise InputError("texts must be one row or more, of the same number of texts each")
    flat = [text for row in texts for text in row]
    inputs, blocks = list[dict[str, Any]](), list[bytes]()
    shape = [len(texts), len(texts[0])]
    tensor: dict[str, Any] = {"name": TEXTS_INPUT, "datatype": "BYTES", "shape": shape}
    words = [text for text in flat if text is not None]
    if is_raw and len(words) == len(flat) and all(map(_is_sound, words)):
        encoded = [word.encode() for word in words]
        blocks.append(b"".join(len(one).to_bytes(4, "little") + one for one in encoded))
        inputs.append(tensor | {"parameters": {"binary_data_size": len(blocks[-1])}})
    else:
        inputs.append(tensor | {"data": flat})
    if features is not None:
        tensor = {"name": INPUT_NAME, "datatype": _DATATYPES[features.dtype.str[1:]]}
        tensor["shape"] = list(features.shape)
        if is_raw:
            little = features.astype(features.dtype.newbyteorder("<"), copy=False)
            blocks.append(little.tobytes())
            inputs.append(tensor | {"parameters": {"binary_data_size": len(blocks[-1])}})
        else:
            inputs.append(tensor | {"data": features.ravel().tolist()})
    if not is_raw:
        return encode_json({"inputs": inputs}), {}
    head = encode_json({"inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = {BINARY_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
    return b"".join([head, *blocks]), headers


def _is_sound(text: str) -> bool:
    """Tell whether a text can be UTF-8: a lone surrogate cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def encode_json(value: Any) -> bytes:
    """Encode; numbers and arrays of numpy are taken too. Raises InputError."""
    try:
        return json.dumps(
            value, allow_nan=False, separators=(",", ":"), default=_plain_value
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"what was given cannot be sent as JSON: {error}") from error


def decode_tensors(answer: RawAnswer) -> Answer:
    """Read the answer to tensors; raises ServingError."""
    try:
        head_bytes = answer.headers.get(BINARY_HEADER)
        cut = len(answer.body) if head_bytes is None else int(head_bytes)
        head, raw = json.loads(answer.body[:cut]), memoryview(answer.body)[cut:]
        outputs: dict[str, NDArray[Any]] = {}
        names: tuple[Any, ...] = ()
        for output in head["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            block, raw = (None, raw) if size is None else (raw[:size], raw[size:])
            if output["name"] == CLASS_OUTPUT:
                names = tuple(output["data"] if block is None else _read_texts(block))
                if len(output["shape"]) > 1:  # of several labels, a row's behind each other
                    width = output["shape"][1]
                    names = tuple(names[n : n + width] for n in range(0, len(names), width))
            else:
                outputs[output["name"]] = _read_numbers(output, block)
        return Answer(outputs=outputs, class_names=names, **_identity(head, head["parameters"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServingError(f"the answer is not an edge agent's: {error!r}") from error


def decode_named(answer: RawAnswer) -> Answer:
    """Read the answer to records by field name; raises ServingError."""
    try:
        head = json.loads(answer.body)
        rows = head["predictions"]
        outputs: dict[str, NDArray[Any]]
        names: tuple[Any, ...] = ()
        targets: tuple[str, ...] = ()
        labels: dict[str, tuple[str, ...]] = {}
        if "value" in rows[0]:
            values = [row["value"] for row in rows]
            if isinstance(values[0], dict):
                targets = tuple(values[0])
                values = [[value[name] for name in targets] for value in values]
            outputs = {"value": np.array(values, np.float32)}
        elif isinstance(rows[0]["label"], dict):
            labels = {name: tuple(own) for name, own in rows[0]["probabilities"].items()}
            outputs = {
                "label": np.array([list(row["label"].values()) for row in rows], np.int64),
                "probabilities": np.array(
                    [
                        [s for own in row["probabilities"].values() for s in own.values()]
                        for row in rows
                    ],
                    np.float32,
                ),
            }
            names = tuple(tuple(one or "" for one in row["class"].values()) for row in rows)
        else:
            shares = [list(row["probabilities"].values()) for row in rows]
            outputs = {
                "label": np.array([row["label"] for row in rows], np.int64),
                "probabilities": np.array(shares, np.float32),
            }
            names = tuple(row["class"] or "" for row in rows)
        told = _identity(head, head)
        return Answer(outputs=outputs, class_names=names, targets=targets, labels=labels, **told)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ServingError(f"the answer is not an edge agent's: {error!r}") from error


def decode_object(answer: RawAnswer) -> dict[str, Any]:
    """Read an answer that is a JSON object; raises ServingError."""
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ServingError(f"the answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ServingError(f"the answer must be a JSON object, got {type(value).__name__}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackResult:
    """What became of a list of labels.

    Attributes:
        taken: Answers whose labels were taken.
        refused: Answers whose labels were not.
        faults: Why, by place in the list, of the first of those refused.
    """

    taken: int
    refused: int
    faults: Mapping[int, str]


def read_feedback(answer: RawAnswer, count: int) -> FeedbackResult:
    """Read what became of ``count`` labels; raises ServingError but where they were refused."""
    if answer.status == HTTPStatus.BAD_REQUEST:  # none was taken; the answer tells of the first
        try:
            raise_error(answer)
        except InputError as error:
            return FeedbackResult(taken=0, refused=count, faults={0: str(error)})
    raise_error(answer)
    told = decode_object(answer)
    try:
        faults = {int(fault["index"]): str(fault["error"]) for fault in told["errors"]}
        return FeedbackResult(taken=told["taken"], refused=told["refused"], faults=faults)
    except (KeyError, TypeError, ValueError) as error:
        raise ServingError(f"the answer to labels has another form: {error}") from error


def raise_error(answer: RawAnswer) -> None:
    """Raise what a refusal says, in the agent's own words; nothing for an answer."""
    if answer.status == HTTPStatus.OK:
        return
    try:
        words = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        words = f"the agent answered status {answer.status} without a reason"
    raise _ERROR_OF_STATUS.get(answer.status, ServingError)(words)


def _identity(head: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prediction_id": rest["prediction_id"],
        "model_name": head["model_name"],
        "model_version": head["model_version"],
        "slot": rest["slot"],
        "target": rest["target"],
    }


def _read_numbers(output: Mapping[str, Any], block: memoryview | None) -> NDArray[Any]:
    dtype = _DTYPES[output["datatype"]]
    if block is None:
        array: NDArray[Any] = np.array(output["data"], dtype)
    else:
        array = np.frombuffer(block, dtype)
    return array.reshape(output["shape"])


def _read_texts(block: memoryview) -> Sequence[str]:
    texts = []
    while block:
        size = int.from_bytes(block[:4], "little")
        texts.append(str(block[4 : 4 + size], "utf-8"))
        block = block[4 + size :]
    return texts


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is neither number nor text")
