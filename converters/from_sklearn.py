"""Convert a fitted scikit-learn estimator, alone or with LightGBM and XGBoost inside.

A graph is compared with the estimator's answers to float32-rounded rows: rounding belongs to the
wire, not to the conversion. What is known to go wrong is repaired beforehand (``repairs.py``); what
is not is found by comparing ways to convert on the held-out rows (``attempts.py``).
"""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.multioutput import ClassifierChain
from sklearn.utils.validation import check_is_fitted

from converters.answers import Answer, find_answer, find_classes, find_last_step
from converters.attempts import convert_in_turn, with_repairs
from converters.errors import InvalidRequestError, UnsupportedEstimatorError, say_reason
from converters.interface import LABEL, PROBABILITIES, VALUE
from converters.label_source import check_labels, convert_parts, find_wrong
from converters.recode import recode
from converters.repairs import prepare, unwrap
from converters.several_labels import (
    answer_labels,
    find_label_classes,
    index_labels,
    split_estimator,
)
from converters.sklearn_graph import describe, list_ways, quiet
from converters.source import Conversion, SourceModel, SourceNotes
from converters.unseen import say_missing
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import TARGETS_MAX, NamedLabel
from edge_agent.contract.schema import ModelSchema, Task

Array = NDArray[Any]
NOTES = SourceNotes(
    kind="scikit-learn",
    given_as="fitted estimators and pipelines",
    files=(".skops",),
    read_by="skops, under a list of exact types; pickles are never read",
    keeps="preprocessing of numbers, categories, gaps and free text, answers and probabilities of"
    " every estimator of the table below that is exact or repaired; a detector of outliers as its"
    " decision function",
    cannot="functions of Python, what the table refuses",
)


