"""What somebody says is true of an answer, read against what the answer consists of."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters.feedback_json import take_feedback
from edge_agent.adapters.named_answers import NUMBERS_KEPT
from edge_agent.adapters.recent_answers import ROWS_KEPT, AnsweringPackage, RecentAnswers
from edge_agent.adapters.request_json import encode_json
from edge_agent.contract.answer_parts import AnswerPart, parts_of
from edge_agent.contract.outputs import NamedLabel
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.core.late_labels import Truth, read_truth
from edge_agent.errors import InputError
from edge_agent.local_labels import Sent, read_labels

TARGETS = tuple(AnswerPart(name) for name in ("flow", "heat", "power"))
LABELS = (AnswerPart("rain", ("no", "yes")), AnswerPart("day", ("work", "rest", "feast")))
CLASS, VALUE = (AnswerPart("", ("calm", "storm")),), (AnswerPart(),)


def test_a_part_of_the_names_is_enough_and_a_class_goes_by_its_own_names() -> None:
    assert read_truth("p", {"power": 3, "flow": -0.5}, TARGETS) == {2: 3.0, 0: -0.5}
    assert read_truth("p", {"day": "feast"}, LABELS) == {1: 2.0}


@pytest.mark.parametrize(
    ("said", "parts", "words"),
    [
        (3.0, TARGETS, 'answered 3 targets, so its labels have names: send "labels"'),
        ("yes", LABELS, "answered 2 labels.*some of rain, day"),
        ({"flow": 1.0}, VALUE, 'one value, which has no name: send "value", not "labels"'),
        ({"": "calm"}, CLASS, 'one class, which has no name: send "label"'),
        ({}, TARGETS, "labels of p are empty; name some of flow, heat, power"),
        ({"flow": 1.0, "Heat": 2.0}, TARGETS, "has no target 'Heat'; known are flow, heat"),
        ({"": 1.0}, TARGETS, "has no target ''"),
        ({"flow": "wet"}, TARGETS, "flow of p is a regression's: its label is a finite number"),
        ({"flow": True}, TARGETS, "finite number"),
        ({"flow": math.nan}, TARGETS, "finite number"),
        ({"flow": math.inf}, TARGETS, "finite number"),
        ({"rain": "maybe"}, LABELS, "label 'maybe' of rain of p is none of no, yes"),
        ({"rain": 1}, LABELS, "none of no, yes"),
        ({"day": "yes"}, LABELS, "none of work, rest, feast"),
        ({f"t{n}": 1.0 for n in range(9)}, TARGETS, "has no target 't0'"),
    ],
)
def test_what_an_answer_does_not_consist_of_is_refused_by_name(
    said: Truth, parts: tuple[AnswerPart, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_truth("p", said, parts)


def test_the_parts_of_an_answer_are_those_of_its_schema() -> None:
    def schema(task: Task, output: Output, classes: tuple[str, ...] = ()) -> ModelSchema:
        features = (Feature(name="f"),)
        return ModelSchema(
            model="m", task=task, features=features, outputs=(output,), classes=classes
        )

    value = Output(name="value", role=Role.VALUE)
    label = Output(name="label", role=Role.LABEL)
    several = NamedLabel(name="rain", classes=("no", "yes"))
    both = Output(
        name="label",
        role=Role.LABEL,
        labels=(several, NamedLabel(name="day", classes=("work", "rest", "feast"))),
    )
    targets = Output(name="value", role=Role.VALUE, targets=("flow", "heat"))
    assert parts_of(schema(Task.REGRESSION, value)) == VALUE
    assert parts_of(schema(Task.CLASSIFICATION, label, ("calm", "storm"))) == CLASS
    assert parts_of(schema(Task.REGRESSION, targets)) == TARGETS[:2]
    assert parts_of(schema(Task.CLASSIFICATION, both)) == LABELS


class Sink:
    def __init__(self) -> None:
        self.taken: list[tuple[str, Truth]] = []

    def add(self, prediction_id: str, label: Truth) -> None:
        self.taken.append((prediction_id, label))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b'{"prediction_id":"p","labels":{"a":1,"a":2}}', "'a' is there twice"),
        ({"prediction_id": "p", "labels": [1]}, "labels of p must be an object by name"),
        ({"prediction_id": "p", "labels": {"a": 1}, "value": 1}, "needs either label"),
        ({"prediction_id": "p", "labels": {"a": True}}, "label 'a' of p must be a number"),
        ({"prediction_id": "p", "labels": {"a": None}}, "must be a number, got null"),
        (
            {"prediction_id": "p", "labels": {"a": "x" * 1_025}},
            "it has 1025 characters, at most 1024",
        ),
        ({"prediction_id": "p", "labels": {"a": 10**400}}, "'a' of p is beyond a double's"),
        ({"prediction_id": "p", "labels": {f"t{n}": 1 for n in range(257)}}, "257 labels of p"),
    ],
)
def test_feedback_by_name_is_refused_with_field_and_limit(item: Any, words: str) -> None:
    sink = Sink()
    body = item if isinstance(item, bytes) else encode_json(item).encode()
    with pytest.raises(InputError, match=re.escape(words)):
        take_feedback(sink, body)
    assert sink.taken == []


def test_feedback_by_name_is_handed_on_as_it_is() -> None:
    sink = Sink()
    body = [{"prediction_id": "p", "labels": {"flow": 3.1, "day": "rest"}}]
    assert take_feedback(sink, encode_json(body).encode())["taken"] == 1
    assert sink.taken == [("p", {"flow": 3.1, "day": "rest"})]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("prediction_id,true_class_rain,true_value_rain\np,no,1\n", "both a class and a value"),
        (
            "prediction_id,true_class,true_class_rain\np,no,no\n",
            "labels with names (rain) stand beside one without",
        ),
        ("prediction_id,true_value\np,inf\n", "true_value is 'inf', which is no finite number"),
    ],
)
def test_a_line_that_says_two_things_or_none_that_can_be_read_is_told(
    tmp_path: Path, lines: str, words: str
) -> None:
    path, sent = tmp_path / "labels.csv", Sent()
    path.write_text(lines)
    assert list(read_labels(path, sent)) == []
    assert sent.refused == 1
    assert words in sent.faults[0][1]


def test_cells_are_classes_or_values_by_their_column_and_empty_ones_are_left_out(
    tmp_path: Path,
) -> None:
    path, sent = tmp_path / "labels.csv", Sent()
    path.write_text(
        "prediction_id,class,true_class_rain,true_value_flow,true_class,true_value\n"
        "a,x,no,,,\n b ,x,,3.5,,\nc,x,,,7,\nd,x,,,,7\ne,x,yes,1,,\nf,x,,,,\n"
    )
    assert list(read_labels(path, sent)) == [
        (2, "a", {"rain": "no"}),
        (3, "b", {"flow": 3.5}),
        (4, "c", "7"),
        (5, "d", 7.0),
        (6, "e", {"rain": "yes", "flow": 1.0}),
    ]
    assert (sent.refused, sent.empty) == (0, 1)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("prediction_id,class", "needs column prediction_id and one or more of true_class"),
        ("id,true_class", "needs column prediction_id"),
        ("", "it has no header"),
        ("prediction_id,true_value_a,true_value_a", "has column 'true_value_a' twice"),
        (
            ",".join(["prediction_id", *(f"true_value_{n}" for n in range(259))]),
            "259 columns of labels, at most 258",
        ),
    ],
)
def test_a_file_without_labels_is_refused_whole(tmp_path: Path, header: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{header}\n")
    with pytest.raises(InputError, match=words):
        list(read_labels(path, Sent()))


def ring_of(names: int) -> tuple[RecentAnswers, int]:
    ring = RecentAnswers()
    parts = tuple(AnswerPart(f"t{n}") for n in range(names))
    return ring, ring.add_package(AnsweringPackage(b"a" * 8, parts))


def fill(ring: RecentAnswers, package: int, first: int, rows: int, names: int) -> None:
    numbers = np.arange(first, first + rows)
    values = numbers[:, None] + np.arange(names) / 1_000
    ring.remember(package, numbers, np.zeros(rows, np.int64), values.astype(np.float32), first)


@pytest.mark.parametrize(
    ("names", "kept"), [(2, ROWS_KEPT), (16, ROWS_KEPT), (256, NUMBERS_KEPT // 256)]
)
def test_the_newest_answers_by_name_are_remembered_over_the_end_of_either_ring(
    names: int, kept: int
) -> None:
    ring, package = ring_of(names)
    step, last = 700, 0
    for first in range(0, 2 * ROWS_KEPT, step):
        fill(ring, package, first, step, names)
        last = first + step - 1
    for number in (last, last - kept + 1):
        answer = ring.find(number, 0)
        assert answer is not None
        assert answer.predicted == pytest.approx([number + n / 1_000 for n in range(names)])
    assert ring.find(last - kept, 0) is None


def test_more_rows_at_once_than_are_kept_leave_the_newest() -> None:
    ring, package = ring_of(256)
    fill(ring, package, 0, 4_096, 256)
    assert ring.find(3_071, 0) is None
    answer = ring.find(3_072, 0)
    assert answer is not None
    assert answer.predicted[255] == pytest.approx(3_072.255)


def test_a_label_of_a_row_that_was_forgotten_meanwhile_marks_no_newer_one() -> None:
    ring, package = ring_of(256)
    fill(ring, package, 0, 1, 256)
    assert ring.find(0, 0) is not None
    fill(ring, package, 1, 1_024, 256)
    assert ring.note_labels(0, 0, [0, 255]) is None
    assert [ring.note_labels(n, 0, [0, 255]) for n in (1, 1_024)] == [None, None]


def test_each_part_of_a_row_takes_one_label_and_a_new_row_in_its_place_may_have_one_again() -> None:
    ring, package = ring_of(2)
    fill(ring, package, 0, 2, 2)
    assert ring.note_labels(1, 0, [1]) is None
    assert ring.note_labels(1, 0, [0, 1]) == 1, "and nothing is noted"
    assert ring.note_labels(1, 0, [0]) is None
    assert ring.note_labels(0, 0, [0, 1]) is None
    assert ring.note_labels(9, 0, [0]) is None, "forgotten since it was found"
    for first in range(2, ROWS_KEPT * 8 + 2, 4_096):
        fill(ring, package, first, 4_096, 2)
    assert ring.note_labels(ROWS_KEPT * 8 + 1, 0, [0, 1]) is None
