import json

import numpy as np
import pytest

from edge_agent.contract.errors import ContractError, MalformedError, TooLargeError
from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.layout import CounterLayout, answer_mix
from edge_agent.statistics.output_shift import expected_shift, total_variation
from edge_agent.statistics.reference import (
    CLASSES_MAX,
    COLUMNS_MAX,
    REFERENCE_BYTES_MAX,
    ClassOutputReference,
    Reference,
    TargetsOutputReference,
    ValueOutputReference,
    build_reference,
    quantile_edges,
    reference_hash,
)
from edge_agent.statistics.varint import decode_counters, encode_counters
from tests.support.drift import (
    answer,
    class_reference,
    class_schema,
    count_rows,
    normal_rows,
    value_schema,
)


def test_training_rows_fall_into_the_bins_they_were_counted_in() -> None:
    rows = normal_rows(1, 500)
    reference = class_reference(rows)
    counters = count_rows(reference, rows)
    layout = CounterLayout.of(reference)
    for feature, at in zip(reference.features, layout.features, strict=True):
        assert tuple(counters[at]) == feature.counts
        assert min(feature.counts[:-2]) == max(feature.counts[:-2]) == 50
    assert tuple(counters[layout.output]) == reference.output.counts
    assert counters[layout.latency].sum() == 1


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.nan, "missing"),
        (np.inf, "missing"),
        (-np.inf, "missing"),
        (-1.0, "outside"),
        (100.0, "outside"),
        (np.nextafter(np.float32(99), np.float32(200)), "outside"),
        (0.0, 0),
        (9.5, 0),
        (10.0, 1),
        (99.0, 9),
    ],
)
def test_one_value_is_counted_at_one_place(value: float, where: str | int) -> None:
    reference = class_reference(np.arange(100, dtype=np.float32).reshape(-1, 1), classes=1)
    counters = count_rows(reference, np.array([[value]], np.float32), classes=1)
    counts = counters[CounterLayout.of(reference).features[0]]
    at = {"missing": 10, "outside": 11}.get(str(where), where)
    assert counts.sum() == 1
    assert counts[int(at)] == 1


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([5.0] * 40, ()),
        ([0.0] * 99 + [1.0], ()),
        ([0.0] * 97 + [1.0] * 3, (1.0,)),
        ([0.0] * 60 + [1.0] * 40, (1.0,)),
        ([0.0] * 40 + [16.0] * 60, (16.0,)),
        ([0.0] * 30 + [1.0] * 30 + [2.0] * 40, (1.0, 2.0)),
        ([0.0, 1.0], (1.0,)),
        ([3.0], ()),
    ],
)
def test_ties_make_fewer_bins_and_never_empty_ones(
    values: list[float], edges: tuple[float, ...]
) -> None:
    assert quantile_edges(np.array(values, np.float32)) == edges


def test_a_column_of_nothing_but_missing_values_has_one_bin() -> None:
    reference = class_reference(np.full((20, 1), np.nan, np.float32), classes=1)
    assert reference.features[0].counts == (0, 20, 0)
    assert count_rows(reference, np.array([[1.0]], np.float32), classes=1)[2] == 1


def test_batches_of_any_size_give_the_same_counters() -> None:
    rows = normal_rows(2, 1_300)
    reference = class_reference(rows[:200])
    whole = count_rows(reference, rows)
    counter = WindowCounter(reference)
    sizes = [1] * 300 + [0, 255, 256, 257, 232]
    start = 0
    for size in sizes:
        part = rows[start : start + size]
        counter.add(part, answer(part), 1.0)
        start += size
    assert start == counter.rows == 1_300
    total, counters = counter.take()
    layout = counter.layout
    counters[layout.latency] = whole[layout.latency]
    assert total == 1_300
    assert counters.tolist() == whole.tolist()
    assert counter.take()[0] == 0


def test_the_callers_arrays_may_be_reused_at_once() -> None:
    reference = class_reference(normal_rows(3, 100))
    rows = normal_rows(4, 1)
    expected = count_rows(reference, rows)
    counter = WindowCounter(reference)
    outputs = answer(rows)
    counter.add(rows, outputs, 1.0)
    rows[:] = 99
    outputs["label"][:] = 0
    assert counter.take()[1].tolist() == expected.tolist()


def test_other_number_types_are_counted_as_float32() -> None:
    reference = class_reference(normal_rows(3, 100))
    rows = normal_rows(4, 10)
    outputs = answer(rows)
    counter = WindowCounter(reference)
    counter.add(
        rows.astype(np.float64),
        {k: v.astype(np.float64) for k, v in outputs.items()},
        1.0,
    )
    assert counter.take()[1].tolist() == count_rows(reference, rows).tolist()


