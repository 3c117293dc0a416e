"""Write the graph of a scikit-learn estimator. The only module that calls skl2onnx's converter."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from sklearn.pipeline import Pipeline

from converters.alternatives import find_advice
from converters.answers import Answer, find_classes, find_last_step
from converters.attempts import PLAIN, Way
from converters.errors import ConversionError, UnsupportedEstimatorError
from converters.graph import ML_DOMAIN
from converters.interface import (
    cast_to_float,
    decide_by_threshold,
    finish_classifier,
    finish_label_only,
    finish_regressor,
    prepend_cast_to_double,
    set_input,
)
from converters.label_interface import declare_labels
from converters.one_float import widen_mixed
from converters.operator_versions import share_operator_versions
from converters.repairs import Prepared, iterate_estimators, list_trees
from converters.tree_missing import send_missing
from converters.tree_places import Places, list_placed, set_thresholds
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import INPUT_NAME, ModelSchema

OPSET_TARGET = 18
OPSET_ML_TARGET = 3
"""The newest that every converter of skl2onnx handles; the profile may ask for older."""
BEFORE_LAST = "steps before the last run in float64"
ALL_DOUBLE = "everything runs in float64"
DIVISIONS = "scalers divide in float64"
_NO_CONVERTER = "Unable to find a shape calculator"


def list_ways(prepared: Prepared, schema: ModelSchema, profile: DeviceProfile) -> list[Way]:
    """Give the ways to convert a prepared estimator, the likeliest first."""

    def way(name: str, estimator: Any, **how: Any) -> Way:
        return Way(name=name, make=lambda: write_graph(estimator, prepared, schema, profile, **how))

    estimator = prepared.estimator
    plain = way(PLAIN, estimator)
    wide = way(ALL_DOUBLE, estimator, is_double=True, is_wide=True)
    is_double = prepared.is_double
    compares_double = is_double and not _place(estimator).are_plain
    if not isinstance(estimator, Pipeline):
        return [wide, plain] if compares_double else [plain, wide]
    rounded = _round_before_last(estimator)
    before = way(f"{describe(rounded)}: {BEFORE_LAST}", rounded, is_double=True)
    scalers = [s for _, s in estimator.steps if type(s).__name__ == "StandardScaler"]
    divide = way(DIVISIONS, estimator, scalers=scalers)
    if is_double:
        return [wide, before, plain] if compares_double else [before, plain, wide]
    return [plain, before, wide, *([divide] if scalers else [])]


def _place(estimator: Any) -> Places:
    return Places(list_placed(iterate_estimators(estimator)))


def write_graph(
    estimator: Any,
    prepared: Prepared,
    schema: ModelSchema,
    profile: DeviceProfile,
    *,
    is_double: bool = False,
    is_wide: bool = False,
    scalers: list[Any] | None = None,
) -> ModelProto:
    """Give the graph with the contract's input and outputs.

    Args:
        estimator: To convert.
        prepared: How it answers.
        schema: What goes in and comes out.
        profile: Limits the operator sets.
        is_double: Feed the first step float64.
        is_wide: The answers are float64 too.
        scalers: Whose division is to be done in float64.

    Raises:
        ConversionError: skl2onnx has no converter, or the graph has other inputs or outputs.
    """
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    last = find_last_step(estimator)
    tensor = (DoubleTensorType if is_double else FloatTensorType)([None, schema.width])
    options: dict[Any, Any] = {id(scaler): {"div": "div_cast"} for scaler in scalers or ()}
    if prepared.answer in (Answer.PROBABILITIES, Answer.LABEL_ONLY):
        options[id(last)] = {"zipmap": False}
    places = _place(estimator if prepared.is_loose else None)
    with quiet(), places.written():
        model = _convert(estimator, [(INPUT_NAME, tensor)], options, id(last), profile)
    if prepared.is_loose:
        set_thresholds(model, places, is_wide=is_wide)
    if is_double:
        widen_mixed(model)
    send_missing(model, list_trees(estimator))
    if is_double:
        prepend_cast_to_double(model)
    set_input(model, schema.width)
    names = [output.name for output in model.graph.output]
    if prepared.answer is Answer.LABELS:
        declare_labels(model, schema.labels)
        return model
    _name_outputs(model, names, prepared, last, is_wide=is_wide, targets=len(schema.targets))
    return model


def describe(estimator: Any) -> str:
    """Name the classes of the steps."""
    if isinstance(estimator, Pipeline):
        return " > ".join(describe(step) for _, step in estimator.steps)
    if isinstance(estimator, str):
        return estimator
    return (getattr(estimator, "library", "") and estimator.name) or type(estimator).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep notes that are not for our caller: deprecations of fitted attributes, lost names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        warnings.filterwarnings("ignore", message="X has feature names")
        yield


def _convert(
    estimator: Any,
    inputs: list[tuple[str, Any]],
    options: dict[Any, Any],
    last: int,
    profile: DeviceProfile,
) -> ModelProto:
    try:
        return _call_converter(estimator, inputs, options, profile)
    except ConversionError:
        raise
    except Exception as error:  # converters raise whatever their estimator makes them
        if "zipmap" not in str(error):
            raise _unsupported(estimator, error) from error
    # The last step has no such option: it answers a plain tensor anyway.
    fewer = {key: value for key, value in options.items() if key != last}
    try:
        return _call_converter(estimator, inputs, fewer, profile)
    except Exception as error:
        raise _unsupported(estimator, error) from error


def _call_converter(
    estimator: Any, inputs: list[tuple[str, Any]], options: dict[Any, Any], profile: DeviceProfile
) -> ModelProto:
    from skl2onnx import convert_sklearn

    share_operator_versions()
    targets = {
        "": min(OPSET_TARGET, profile.opset_max),
        ML_DOMAIN: min(OPSET_ML_TARGET, profile.opset_ml_max),
    }
    model: ModelProto = convert_sklearn(
        estimator,
        name="model",
        initial_types=inputs,
        target_opset=targets,
        options=dict(options) or None,
    )
    return model


def _name_outputs(
    model: ModelProto,
    names: list[str],
    prepared: Prepared,
    last: Any,
    *,
    is_wide: bool,
    targets: int,
) -> None:
    if prepared.answer is Answer.LABEL_ONLY:
        finish_label_only(model, names[0], _classes(last))
        return
    is_score = prepared.answer is Answer.SCORE
    number = names[1 if prepared.answer is Answer.PROBABILITIES or is_score else 0]
    if is_wide:
        number = _cast_output(model, number)
    else:
        _make_float32(model, number)
    if prepared.answer is not Answer.PROBABILITIES:
        finish_regressor(model, number, targets)
        return
    finish_classifier(model, names[0], number, _classes(last))
    if prepared.cut is not None:
        decide_by_threshold(model, prepared.cut.positive, prepared.cut.threshold)


def _classes(last: Any) -> list[Any]:
    classes = find_classes(last)
    return [] if classes is None else list(classes)


def _cast_output(model: ModelProto, name: str) -> str:
    rounded = cast_to_float(model, name)
    for output in model.graph.output:
        if output.name == name:
            output.name = rounded
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return rounded


def _make_float32(model: ModelProto, name: str) -> None:
    """Correct the declared type of tree outputs: they are float32 even when declared float64."""
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _round_before_last(estimator: Pipeline) -> Pipeline:
    from skl2onnx.sklapi import CastTransformer

    steps = list(estimator.steps)
    cast = CastTransformer(dtype=np.float32)
    return Pipeline([*steps[:-1], ("round_to_float32", cast), steps[-1]])


def _unsupported(estimator: Any, error: Exception) -> UnsupportedEstimatorError:
    first = str(error).strip().splitlines()
    reason = first[0][:300] if first else type(error).__name__
    if _NO_CONVERTER in reason:
        named = [type(one).__name__ for one in iterate_estimators(estimator)]
        culprit = next((n for n in named if f".{n}'" in reason or f"'{n}'" in reason), "")
        culprit = culprit or describe(estimator)
        return UnsupportedEstimatorError(
            culprit, "skl2onnx has no converter for it", find_advice(culprit)
        )
    return UnsupportedEstimatorError(
        describe(estimator), f"skl2onnx says: {reason}", find_advice(describe(estimator))
    )
