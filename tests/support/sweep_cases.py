"""How each of scikit-learn's own estimators is made and fed in the sweep of conversion."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import (
    is_classifier,
    is_clusterer,
    is_outlier_detector,
    is_regressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

Make = Callable[[Any], Any]
CLASSES, PAIR, NUMBERS = "classifiers", "classifiers of two classes", "regressors"
LABELS = "classifiers of several labels"
SEVERAL = "regressors of several targets"
OUTLIERS, GROUPS = "detectors of outliers", "groupings"
STEPS, OTHERS = "transformers before a linear model", "others"
KINDS = (CLASSES, PAIR, LABELS, NUMBERS, SEVERAL, OUTLIERS, GROUPS, STEPS, OTHERS)
SHUFFLED = "random_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCase:
    """One estimator in one role.

    Attributes:
        kind: One of ``KINDS``.
        name: Class name.
        make: Gives the estimator to fit.
        feed: Name of the rows it is fitted on.
    """

    kind: str
    name: str
    make: Callable[[], Any]
    feed: str


def _members() -> list[tuple[str, Any]]:
    return [
        ("tree", DecisionTreeClassifier(max_depth=3, random_state=0)),
        ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
    ]


def _number_members() -> list[tuple[str, Any]]:
    return [("tree", DecisionTreeRegressor(max_depth=3, random_state=0)), ("linear", Ridge())]


def _classifier() -> Any:
    return LogisticRegression(max_iter=300)


MAKERS: dict[str, Make] = {
    "AdaBoostClassifier": lambda c: c(n_estimators=8),
    "AdaBoostRegressor": lambda c: c(n_estimators=8),
    "AffinityPropagation": lambda c: c(max_iter=30),
    "BaggingClassifier": lambda c: c(n_estimators=4),
    "BaggingRegressor": lambda c: c(n_estimators=4),
    "BayesianGaussianMixture": lambda c: c(n_components=3, max_iter=20),
    "BernoulliRBM": lambda c: c(n_components=4, n_iter=2),
    "BisectingKMeans": lambda c: c(n_clusters=3),
    "CalibratedClassifierCV": lambda c: c(_classifier(), cv=2),
    "CCA": lambda c: c(n_components=1),
    "ClassifierChain": lambda c: c(_classifier()),
    "ColumnTransformer": lambda c: c(
        [("scale", StandardScaler(), [0, 1, 2])], remainder="passthrough"
    ),
    "DBSCAN": lambda c: c(),
    "DictionaryLearning": lambda c: c(n_components=4, max_iter=2),
    "DummyClassifier": lambda c: c(strategy="prior"),
    "ExtraTreesClassifier": lambda c: c(n_estimators=5),
    "ExtraTreesRegressor": lambda c: c(n_estimators=5),
    "FactorAnalysis": lambda c: c(n_components=3, max_iter=20),
    "FastICA": lambda c: c(n_components=3, max_iter=50),
    "FeatureUnion": lambda c: c([("scale", StandardScaler())]),
    "FixedThresholdClassifier": lambda c: c(_classifier(), threshold=0.4),
    "FrozenEstimator": lambda c: c(_frozen()),
    "GammaRegressor": lambda c: c(max_iter=30),
    "GaussianMixture": lambda c: c(n_components=3),
    "GaussianRandomProjection": lambda c: c(n_components=4),
    "GradientBoostingClassifier": lambda c: c(n_estimators=6),
    "GradientBoostingRegressor": lambda c: c(n_estimators=12),
    "GraphicalLassoCV": lambda c: c(alphas=2, cv=2),
    "GridSearchCV": lambda c: c(_classifier(), {"C": [0.1, 1]}, cv=2),
    "HalvingGridSearchCV": lambda c: c(_classifier(), {"C": [0.1, 1]}, cv=2),
    "HalvingRandomSearchCV": lambda c: c(_classifier(), {"C": [0.1, 1]}, cv=2),
    "HDBSCAN": lambda c: c(copy=True),
    "HistGradientBoostingClassifier": lambda c: c(max_iter=3),
    "HistGradientBoostingRegressor": lambda c: c(max_iter=8),
    "IncrementalPCA": lambda c: c(n_components=3),
    "IsolationForest": lambda c: c(n_estimators=5),
    "Isomap": lambda c: c(n_components=2),
    "KBinsDiscretizer": lambda c: c(
        n_bins=4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"
    ),
    "KernelPCA": lambda c: c(n_components=3),
    "KMeans": lambda c: c(n_clusters=3, n_init=1),
    "LatentDirichletAllocation": lambda c: c(n_components=3, max_iter=2),
    "LocalOutlierFactor": lambda c: c(novelty=True),
    "LogisticRegressionCV": lambda c: c(
        Cs=2, cv=2, max_iter=50, use_legacy_attributes=False, l1_ratios=(0,)
    ),
    "MeanShift": lambda c: c(bandwidth=4.0, bin_seeding=True, min_bin_freq=2),
    "MDS": lambda c: c(n_init=1, max_iter=5, init="random"),
    "MiniBatchDictionaryLearning": lambda c: c(n_components=4, max_iter=2),
    "MiniBatchKMeans": lambda c: c(n_clusters=3, n_init=1),
    "MiniBatchNMF": lambda c: c(n_components=3, max_iter=5),
    "MiniBatchSparsePCA": lambda c: c(n_components=3, max_iter=2),
    "MLPClassifier": lambda c: c(hidden_layer_sizes=16, max_iter=12),
    "MLPRegressor": lambda c: c(hidden_layer_sizes=16, max_iter=12),
    "MultiOutputClassifier": lambda c: c(_classifier()),
    "MultiOutputRegressor": lambda c: c(Ridge()),
    "NeighborhoodComponentsAnalysis": lambda c: c(n_components=3, max_iter=5),
    "NMF": lambda c: c(n_components=3, max_iter=20),
    "NuSVC": lambda c: c(nu=0.3),
    "OneVsOneClassifier": lambda c: c(_classifier()),
    "OneVsRestClassifier": lambda c: c(_classifier()),
    "OutputCodeClassifier": lambda c: c(_classifier()),
    "PCA": lambda c: c(n_components=3),
    "Pipeline": lambda c: c([("scale", StandardScaler()), ("linear", _classifier())]),
    "PLSCanonical": lambda c: c(n_components=1),
    "PLSSVD": lambda c: c(n_components=1),
    "RadiusNeighborsClassifier": lambda c: c(radius=1e6),
    "RadiusNeighborsRegressor": lambda c: c(radius=1e6),
    "RandomForestClassifier": lambda c: c(n_estimators=5),
    "RandomForestRegressor": lambda c: c(n_estimators=5),
    "RandomizedSearchCV": lambda c: c(_classifier(), {"C": [0.1, 1]}, n_iter=2, cv=2),
    "RandomTreesEmbedding": lambda c: c(n_estimators=4, max_depth=3, sparse_output=False),
    "RANSACRegressor": lambda c: c(max_trials=10),
    "RegressorChain": lambda c: c(Ridge()),
    "QuadraticDiscriminantAnalysis": lambda c: c(reg_param=0.1),
    "QuantileTransformer": lambda c: c(n_quantiles=6),
    "RFE": lambda c: c(_classifier(), n_features_to_select=5),
    "RFECV": lambda c: c(_classifier(), cv=2, step=4),
    "SelectFromModel": lambda c: c(DecisionTreeClassifier(random_state=0)),
    "SelfTrainingClassifier": lambda c: c(_classifier()),
    "SequentialFeatureSelector": lambda c: c(_classifier(), n_features_to_select=2, cv=2),
    "SparseCoder": lambda c: c(np.eye(13)),
    "SparsePCA": lambda c: c(n_components=3, max_iter=2),
    "SparseRandomProjection": lambda c: c(n_components=4),
    "StackingClassifier": lambda c: c(_members(), cv=2),
    "StackingRegressor": lambda c: c(_number_members(), cv=2),
    "TheilSenRegressor": lambda c: c(max_subpopulation=60, max_iter=20),
    "TransformedTargetRegressor": lambda c: c(Ridge(), func=np.log, inverse_func=np.exp),
    "TruncatedSVD": lambda c: c(n_components=3),
    "TSNE": lambda c: c(max_iter=250),
    "TunedThresholdClassifierCV": lambda c: c(_classifier(), cv=2, thresholds=20),
    "VotingClassifier": lambda c: c(_members(), voting="soft"),
    "VotingRegressor": lambda c: c(_number_members()),
}
TEXT = (
    *("DictVectorizer", "FeatureHasher", "LabelBinarizer", "LabelEncoder"),
    *("MultiLabelBinarizer", "PatchExtractor"),
)
"""Fitted on records, labels or pictures, not on rows of a table."""
TEXTS = ("CountVectorizer", "HashingVectorizer", "TfidfTransformer", "TfidfVectorizer")
"""Fitted on free text, a TfidfTransformer behind a CountVectorizer."""
_COUNTS = ("CategoricalNB", "OneHotEncoder", "OrdinalEncoder", "TargetEncoder", "BernoulliRBM")
_POSITIVE = ("ComplementNB", "MultinomialNB", "NMF", "MiniBatchNMF", "LatentDirichletAllocation")
_POSITIVE_SCORES = ("AdditiveChi2Sampler", "SkewedChi2Sampler", "SelectKBest", "SelectPercentile")
_TWO_TARGETS = (
    *("MultiTaskElasticNet", "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV"),
    *("MultiOutputRegressor", "RegressorChain"),
)
_SAYS_ONE = ("BaggingRegressor", "MLPRegressor")
"""Take several targets, though their tags do not say so."""
_TWO_LABELS = ("ClassifierChain", "MultiOutputClassifier")
"""Take nothing else."""
_SAYS_ONE_LABEL = ("OneVsRestClassifier",)
"""Takes several labels, though its tags do not say so."""
_FLAGS = (
    *("ClassifierChain", "MLPClassifier", "OneVsRestClassifier"),
    *("RidgeClassifier", "RidgeClassifierCV"),
)
"""Take labels of two classes only, or fail to tell their probabilities."""
_AS_CLASSIFIER = ("Pipeline", "FrozenEstimator")
_PAIR_ONLY = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")
_SELECTORS = ("RFE", "RFECV", "SelectFromModel", "SequentialFeatureSelector")


def list_cases(kinds: tuple[str, ...] = KINDS) -> list[SweepCase]:
    """Give every estimator of scikit-learn in each of its roles, by kind and name."""
    cases = [case for name, kind in all_estimators() for case in _cases_of(name, kind)]
    wanted = [case for case in cases if case.kind in kinds]
    return sorted(wanted, key=lambda case: (KINDS.index(case.kind), case.name.lower()))


def _cases_of(name: str, cls: Any) -> list[SweepCase]:
    make = MAKERS.get(name, lambda kind: kind())

    def build() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            estimator = make(cls)
        if SHUFFLED in estimator.get_params(deep=False):
            estimator.set_params(random_state=0)
        return estimator

    def case(kind: str, feed: str) -> SweepCase:
        return SweepCase(kind=kind, name=name, make=build, feed=feed)

    if name in TEXT:
        return [case(STEPS, "text")]
    if name in TEXTS:
        return [case(STEPS, "texts")]
    feed, labels = _feed_of(name), "two flags" if name in _FLAGS else "two labels"
    kinds = _kinds_of(name, cls, build())
    return [case(kind, labels if kind == LABELS else feed) for kind in kinds]


def _kinds_of(name: str, cls: Any, one: Any) -> tuple[str, ...]:
    if name in _TWO_LABELS:
        return (LABELS,)
    if name in (*_AS_CLASSIFIER, *_PAIR_ONLY):
        return (PAIR,) if name in _PAIR_ONLY else (CLASSES,)
    roles = {
        STEPS: name in _SELECTORS,
        CLASSES: is_classifier(one),
        NUMBERS: is_regressor(one),
        OUTLIERS: is_outlier_detector(one),
        GROUPS: is_clusterer(one) or "GaussianMixture" in name,
    }
    found = next((kind for kind, is_so in roles.items() if is_so), "")
    if found == CLASSES:
        tags = one.__sklearn_tags__()
        is_of_labels = tags.target_tags.multi_output or tags.classifier_tags.multi_label
        has_labels = name in _SAYS_ONE_LABEL or is_of_labels
        return (CLASSES, PAIR, LABELS) if has_labels else (CLASSES, PAIR)
    is_several = name in _SAYS_ONE or one.__sklearn_tags__().target_tags.multi_output
    if found == NUMBERS and is_several:
        return (SEVERAL,) if name in _TWO_TARGETS else (NUMBERS, SEVERAL)
    return (found or (STEPS if hasattr(cls, "transform") else OTHERS),)


def _feed_of(name: str) -> str:
    feeds = {
        "counts": (*_COUNTS, *_POSITIVE, *_POSITIVE_SCORES),
        "one column": ("IsotonicRegression",),
        "three columns": ("QuantileTransformer",),
        "square": ("KernelCenterer",),
        "holes": ("MissingIndicator",),
    }
    return next((feed for feed, names in feeds.items() if name in names), "numbers")


def _frozen() -> Any:
    rows = np.random.default_rng(0).normal(size=(60, 13))
    return LogisticRegression().fit(rows, rows[:, 0] > 0)