def test_answers_that_are_no_answer_are_counted_apart() -> None:
    reference = class_reference(normal_rows(3, 100))
    counter = WindowCounter(reference)
    rows = normal_rows(4, 3)
    sure = np.array([[0.2, 0.8, 0.0], [np.nan, 0, 0], [0.2, 0.8, 0.0]], np.float32)
    counter.add(rows, {"label": np.array([1, 1, 7]), "probabilities": sure}, 1.0)
    counter.add_error()
    counter.add_rejected(5)
    _, counters = counter.take()
    layout = counter.layout
    assert counters[layout.output].sum() == 1
    assert counters[layout.output][10 + 5] == 1
    assert counters[layout.non_finite] == 2
    assert (counters[layout.errors], counters[layout.rejected]) == (1, 5)


def test_a_regression_counts_its_values() -> None:
    rows = normal_rows(5, 100)
    values = np.arange(100, dtype=np.float32)
    reference = build_reference(value_schema(), rows, {"value": values})
    assert isinstance(reference.output, ValueOutputReference)
    counter = WindowCounter(reference)
    counter.add(rows, {"value": values}, 0.05)
    counter.add(rows[:1], {"value": np.array([np.nan], np.float32)}, 9_999)
    _, counters = counter.take()
    assert tuple(counters[counter.layout.output]) == reference.output.counts
    assert counters[counter.layout.non_finite] == 1
    assert counters[counter.layout.latency][[0, 15]].tolist() == [1, 1]


def test_a_wide_input_is_watched_in_part() -> None:
    width = COLUMNS_MAX * 3
    rows = normal_rows(6, 20, width)
    reference = class_reference(rows)
    assert len(reference.features) == COLUMNS_MAX
    assert reference.features[1].name == "f3"
    counters = count_rows(reference, rows)
    assert tuple(counters[CounterLayout.of(reference).features[1]]) == reference.features[1].counts


def test_a_reference_survives_its_encoding() -> None:
    for reference in (
        class_reference(normal_rows(7, 333)),
        build_reference(value_schema(), normal_rows(7, 33), {"value": normal_rows(8, 33, 1)}),
    ):
        encoded = reference.encode()
        assert Reference.decode(encoded) == reference
        assert Reference.decode(encoded).encode() == encoded
        assert len(reference_hash(encoded)) == 8


def test_answers_may_come_from_other_rows_than_the_features() -> None:
    reference = class_reference(normal_rows(7, 300), answers=normal_rows(8, 90))
    assert reference.rows == 300
    assert sum(reference.output.counts) == 90
    assert answer_mix(reference, np.array(reference.output.counts)).sum() == 90


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"rows": 11},
        {"rows": -1},
        {"features": [{}]},
        {"features": 3},
        {"output": {"kind": "other", "counts": []}},
        {"output": {"kind": "value", "edges": [2, 1], "counts": [1, 1, 1]}},
        {"output": {"kind": "value", "edges": [1], "counts": [1]}},
        {"output": {"kind": "classes", "classes": [], "confidence_edges": [], "counts": []}},
        {"output": {"kind": "targets", "targets": [{"name": "a", "edges": [], "counts": [9]}]}},
        {
            "output": {
                "kind": "targets",
                "targets": [
                    {"name": "a", "edges": [], "counts": [9]},
                    {"name": "b", "edges": [], "counts": [8]},
                ],
            }
        },
        {"latency_edges_ms": [1, 2]},
        {"latency_edges_ms": [True] * 15},
    ],
)
def test_a_malformed_reference_is_refused(change: dict[str, object]) -> None:
    good = json.loads(class_reference(normal_rows(9, 10), classes=1).encode())
    with pytest.raises(ContractError):
        Reference.decode(json.dumps(good | change).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [1e308, 2e308]},
        {"edges": [3, 2]},
        {"edges": ["1"]},
        {"low": 5},
        {"counts": [1]},
        {"counts": [-1, 0, 11]},
        {"counts": [1.5]},
        {"column": -1},
    ],
)
def test_a_malformed_feature_is_refused(change: dict[str, object]) -> None:
    good = json.loads(class_reference(np.ones((10, 1), np.float32), classes=1).encode())
    good["features"][0] |= change
    with pytest.raises(MalformedError):
        Reference.decode(json.dumps(good).encode())


def test_a_reference_beyond_its_bound_is_refused() -> None:
    with pytest.raises(TooLargeError):
        Reference.decode(b" " * (REFERENCE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("rows", "classes", "culprit"),
    [
        (np.empty((0, 3), np.float32), 3, "shape"),
        (np.empty((5, 2), np.float32), 3, "shape"),
    ],
)
def test_a_reference_without_rows_is_refused(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]], classes: int, culprit: str
) -> None:
    with pytest.raises(ValueError, match=culprit):
        build_reference(class_schema(3, classes), rows, answer(rows, classes))


