"""Build the estimator or pipeline a spec names, fit it and let it answer. The home of sklearn.

Everything a fit can raise on wrong parameters or rows becomes one ``RefusedError``; warnings are
kept as notes, not printed. Linear algebra runs on one thread: the order of its sums, and with it
the model, must not depend on the number of cores, and small fits are no slower.
"""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from edge_agent.contract.schema import Feature, Task
from fleet_server.errors import RefusedError
from fleet_server.training.dataset import Side
from fleet_server.training.encoding import make_encoder
from fleet_server.training.estimators import load_class
from fleet_server.training.metrics import Answers
from fleet_server.training.spec import Spec, TrainSection
from fleet_server.training.texts import TextTerms

NOTES_MAX = 10
_TAKES_TARGETS = ("BaggingRegressor", "MLPRegressor")
"""Learn several targets, though their tags do not say so."""
_TAKES_LABELS = (
    *("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier"),
    *("ExtraTreesClassifier", "KNeighborsClassifier"),
)
"""Learn several labels together, and have a graph of them."""
_FIT_ERRORS = (ValueError, TypeError, ArithmeticError, RuntimeError, np.linalg.LinAlgError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted source model.

    Attributes:
        estimator: The estimator or pipeline; a classifier answers class indexes.
        notes: Warnings of the fit, each once.
    """

    estimator: Any
    notes: tuple[str, ...] = ()


def fit(spec: Spec, train: Side, classes: tuple[str, ...]) -> Fitted:
    """Fit what the spec names on the training rows.

    Raises:
        RefusedError: A parameter or the rows do not suit the estimator.
    """
    section = spec.train
    estimator = _build(
        section,
        classes,
        spec.data.features,
        targets=len(spec.data.targets),
        has_flags=bool(spec.data.targets) and bool(np.all(train.targets <= 1)),
        texts=spec.data.texts,
    )
    if spec.model.task is Task.CLASSIFICATION:
        _check_classifier(section.estimator, estimator, classes)
    one_thread = _find_libraries().limit(limits=1, user_api="blas")
    with one_thread, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(train.features, train.targets)
        except _FIT_ERRORS as error:
            raise RefusedError(_say(section, "cannot be trained on these rows", error)) from error
    found = dict.fromkeys(_note(warning) for warning in caught)
    return Fitted(estimator=estimator, notes=tuple(found)[:NOTES_MAX])


@cache
def _find_libraries() -> ThreadpoolController:
    """Find the libraries with threads; reading the process's memory map takes longer than a fit."""
    return ThreadpoolController()


def answer(
    fitted: Fitted, task: Task, features: NDArray[np.float32], *, name: str = "the model"
) -> Answers:
    """Let the source model answer.

    Raises:
        RefusedError: It fails, or answers what is not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit has noted what there is to say
        try:
            if task is Task.CLASSIFICATION:
                answers = Answers.of_classes(*_ask_classifier(fitted.estimator, features))
            else:
                answers = Answers.of_values(fitted.estimator.predict(features))
        except _FIT_ERRORS as error:
            raise RefusedError(
                f"{name} fails on the held-out rows: {_first_line(error)}"
            ) from error
    if not answers.is_finite:
        raise RefusedError(
            f"{name} answers what is not a finite number on the held-out rows; scale the inputs or"
            " the target, or take a smaller learning rate"
        )
    return answers


def _ask_classifier(estimator: Any, features: NDArray[np.float32]) -> tuple[Any, Any]:
    """Give labels and probabilities; of several labels those of all, label by label."""
    labels = np.asarray(estimator.predict(features))
    if labels.ndim == 1:
        return labels, estimator.predict_proba(features)
    shares = estimator.predict_proba(features)
    if isinstance(shares, list):
        return labels, np.hstack(shares)
    return labels, np.stack([1 - shares, shares], axis=2).reshape(len(shares), -1)


def _build(
    section: TrainSection,
    classes: tuple[str, ...],
    features: tuple[Feature, ...],
    *,
    targets: int = 0,
    has_flags: bool = False,
    texts: Mapping[str, TextTerms] | None = None,
) -> Any:
    parts = make_encoder(section.estimator, features, has_steps=bool(section.steps), texts=texts)
    parts += [_make(step.use, step.params, section.seed) for step in section.steps]
    params = dict(section.params)
    if isinstance(params.get("class_weight"), Mapping) and targets and classes == ():
        raise RefusedError(
            "train.params.class_weight names classes, and a row has several labels with classes of"
            ' their own; say "balanced" or leave it out'
        )
    if isinstance(params.get("class_weight"), Mapping):
        params["class_weight"] = _weigh_classes(params["class_weight"], classes)
    last = _make(section.estimator, params, section.seed)
    parts.append(
        last if not targets or _takes_several(last, has_flags=has_flags) else _one_each(last)
    )
    if len(parts) == 1:
        return parts[0]
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*parts)


def _make(name: str, params: Mapping[str, Any], seed: int) -> Any:
    kind = load_class(name)
    if "random_state" in inspect.signature(kind).parameters and "random_state" not in params:
        params = {**params, "random_state": seed}
    try:
        return kind(**params)
    except _FIT_ERRORS as error:
        raise RefusedError(f"{name} cannot be made: {_first_line(error)}") from error


def _takes_several(estimator: Any, *, has_flags: bool) -> bool:
    """Tell whether it learns several targets or labels at once; flags have two classes each."""
    from sklearn.base import is_classifier

    if is_classifier(estimator):
        name = type(estimator).__name__
        return name in _TAKES_LABELS or (has_flags and name == "MLPClassifier")
    return takes_targets(estimator)


def takes_targets(estimator: Any) -> bool:
    """Tell whether one estimator learns several targets at once."""
    is_tagged = bool(estimator.__sklearn_tags__().target_tags.multi_output)
    return is_tagged or type(estimator).__name__ in _TAKES_TARGETS


def _one_each(estimator: Any) -> Any:
    from sklearn.base import is_classifier
    from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor

    wrap = MultiOutputClassifier if is_classifier(estimator) else MultiOutputRegressor
    return wrap(estimator)


def _weigh_classes(weights: Mapping[str, Any], classes: tuple[str, ...]) -> dict[int, Any]:
    unknown = [name for name in weights if name not in classes]
    if unknown:
        raise RefusedError(
            f"train.params.class_weight names class {unknown[0]!r}; the target has"
            f" {', '.join(classes[:20])}"
        )
    return {classes.index(name): weight for name, weight in weights.items()}


def _check_classifier(name: str, estimator: Any, classes: tuple[str, ...]) -> None:
    short = name.rpartition(".")[2]
    if not hasattr(estimator, "predict_proba"):
        raise RefusedError(
            f"{short} gives no probabilities with these parameters, which telemetry and drift"
            ' need; for SGDClassifier take loss = "log_loss"'
        )
    if short == "LinearDiscriminantAnalysis" and len(classes) == 2:
        raise RefusedError(
            "LinearDiscriminantAnalysis with two classes gives wrong probabilities once converted;"
            " use sklearn.linear_model.LogisticRegression"
        )


def _say(section: TrainSection, what: str, error: Exception) -> str:
    return f"{section.estimator.rpartition('.')[2]} {what}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _note(warning: warnings.WarningMessage) -> str:
    lines = str(warning.message).strip().splitlines() or [""]
    return f"{warning.category.__name__}: {lines[0][:200]}"
