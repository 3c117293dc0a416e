"""``golden.npz``: a few raw inputs and the answers the package must give on every device.

They find a wrong runtime, kernel, preprocessing or model; corruption only the hash finds. Inputs
are shipped as exact float32 and never recomputed: a tree that sees 0.1 more than 1e-7 beside a
threshold answers something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.array_archive import read_arrays
from edge_agent.contract.codes import Code
from edge_agent.contract.image import IMAGE_CHANNELS, ImageInput
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.package import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT_PREFIX,
    GOLDEN_ROWS_MAX,
    GOLDEN_TOLERANCE_PREFIX,
)
from edge_agent.contract.schema import ModelSchema, Output, Role
from edge_agent.errors import PackageError, words_of

GOLDEN_BYTES_MAX = 268_435_456
GOLDEN_ARRAYS_MAX = 32
PICTURE_PIXELS_MAX = 65_536
"""Of one golden picture."""
_HEADER_BYTES = 1_024

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVectors:
    """Inputs, expected outputs and tolerances.

    Attributes:
        features: float32 [rows, width], or uint8 [pictures, height, width, 3] of one size.
        expected: One array an output tensor, [rows, ...].
        tolerances: Of each floating-point output, relative to ``1 + |expected|``.
    """

    features: NDArray[Any]
    expected: Outputs
    tolerances: Mapping[str, float]

    @classmethod
    def decode(cls, payload: bytes, schema: ModelSchema) -> "GoldenVectors":
        """Read ``golden.npz`` and check it against the schema.

        Raises:
            PackageError: ``PACKAGE_FORMAT``: not such a file, or an array is missing or misshapen.
        """
        try:
            arrays = read_arrays(
                payload, arrays_max=GOLDEN_ARRAYS_MAX, bytes_max=_bytes_max(schema)
            )
        except Exception as error:  # damaged archives raise a dozen kinds
            raise _wrong(f"cannot be read: {words_of(error)}") from error
        features = arrays.get(GOLDEN_INPUT)
        if schema.image is not None:
            _check_pictures(features, schema.image)
        elif (
            features is None
            or features.dtype != np.float32
            or features.ndim != 2
            or features.shape[1] != schema.width
            or not 1 <= features.shape[0] <= GOLDEN_ROWS_MAX
        ):
            shape = None if features is None else (features.dtype.name, features.shape)
            raise _wrong(
                f"{GOLDEN_INPUT!r} must be float32 [1..{GOLDEN_ROWS_MAX}, {schema.width}],"
                f" got {shape}"
            )
        assert features is not None  # noqa: S101 - both ways above refuse it
        expected: dict[str, NDArray[Any]] = {}
        tolerances: dict[str, float] = {}
        for output in schema.outputs:
            expected[output.name] = _take_expected(arrays, schema, output, len(features))
            if output.role is not Role.LABEL:
                tolerances[output.name] = _take_tolerance(arrays, output.name)
        return cls(features=features, expected=expected, tolerances=tolerances)

    def find_mismatch(self, schema: ModelSchema, outputs: Outputs) -> str | None:
        """Compare answers with the expected ones; a sentence about the worst, None when all fit.

        A label may differ only where the two best probabilities are so close that both being
        within tolerance could turn them round.
        """
        for output in schema.outputs:
            got, want = outputs[output.name], self.expected[output.name]
            if got.shape != want.shape:
                return f"{output.name} has shape {got.shape}, expected {want.shape}"
            wrong = (
                self._find_wrong_label(schema, got, want)
                if output.role is Role.LABEL
                else _find_wrong_number(got, want, self.tolerances[output.name], output.targets)
            )
            if wrong is not None:
                return f"{output.name}: {wrong}"
        return None

    def _find_wrong_label(
        self, schema: ModelSchema, got: NDArray[Any], want: NDArray[Any]
    ) -> str | None:
        differs = (got != want).reshape(len(want), -1)
        columns = slice_labels(schema.labels) or (slice(None),)
        for output in schema.outputs:
            if output.role is Role.PROBABILITIES:
                shares, tolerance = self.expected[output.name], self.tolerances[output.name]
                clear = [_is_clear(shares[:, own], tolerance) for own in columns]
                differs &= np.stack(clear, axis=1)
        rows = np.flatnonzero(differs.any(axis=1))
        if not len(rows):
            return None
        row, place = int(rows[0]), int(np.argmax(differs[rows[0]]))
        of_label = f" of label {schema.labels[place].name!r}" if schema.labels else ""
        was, now = (int(labels.reshape(len(want), -1)[row, place]) for labels in (want, got))
        return (
            f"{len(rows)} of {len(want)} golden rows answered wrongly,"
            f" row {row}{of_label} {now} instead of {was}"
        )


def _is_clear(shares: NDArray[Any], tolerance: float) -> NDArray[np.bool_]:
    """Tell where the two best probabilities cannot change places within the tolerance."""
    if shares.shape[1] < 2:
        return np.ones(len(shares), np.bool_)
    best = np.sort(shares.astype(np.float64), axis=1)[:, -2:]
    slack = tolerance * (2 + np.abs(best).sum(axis=1))
    clear: NDArray[np.bool_] = best[:, 1] - best[:, 0] > slack
    return clear


def _find_wrong_number(
    got: NDArray[Any], want: NDArray[Any], tolerance: float, targets: Sequence[str]
) -> str | None:
    wanted = want.astype(np.float64)
    error = np.abs(got.astype(np.float64) - wanted) / (1 + np.abs(wanted))
    error = np.where(np.isnan(error), np.inf, error)
    if not error.size or error.max() <= tolerance:
        return None
    at = np.unravel_index(int(error.argmax()), error.shape)
    of_target = f" of target {targets[int(at[1])]!r}" if targets else ""
    return (
        f"golden row {at[0]} gave{of_target} {got[at]:.6g} instead of {want[at]:.6g},"
        f" relative error {error[at]:.2g} above {tolerance:.2g}"
    )


def _check_pictures(pictures: NDArray[Any] | None, image: ImageInput) -> None:
    shape = () if pictures is None else pictures.shape
    if (
        pictures is None
        or pictures.dtype != np.uint8
        or len(shape) != 4
        or shape[3] != IMAGE_CHANNELS
        or not 1 <= shape[0] <= GOLDEN_ROWS_MAX
        or not 1 <= shape[1] * shape[2] <= min(PICTURE_PIXELS_MAX, image.pixels_max)
    ):
        raise _wrong(
            f"{GOLDEN_INPUT!r} must be uint8 [1..{GOLDEN_ROWS_MAX}, height, width,"
            f" {IMAGE_CHANNELS}] of at most {PICTURE_PIXELS_MAX} pixels, got {shape}"
        )


def _bytes_max(schema: ModelSchema) -> int:
    """Bound what the arrays take: rows as wide as the schema, at most float64."""
    answers = max(1, schema.probability_columns, len(schema.targets))
    columns = schema.width + len(schema.outputs) * answers
    if schema.image is not None:
        columns += PICTURE_PIXELS_MAX * IMAGE_CHANNELS
    return min(GOLDEN_BYTES_MAX, GOLDEN_ROWS_MAX * 8 * columns + GOLDEN_ARRAYS_MAX * _HEADER_BYTES)


def _take_expected(
    arrays: Mapping[str, NDArray[Any]], schema: ModelSchema, output: Output, rows: int
) -> NDArray[Any]:
    name = output.name
    array = arrays.get(GOLDEN_OUTPUT_PREFIX + name)
    if array is None or array.ndim < 1 or len(array) != rows or array.dtype.kind not in "if":
        raise _wrong(f"expected output {name!r} is missing or not {rows} rows of numbers")
    if output.targets and array.shape != (rows, len(output.targets)):
        raise _wrong(
            f"expected output {name!r} has shape {array.shape}, the schema has"
            f" {len(output.targets)} targets"
        )
    columns = schema.probability_columns if output.role is Role.PROBABILITIES else 0
    columns = len(output.labels) or columns
    if schema.labels and array.shape != (rows, columns):
        raise _wrong(
            f"expected output {name!r} has shape {array.shape}, the schema's"
            f" {len(schema.labels)} labels need {(rows, columns)}"
        )
    if not np.isfinite(array).all():
        raise _wrong(f"expected output {name!r} is not finite")
    return array


def _take_tolerance(arrays: Mapping[str, NDArray[Any]], name: str) -> float:
    array = arrays.get(GOLDEN_TOLERANCE_PREFIX + name)
    if array is None or array.size != 1 or array.dtype.kind != "f" or not 0 <= float(array) < 1:
        raise _wrong(f"tolerance of {name!r} is missing or not a number from 0 to 1")
    return float(array)


def _wrong(what: str) -> PackageError:
    return PackageError(Code.PACKAGE_FORMAT, f"golden.npz: {what}")
