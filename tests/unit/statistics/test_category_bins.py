"""Categories are binned by what they are, alike on device and server."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.errors import ContractError
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.category_bins import CategoryCodes, group_categories
from edge_agent.statistics.reference import BIN_SHARE_MIN, BINS_MAX, Reference, build_reference

HUES = tuple(f"hue-{n}" for n in range(14))
SCHEMA = ModelSchema(
    model="paint",
    task=Task.REGRESSION,
    features=(
        Feature(name="heat"),
        Feature(name="hue", dtype="category", categories=HUES, is_nullable=True, is_open=True),
        Feature(name="door", dtype="bool"),
    ),
    outputs=(Output(name="value", role=Role.VALUE),),
)


def _rows(codes: list[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rows = np.zeros((len(codes), 3), np.float32)
    rows[:, 0] = np.arange(len(codes))
    rows[:, 1] = codes
    rows[:, 2] = np.arange(len(codes)) % 2
    return rows


def _reference(codes: list[float]) -> Reference:
    return build_reference(SCHEMA, _rows(codes), {"value": np.arange(len(codes))})


def test_the_commonest_have_bins_of_their_own_and_the_rest_share_one() -> None:
    codes = [0.0] * 10 + [5.0] * 60 + [9.0] * 25 + [1.0, 2.0, 3.0, np.nan, -1.0]
    hue = _reference(codes).features[1]
    assert hue.labels == ("hue-5", "hue-9", "hue-0", "3 others")
    assert hue.counts == (60, 25, 10, 3, 1, 1)
    assert hue.codes[5] == 0
    assert hue.codes[13] == -1


def test_a_reference_with_categories_survives_its_json_and_is_refused_by_older_code() -> None:
    reference = _reference([0.0, 1.0, 2.0] * 20)
    assert Reference.decode(reference.encode()) == reference
    assert json.loads(reference.encode())["format"] == 2


def test_a_column_that_is_always_missing_still_has_a_layout() -> None:
    hue = _reference([np.nan] * 40).features[1]
    assert hue.counts == (0, 40, 0)


@pytest.mark.parametrize("change", [{"labels": ["a"]}, {"codes": [7] * 14}, {"codes": [True] * 14}])
def test_codes_that_do_not_fit_the_bins_are_refused(change: dict[str, object]) -> None:
    fields = json.loads(_reference([0.0, 1.0, 2.0] * 20).encode())
    fields["features"][1] |= change
    with pytest.raises(ContractError):
        Reference.decode(json.dumps(fields).encode())


def test_recoding_leaves_numbers_and_the_given_rows_alone() -> None:
    rows = np.array([[7, 0], [7, 1], [7, 2], [7, -1], [7, 9], [7, np.nan], [7, 1e30]], np.float32)
    before = rows.copy()
    recoded = CategoryCodes([None, (2, 0, -1)]).recode(rows)
    np.testing.assert_array_equal(recoded[:, 1], [2, 0, -1, -1, -1, np.nan, -1])
    np.testing.assert_array_equal(recoded[:, 0], 7)
    np.testing.assert_array_equal(rows, before)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_no_bin_is_empty_or_rare_and_every_seen_category_has_one(counts: list[int]) -> None:
    codes, groups = group_categories(counts, bins_max=BINS_MAX, share_min=BIN_SHARE_MIN)
    need = max(1.0, BIN_SHARE_MIN * sum(counts))
    assert len(groups) <= BINS_MAX
    assert [code == -1 for code in codes] == [count == 0 for count in counts]
    for place, group in enumerate(groups):
        assert all(codes[n] == place for n in group)
        assert sum(counts[n] for n in group) >= need or len(groups) == 1


def test_numbers_alone_keep_the_bytes_of_their_reference() -> None:
    schema = replace(SCHEMA, features=SCHEMA.features[:1])
    encoded = build_reference(schema, _rows([0.0] * 30)[:, :1], {"value": np.arange(30)}).encode()
    fields = json.loads(encoded)
    assert fields["format"] == 1
    assert "codes" not in fields["features"][0]


def test_a_device_counts_training_rows_as_the_reference_did() -> None:
    draw = np.random.default_rng(3)
    codes = draw.choice([*range(12), -1.0, np.nan], 600, p=[0.2, 0.2, *([0.05] * 12)])
    reference = _reference(codes.tolist())
    rows = _rows(codes.tolist())
    counter = WindowCounter(reference)
    counter.add(rows, {"value": np.zeros(600, np.float32)}, 1.0)
    _, counted = counter.take()
    for feature, at in zip(reference.features, counter.layout.features, strict=True):
        assert tuple(counted[at]) == feature.counts


def test_a_category_nobody_trained_on_counts_as_outside() -> None:
    reference = _reference([0.0, 1.0] * 30)
    counter = WindowCounter(reference)
    counter.add(_rows([5.0, -1.0, 99.0, np.nan, 1.0]), {"value": np.zeros(5, np.float32)}, 1.0)
    _, counted = counter.take()
    assert counted[counter.layout.features[1]].tolist() == [0, 1, 1, 3]
