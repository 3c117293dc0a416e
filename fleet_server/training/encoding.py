"""What stands before an estimator that is trained on categories or with missing values.

A category becomes a column of 0 or 1 for each of its texts and one for missing; an unknown one is
0 in all. A missing number becomes the median, and a further column tells that it was missing;
boosted trees by histogram keep it missing. A text becomes the weights of its terms. Everything here
is of scikit-learn, but for the step that unpacks texts, and reads packed rows: codes as numbers,
missing as NaN.

Left out: the splits on sets of categories that boosted trees can learn. The estimator then holds
a function, which the files of source models do not take.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.contract.schema import Dtype, Feature
from fleet_server.training.texts import TextTerms, make_text_step

_BOOSTED = "HistGradientBoosting"


def make_encoder(
    estimator: str,
    features: Sequence[Feature],
    *,
    has_steps: bool = False,
    texts: Mapping[str, TextTerms] | None = None,
) -> list[Any]:
    """Give the step that makes numbers of the packed columns; none when they are already.

    Args:
        estimator: Dotted name.
        features: With their texts.
        has_steps: Whether steps of the spec come between; those take no missing numbers.
        texts: Of each text, what is learned of it.
    """
    declared = [feature for feature in features for _ in feature.columns]
    categories = [n for n, feature in enumerate(declared) if feature.dtype == Dtype.CATEGORY]
    takes_missing = _BOOSTED in estimator and not has_steps
    gaps = [
        n
        for n, feature in enumerate(declared)
        if feature.is_nullable and not feature.is_text and n not in categories and not takes_missing
    ]
    words = {n for n, feature in enumerate(declared) if feature.is_text}
    if not categories and not gaps and not words:
        return []
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    branches: list[Any] = []
    plain = [n for n in range(len(declared)) if n not in {*categories, *gaps, *words}]
    if plain:
        branches.append(("numbers", "passthrough", plain))
    if gaps:
        branches.append(("gaps", SimpleImputer(strategy="median", add_indicator=True), gaps))
    if categories:
        values = [_list_values(declared[n]) for n in categories]
        encoder = OneHotEncoder(categories=values, handle_unknown="ignore", sparse_output=False)
        branches.append(("categories", encoder, categories))
    for feature in dict.fromkeys(declared[n] for n in sorted(words)):
        own = [n for n in sorted(words) if declared[n] is feature]
        step = make_text_step(feature, (texts or {}).get(feature.name, TextTerms()))
        branches.append((f"text {feature.name}", step, own))
    # Sparse where what follows can read it: a row has few of the terms.
    if not words:
        return [ColumnTransformer(branches)]
    is_dense = has_steps or _BOOSTED in estimator
    return [ColumnTransformer(branches, sparse_threshold=0.0 if is_dense else 1.0)]


def _list_values(feature: Feature) -> Any:
    codes = np.arange(len(feature.categories), dtype=np.float32)
    return np.append(codes, np.float32(np.nan)) if feature.is_nullable else codes
