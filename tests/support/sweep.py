"""Convert an estimator and compare it with its source: exact, repaired or refused, and why."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from converters.answers import Answer, find_answer, find_classes, find_last_step
from converters.attempts import measure_try
from converters.build import LABEL_FLIPS_DEFAULT, ROWS_OFF_DEFAULT
from converters.errors import ConversionError, UnsupportedEstimatorError
from converters.from_boosted import is_booster, wrap_booster
from converters.label_requests import labels_schema, name_labels
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.shrink_trees import shrink_trees
from converters.source import Conversion, SourceModel
from converters.sources import make_source
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from tests.support.sweep_cases import (
    GROUPS,
    LABELS,
    NUMBERS,
    OTHERS,
    OUTLIERS,
    SEVERAL,
    STEPS,
    SweepCase,
)
from tests.support.sweep_rows import load_rows
from tests.support.sweep_texts import judge_texts

Array = NDArray[Any]
EXACT, REPAIRED, REFUSED, UNFIT = "exact", "repaired", "refused", "no model"
SAME, OTHER, NONE = "same", "differ", "-"
_HUGE = (1e12, -1e12, 3e38)
_PROBES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one estimator.

    Attributes:
        kind: Its role.
        name: Class name.
        verdict: On float64 rows.
        verdict_float32: On float32 rows; the same words.
        boundary: Rows at and beside the middle of neighbouring training values.
        missing: Rows with NaN; ``-`` where the estimator refuses them.
        huge: Rows with 1e12 and more.
        how: Repairs, or why it is refused.
    """

    kind: str
    name: str
    verdict: str
    verdict_float32: str
    boundary: str
    missing: str
    huge: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One conversion on one type of rows."""

    verdict: str
    how: str
    boundary: str = NONE
    missing: str = NONE
    huge: str = NONE


def judge(case: SweepCase) -> Outcome:
    """Fit, convert and compare one estimator, on float64 and float32 rows."""
    if case.feed == "texts":
        judged = _judge_texts(case)
        return merge(case.kind, case.name, judged, judged)
    found = [_judge_rows(case, dtype) for dtype in (np.float64, np.float32)]
    return merge(case.kind, case.name, *found)


def merge(kind: str, name: str, wide: Judged, narrow: Judged) -> Outcome:
    """Put the two types of rows together."""
    return Outcome(
        kind=kind,
        name=name,
        verdict=wide.verdict,
        verdict_float32=narrow.verdict,
        boundary=_worse(wide.boundary, narrow.boundary),
        missing=_worse(wide.missing, narrow.missing),
        huge=_worse(wide.huge, narrow.huge),
        how=wide.how if wide.how or narrow.verdict == wide.verdict else narrow.how,
    )


def _judge_texts(case: SweepCase) -> Judged:
    is_exact, refusal = judge_texts(case.name, case.make)
    if refusal:
        return Judged(verdict=REFUSED, how=refusal)
    return Judged(verdict=EXACT if is_exact else OTHER, how="counts terms of a free text")


def _judge_rows(case: SweepCase, dtype: type[np.floating[Any]]) -> Judged:
    if case.feed == "text":
        return Judged(
            verdict=REFUSED, how="fitted on records, labels or pictures, not on rows of a table"
        )
    rows, targets = load_rows(case)
    rows = rows.astype(dtype)
    cut = len(rows) * 6 // 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _wrap(case).fit(rows[:cut], targets[:cut])
        except Exception as error:  # noqa: BLE001 - some estimators cannot be fitted this way
            return Judged(verdict=UNFIT, how=f"does not fit: {_first(error)}")
        return judge_model(model, case.kind, rows[:cut], rows[cut:])


def judge_model(model: Any, kind: str, seen: Array, held: Array) -> Judged:
    """Convert a fitted model and compare it on held-out and extreme rows.

    Args:
        model: Fitted.
        kind: Its role.
        seen: Rows it was fitted on, in its type.
        held: Rows it was not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _judge_quietly(model, kind, seen, held)


def _judge_quietly(model: Any, kind: str, seen: Array, held: Array) -> Judged:
    profile = load_profile("camera")
    try:
        targets = ("first", "second") if kind == SEVERAL else ()
        schema = schema_of_model(model, kind, seen.shape[1], targets)
        source = make_source(model, schema, is_fed_float32=seen.dtype == np.float32)
        made = source.convert(schema, profile, held.astype(np.float32))
        shrink_trees(made.model)
        runner = GraphRunner(normalise(made.model, profile), profile)
    except ConversionError as error:
        return Judged(verdict=REFUSED, how=reason_of(error))
    compare = _comparer(source, runner, schema, is_detector=kind == OUTLIERS)
    on_held = compare(held)
    if on_held == OTHER:
        done = measure_try(
            "",
            schema.task,
            source.answer(held.astype(np.float32)),
            runner.run(held),
            is_detector=kind == OUTLIERS,
            labels=schema.labels,
        )
        is_near = (
            done.flips <= LABEL_FLIPS_DEFAULT * done.rows
            and done.rows_off <= ROWS_OFF_DEFAULT * done.rows
        )
        return Judged(
            verdict="few rows differ" if is_near else REFUSED,
            how="held-out rows are answered otherwise, which every build counts and limits",
        )
    return Judged(
        verdict=REPAIRED if made.repairs else EXACT,
        how=_repairs(made),
        boundary=compare(boundary_rows(seen, held)),
        missing=compare(missing_rows(held)),
        huge=compare(huge_rows(held)),
    )


