"""What stands before an estimator that is trained on categories or with missing values.

A category becomes a column of 0 or 1 for each of its texts and one for missing; an unknown one is
0 in all. A missing number becomes the median, and a further column tells that it was missing;
boosted trees by histogram keep it missing. Everything here is of scikit-learn and reads packed
rows: codes as numbers, missing as NaN.

Left out: the splits on sets of categories that boosted trees can learn. The estimator then holds
a function, which the files of source models do not take.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.contract.schema import Dtype, Feature

_BOOSTED = "HistGradientBoosting"


def make_encoder(
    estimator: str, features: Sequence[Feature], *, has_steps: bool = False
) -> list[Any]:
    """Give the step that makes numbers of the packed columns; none when they are already.

    Args:
        estimator: Dotted name.
        features: With their texts.
        has_steps: Whether steps of the spec come between; those take no missing numbers.
    """
    declared = [feature for feature in features for _ in feature.columns]
    categories = [n for n, feature in enumerate(declared) if feature.dtype == Dtype.CATEGORY]
    takes_missing = _BOOSTED in estimator and not has_steps
    gaps = [
        n
        for n, feature in enumerate(declared)
        if feature.is_nullable and n not in categories and not takes_missing
    ]
    if not categories and not gaps:
        return []
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    branches: list[Any] = []
    plain = [n for n in range(len(declared)) if n not in categories and n not in gaps]
    if plain:
        branches.append(("numbers", "passthrough", plain))
    if gaps:
        branches.append(("gaps", SimpleImputer(strategy="median", add_indicator=True), gaps))
    if categories:
        texts = [_list_values(declared[n]) for n in categories]
        encoder = OneHotEncoder(categories=texts, handle_unknown="ignore", sparse_output=False)
        branches.append(("categories", encoder, categories))
    return [ColumnTransformer(branches)]


def _list_values(feature: Feature) -> Any:
    codes = np.arange(len(feature.categories), dtype=np.float32)
    return np.append(codes, np.float32(np.nan)) if feature.is_nullable else codes