def test_a_missing_output_is_named() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        build_reference(class_schema(), normal_rows(1, 5), {"label": np.zeros(5)})


def test_too_many_classes_are_refused() -> None:
    schema = class_schema(1, 1)
    schema = type(schema)(
        model="m",
        task=schema.task,
        features=schema.features,
        outputs=schema.outputs,
        classes=tuple(str(k) for k in range(CLASSES_MAX + 1)),
    )
    with pytest.raises(ValueError, match="257 classes"):
        build_reference(schema, normal_rows(1, 5, 1), answer(normal_rows(1, 5, 1), 257))


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (b"", 1),
        (b"\x00", 0),
        (b"\x00\x00", 1),
        (b"\x80", 1),
        (b"\x00\x80", 1),
        (b"\x80\x00", 1),
        (b"\x81\x80\x00", 1),
        (b"\xff" * 9 + b"\x01", 1),
        (b"\x00" * 65_537, 65_537),
    ],
)
def test_malformed_varints_are_refused(payload: bytes, size: int) -> None:
    with pytest.raises(MalformedError):
        decode_counters(payload, size)


def test_varints_at_their_limits() -> None:
    largest = np.array([2**63 - 1, 0, 2**56, 2**56 - 1])
    assert decode_counters(encode_counters(largest), 4).tolist() == largest.tolist()
    assert decode_counters(b"", 0).size == 0
    assert encode_counters(np.zeros(0, np.int64)) == b""
    with pytest.raises(ValueError, match="from 0 up"):
        encode_counters(np.array([-1]))
    with pytest.raises(TooLargeError):
        encode_counters(np.zeros(65_537, np.int64))


def test_output_shift_lies_between_nothing_and_everything() -> None:
    same = np.array([5, 5])
    assert total_variation(same * 3, same) == 0
    assert total_variation(np.array([7, 0]), np.array([0, 9])) == 1
    assert total_variation(np.array([0, 0]), same) == 0
    assert expected_shift(0, same) == 0
    with pytest.raises(ValueError, match="against"):
        total_variation(np.array([1]), same)


def test_output_shift_by_chance_is_what_was_expected() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.3, 0.2])
    reference = rng.multinomial(2_000, shares)
    seen = [total_variation(c, reference) for c in rng.multinomial(40, shares, 500)]
    assert np.mean(seen) == pytest.approx(expected_shift(40, reference), rel=0.1)


def test_a_window_of_twenty_features_stays_small() -> None:
    rows = normal_rows(10, 1_000, 20)
    reference = class_reference(rows, classes=10)
    assert len(encode_counters(count_rows(reference, rows, 10))) <= 600


def test_the_class_output_reference_keeps_ten_confidence_bins() -> None:
    output = class_reference(normal_rows(1, 50)).output
    assert isinstance(output, ClassOutputReference)
    assert len(output.counts) == 3 * 10


def test_several_targets_survive_the_file_in_a_format_that_older_agents_refuse() -> None:
    schema = ModelSchema(
        model="body",
        task=Task.REGRESSION,
        features=(Feature(name="x"),),
        outputs=(Output(name="value", role=Role.VALUE, targets=("low", "flat")),),
    )
    values = np.array([[1, 7], [2, 7], [3, 7], [np.nan, 7]], np.float32)
    reference = build_reference(schema, np.zeros((4, 1), np.float32), {"value": values})
    assert isinstance(reference.output, TargetsOutputReference)
    assert [(one.name, sum(one.counts)) for one in reference.output.targets] == [
        ("low", 3),
        ("flat", 3),
    ]
    assert Reference.decode(reference.encode()) == reference
    assert json.loads(reference.encode())["format"] == 3


def test_a_label_beyond_its_own_classes_is_no_answer_though_another_has_that_many() -> None:
    schema = ModelSchema(
        model="sky",
        task=Task.CLASSIFICATION,
        features=(Feature(name="x"),),
        outputs=(
            Output(
                name="label",
                role=Role.LABEL,
                labels=(
                    NamedLabel(name="rain", classes=("no", "yes")),
                    NamedLabel(name="day", classes=("work", "rest", "feast")),
                ),
            ),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
    )
    shares = np.full((4, 5), 0.4, np.float32)
    answers = {"label": np.array([[0, 0], [1, 2], [0, 1], [1, 1]]), "probabilities": shares}
    rows = np.zeros((4, 1), np.float32)
    counter = WindowCounter(reference := build_reference(schema, rows, answers))
    layout = CounterLayout.of(reference)
    counter.add(rows, {**answers, "label": np.array([[0, 0], [2, 0], [1, 3], [-1, 1]])}, 1.0)
    _, counters = counter.take()
    assert counters[layout.non_finite] == 3
    assert [own.sum() for own in np.split(counters[layout.output], [20])] == [1, 1]
    assert sum(reference.output.counts) == 8
