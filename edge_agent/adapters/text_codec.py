"""Requests with texts: a BYTES tensor ``texts`` beside the one of everything else.

``texts`` is [rows, texts] in the order of the schema's texts; ``features`` is [rows, columns] of
all other features, and not there when there are none. Each may be JSON or raw bytes. They are
packed into the one tensor that the graph takes. Invariant: a text longer than its field allows is
refused, not cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.inference_binary import read_raw_texts
from edge_agent.adapters.inference_json import ModelCodec, check_shape, is_raw_tensor
from edge_agent.adapters.named_fields import check_packed_size
from edge_agent.adapters.request_json import name_type, read_parameters
from edge_agent.adapters.served_model import ServedModel
from edge_agent.contract.cells import CellError
from edge_agent.contract.schema import INPUT_NAME
from edge_agent.contract.texts import TEXTS_INPUT, read_text
from edge_agent.errors import InputError
from edge_agent.statistics.packed_texts import TextPlaces, pack_text

Tensors = Mapping[str, tuple[Mapping[str, Any], memoryview | None, str]]
"""By name: what the JSON says, its raw bytes, and where it stood."""


class TextCodec(ModelCodec):
    """A ``ModelCodec`` of two tensors."""

    def __init__(self, served: ServedModel) -> None:
        super().__init__(served)
        self._places = TextPlaces(served.schema.features)
        self._columns, self._width = self._places.names, len(self._places.names)
        self._wanted = [TEXTS_INPUT] + [INPUT_NAME] * bool(self._width)
        self._takes_missing = any(f.is_nullable for f in served.schema.features if not f.is_text)

    def _decode_inputs(self, inputs: Any, raw: memoryview | None) -> NDArray[Any]:
        tensors = _split(self._read_list(inputs), raw)
        tensor, own, what = tensors[TEXTS_INPUT]
        texts = self._read_texts(tensor, own, what)
        rows = len(texts)
        check_packed_size(rows, self._places.width)
        packed = np.empty((rows, self._places.width), np.float32)
        if self._width:
            numbers, own, _ = tensors[INPUT_NAME]
            features = self._decode_features(numbers, own)
            if len(features) != rows:
                raise InputError(f"texts has {rows} rows, features {len(features)}")
            packed[:, self._places.numbers] = features
        for n, row in enumerate(texts):
            for (feature, cells), value in zip(self._places.texts, row, strict=True):
                try:
                    pack_text(packed[n, cells], read_text(feature, value))
                except CellError as error:
                    raise InputError(f"row {n}: field {feature.name} {error}") from error
        return packed

    def _read_list(self, inputs: Any) -> Sequence[Mapping[str, Any]]:
        is_list = isinstance(inputs, list) and all(isinstance(one, dict) for one in inputs)
        names = [one.get("name") for one in inputs] if is_list else []
        if len(names) != len(self._wanted) or any(name not in names for name in self._wanted):
            wanted = " and ".join(map(repr, self._wanted))
            raise InputError(f"inputs must be a list of tensors named {wanted}, got {names!r:.80}")
        found: Sequence[Mapping[str, Any]] = inputs
        return found

    def _read_texts(
        self, tensor: Mapping[str, Any], raw: memoryview | None, what: str
    ) -> Sequence[Sequence[Any]]:
        if tensor.get("datatype") != "BYTES":
            raise InputError(
                f"{what}.datatype of {TEXTS_INPUT!r} must be BYTES, got"
                f" {tensor.get('datatype')!r:.80}"
            )
        width = len(self._places.texts)
        rows = check_shape(tensor.get("shape"), width, what)
        flat: Sequence[Any]
        if is_raw_tensor(tensor, raw, what):
            flat = read_raw_texts(raw or memoryview(b""), rows * width, what)
        else:
            flat = _flatten(tensor.get("data"), width, what)
        if len(flat) != rows * width:
            raise InputError(
                f"{what}.data has {len(flat)} texts, shape [{rows}, {width}] needs {rows * width}"
            )
        return [flat[start : start + width] for start in range(0, len(flat), width)]


def _split(inputs: Sequence[Mapping[str, Any]], raw: memoryview | None) -> Tensors:
    """Give each tensor the raw bytes that are its own, in the order of the inputs."""
    tensors, place = {}, 0
    for n, tensor in enumerate(inputs):
        what = f"inputs[{n}]"
        size = read_parameters(tensor, what).get("binary_data_size")
        own = None
        if raw is not None and isinstance(size, int) and not isinstance(size, bool) and size >= 0:
            own = raw[place : place + size]
            place += size
        tensors[str(tensor["name"])] = tensor, own, what
    if raw is not None and place != len(raw):
        raise InputError(
            f"{len(raw)} bytes follow the JSON, the inputs declare {place} as binary_data_size"
        )
    return tensors


def _flatten(data: Any, width: int, what: str) -> Sequence[Any]:
    """Take texts out of a flat list, or of a list of rows."""
    if not isinstance(data, list):
        raise InputError(f"{what}.data must be a list of texts, got {name_type(data)}")
    if not any(isinstance(row, list) for row in data):
        return data
    if not all(isinstance(row, list) and len(row) == width for row in data):
        raise InputError(f"{what}.data must be rows of {width} texts each")
    return [text for row in data for text in row]
