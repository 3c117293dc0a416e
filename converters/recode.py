"""Rewrite a fitted estimator so that it reads packed codes: its encoders become lookups.

What encodes categories is a finite function of codes, so it is asked once for every value,
missing and unknown included, and replaced by a ``CodeTable``. Everything behind it, and what
reads numbers, stays. All options of scikit-learn's encoders hold by themselves: dropped and
infrequent categories, encoded missing values, unknown ones, several encoders in a row.

Followed are pipelines, ColumnTransformer, FeatureUnion, and voting, stacking and calibrated
models over them. Left out: a transformer that mixes categories of several columns with each other
or with numbers, and an estimator that reads codes as they are; both are refused by name.
Invariant: the given estimator is not changed.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import _safe_indexing

from converters.category_splits import rewrite_category_splits, splits_categories
from converters.code_table import FIRST_ROW, CodeTable, register_code_table
from converters.errors import InvalidRequestError, UnsupportedEstimatorError
from converters.fill_missing import register_fill_missing, replace_imputer
from converters.table_feed import list_columns
from converters.text_plan import is_vectorizer
from converters.text_table import TextTable, register_text_table
from edge_agent.contract.schema import UNKNOWN_CODE, Dtype, Feature, ModelSchema

Array = NDArray[Any]
Feed = Callable[[Array], Any]
TABLE_NUMBERS_MAX = 1_048_576
"""Of all lookups of one encoder: 4 MiB in the graph."""
_PROBES = 64
_ADVICE = (
    'Put an encoder before it: ColumnTransformer([("categories", OneHotEncoder('
    'handle_unknown="ignore"), [...])], remainder="passthrough").'
)

_ADVICE_TEXT = (
    'Put a vectorizer before it, alone on that column: ColumnTransformer([("text",'
    ' TfidfVectorizer(), "comment"), ...]).'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What the columns of the table are.

    Attributes:
        width: Of the packed tensor.
        features: Of each column of the table.
        places: Column of the packed tensor for each column of the table.
        feed: Packed rows to the table.
        is_packed: Whether the table is the packed rows themselves, a text in many columns.
    """

    width: int
    features: tuple[Feature, ...]
    places: tuple[int, ...]
    feed: Feed
    is_packed: bool = False

    def is_code(self, column: int) -> bool:
        return not self.features[column].is_number and not self.features[column].is_text

    def cells(self, column: int) -> list[int]:
        """Packed columns of one column of the table."""
        first = self.places[column]
        is_wide = self.features[column].is_text and not self.is_packed
        width = self.features[column].width if is_wide else 1
        return list(range(first, first + width))

    def only(self, column: int) -> "_Scope":
        """Give the scope of what reads one column alone, packed."""
        return replace(self, features=(self.features[column],), places=(0,))

    @property
    def text(self) -> Feature | None:
        return next((feature for feature in self.features if feature.is_text), None)

    def is_category(self, column: int) -> bool:
        return self.features[column].dtype == Dtype.CATEGORY


def recode(
    estimator: Any,
    schema: ModelSchema,
    feed: Feed = np.asarray,
    places: Sequence[int] | None = None,
) -> Any:
    """Give a copy that reads packed rows, categories and booleans as codes.

    Args:
        estimator: Fitted on what ``feed`` makes of packed rows.
        schema: Names the features in packed order.
        feed: Packed rows [rows, width] to what the estimator takes.
        places: Packed column of each of the estimator's; None when they are the same.

    Returns:
        The copy; the estimator itself when there is nothing to rewrite.

    Raises:
        UnsupportedEstimatorError: A step reads a category and is no encoder.
        InvalidRequestError: The schema allows what an encoder refuses.
    """
    order = tuple(range(schema.width) if places is None else places)
    if schema.is_numeric and order == tuple(range(schema.width)):
        return rewrite_category_splits(estimator)
    register_code_table()
    register_text_table()
    register_fill_missing()
    by_place = [feature for feature in schema.features for _ in feature.columns]
    scope = _Scope(
        width=schema.width,
        features=tuple(by_place[place] for place in order),
        places=order,
        feed=feed,
        is_packed=places is None,
    )
    recoded = _replace_imputers(_recode(copy.deepcopy(estimator), scope))
    return rewrite_category_splits(recoded)


