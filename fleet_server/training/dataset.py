"""The rows a model is trained and judged on, as arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature, NamedLabel
from fleet_server.errors import RefusedError
from fleet_server.training.picture_set import PictureSet
from fleet_server.training.row_hash import choose_test_rows
from fleet_server.training.spec import SplitSection

SIDE_ROWS_MIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Checked rows, in an order that depends on their content alone.

    Attributes:
        features: float32 [rows, width]; categories as codes, NaN where missing.
        declared: The features, categories with their texts.
        targets: int64 class index or float64 value, [rows]; several, [rows, targets or labels].
        classes: Names by index; empty for a regression and for several labels.
        labels: Of several labels, name and classes of each.
        lanes: Hashes that decide the side of a row, uint64 [rows, 2].
        sha256: Version of the data; the same for any order of the rows.
        columns_sha256: Of the column names that enter the row hash.
        pictures: What the features were made of; None where they are a table's.
    """

    features: NDArray[np.float32]
    targets: NDArray[Any]
    classes: tuple[str, ...]
    lanes: NDArray[np.uint64]
    sha256: str
    columns_sha256: str
    declared: tuple[Feature, ...] = ()
    labels: tuple[NamedLabel, ...] = ()
    pictures: PictureSet | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the split.

    Attributes:
        features: float32 [rows, width].
        targets: As of the ``Dataset``.
        pictures: What the features were made of; None where they are a table's.
    """

    features: NDArray[np.float32]
    targets: NDArray[Any]
    pictures: PictureSet | None = None

    def __len__(self) -> int:
        return len(self.targets)


def split_rows(dataset: Dataset, split: SplitSection) -> tuple[Side, Side]:
    """Give the training rows and the held-out rows.

    Raises:
        RefusedError: A side is too small, or a class has no training row.
    """
    is_test = choose_test_rows(dataset.lanes, share=split.test, seed=split.seed)
    train, test = (
        Side(
            features=dataset.features[chosen],
            targets=dataset.targets[chosen],
            pictures=None if dataset.pictures is None else dataset.pictures.take(chosen),
        )
        for chosen in (~is_test, is_test)
    )
    for side, word in ((train, "training"), (test, "held-out")):
        if len(side) < SIDE_ROWS_MIN:
            raise RefusedError(
                f"split.test {split.test:g} leaves {len(side)} {word} rows of"
                f" {len(is_test)}, at least {SIDE_ROWS_MIN} are needed; give more rows or"
                " another share"
            )
    _check_classes(train.targets, test.targets, dataset.classes)
    for place, label in enumerate(dataset.labels):
        sides = train.targets[:, place], test.targets[:, place]
        _check_classes(*sides, label.classes, f" of {label.name!r}")
    return train, test


def _check_classes(
    train: NDArray[Any], test: NDArray[Any], classes: tuple[str, ...], where: str = ""
) -> None:
    for index, name in enumerate(classes):
        if not np.any(train == index):
            rows = int(np.sum(test == index))
            raise RefusedError(
                f"class {name!r}{where} has {rows} row{'s' if rows != 1 else ''}, all held out:"
                " the model could never learn it. Give more rows of it or another split.seed"
            )


def class_shares(side: Side, classes: tuple[str, ...]) -> dict[str, float]:
    """Give the share of each class on one side; empty for a regression."""
    return _share(side.targets, classes) if classes else {}


def label_shares(side: Side, labels: tuple[NamedLabel, ...]) -> dict[str, dict[str, float]]:
    """Give the share of each class of each of several labels on one side."""
    columns = enumerate(labels)
    return {one.name: _share(side.targets[:, place], one.classes) for place, one in columns}


def _share(targets: NDArray[Any], classes: tuple[str, ...]) -> dict[str, float]:
    counts = np.bincount(targets, minlength=len(classes))
    return {name: float(n) / len(targets) for name, n in zip(classes, counts, strict=True)}
