"""Name and read the several labels of a row for ``edge-convert``: from columns of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.several_labels import find_label_classes
from converters.tables import Table
from edge_agent.contract.errors import ContractError
from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task

Array = NDArray[Any]
_CLASSES_SHOWN = 10


def name_labels(estimator: Any, names: Sequence[str]) -> tuple[NamedLabel, ...]:
    """Name the labels of a fitted estimator by the columns of their true answers.

    Args:
        estimator: It, or a pipeline or search of it.
        names: Of ``--target``.

    Returns:
        Empty for an estimator of one label.

    Raises:
        UnsupportedEstimatorError: A label has one class only.
        InvalidRequestError: There are other many names.
    """
    from converters.answers import find_last_step
    from converters.repairs import unwrap

    classes = find_label_classes(find_last_step(unwrap(estimator, [])))
    if not classes:
        return ()
    if len(names) != len(classes):
        raise InvalidRequestError(
            f"the model answers {len(classes)} labels a row and --target names {len(names)}"
            " columns; name one for each, in the order it was trained with: --target first,second"
        )
    is_label_only = not hasattr(estimator, "predict_proba")
    return _make(
        [
            (name, [str(value) for value in own.tolist()])
            for name, own in zip(names, classes, strict=True)
        ],
        is_label_only=is_label_only,
    )


def labels_of_table(table: Table, names: Sequence[str]) -> tuple[NamedLabel, ...]:
    """Name the labels of a graph or network by columns, with the classes those hold, sorted.

    Numbers sort as such: class 10 comes behind class 9.
    """
    return _make([(name, _sorted(_cells(table, name))) for name in names])


def find_originals(estimator: Any) -> tuple[tuple[Any, ...], ...]:
    """Give what an estimator itself calls the classes of each label."""
    from converters.answers import find_last_step
    from converters.repairs import unwrap

    classes = find_label_classes(find_last_step(unwrap(estimator, [])))
    return tuple(tuple(own.tolist()) for own in classes)


def labels_schema(
    name: str, features: tuple[Feature, ...], labels: tuple[NamedLabel, ...]
) -> ModelSchema:
    """Make the schema of a classifier of several labels."""
    return ModelSchema(
        model=name,
        task=Task.CLASSIFICATION,
        features=features,
        outputs=(
            Output(name="label", role=Role.LABEL, labels=labels),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
    )


def read_labels(
    table: Table,
    columns: Sequence[str],
    labels: Sequence[NamedLabel],
    originals: Sequence[Sequence[Any]],
) -> Array:
    """Read the true labels [rows, labels] as the source says them; names are understood too.

    Raises:
        InvalidRequestError: Other columns than the model's labels, or a value that is no class.
    """
    wanted = tuple(label.name for label in labels)
    if tuple(columns) != wanted:
        raise InvalidRequestError(
            f"--target names {', '.join(columns)}; the model's labels are {', '.join(wanted)},"
            " in this order"
        )
    read = []
    for label, own in zip(labels, originals, strict=True):
        known: dict[str, Any] = dict(zip(label.classes, own, strict=True))
        known |= {str(value): value for value in own}
        cells = _cells(table, label.name)
        strange = sorted(set(cells) - set(known))
        if strange:
            raise InvalidRequestError(
                f"{table.name} column {label.name!r} holds {strange[0][:40]!r}, which is no class"
                f" of that label: {', '.join(list(known)[:_CLASSES_SHOWN])}"
            )
        read.append(np.array([known[cell] for cell in cells]))
    kinds = {column.dtype.kind for column in read}
    if len(kinds) == 1:
        return np.column_stack(read)
    mixed = np.empty((len(read[0]), len(read)), object)
    for place, column in enumerate(read):
        mixed[:, place] = column.tolist()
    return mixed


def _make(
    named: Sequence[tuple[str, Sequence[str]]], *, is_label_only: bool = False
) -> tuple[NamedLabel, ...]:
    try:
        return tuple(
            NamedLabel(name=name, classes=tuple(classes), is_label_only=is_label_only)
            for name, classes in named
        )
    except ContractError as error:
        raise InvalidRequestError(str(error)) from error


def _cells(table: Table, column: str) -> list[str]:
    return [str(cell).strip() for cell in table.read_values(column)]


def _sorted(cells: Sequence[str]) -> list[str]:
    try:
        return sorted(set(cells), key=float)
    except ValueError:
        return sorted(set(cells))