def _recode(estimator: Any, scope: _Scope) -> Any:
    """Rewrite a copy that reads the whole table."""
    if isinstance(estimator, Pipeline):
        places = [n for n, (_, s) in enumerate(estimator.steps) if s not in (None, "passthrough")]
        if places:
            name, step = estimator.steps[places[0]]
            step = _recode(step, scope)
            estimator.steps[places[0]] = (name, step)
            if isinstance(step, TextTable) and len(places) > 1:
                _take_weights(estimator, step, places[1])
        return estimator
    if isinstance(estimator, ColumnTransformer):
        return _recode_columns(estimator, scope)
    if isinstance(estimator, FeatureUnion):
        estimator.transformer_list = [
            (name, step if step in ("drop", "passthrough") else _recode(step, scope))
            for name, step in estimator.transformer_list
        ]
        return estimator
    return estimator if _recode_inner(estimator, scope) else _recode_leaf(estimator, scope)


def _recode_leaf(estimator: Any, scope: _Scope) -> Any:
    """Rewrite what reads every column of the table by itself."""
    if scope.text is not None:
        return _recode_text(estimator, scope, scope.text)
    whole = list(range(len(scope.features)))
    if all(map(scope.is_code, whole)) and hasattr(estimator, "transform"):
        return _wrap(_tabulate(estimator, whole, scope), scope, whole)
    categories = [column for column in whole if scope.is_category(column)]
    if categories and not splits_categories(estimator, categories):
        feature = scope.features[categories[0]]
        raise UnsupportedEstimatorError(
            type(estimator).__name__,
            f"it reads the category {feature.name!r} as it is{_say_numbers(feature)}",
            _ADVICE,
        )
    if list(scope.places) == list(range(scope.width)):
        return estimator
    return Pipeline([("order", _wrap("passthrough", scope, whole)), ("model", estimator)])


def _say_numbers(feature: Feature) -> str:
    """Tell a column of numbers with some texts among them, which makes it one of categories."""
    odd = []
    for text in feature.categories:
        try:
            float(text)
        except ValueError:
            odd.append(text)
    if not odd or len(odd) == len(feature.categories):
        return ""
    return f" (numbers but for {', '.join(map(repr, odd[:3]))}: correct those cells if it is none)"


def _recode_text(estimator: Any, scope: _Scope, text: Feature) -> TextTable:
    name = type(estimator).__name__
    if not is_vectorizer(estimator):
        raise UnsupportedEstimatorError(
            name, f"it reads the text {text.name!r} as it is", _ADVICE_TEXT
        )
    if len(scope.features) > 1:
        raise UnsupportedEstimatorError(
            name, f"it reads the text {text.name!r} together with other columns", _ADVICE_TEXT
        )
    return TextTable(estimator, chars_max=text.chars_max)


def _take_weights(pipeline: Pipeline, table: TextTable, place: int) -> None:
    """Let the weights behind a vectorizer be part of its table."""
    if isinstance(pipeline.steps[place][1], TfidfTransformer):
        table.tfidf = pipeline.steps.pop(place)[1]


def _replace_imputers(estimator: Any) -> Any:
    """Let numbers be filled in by what every type of number has operators for."""
    if isinstance(estimator, Pipeline):
        estimator.steps = [(name, _replace_imputers(step)) for name, step in estimator.steps]
    elif isinstance(estimator, ColumnTransformer):
        estimator.transformers_ = [
            (name, _replace_imputers(branch), columns)
            for name, branch, columns in estimator.transformers_
        ]
    elif isinstance(estimator, FeatureUnion):
        estimator.transformer_list = [
            (name, _replace_imputers(step)) for name, step in estimator.transformer_list
        ]
    elif hasattr(estimator, "estimators_") and isinstance(estimator.estimators_, list):
        estimator.estimators_ = [_replace_imputers(inner) for inner in estimator.estimators_]
    return replace_imputer(estimator)


