"""Columns that the held-out rows do not show: what depends on them was never compared. Pure."""

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from edge_agent.contract.schema import ModelSchema

NAMED_MAX = 10


def note_unseen(schema: ModelSchema, holdout: NDArray[np.float32]) -> tuple[str, ...]:
    """Say which features have no value in any held-out row; a feature is what the schema names.

    Args:
        schema: Names the features.
        holdout: Rows [N, width].

    Raises:
        InvalidRequestError: None has one.
    """
    is_empty: NDArray[np.bool_] = np.min(np.isnan(holdout), axis=0)
    unseen, first = [], 0
    for feature in schema.features:
        if is_empty[first : first + feature.width].all():
            unseen.append(feature.name)
        first += feature.width
    if is_empty.all():
        raise InvalidRequestError(
            f"no held-out row has a value in any column, {unseen[0]!r} and the others: nothing of"
            " the model can be compared; give rows as the device will see them"
        )
    if not unseen:
        return ()
    named = ", ".join(map(repr, unseen[:NAMED_MAX]))
    more = f" and {len(unseen) - NAMED_MAX} more" if len(unseen) > NAMED_MAX else ""
    return (
        f"no held-out row has a value in {named}{more}: what the model answers when there is one"
        " was compared on no row",
    )
