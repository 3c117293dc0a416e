"""A rendered graph has the very bytes of a full conversion, or is not rendered."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from converters.families.graph_template import GraphTemplate, find_template
from converters.from_sklearn import SklearnSource
from converters.normalise import normalise
from converters.repairs import prepare
from converters.shrink_trees import shrink_trees
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
WIDTH = 6
PROFILE = load_profile("onprem-server")
Make = Callable[[], Any]

REGRESSORS: dict[str, Make] = {
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "min max": lambda: make_pipeline(MinMaxScaler(), Ridge()),
    "robust": lambda: make_pipeline(RobustScaler(), Lasso(alpha=0.01)),
    "pca": lambda: make_pipeline(StandardScaler(), PCA(3), Ridge()),
    "mlp": lambda: make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(8, 4), max_iter=5, random_state=0)
    ),
    "tree": lambda: DecisionTreeRegressor(max_depth=5, random_state=0),
    "forest": lambda: RandomForestRegressor(5, random_state=0),
    "scaled forest": lambda: make_pipeline(
        StandardScaler(), RandomForestRegressor(5, random_state=0)
    ),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=8, random_state=0),
    "boosting from zero": lambda: GradientBoostingRegressor(n_estimators=4, init="zero"),
    "histogram": lambda: HistGradientBoostingRegressor(max_iter=8),
}
CLASSIFIERS: dict[str, Make] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "mlp": lambda: MLPClassifier(hidden_layer_sizes=(8,), max_iter=5, random_state=0),
    "tree": lambda: DecisionTreeClassifier(max_depth=5, random_state=0),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(5, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, random_state=0),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=5),
}


def make_rows(seed: int, classes: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    rows = random.normal(2, 1 + seed, (160, WIDTH)).astype(np.float32)
    targets: Any = rows @ random.normal(size=WIDTH) + random.normal(size=160)
    if classes:
        inner = np.linspace(0, 1, classes + 1)[1:-1]
        targets = np.digitize(targets, np.quantile(targets, inner))
    return rows, targets


def make_schema(classes: int = 0) -> ModelSchema:
    roles = [Role.LABEL, Role.PROBABILITIES] if classes else [Role.VALUE]
    return ModelSchema(
        model="m",
        task=Task.CLASSIFICATION if classes else Task.REGRESSION,
        features=tuple(Feature(name=f"f{n}") for n in range(WIDTH)),
        outputs=tuple(Output(name=str(role), role=role) for role in roles),
        classes=tuple("abcdefghijkl"[:classes]),
    )


def convert(estimator: Any, classes: int = 0, *, schema: ModelSchema | None = None) -> bytes:
    schema = schema or make_schema(classes)
    source = SklearnSource(estimator, schema.task, is_fed_float32=True)
    model = source.convert(schema, PROFILE).model
    shrink_trees(model)
    return normalise(model, PROFILE)


def ready(estimator: Any) -> Any:
    schema = make_schema(len(getattr(estimator, "classes_", ())))
    return prepare(estimator, schema, np.float32).estimator


def make_template(members: list[Any], classes: int = 0) -> GraphTemplate | None:
    return find_template([(ready(own), convert(own, classes)) for own in members])


@pytest.mark.parametrize("name", REGRESSORS)
def test_renders_the_bytes_of_a_full_conversion(name: str) -> None:
    members = [REGRESSORS[name]().fit(*make_rows(seed)) for seed in range(4)]
    template = make_template(members[:2])
    assert template is not None
    assert [template.render(ready(own)) for own in members] == [convert(own) for own in members]


@pytest.mark.parametrize("name", ["ridge", "mlp", "tree", "scaled forest"])
def test_members_of_several_targets_are_rendered_to_the_byte_too(name: str) -> None:
    schema = make_schema()
    value = replace(schema.outputs[0], targets=("a", "b", "c"))
    schema = replace(schema, outputs=(value,))
    members = []
    for seed in range(3):
        rows, _ = make_rows(seed)
        answers = rows @ np.random.default_rng(seed).normal(size=(WIDTH, 3))
        members.append(REGRESSORS[name]().fit(rows, answers))
    full = [convert(own, schema=schema) for own in members]
    template = find_template(list(zip(map(ready, members[:2]), full, strict=False)))
    assert template is not None
    assert template.render(ready(members[2])) == full[2]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_renders_classifiers_to_the_byte(name: str, classes: int) -> None:
    members = [CLASSIFIERS[name]().fit(*make_rows(seed, classes)) for seed in range(3)]
    template = make_template(members[:2], classes)
    assert template is not None
    assert template.render(ready(members[2])) == convert(members[2], classes)


def test_a_member_whose_trees_have_other_attributes_is_not_rendered() -> None:
    gaps = make_rows(2)
    gaps[0][::3, 1] = np.nan
    members = [HistGradientBoostingRegressor(max_iter=5).fit(*make_rows(s)) for s in range(2)]
    with_gaps = HistGradientBoostingRegressor(max_iter=5).fit(*gaps)
    template = make_template(members)
    assert template is not None
    assert template.render(ready(with_gaps)) in (None, convert(with_gaps))
    assert template.render(ready(members[0])) == convert(members[0])


@pytest.mark.parametrize(
    "other",
    [
        lambda: make_pipeline(StandardScaler(), Ridge(alpha=2.0)),
        lambda: make_pipeline(MinMaxScaler(), Ridge()),
        lambda: make_pipeline(StandardScaler(with_mean=False), Ridge()),
        Ridge,
    ],
)
def test_another_architecture_is_not_rendered(other: Make) -> None:
    template = make_template([REGRESSORS["ridge"]().fit(*make_rows(s)) for s in range(2)])
    assert template is not None
    assert template.render(ready(other().fit(*make_rows(3)))) is None


def test_what_was_equal_by_chance_is_not_rendered_where_it_differs() -> None:
    """A constant column has a scale of 1 and a range of 0: elsewhere one is one over the other."""
    template = make_template([REGRESSORS["min max"]().fit(*make_rows(s)) for s in range(2)])
    constant = make_rows(3)
    constant[0][:, 2] = 5.0
    member = REGRESSORS["min max"]().fit(*constant)
    assert template is not None
    assert template.render(ready(member)) in (None, convert(member))


@pytest.mark.filterwarnings("ignore:Feature . is constant")
@pytest.mark.parametrize(
    "step",
    [
        lambda: SelectKBest(f_regression, k=2),
        VarianceThreshold,
        lambda: KBinsDiscretizer(3, strategy="uniform", encode="onehot-dense"),
        lambda: OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    ],
)
def test_what_a_step_learned_besides_numbers_is_never_that_of_other_members(step: Make) -> None:
    """The first two keep the same columns, edges and categories; the third learned others."""
    members = []
    for seed, kept, high in ((0, 0, 4), (1, 0, 4), (2, 2, 8)):
        rows = np.random.default_rng(seed).integers(0, 4, (400, WIDTH)).astype(np.float32)
        targets = 9 * rows[:, kept] + 5 * rows[:, kept + 1]
        rows[:, kept] *= high / 4
        rows[:, 5 - kept] = 1.0
        members.append(make_pipeline(step(), Ridge()).fit(rows, targets))
    template = make_template(members[:2])
    if template is not None:
        assert template.render(ready(members[2])) in (None, convert(members[2]))


def test_there_is_no_template_without_two_members_or_for_what_varies_otherwise() -> None:
    ridge = [REGRESSORS["ridge"]().fit(*make_rows(seed)) for seed in range(2)]
    assert make_template(ridge[:1]) is None
    assert make_template([SVR().fit(*make_rows(seed)) for seed in range(2)]) is None


def test_a_template_must_give_every_member_it_was_found_with() -> None:
    one, other = (REGRESSORS["ridge"]().fit(*make_rows(seed)) for seed in range(2))
    swapped = [(ready(one), convert(other)), (ready(other), convert(one))]
    assert find_template(swapped) is None