def _recode_inner(estimator: Any, scope: _Scope) -> bool:
    """Rewrite the fitted estimators inside a meta-estimator; False when it is none."""
    kind = type(estimator).__name__
    if kind in ("VotingClassifier", "VotingRegressor") or (
        kind in ("StackingClassifier", "StackingRegressor") and not estimator.passthrough
    ):
        estimator.estimators_ = [_recode(inner, scope) for inner in estimator.estimators_]
        return True
    if kind == "CalibratedClassifierCV":
        for calibrated in estimator.calibrated_classifiers_:
            calibrated.estimator = _recode(calibrated.estimator, scope)
        return True
    return False


def _recode_columns(transformer: ColumnTransformer, scope: _Scope) -> ColumnTransformer:
    branches = []
    for name, branch, chosen in transformer.transformers_:
        columns = list_columns(transformer, chosen, len(scope.features))
        if (isinstance(branch, str) and branch == "drop") or not columns:
            continue
        packed = [cell for column in columns for cell in scope.cells(column)]
        texts = [column for column in columns if scope.features[column].is_text]
        if isinstance(branch, TextTable) and len(texts) == len(columns) == branch.n_features_in_:
            branches.append((name, branch, packed))
            continue
        if texts:
            branches.append((name, _recode_branch(name, branch, columns, texts, scope), packed))
            continue
        categories = [column for column in columns if scope.is_category(column)]
        is_coded = all(scope.is_code(column) for column in columns)
        is_passed = branch == "passthrough" or type(branch).__name__ == "FunctionTransformer"
        if categories and (is_passed or not is_coded):
            feature = scope.features[categories[0]].name
            reason = (
                f"branch {name!r} passes the category {feature!r} on as it is"
                if is_passed
                else f"branch {name!r} reads the category {feature!r} together with numbers"
            )
            raise UnsupportedEstimatorError("ColumnTransformer", reason, _ADVICE)
        is_table = is_coded and not is_passed
        branches.append((name, _tabulate(branch, columns, scope) if is_table else branch, packed))
    transformer.transformers_ = branches
    transformer.n_features_in_ = scope.width
    if hasattr(transformer, "feature_names_in_"):
        del transformer.feature_names_in_
    return transformer


def _recode_branch(
    name: str, branch: Any, columns: Sequence[int], texts: Sequence[int], scope: _Scope
) -> Any:
    """Rewrite the branch of a text."""
    if branch == "passthrough" or len(columns) > 1:
        feature = scope.features[texts[0]].name
        how = "passes on" if branch == "passthrough" else "reads together with other columns"
        raise UnsupportedEstimatorError(
            "ColumnTransformer", f"branch {name!r} {how} the text {feature!r}", _ADVICE_TEXT
        )
    return _recode(branch, scope.only(columns[0]))


def _tabulate(branch: Any, columns: Sequence[int], scope: _Scope) -> CodeTable:
    """Ask a fitted transformer for every value of each of its columns."""
    what = type(branch).__name__

    def ask(codes: Array) -> Array:
        rows = np.zeros((len(codes), scope.width))
        rows[:, [scope.places[column] for column in columns]] = codes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown categories, which are asked on purpose
            answer = branch.transform(_safe_indexing(scope.feed(rows), list(columns), axis=1))
        dense = answer.toarray() if hasattr(answer, "toarray") else answer
        return np.asarray(dense, np.float64).reshape(len(codes), -1)

    base = ask(np.zeros((1, len(columns))))[0]
    found = [_ask_column(ask, place, columns, scope) for place in range(len(columns))]
    owners = _find_owners(what, found, base)
    tables: list[Array] = []
    order: list[int] = []
    for place, values in enumerate(found):
        owned = np.flatnonzero(owners == place)
        tables.append(values[:, owned])
        order += owned.tolist()
    if sum(table.size for table in tables) > TABLE_NUMBERS_MAX:
        raise UnsupportedEstimatorError(
            what,
            f"its categories make lookups of {sum(table.size for table in tables)} numbers, the"
            f" limit is {TABLE_NUMBERS_MAX}",
            "Join rare categories (min_frequency, max_categories), or use OrdinalEncoder or"
            " TargetEncoder.",
        )
    is_sorted = all(a < b for a, b in pairwise(order))
    table = CodeTable(tuple(tables), None if is_sorted else np.argsort(order))
    _probe(what, table, ask, columns, scope)
    return table


