"""Columns that an estimator knows by name: their order is checked, and arrays take their place.

Packed rows have no names. An estimator that was fitted on a data frame keeps those of its columns:
a schema that has the same in another order would feed one column as another without a word. A
``ColumnTransformer`` that chooses by name chooses by number in the copy that is converted.
"""

from typing import Any

from sklearn.compose import ColumnTransformer

from converters.errors import InvalidRequestError
from converters.table_feed import NAMES, forget_names, list_parts
from edge_agent.contract.schema import ModelSchema


def check_order(names: list[str], schema: ModelSchema) -> None:
    """Refuse a schema that has the columns of a model in another order.

    Raises:
        InvalidRequestError: It does; the first column that differs is named.
    """
    declared = [*schema.columns]
    if names == declared or sorted(names) != sorted(declared):
        return
    place = next(n for n, name in enumerate(names) if name != declared[n])
    raise InvalidRequestError(
        f"the schema has the columns in another order than the model was trained on: column"
        f" {place + 1} is {declared[place]!r}, the model's is {names[place]!r}. Sort its features"
        " as the model's"
    )


def settle_columns(estimator: Any, schema: ModelSchema) -> Any:
    """Give an estimator that finds its columns in packed rows.

    Raises:
        InvalidRequestError: As ``check_order``.
    """
    names = getattr(estimator, NAMES, None)
    if names is None:
        return estimator
    check_order([str(name) for name in names], schema)
    is_choosing = any(isinstance(part, ColumnTransformer) for part in list_parts(estimator))
    return forget_names(estimator) if is_choosing else estimator