class SklearnSource:
    """A fitted estimator or pipeline.

    Args:
        estimator: Fitted on rows of numbers.
        task: What it answers.
        is_fed_float32: Whether its rows come as float32, in which scikit-learn then computes;
            as float64 otherwise.
        targets: How many values of a row the schema names; 0 for one without a name.
        labels: The labels of a row the schema names; empty for one without a name.

    Raises:
        InvalidRequestError: Not a fitted estimator.
    """

    def __init__(
        self,
        estimator: Any,
        task: Task,
        *,
        is_fed_float32: bool = False,
        targets: int = 0,
        labels: tuple[NamedLabel, ...] = (),
    ) -> None:
        try:
            check_is_fitted(estimator)
        except (NotFittedError, TypeError) as error:
            raise InvalidRequestError(f"needs a fitted scikit-learn estimator: {error}") from error
        self._estimator = estimator
        self._task = task
        self._targets, self._labels = targets, labels
        self._dtype = np.float32 if is_fed_float32 else np.float64

    @property
    def name(self) -> str:
        """Class names of the steps."""
        return describe(self._estimator)

    def convert(
        self, schema: ModelSchema, profile: DeviceProfile, rows: Array | None = None
    ) -> Conversion:
        """Give the graph with the contract's input and outputs.

        Args:
            schema: What goes in and comes out.
            profile: What the graph is for.
            rows: Held-out rows that choose among ways to convert; None takes the first way.

        Raises:
            UnsupportedEstimatorError: No faithful graph exists.
            InvalidRequestError: The schema does not fit the estimator.
        """
        with quiet():
            self._check_width(schema)
            if self._labels:
                self._check_labels()
                if not isinstance(self._answering, ClassifierChain):
                    return self._convert_labels(schema, profile, rows)
            prepared = prepare(self._readable(schema), schema, self._dtype)
            self._check_classes(schema)
            if rows is not None and len(rows) and schema.task is Task.REGRESSION:
                self.answer(rows[:2])  # tells at once when targets are missing or too many
            done = convert_in_turn(
                list_ways(prepared, schema, profile),
                schema,
                profile,
                rows,
                self.answer,
                is_detector=prepared.answer is Answer.SCORE,
            )
        return with_repairs(done, prepared.repairs)

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows in the type the model is fed; labels as class indexes.

        Raises:
            InvalidRequestError: The estimator refuses these rows.
        """
        fed = self._feed(rows)
        if self._labels:
            return self._answer_labels(fed, rows)
        kind = find_answer(self._estimator, self._task)
        try:
            with quiet():
                if kind is Answer.SCORE:
                    return {VALUE: np.asarray(self._estimator.decision_function(fed)).reshape(-1)}
                predicted = np.asarray(self._estimator.predict(fed))
                if kind is Answer.VALUE:
                    return {VALUE: self._shape(predicted)}
                labels = self.index_targets(predicted)
                if kind is Answer.LABEL_ONLY:
                    return {LABEL: labels, PROBABILITIES: np.eye(len(self._classes))[labels]}
                probabilities = np.asarray(self._estimator.predict_proba(fed))
        except ValueError as error:
            raise self._refused(rows, error) from error
        return {LABEL: labels, PROBABILITIES: probabilities}

    def _refused(self, rows: Array, error: Exception) -> InvalidRequestError:
        reason = f"{say_reason(error).rstrip('.')}{say_missing(rows)}"
        return InvalidRequestError(f"{self.name} refuses the rows: {reason}")

    @property
    def _answering(self) -> Any:
        """The estimator that answers, behind searches and pipelines."""
        return find_last_step(unwrap(self._estimator, []))

    @property
    def _has_shares(self) -> bool:
        return hasattr(unwrap(self._estimator, []), "predict_proba")

    def _check_labels(self) -> None:
        classes = find_label_classes(self._answering)
        check_labels(
            type(self._answering).__name__, classes, self._labels, has_shares=self._has_shares
        )

    def _convert_labels(
        self, schema: ModelSchema, profile: DeviceProfile, rows: Array | None
    ) -> Conversion:
        def part(estimator: Any, own: ModelSchema) -> SourceModel:
            source = copy.copy(self)
            source._estimator, source._task = estimator, own.task  # noqa: SLF001 - a copy of this
            source._targets, source._labels = len(own.targets), ()  # noqa: SLF001 - the same
            return source

        repairs: list[str] = []
        estimator = unwrap(copy.deepcopy(self._estimator), repairs)
        parts = split_estimator(estimator, find_label_classes(self._answering))
        done = convert_parts(parts, part, schema, profile, rows, self.answer)
        return with_repairs(done, repairs)

    def _answer_labels(self, fed: Array, rows: Array) -> dict[str, Array]:
        classes = find_label_classes(self._answering)
        if len(classes) != len(self._labels):
            self._check_labels()
        estimator = unwrap(self._estimator, [])
        try:
            with quiet():
                labels, shares = answer_labels(estimator, fed, classes, has_shares=self._has_shares)
        except ValueError as error:
            raise self._refused(rows, error) from error
        return {LABEL: labels, PROBABILITIES: shares}

    def _feed(self, rows: Array) -> Array:
        """Give packed rows as the estimator takes them."""
        return np.asarray(rows, self._dtype)

    def _count_columns(self, schema: ModelSchema) -> int:
        """Count the columns the estimator was fitted on."""
        return schema.width

    def _readable(self, schema: ModelSchema) -> Any:
        """Give an estimator that reads packed rows, categories as codes."""
        return recode(self._estimator, schema)

    def _shape(self, predicted: Array) -> Array:
        found, wanted = predicted.size // len(predicted), max(1, self._targets)
        if found != wanted:
            raise UnsupportedEstimatorError(
                self.name,
                f"it answers {found} targets a row, the schema has {wanted}",
                f"Name as many (2 to {TARGETS_MAX}) as targets of the schema's value."
                if found <= TARGETS_MAX
                else f"A package answers at most {TARGETS_MAX}: train several models.",
            )
        return predicted.reshape((-1, found) if self._targets else -1)

    @property
    def _classes(self) -> Array:
        classes = find_classes(find_last_step(self._estimator))
        return np.array([]) if classes is None else classes

    def index_targets(self, targets: Array) -> Array:
        """Turn labels into their index in ``classes_``; values of a regression stay.

        Raises:
            InvalidRequestError: A label the estimator never saw.
        """
        if self._task is Task.REGRESSION:
            return np.asarray(targets, np.float64)
        if self._labels:
            indexes = index_labels(targets, find_label_classes(self._answering))
            find_wrong(targets, indexes, self._labels)
            return indexes
        classes = self._classes
        order = np.argsort(classes, kind="stable")
        places = np.clip(np.searchsorted(classes[order], targets), 0, len(classes) - 1)
        indexes = order[places]
        unknown = classes[indexes] != targets
        if np.any(unknown):
            strange = np.unique(np.asarray(targets)[unknown])[:3].tolist()
            raise InvalidRequestError(
                f"labels {strange} were not among the classes the model was trained on:"
                f" {classes[:10].tolist()}"
            )
        return indexes

    def _check_width(self, schema: ModelSchema) -> None:
        declared = self._count_columns(schema)
        width = getattr(self._estimator, "n_features_in_", declared)
        if width != declared:
            raise InvalidRequestError(
                f"the model was trained on {width} columns, the schema declares {declared}"
            )

    def _check_classes(self, schema: ModelSchema) -> None:
        if schema.task is not Task.CLASSIFICATION or self._labels:
            return
        classes = [str(value) for value in self._classes]
        if len(classes) != len(schema.classes):
            raise InvalidRequestError(
                f"the model has {len(classes)} classes, the schema {len(schema.classes)}"
            )
        is_indexed = classes == [str(index) for index in range(len(classes))]
        if (
            not is_indexed
            and classes != list(schema.classes)
            and sorted(classes) == sorted(schema.classes)
        ):
            raise InvalidRequestError(
                f"the schema names the classes in another order than the model: {classes[:10]}"
            )
