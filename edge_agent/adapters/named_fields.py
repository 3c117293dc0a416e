"""Rows given by field name into the packed tensor, and its answers by name.

For people and programs that know the fields of the schema and not their order: numbers, texts of
categories, true and false. Every mistake is told with row, field, value and what is allowed.
Invariant: a row has exactly the schema's fields; those that may be missing may be null or left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.label_answers import name_rows
from edge_agent.adapters.request_json import encode_json, name_type
from edge_agent.adapters.served_model import ROWS_PER_REQUEST_MAX, Prediction
from edge_agent.contract.cells import MISSING, CellError, CellReader, say_allowed
from edge_agent.contract.schema import Feature, ModelSchema, Role, Task
from edge_agent.contract.texts import read_text
from edge_agent.errors import InferenceError, InputError
from edge_agent.statistics.packed_texts import TextPlaces, pack_text

NAMES_SHOWN_MAX = 8
TEXT_ROWS_MAX = 256
"""Of one request with texts: the graph holds a number for each row and term of a vocabulary."""
PACKED_NUMBERS_MAX = 1_048_576
"""Of one request with texts, rows times packed width: 4 MiB in the tensor."""
_NUMBERS = frozenset({int, float})
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class FieldReader:
    """Reads rows of one schema."""

    def __init__(self, schema: ModelSchema) -> None:
        self._features = {feature.name: feature for feature in schema.features}
        self._names = list(self._features)
        self._width, self._columns = schema.width, schema.columns
        self._optional = {f.name for f in schema.features if f.is_nullable}
        self._readers = {f.name: CellReader(f) for f in schema.features}
        places = TextPlaces(schema.features)
        self._texts = places.texts
        self._numbers = places.numbers if places.texts else slice(None)
        self._packed = [f for f in schema.features if not f.is_text]
        self._packed_names = [f.name for f in self._packed]
        self._is_plain = schema.is_numeric and all(
            f.dtype != "int64" and not f.shape for f in schema.features
        )

    def read(self, rows: Any) -> NDArray[np.float32]:
        """Pack rows.

        Args:
            rows: A list of 1 to ROWS_PER_REQUEST_MAX objects, each from field name to a value, or
                to a list of numbers where the schema declares a shape.

        Returns:
            float32 [rows, width], NaN where missing; ``ServedModel.check_ranges`` checks the
            ranges.

        Raises:
            InputError: Names the first wrong row, its field, its value and what is allowed.
        """
        if not isinstance(rows, list) or not 1 <= len(rows) <= ROWS_PER_REQUEST_MAX:
            given = f"{len(rows)} rows" if isinstance(rows, list) else name_type(rows)
            raise InputError(
                f"rows must be a list of 1 to {ROWS_PER_REQUEST_MAX} objects, got {given}"
            )
        if self._texts:
            check_packed_size(len(rows), self._width)
        packed = np.empty((len(rows), self._width), np.float64)
        for n, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InputError(f"row {n} must be an object by field name, got {name_type(row)}")
            if row.keys() != self._features.keys() and not self._is_complete(row):
                self._refuse_names(n, row)
            try:
                packed[n, self._numbers] = self._read_row(n, row)
            except OverflowError as error:
                raise InputError(
                    f"row {n}: field {self._find_huge(row)} is beyond {_FLOAT32_MAX:.3g}, the"
                    " largest number"
                ) from error
            for feature, cells in self._texts:
                pack_text(packed[n, cells], self._read_text(n, feature, row.get(feature.name)))
        sizes = np.abs(packed) if self._is_plain else np.nan_to_num(np.abs(packed), posinf=np.inf)
        if not sizes.max() <= _FLOAT32_MAX:
            row_n, column = np.unravel_index(int(sizes.argmax()), packed.shape)
            raise InputError(
                f"row {row_n}: field {self._columns[column]} is {packed[row_n, column]:g},"
                f" the largest number is {_FLOAT32_MAX:.3g}"
            )
        return packed.astype(np.float32)

    def _read_row(self, n: int, row: Mapping[str, Any]) -> list[float]:
        values: list[Any] = [row.get(name) for name in self._packed_names]
        if self._is_plain and _NUMBERS.issuperset(map(type, values)):
            return values
        cells: list[float] = []
        for feature, value in zip(self._packed, values, strict=True):
            if feature.is_number and (value is not None or not feature.is_nullable):
                cells += _read_field(n, feature, value)
            elif feature.is_number:
                cells += [MISSING] * feature.width
            else:
                cells.append(self._read_cell(n, feature.name, value))
        return cells

    def _find_huge(self, row: Mapping[str, Any]) -> str:
        """Name the field whose whole number no float can hold."""
        for name in self._packed_names:
            try:
                np.array(row.get(name), np.float64)
            except OverflowError:
                return name
            except (TypeError, ValueError):
                continue  # a category or text
        return "?"

    def _read_cell(self, n: int, name: str, value: Any) -> float:
        try:
            return self._readers[name].read(value)
        except CellError as error:
            raise InputError(f"row {n}: field {name} {error}") from error

    def _read_text(self, n: int, feature: Feature, value: Any) -> str | None:
        try:
            return read_text(feature, value)
        except CellError as error:
            raise InputError(f"row {n}: field {feature.name} {error}") from error

    def _is_complete(self, row: Mapping[str, Any]) -> bool:
        """Tell whether only fields that may be missing are."""
        left_out = self._features.keys() - row.keys()
        return left_out <= self._optional and row.keys() <= self._features.keys()

    def _refuse_names(self, n: int, row: Mapping[str, Any]) -> None:
        for name in self._names:
            if name not in row and name not in self._optional:
                allowed = say_allowed(self._features[name])
                raise InputError(f"row {n}: field {name} is missing, it takes {allowed}")
        extra = next(name for name in row if name not in self._features)
        import difflib  # for this sentence only

        near = difflib.get_close_matches(extra[:128], self._names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        shown = ", ".join(self._names[:NAMES_SHOWN_MAX])
        more = len(self._names) - NAMES_SHOWN_MAX
        rest = f" and {more} more" if more > 0 else ""
        raise InputError(
            f"row {n}: field {extra[:80]!r} is not one of the model's ({shown}{rest}){meant}"
        )


def check_packed_size(rows: int, width: int) -> None:
    """Refuse a request of more rows with texts than are taken together; raises InputError."""
    rows_max = max(1, min(TEXT_ROWS_MAX, PACKED_NUMBERS_MAX // width))
    if rows > rows_max:
        raise InputError(
            f"{rows} rows, a request takes 1 to {rows_max} with texts of so many characters"
        )


def describe_fields(schema: ModelSchema) -> list[dict[str, Any]]:
    """Give what each field takes, for ``GET /v1/models/NAME``."""
    return [
        {
            "name": f.name,
            "dtype": f.dtype,
            "shape": list(f.shape),
            "low": f.low,
            "high": f.high,
            "unit": f.unit,
        }
        | describe_kind(f)
        for f in schema.features
    ]


def describe_kind(feature: Feature) -> dict[str, Any]:
    """Give what a field has beyond a number that is always there; empty for such."""
    kind: dict[str, Any] = {}
    if feature.categories:
        kind |= {"categories": list(feature.categories), "unknown": feature.is_open}
    if feature.is_nullable:
        kind["missing"] = True
    if feature.is_text:
        kind["chars_max"] = feature.chars_max
    return kind


def encode_predictions(prediction: Prediction) -> bytes:
    """Encode the answers of named rows, one object a row.

    Raises:
        InferenceError: An output is NaN or infinite, which JSON cannot say.
    """
    served, outputs = prediction.served, prediction.outputs
    rows = len(prediction.values[0])
    ids = row_ids(prediction.prediction_id, rows)
    answers: list[dict[str, Any]]
    if served.schema.labels:
        named = name_rows(served.schema.labels, outputs)
        answers = [{"prediction_id": n} | row for n, row in zip(ids, named, strict=True)]
    elif served.schema.task is Task.CLASSIFICATION:
        names = served.schema.classes
        labels = outputs[Role.LABEL].tolist()
        answers = [
            {
                "prediction_id": name,
                "class": names[label] if 0 <= label < len(names) else None,
                "label": label,
                "probabilities": dict(zip(names, shares, strict=True)),
            }
            for name, label, shares in zip(
                ids, labels, outputs[Role.PROBABILITIES].tolist(), strict=True
            )
        ]
    else:
        values, targets = outputs[Role.VALUE].tolist(), served.schema.targets
        if targets:
            values = [dict(zip(targets, row, strict=True)) for row in values]
        answers = [
            {"prediction_id": name, "value": value} for name, value in zip(ids, values, strict=True)
        ]
    head = {
        "model_name": served.model_name,
        "model_version": served.version,
        "slot": served.slot,
        "target": served.target,
        "prediction_id": prediction.prediction_id,
        "predictions": answers,
    }
    try:
        return encode_json(head).encode()
    except ValueError as error:
        raise InferenceError(
            f"{served.target} answered NaN or infinity, which JSON cannot say"
        ) from error


def row_ids(prediction_id: str, rows: int) -> Sequence[str]:
    """Name each row of an answer, for a label that becomes known later.

    >>> row_ids("5-0-a", 1), row_ids("5-0-a", 2)
    (['5-0-a'], ['5-0-a.0', '5-0-a.1'])
    """
    if rows == 1:
        return [prediction_id]
    return [f"{prediction_id}.{n}" for n in range(rows)]


def _read_field(n: int, feature: Feature, value: Any) -> list[float]:
    """Read one field, row-major, whether its list is flat or nested as its shape."""
    cells = _flatten(value, len(feature.shape)) if isinstance(value, list) else [value]
    if feature.is_nullable:
        cells = [MISSING if cell is None else cell for cell in cells]
    is_kind = isinstance(value, list) == bool(feature.shape)
    if not is_kind or not _NUMBERS.issuperset(map(type, cells)):
        wrong = next((c for c in cells if type(c) not in _NUMBERS), value)
        shown = name_type(value)
        if type(wrong) in _NUMBERS:
            shown = str(wrong)[:60]
        elif not isinstance(wrong, list | dict):
            shown = encode_json(wrong)[:60]
        raise InputError(
            f"row {n}: field {feature.name} is {shown}, it takes {say_allowed(feature)}"
        )
    if len(cells) != feature.width:
        allowed = say_allowed(feature)
        raise InputError(
            f"row {n}: field {feature.name} has {len(cells)} numbers, it takes {allowed}"
        )
    if feature.dtype == "int64":
        for cell in cells:
            if cell != cell // 1 and not math.isnan(cell):
                raise InputError(
                    f"row {n}: field {feature.name} is {cell:g}, it takes {say_allowed(feature)}"
                )
    return cells


def _flatten(value: list[Any], depth: int) -> list[Any]:
    """Take the numbers out of lists no deeper than the shape."""
    if depth > 1 and value and all(isinstance(inner, list) for inner in value):
        return [cell for inner in value for cell in _flatten(inner, depth - 1)]
    return value
