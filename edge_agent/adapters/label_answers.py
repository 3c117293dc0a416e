"""Answers of several labels in words: everything of a label is told by its name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from edge_agent.contract.outputs import NamedLabel, Role, slice_labels

_NameT = TypeVar("_NameT", str, bytes)


def describe_labels(labels: Sequence[NamedLabel]) -> list[dict[str, Any]]:
    """Give names and classes of several labels, for metadata; empty where a row has one."""
    return [
        {"name": label.name, "classes": list(label.classes)}
        | ({"label_only": True} if label.is_label_only else {})
        for label in labels
    ]


def pick_names(
    labels: NDArray[Any], names: Sequence[Sequence[_NameT]], unknown: _NameT
) -> list[_NameT]:
    """Give the names of predicted classes, row by row.

    Args:
        labels: int64 [rows], or [rows, labels].
        names: Of the classes of each label.
        unknown: For a label outside of its classes.

    >>> import numpy as np
    >>> pick_names(np.array([[0, 1], [1, 9]]), (("dry", "wet"), ("day", "night")), "")
    ['dry', 'night', 'wet', '']
    """
    if labels.ndim == 1:
        (own,) = names
        return [own[n] if 0 <= n < len(own) else unknown for n in labels.tolist()]
    rows = labels.tolist()
    return [
        own[n] if 0 <= n < len(own) else unknown
        for row in rows
        for own, n in zip(names, row, strict=True)
    ]


def name_rows(
    labels: Sequence[NamedLabel], outputs: Mapping[str, NDArray[Any]]
) -> Iterator[dict[str, Any]]:
    """Give each row's class, label and probabilities, each by the name of its label."""
    names, columns = [label.name for label in labels], slice_labels(labels)
    rows = outputs[Role.LABEL].tolist(), outputs[Role.PROBABILITIES].tolist()
    for indexes, shares in zip(*rows, strict=True):
        yield {
            "class": {
                label.name: label.classes[n] if 0 <= n < len(label.classes) else None
                for label, n in zip(labels, indexes, strict=True)
            },
            "label": dict(zip(names, indexes, strict=True)),
            "probabilities": {
                label.name: dict(zip(label.classes, shares[place], strict=True))
                for label, place in zip(labels, columns, strict=True)
            },
        }
