"""A schema names the several labels of a row with the classes of each; a sound naming only."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.outputs import (
    LABEL_CLASSES_MAX,
    LABELS_CLASSES_MAX,
    LABELS_MAX,
    NamedLabel,
    slice_labels,
)
from edge_agent.contract.schema import Dtype, Feature, ModelSchema, Output, Role, Task

DAY = NamedLabel(name="day", classes=("work", "rest", "feast"))
RAIN = NamedLabel(name="rain", classes=("no", "yes"), is_label_only=True)


def schema_of(labels: Sequence[NamedLabel], *features: Feature, **other: Any) -> ModelSchema:
    return ModelSchema(
        model="sky",
        task=Task.CLASSIFICATION,
        features=features or (Feature(name="cloud"),),
        outputs=(
            Output(name="label", role=Role.LABEL, labels=tuple(labels)),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        **other,
    )


def fresh_labels(count: int, classes: int) -> list[NamedLabel]:
    names = tuple(str(n) for n in range(classes))
    return [NamedLabel(name=f"l{n}", classes=names) for n in range(count)]


def test_labels_survive_the_file_in_a_format_that_older_agents_refuse() -> None:
    schema = schema_of([DAY, RAIN])
    assert ModelSchema.decode(schema.encode()) == schema
    assert (schema.labels, schema.classes) == ((DAY, RAIN), ())
    assert (schema.answer_names, schema.probability_columns) == (("day", "rain"), 5)
    assert json.loads(schema.encode())["format"] == 5
    text = Feature(name="note", dtype=Dtype.TEXT, chars_max=4)
    assert json.loads(schema_of([DAY, RAIN], text).encode())["format"] == 5


def test_one_label_is_written_as_before() -> None:
    assert schema_of([], classes=("no", "yes")).encode() == (
        b'{"classes":["no","yes"],"features":[{"dtype":"float32","high":null,"low":null,'
        b'"name":"cloud","shape":[],"unit":""}],"format":1,"input":"features","model":"sky",'
        b'"outputs":[{"name":"label","role":"label"},'
        b'{"name":"probabilities","role":"probabilities"}],"task":"classification"}'
    )


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        ([{"name": "day", "classes": ["a", "b"]}], "1 labels, must be 2 to 64"),
        ([{"name": f"l{n}", "classes": ["a", "b"]} for n in range(65)], "at most 64 items"),
        ([{"name": "day", "classes": ["a", "b"]}] * 2, "label 'day' is named twice"),
        ([{"name": "", "classes": ["a", "b"]}] * 2, "not text of 1 to 128"),
        ([{"name": "day", "classes": ["a"]}] * 2, "'day': 1 classes, must be 2 to 256; leave"),
        ([{"name": "day", "classes": ["a", "a"]}] * 2, "a class is listed twice"),
        ([{"name": "day", "classes": ["a", 3]}] * 2, "not text"),
        ([{"name": "day"}], "classes"),
        (["day", "rain"], "object"),
    ],
)
def test_an_unsound_naming_is_refused(labels: Any, word: str) -> None:
    fields = json.loads(schema_of([DAY, RAIN]).encode())
    fields["outputs"][0]["labels"] = labels
    with pytest.raises(ContractError, match=word):
        ModelSchema.decode(json.dumps(fields).encode())


def test_several_labels_have_their_own_classes_and_belong_to_a_label() -> None:
    with pytest.raises(MalformedError, match="each has classes of its own"):
        schema_of([DAY, RAIN], classes=("no", "yes"))
    with pytest.raises(MalformedError, match="only a label has labels"):
        Output(name="value", role=Role.VALUE, labels=(DAY, RAIN))


def test_the_largest_numbers_are_taken_and_no_more() -> None:
    assert len(schema_of(fresh_labels(LABELS_MAX, 2)).labels) == LABELS_MAX
    assert LABEL_CLASSES_MAX * 4 == LABELS_CLASSES_MAX
    assert schema_of(fresh_labels(4, LABEL_CLASSES_MAX)).probability_columns == LABELS_CLASSES_MAX
    with pytest.raises(MalformedError, match="1026 classes together, at most 1024"):
        schema_of([*fresh_labels(2, 2), *fresh_labels(8, 128)[2:], *fresh_labels(10, 127)[8:]])
    with pytest.raises(MalformedError, match="257 classes, must be 2 to 256"):
        fresh_labels(1, LABEL_CLASSES_MAX + 1)


_NAMES = st.text(min_size=1, max_size=12)
_LABELS = st.lists(
    st.builds(
        NamedLabel,
        name=_NAMES,
        classes=st.lists(st.text(max_size=8), min_size=2, max_size=5, unique=True).map(tuple),
        is_label_only=st.booleans(),
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda label: label.name,
)


@given(_LABELS)
@settings(max_examples=60, deadline=None)
def test_any_labels_survive_and_their_columns_follow_each_other(labels: list[NamedLabel]) -> None:
    schema = schema_of(labels)
    assert ModelSchema.decode(schema.encode()) == schema
    columns = [n for place in slice_labels(labels) for n in range(place.start, place.stop)]
    assert columns == list(range(schema.probability_columns))
