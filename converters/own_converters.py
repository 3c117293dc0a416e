"""Converters of our own for estimators of scikit-learn that skl2onnx lacks or writes otherwise."""

from collections.abc import Callable, Mapping
from typing import Any

from converters.calibrated import check_calibrated, check_isotonic
from converters.function_steps import check_function, check_target
from converters.own_transformers import NAMES, check_transformer

_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "CalibratedClassifierCV": check_calibrated,
    "FunctionTransformer": check_function,
    "IsotonicRegression": check_isotonic,
    "TransformedTargetRegressor": check_target,
    **dict.fromkeys(NAMES, check_transformer),
}


def make_known(estimator: Any) -> None:
    """Make the converter of a fitted estimator known to skl2onnx where it is one of ours.

    Raises:
        UnsupportedEstimatorError: It does what no graph holds.
    """
    check = _CHECKS.get(type(estimator).__name__)
    is_fitted = any(name.endswith("_") and not name.startswith("_") for name in vars(estimator))
    if check is not None and (is_fitted or type(estimator).__name__ == "FunctionTransformer"):
        check(estimator)