def _ask_column(
    ask: Callable[[Array], Array], place: int, columns: Sequence[int], scope: _Scope
) -> Array:
    """Give what each row of a column's table makes of all outputs, the other columns at 0."""
    feature = scope.features[columns[place]]
    count = len(feature.categories) or 2
    codes = np.zeros((count, len(columns)))
    codes[:, place] = np.arange(count)
    listed = ask(codes)
    special = {np.nan: feature.is_nullable, float(UNKNOWN_CODE): feature.is_open}
    rows = []
    for code, is_allowed in special.items():
        one = np.zeros((1, len(columns)))
        one[0, place] = code
        try:
            row = ask(one)[0] if is_allowed else np.full(listed.shape[1], np.nan)
        except (ValueError, TypeError, KeyError) as error:
            word = "a missing value" if np.isnan(code) else "a category that is not listed"
            raise InvalidRequestError(
                f"feature {feature.name!r}: the schema allows {word}, the model's encoder refuses"
                f" it: {str(error).splitlines()[0][:200]}"
            ) from error
        rows.append(row)
    missing, unknown = rows
    return np.vstack([missing, unknown, listed, unknown])


def _find_owners(what: str, found: Sequence[Array], base: Array) -> NDArray[np.intp]:
    """Say which column decides each output; a constant one belongs to the first."""
    owners = np.zeros(len(base), np.intp)
    is_owned = np.zeros(len(base), bool)
    for place, values in enumerate(found):
        moved = ~np.isclose(values[FIRST_ROW:-1], base, rtol=0, atol=0, equal_nan=True).all(axis=0)
        # A missing or unknown value is looked at only where it may occur; else it is NaN.
        for row in (values[0], values[1]):
            if not np.isnan(row).all():
                moved |= ~np.isclose(row, base, rtol=0, atol=0, equal_nan=True)
        if np.any(moved & is_owned):
            raise UnsupportedEstimatorError(
                what, "it mixes several categories with each other", _ADVICE
            )
        owners[moved] = place
        is_owned |= moved
    return owners


def _probe(
    what: str,
    table: CodeTable,
    ask: Callable[[Array], Array],
    columns: Sequence[int],
    scope: _Scope,
) -> None:
    """Compare the lookups with the transformer on rows drawn from the schema."""
    draw = np.random.default_rng(0)
    codes = np.empty((_PROBES, len(columns)))
    for place, column in enumerate(columns):
        feature = scope.features[column]
        values = [*range(len(feature.categories) or 2)]
        special = [np.nan] * feature.is_nullable + [float(UNKNOWN_CODE)] * feature.is_open
        codes[:, place] = draw.choice(np.array([*values, *special], np.float64), _PROBES)
    if not np.array_equal(table.transform(codes), ask(codes), equal_nan=True):
        raise UnsupportedEstimatorError(
            what, "what it makes of a category depends on the other columns", _ADVICE
        )


def _wrap(branch: Any, scope: _Scope, columns: Sequence[int]) -> ColumnTransformer:
    wrapped = ColumnTransformer([("codes", branch, list(columns))])
    wrapped.transformers_ = [("codes", branch, [scope.places[column] for column in columns])]
    wrapped.n_features_in_ = scope.width
    return wrapped