def _comparer(
    source: SourceModel, runner: GraphRunner, schema: ModelSchema, *, is_detector: bool
) -> Callable[[Array], str]:
    def compare(rows: Array) -> str:
        packed = rows.astype(np.float32)
        try:
            truth = source.answer(packed)
        except ConversionError:
            return NONE
        done = measure_try(
            *("", schema.task, truth, runner.run(packed)),
            is_detector=is_detector,
            labels=schema.labels,
        )
        return SAME if done.is_exact else OTHER

    return compare


def boundary_rows(seen: Array, held: Array) -> Array:
    """Give rows on, just above and just below the middle of neighbouring training values."""
    draw = np.random.default_rng(3)
    rows = held[draw.integers(0, len(held), _PROBES)].astype(np.float32)
    columns: list[Array] = [np.unique(column.astype(np.float64)) for column in seen.T]
    for number, row in enumerate(rows):
        column = int(draw.integers(0, seen.shape[1]))
        values = columns[column]
        place = int(draw.integers(0, max(1, len(values) - 1)))
        after = int(min(place + 1, len(values) - 1))
        middle = np.float32((values[place] + values[after]) / 2)
        beside = np.nextafter(middle, np.float32([-np.inf, np.inf][number % 2]))
        row[column] = (middle, beside, np.float32(values[place]))[number % 3]
    return rows


def missing_rows(held: Array) -> Array:
    """Give rows with a NaN each."""
    rows = held[:30].astype(np.float32)
    rows[np.arange(len(rows)), np.arange(len(rows)) % rows.shape[1]] = np.nan
    return rows


def huge_rows(held: Array) -> Array:
    """Give rows with one number far beyond the training rows each."""
    rows = held[:30].astype(np.float32)
    rows[np.arange(len(rows)), np.arange(len(rows)) % rows.shape[1]] = np.resize(_HUGE, len(rows))
    return rows


def schema_of_model(
    model: Any, kind: str, width: int, targets: tuple[str, ...] = ()
) -> ModelSchema:
    """Give the schema that ``edge-convert`` would make."""
    model = wrap_booster(model) if is_booster(model) else model
    last = find_last_step(model)
    is_number = kind in (NUMBERS, SEVERAL, OUTLIERS) or (
        kind == OTHERS and not hasattr(last, "classes_")
    )
    if kind == LABELS:
        return _schema_of_labels(model, width)
    classes = None if is_number else find_classes(last)
    task = Task.REGRESSION if classes is None else Task.CLASSIFICATION
    if task is Task.REGRESSION and kind not in (NUMBERS, SEVERAL, OUTLIERS):
        find_answer(model, Task.CLASSIFICATION if kind == GROUPS else Task.REGRESSION)
    is_label_only = task is Task.CLASSIFICATION and find_answer(model, task) is Answer.LABEL_ONLY
    outputs = (
        (Output(name="value", role=Role.VALUE, targets=targets),)
        if classes is None
        else (
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES, is_label_only=is_label_only),
        )
    )
    return ModelSchema(
        model="swept",
        task=task,
        features=(Feature(name="x", shape=(width,)),),
        outputs=outputs,
        classes=() if classes is None else tuple(str(value) for value in classes),
    )


def _schema_of_labels(model: Any, width: int) -> ModelSchema:
    named = name_labels(model, ("first", "second"))
    if not named:
        raise UnsupportedEstimatorError(type(model).__name__, "it answers one label a row", "")
    return labels_schema("swept", (Feature(name="x", shape=(width,)),), named)


def _wrap(case: SweepCase) -> Any:
    estimator = case.make()
    if case.kind == STEPS:
        return make_pipeline(estimator, LogisticRegression(max_iter=300))
    return estimator


def _repairs(made: Conversion) -> str:
    sentences = [sentence.split(" (", maxsplit=1)[0] for sentence in made.repairs]
    return "; ".join(dict.fromkeys(sentences))


def reason_of(error: ConversionError) -> str:
    """Give the reason alone, short enough for a table."""
    if isinstance(error, UnsupportedEstimatorError):
        return _shorten(f"{error.reason}. {error.advice}")
    return _shorten(str(error))


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return _shorten(lines[0] if lines else type(error).__name__)


def _shorten(text: str) -> str:
    plain = text.split(": [ONNXRuntimeError]", maxsplit=1)[0]
    return plain.split(" at 0x", maxsplit=1)[0].replace("|", "/")[:180]


def _worse(one: str, two: str) -> str:
    return max((one, two), key=(NONE, SAME, OTHER).index)
