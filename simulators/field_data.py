"""The rows that simulated devices see, and how the field changes them.

Rows come from a table with the model's columns, or are the golden rows of the package itself.
A drift adds to or multiplies columns and stays within the ranges the schema declares.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.onnx_model_runner import open_package
from edge_agent.contract.schema import ModelSchema
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.errors import MisuseError, NotFoundError, RefusedError

BRIGHTNESS = "brightness"
"""Stands for every column: more light on a whole image."""
_DRIFT = re.compile(r"([^:]{1,128}):([+*-])(\d{1,12}(?:\.\d{1,12})?)\Z")

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A change of the inputs.

    Attributes:
        feature: Name of a feature or column, or ``brightness`` for all.
        add: Added to each value.
        factor: Multiplied with each value before.
    """

    feature: str
    add: float = 0.0
    factor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Drift":
        """Read ``FEATURE:+X``, ``FEATURE:-X`` or ``FEATURE:*X``; raises MisuseError.

        >>> Drift.parse("brightness:+4").add
        4.0
        """
        match = _DRIFT.match(text)
        if match is None:
            raise MisuseError(
                f"drift {text[:80]!r} must be FEATURE:+X, FEATURE:-X or FEATURE:*X,"
                " for example brightness:+4"
            )
        feature, sign, number = match.groups()
        if sign == "*":
            return cls(feature=feature, factor=float(number))
        return cls(feature=feature, add=float(number) * (-1 if sign == "-" else 1))

    def apply(self, rows: Rows, schema: ModelSchema) -> Rows:
        """Return changed rows, within the declared ranges; raises MisuseError without a match."""
        changed, columns = rows.copy(), self._find_columns(schema)
        low, high = _ranges(schema)
        changed[:, columns] = changed[:, columns] * self.factor + self.add
        return np.clip(changed, low, high).astype(np.float32)

    def _find_columns(self, schema: ModelSchema) -> list[int]:
        wanted = {
            column
            for feature in schema.features
            for column in feature.columns
            if self.feature in (BRIGHTNESS, feature.name, column)
        }
        if not wanted:
            names = ", ".join(feature.name for feature in schema.features)
            raise MisuseError(
                f"drift of {self.feature!r}: model {schema.model} has no such feature, it has"
                f" {names[:200]}"
            )
        return [n for n, column in enumerate(schema.columns) if column in wanted]


class FieldData:
    """Rows of each package's schema, as they are and drifted; each table is read once."""

    def __init__(self, path: Path | None, drift: Drift | None) -> None:
        """Read from a CSV or Parquet file, from golden rows when ``path`` is None."""
        self._path, self._drift = path, drift
        self._tables: dict[str, Rows] = {}
        self._drifted: dict[str, Rows] = {}
        if path is not None and not path.is_file():
            raise NotFoundError(f"{path} does not exist; --rows needs a CSV or Parquet file")

    def rows_for(self, blob: bytes, sha256: str, *, is_drifted: bool) -> Rows:
        """Return float32 [rows, width] for a package.

        Raises:
            RefusedError: The table lacks a column of the model, or has no rows.
            MisuseError: The drift names no feature of the model.
        """
        if sha256 not in self._tables:
            opened = open_package(blob, sha256)
            rows = opened.golden.features if self._path is None else self._read(opened.schema)
            self._tables[sha256] = rows
            drift = self._drift
            self._drifted[sha256] = drift.apply(rows, opened.schema) if drift else rows
        return (self._drifted if is_drifted else self._tables)[sha256]

    def _read(self, schema: ModelSchema) -> Rows:
        if self._path is None:
            raise RefusedError("no table was given")
        reader = PyarrowTableReader()
        missing = sorted(set(schema.columns) - set(reader.list_columns(self._path)))
        if missing:
            raise RefusedError(
                f"{self._path.name} lacks {len(missing)} columns of model {schema.model}:"
                f" {', '.join(missing[:5])}"
            )
        table = reader.read(self._path, numbers=schema.columns, words=())
        if not table.rows:
            raise RefusedError(f"{self._path.name} has no rows")
        columns = [table.numbers[name].values for name in schema.columns]
        return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float32)


def _ranges(schema: ModelSchema) -> tuple[Rows, Rows]:
    low = [-np.inf if f.low is None else f.low for f in schema.features for _ in range(f.width)]
    high = [np.inf if f.high is None else f.high for f in schema.features for _ in range(f.width)]
    return np.array(low, np.float32), np.array(high, np.float32)
