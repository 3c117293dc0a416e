"""Convert a fitted scikit-learn estimator. The only module that imports skl2onnx.

A graph is compared with the estimator's answers to float32-rounded rows: rounding belongs to the
wire, not to the conversion.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from converters.errors import ConversionError, InvalidRequestError, UnsupportedEstimatorError
from converters.graph import ML_DOMAIN
from converters.interface import (
    LABEL,
    PROBABILITIES,
    VALUE,
    finish_classifier,
    finish_regressor,
    prepend_cast_to_double,
    set_input,
)
from converters.normalise import normalise
from converters.operator_table import share_operator_table
from converters.repairs import Prepared, check_convertible, find_last_step, prepare
from converters.runtime import GraphRunner
from converters.source import Conversion
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Task

Array = NDArray[Any]
OPSET_TARGET = 18
OPSET_ML_TARGET = 3
"""The newest that every converter of skl2onnx handles; the profile may ask for older."""


class SklearnSource:
    """A fitted estimator or pipeline.

    Args:
        estimator: Fitted on rows of numbers.
        task: What it answers.
        is_fed_float32: Whether its rows come as float32, in which scikit-learn then computes;
            as float64 otherwise.

    Raises:
        InvalidRequestError: Not a fitted estimator.
    """

    def __init__(self, estimator: Any, task: Task, *, is_fed_float32: bool = False) -> None:
        try:
            check_is_fitted(estimator)
        except (NotFittedError, TypeError) as error:
            raise InvalidRequestError(f"needs a fitted scikit-learn estimator: {error}") from error
        self._estimator = estimator
        self._task = task
        self._dtype = np.float32 if is_fed_float32 else np.float64

    @property
    def name(self) -> str:
        """Class names of the steps."""
        return _describe(self._estimator)

    def convert(self, schema: ModelSchema, profile: DeviceProfile) -> Conversion:
        """Give the graph with the contract's input and outputs.

        Raises:
            UnsupportedEstimatorError: No faithful graph exists.
            InvalidRequestError: The schema does not fit the estimator.
        """
        check_convertible(self._estimator, schema.task)
        self._check_schema(schema)
        with _quiet():
            prepared = prepare(self._estimator, schema.width, self._dtype)
        if prepared.is_double:
            wide = _try_double(prepared, schema, profile)
            if wide is not None:
                return wide
        with _quiet():
            model = _to_onnx(prepared.estimator, schema, profile, is_double=False)
        return Conversion(model=model, repairs=prepared.repairs)

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows in the type the model is fed; labels as class indexes.

        Raises:
            InvalidRequestError: The estimator refuses these rows.
        """
        fed = np.asarray(rows, self._dtype)
        try:
            with _quiet():
                predicted = np.asarray(self._estimator.predict(fed))
                if self._task is Task.REGRESSION:
                    return {VALUE: self._flatten(predicted)}
                probabilities = np.asarray(self._estimator.predict_proba(fed))
        except ValueError as error:
            raise InvalidRequestError(f"{self.name} refuses the rows: {error}") from error
        return {LABEL: self.index_targets(predicted), PROBABILITIES: probabilities}

    def _flatten(self, predicted: Array) -> Array:
        if predicted.size != len(predicted):
            raise UnsupportedEstimatorError(
                self.name,
                f"it answers {predicted.shape[1]} targets, a package answers one",
                "Train one regressor a target.",
            )
        return predicted.reshape(-1)

    def index_targets(self, targets: Array) -> Array:
        """Turn labels into their index in ``classes_``; values of a regression stay.

        Raises:
            InvalidRequestError: A label the estimator never saw.
        """
        if self._task is Task.REGRESSION:
            return np.asarray(targets, np.float64)
        classes = np.asarray(self._estimator.classes_)
        order = np.argsort(classes, kind="stable")
        places = np.clip(np.searchsorted(classes[order], targets), 0, len(classes) - 1)
        indexes: Array = order[places]
        unknown = classes[indexes] != targets
        if np.any(unknown):
            strange = np.unique(np.asarray(targets)[unknown])[:3].tolist()
            raise InvalidRequestError(
                f"labels {strange} were not among the classes the model was trained on:"
                f" {classes[:10].tolist()}"
            )
        return indexes

    def _check_schema(self, schema: ModelSchema) -> None:
        width = getattr(self._estimator, "n_features_in_", schema.width)
        if width != schema.width:
            raise InvalidRequestError(
                f"the model was trained on {width} columns, the schema declares {schema.width}"
            )
        if schema.task is not Task.CLASSIFICATION:
            return
        classes = [str(value) for value in self._estimator.classes_]
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


def _try_double(
    prepared: Prepared, schema: ModelSchema, profile: DeviceProfile
) -> Conversion | None:
    """Run the steps before trees in float64, as scikit-learn does; None when ONNX cannot."""
    from skl2onnx.sklapi import CastTransformer

    steps = list(prepared.estimator.steps)
    cast = CastTransformer(dtype=np.float32)
    widened = Pipeline([*steps[:-1], ("round_to_float32", cast), steps[-1]])
    try:
        with _quiet():
            model = _to_onnx(widened, schema, profile, is_double=True)
        GraphRunner(normalise(model, profile), profile)
    except ConversionError:
        return None
    sentence = f"{_describe(widened)}: steps before the trees run in float64"
    return Conversion(model=model, repairs=(*prepared.repairs, sentence))


def _to_onnx(
    estimator: Any, schema: ModelSchema, profile: DeviceProfile, *, is_double: bool
) -> ModelProto:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    tensor = (DoubleTensorType if is_double else FloatTensorType)([None, schema.width])
    last = find_last_step(estimator)
    is_classification = schema.task is Task.CLASSIFICATION
    targets = {
        "": min(OPSET_TARGET, profile.opset_max),
        ML_DOMAIN: min(OPSET_ML_TARGET, profile.opset_ml_max),
    }
    share_operator_table()
    try:
        model: ModelProto = convert_sklearn(
            estimator,
            name="model",
            initial_types=[(INPUT_NAME, tensor)],
            target_opset=targets,
            options={id(last): {"zipmap": False}} if is_classification else None,
        )
    except Exception as error:  # converters raise whatever their estimator makes them
        raise _unsupported(estimator, error) from error
    if is_double:
        prepend_cast_to_double(model)
    set_input(model, schema.width)
    names = [output.name for output in model.graph.output]
    if is_classification:
        label, probabilities = names[:2]
        _make_float32(model, probabilities)
        finish_classifier(model, label, probabilities, list(last.classes_))
    else:
        _make_float32(model, names[0])
        finish_regressor(model, names[0])
    return model


def _make_float32(model: ModelProto, name: str) -> None:
    """Correct the declared type of tree outputs: they are float32 even when declared float64."""
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _unsupported(estimator: Any, error: Exception) -> UnsupportedEstimatorError:
    first = str(error).strip().splitlines()
    reason = first[0][:300] if first else type(error).__name__
    return UnsupportedEstimatorError(
        _describe(estimator),
        f"skl2onnx says: {reason}",
        "docs/conversion.md lists what converts.",
    )


def _describe(estimator: Any) -> str:
    if isinstance(estimator, Pipeline):
        return " > ".join(_describe(step) for _, step in estimator.steps)
    return estimator if isinstance(estimator, str) else type(estimator).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep notes that are not for our caller: deprecations of fitted attributes, lost names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        yield
