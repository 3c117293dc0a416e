"""Golden rows: real inputs and the shipped graph's answers, replayed on the device before use.

They find a wrong runtime, kernel or model, not flipped bits (the hash does that). Inputs are stored
as exact float32 and never recomputed: a rounding of 1e-7 may send a row down another branch. Rows
that stand such a rounding and have a clear label are preferred; every predicted class is there
while there is room.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.runtime import GraphRunner
from device_profiles.profile import Precision
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.package import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT_PREFIX,
    GOLDEN_ROWS_MAX,
    GOLDEN_TOLERANCE_PREFIX,
)
from edge_agent.contract.schema import ModelSchema, Role, Task

Array = NDArray[Any]
CANDIDATES_MAX = 512
GOLDEN_NUMBERS_MAX, GOLDEN_ROWS_MIN = 32_768, 4
"""Of packed texts in all golden rows; a long text takes thousands."""
NUDGE = 2e-7
"""Relative change of the inputs that a preferred row must stand: a float32 rounding or two."""
_SEED = 20_260
_TOLERANCE = {Precision.INT8_DYNAMIC: 1e-2, Precision.INT8_STATIC: 1e-2, Precision.FP16: 5e-2}
_TOLERANCE_FP32 = 1e-4
_TOLERANCE_BRANCHES = 1e-5
_BRANCHES = ("ai.onnx.ml:TreeEnsemble", "ai.onnx.ml:SVM")
_EXACT_BESIDE = frozenset(
    {
        "ai.onnx.ml:LabelEncoder",
        "ai.onnx.ml:Scaler",
        "ai.onnx.ml:Imputer",
        "Cast",
        "Identity",
        "Reshape",
    }
)


def find_tolerance(precision: Precision, operators: Mapping[str, int]) -> float:
    """Tell how far a sound device may answer from here, relative to ``1 + |expected|``.

    Measured over batch size, threads, optimisation level and processors, with a margin of ten
    (docs/conversion.md). Trees and support vectors gave identical bits everywhere.
    """
    if precision is not Precision.FP32:
        return _TOLERANCE[precision]
    has_branches = any(name.startswith(_BRANCHES) for name in operators)
    is_exact = all(name.startswith(_BRANCHES) or name in _EXACT_BESIDE for name in operators)
    return _TOLERANCE_BRANCHES if has_branches and is_exact else _TOLERANCE_FP32


def build_golden(
    runner: GraphRunner, rows: Array, schema: ModelSchema, tolerance: float
) -> tuple[bytes, int]:
    """Choose rows and record the graph's answers.

    Args:
        runner: The graph to ship.
        rows: Held-out rows, float32 [N, width].
        schema: Its outputs.
        tolerance: Of every floating-point output.

    Returns:
        ``golden.npz`` and how many rows it has.

    Raises:
        InvalidRequestError: The graph answers no row with finite numbers.
    """
    places = np.unique(
        np.linspace(0, len(rows) - 1, min(len(rows), CANDIDATES_MAX)).astype(np.int64)
    )
    candidates = np.ascontiguousarray(rows[places], np.float32)
    outputs = runner.run(candidates)
    finite = _finite_rows(outputs, len(candidates))
    if not finite.any():
        raise InvalidRequestError("the graph answers no held-out row with finite numbers")
    steady = finite & _find_steady(runner, candidates, outputs, schema, tolerance)
    picked = _pick(outputs, steady, finite, schema)
    if schema.texts:
        room = max(GOLDEN_ROWS_MIN, GOLDEN_NUMBERS_MAX // schema.width)
        picked = picked[np.unique(np.linspace(0, len(picked) - 1, room).astype(np.int64))]
    golden = candidates[picked]
    expected = runner.run(golden)
    arrays: dict[str, Array] = {GOLDEN_INPUT: golden}
    for output in schema.outputs:
        arrays[GOLDEN_OUTPUT_PREFIX + output.name] = expected[output.name]
        if output.role is not Role.LABEL:
            arrays[GOLDEN_TOLERANCE_PREFIX + output.name] = np.array(tolerance)
    return encode_arrays(arrays), len(golden)


def check_golden(golden: bytes, runner: GraphRunner, schema: ModelSchema) -> list[str]:
    """Replay golden rows and list what differs; empty when all is well.

    Labels must be equal wherever the two best probabilities cannot change places in tolerance.
    """
    with np.load(io.BytesIO(golden), allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    got = runner.run(stored[GOLDEN_INPUT])
    problems = []
    for output in schema.outputs:
        expected = stored[GOLDEN_OUTPUT_PREFIX + output.name]
        if got[output.name].shape != expected.shape:
            problems.append(f"{output.name} has shape {got[output.name].shape}")
        elif output.role is Role.LABEL:
            clear = _are_clear(
                schema,
                stored[GOLDEN_OUTPUT_PREFIX + Role.PROBABILITIES],
                float(stored[GOLDEN_TOLERANCE_PREFIX + Role.PROBABILITIES]),
            )
            wrong = (expected != got[output.name]) & clear.reshape(expected.shape)
            if wrong.any():
                problems.append(f"{int(wrong.sum())} of {wrong.size} labels differ")
        else:
            tolerance = float(stored[GOLDEN_TOLERANCE_PREFIX + output.name])
            error = float(np.max(_relative_error(expected, got[output.name])))
            if not error <= tolerance:
                problems.append(f"{output.name} differs by {error:.3g}, tolerance {tolerance:g}")
    return problems


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Write an ``.npz``; the same arrays always give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def _finite_rows(outputs: Mapping[str, Array], rows: int) -> Array:
    finite = np.ones(rows, bool)
    for values in outputs.values():
        if np.issubdtype(values.dtype, np.floating):
            finite &= np.isfinite(values.reshape(rows, -1)).all(axis=1)
    return finite


def _find_steady(
    runner: GraphRunner,
    rows: Array,
    outputs: Mapping[str, Array],
    schema: ModelSchema,
    tolerance: float,
) -> Array:
    """Tell which rows keep their answer when their numbers are nudged, with a clear label."""
    random = np.random.default_rng(_SEED)
    steady = np.ones(len(rows), bool)
    for output in schema.outputs:
        if output.role is Role.PROBABILITIES:
            steady &= _are_clear(schema, outputs[output.name], tolerance).all(axis=1)
    exact = np.array([f.is_text for f in schema.features for _ in range(f.width)])
    for _ in range(3):
        nudge = 1 + random.uniform(-NUDGE, NUDGE, rows.shape)
        moved = runner.run((rows * np.where(exact, 1, nudge)).astype(np.float32))
        for output in schema.outputs:
            if output.role is not Role.LABEL:
                error = _relative_error(outputs[output.name], moved[output.name])
                steady &= error.reshape(len(rows), -1).max(axis=1) <= tolerance
    return steady


def _pick(outputs: Mapping[str, Array], steady: Array, finite: Array, schema: ModelSchema) -> Array:
    """Give at most 32 places: steady rows first, in turn over classes or evenly over values."""
    places = np.flatnonzero(steady)
    if len(places) < GOLDEN_ROWS_MAX:
        spare = np.flatnonzero(finite & ~steady)
        places = np.concatenate([places, spare[: GOLDEN_ROWS_MAX - len(places)]])
    if schema.task is Task.CLASSIFICATION:
        each = outputs[Role.LABEL][places].reshape(len(places), -1)
        labels = np.unique(each, axis=0, return_inverse=True)[1].reshape(-1)
        turn = np.zeros(len(places), np.int64)
        for label in np.unique(labels):
            mine = labels == label
            turn[mine] = np.arange(int(mine.sum()))
        chosen = places[np.lexsort((labels, turn))][:GOLDEN_ROWS_MAX]
    else:
        by_value = places[np.argsort(_rank(outputs[Role.VALUE][places]), kind="stable")]
        spread = np.linspace(0, len(by_value) - 1, min(len(by_value), GOLDEN_ROWS_MAX))
        chosen = by_value[np.unique(spread.astype(np.int64))]
    ordered: Array = np.sort(chosen)
    return ordered


def _rank(values: Array) -> Array:
    """Give what rows are spread by: the value, or the mean rank over several targets."""
    if values.ndim == 1:
        return values
    ranks: Array = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0).mean(axis=1)
    return ranks


def _are_clear(schema: ModelSchema, probabilities: Array, tolerance: float) -> Array:
    """Tell of each label of each row [rows, labels] whether it is clear."""
    columns = slice_labels(schema.labels) or (slice(None),)
    return np.stack([_is_clear(probabilities[:, own], tolerance) for own in columns], axis=1)


def _is_clear(probabilities: Array, tolerance: float) -> Array:
    """Tell where the two best probabilities cannot change places within the tolerance."""
    best = np.sort(probabilities.astype(np.float64), axis=1)[:, -2:]
    slack = tolerance * (2 + np.abs(best).sum(axis=1))
    clear: Array = best[:, 1] - best[:, 0] > slack
    return clear


def _relative_error(expected: Array, got: Array) -> Array:
    wide = expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error: Array = np.abs(wide - got) / (1 + np.abs(wide))
    return np.where(np.isnan(error), np.inf, error)
