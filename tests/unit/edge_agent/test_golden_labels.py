"""Golden rows of several labels: each label is held to where it is clear by itself."""

import numpy as np

from edge_agent.adapters.golden_vectors import GoldenVectors
from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task
from tests.support.serving import golden_bytes

DAY = NamedLabel(name="day", classes=("work", "rest", "feast"))
RAIN = NamedLabel(name="rain", classes=("no", "yes"))
SCHEMA = ModelSchema(
    model="sky",
    task=Task.CLASSIFICATION,
    features=(Feature(name="cloud"),),
    outputs=(
        Output(name="label", role=Role.LABEL, labels=(DAY, RAIN)),
        Output(name="probabilities", role=Role.PROBABILITIES),
    ),
)
SHARES = np.array([[0.9, 0.1, 0.0, 0.9, 0.1], [0.6, 0.3, 0.1, 0.5, 0.5]], np.float32)
LABELS = np.array([[0, 0], [0, 0]])
GOLDEN = GoldenVectors.decode(
    golden_bytes(np.zeros((2, 1), np.float32), {"label": LABELS, "probabilities": SHARES}), SCHEMA
)


def find(*labels: list[int]) -> str | None:
    return GOLDEN.find_mismatch(SCHEMA, {"label": np.array(labels), "probabilities": SHARES})


def test_a_clear_label_must_be_equal_though_another_is_as_sure() -> None:
    said = find([0, 1], [0, 0])
    assert (
        said == "label: 1 of 2 golden rows answered wrongly, row 0 of label 'rain' 1 instead of 0"
    )
    assert "of label 'day' 2 instead of 0" in (find([0, 0], [2, 1]) or "")


def test_a_label_may_turn_where_its_own_classes_are_even() -> None:
    assert find([0, 0], [0, 1]) is None
