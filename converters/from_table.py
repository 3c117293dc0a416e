"""Convert an estimator that was fitted on a table of texts, booleans and missing values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.from_sklearn import SklearnSource
from converters.recode import recode
from converters.table_feed import TableFeed, TableModel
from edge_agent.contract.schema import ModelSchema


class TableSource(SklearnSource):
    """A ``SklearnSource`` whose rows are unpacked before its estimator sees them.

    Args:
        model: The estimator and what its table held.
        schema: How rows are packed.

    Raises:
        InvalidRequestError: Not fitted, or on other columns than the schema's.
    """

    def __init__(self, model: TableModel, schema: ModelSchema) -> None:
        self._table = TableFeed(model, schema)
        super().__init__(
            self._table.estimator,
            schema.task,
            targets=len(schema.targets),
            labels=schema.labels,
        )

    def _feed(self, rows: NDArray[Any]) -> NDArray[Any]:
        return self._table(np.asarray(rows, np.float64))

    def _count_columns(self, schema: ModelSchema) -> int:  # noqa: ARG002 - known since __init__
        return len(self._table.places)

    def _readable(self, schema: ModelSchema) -> Any:
        return recode(self._estimator, schema, self._table, self._table.places)
