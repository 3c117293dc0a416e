"""Row hashes, the split and the data's digest depend on content alone."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.errors import RefusedError
from fleet_server.ports.training import WordColumn
from fleet_server.training.class_names import find_missing, judge_classes, name_classes
from fleet_server.training.dataset import Dataset, Side, class_shares, split_rows
from fleet_server.training.row_hash import (
    choose_test_rows,
    digest_rows,
    hash_numbers,
    hash_rows,
    hash_words,
    order_rows,
)
from fleet_server.training.spec import SplitSection


def table(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, 3)).astype(np.float32), draw.integers(0, 3, rows)


def lanes_of(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return hash_rows(features, hash_words(codes, ("a", "b", "c")))


def slow_hash(row: list[float], word: str) -> list[int]:
    """The same mix, one row in plain integers."""
    starts, factors = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F), (FACTOR_1, FACTOR_2)
    digest, lanes = hashlib.sha256(word.encode()).digest(), []
    for lane, (start, factor) in enumerate(zip(starts, factors, strict=True)):
        state = start
        values = [struct.unpack("<Q", struct.pack("<d", x + 0.0))[0] for x in row]
        for value in [*values, int.from_bytes(digest[8 * lane : 8 * lane + 8], "little")]:
            state = (state ^ value) * factor % 2**64
            state ^= state >> 32
        state = (state ^ state >> 30) * FACTOR_1 % 2**64
        state = (state ^ state >> 27) * FACTOR_2 % 2**64
        lanes.append(state ^ state >> 31)
    return lanes


FACTOR_1, FACTOR_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.text(max_size=5)), min_size=1))
def test_hashes_agree_with_plain_integers(rows: list[tuple[float, str]]) -> None:
    words = tuple(word for _, word in rows)
    features = np.array([[x, -x] for x, _ in rows], np.float32)
    lanes = hash_rows(features, hash_words(np.arange(len(rows)), words))
    assert lanes.tolist() == [
        slow_hash([float(a), float(b)], word)
        for (a, b), word in zip(features.tolist(), words, strict=True)
    ]


def test_the_digest_is_the_same_on_every_machine_and_for_ever() -> None:
    features = np.array([[0.0, 1.5], [-2.25, 1e30]], np.float32)
    lanes = hash_rows(features, hash_words(np.array([0, 1]), ("no", "yes")))
    assert digest_rows(("x", "y"), "t", lanes) == (
        "a65cad1ded69551de96c4639bca8a26c2d770854e800790a1c6ea0ac9c26d201"
    )


def test_minus_zero_is_zero() -> None:
    assert (hash_numbers(np.array([-0.0])) == hash_numbers(np.array([0.0]))).all()


def test_words_count_by_their_text_not_by_their_code() -> None:
    one = hash_words(np.array([0, 1]), ("a", "b"))
    two = hash_words(np.array([1, 0]), ("b", "a"))
    assert (one == two).all()
    assert (one[0] != one[1]).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 200), st.integers(0, 99), st.integers(0, 99))
def test_no_order_changes_digest_sides_or_the_rows_order(rows: int, seed: int, mix: int) -> None:
    features, codes = table(rows, seed)
    shuffled = np.random.default_rng(mix).permutation(rows)
    one = lanes_of(features, codes)
    two = lanes_of(features[shuffled], codes[shuffled])
    assert digest_rows(("x",), "t", one) == digest_rows(("x",), "t", two)
    assert (features[order_rows(one)] == features[shuffled][order_rows(two)]).all()
    sides = choose_test_rows(one, share=0.3, seed=seed)
    assert (sides[shuffled] == choose_test_rows(two, share=0.3, seed=seed)).all()


@pytest.mark.parametrize("change", ["value", "class", "row", "name", "column"])
def test_any_change_of_content_changes_the_digest(change: str) -> None:
    features, codes = table(50)
    before = digest_rows(("x",), "t", lanes_of(features, codes))
    names, target = ("x",), "t"
    if change == "value":
        features[7, 1] = np.nextafter(features[7, 1], np.float32(9))
    elif change == "class":
        codes[7] = (codes[7] + 1) % 3
    elif change == "row":
        features, codes = features[1:], codes[1:]
    elif change == "name":
        names = ("z",)
    else:
        target = "u"
    assert digest_rows(names, target, lanes_of(features, codes)) != before


def test_equal_rows_in_two_columns_swapped_have_other_hashes() -> None:
    codes = np.array([0])
    one = lanes_of(np.array([[1, 2, 3]], np.float32), codes)
    assert (one != lanes_of(np.array([[2, 1, 3]], np.float32), codes)).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_the_share_held_out_is_about_what_was_asked(share: float) -> None:
    lanes = lanes_of(*table(20_000))
    assert choose_test_rows(lanes, share=share, seed=1).mean() == pytest.approx(share, abs=0.015)


def test_small_whole_numbers_are_spread_too() -> None:
    features = np.arange(3_000, dtype=np.float32)[:, None] % 17
    counted = np.concatenate([features, np.arange(3_000, dtype=np.float32)[:, None]], axis=1)
    lanes = hash_rows(counted, hash_numbers(np.zeros(3_000)))
    held_out = choose_test_rows(lanes, share=0.3, seed=0)
    assert held_out.mean() == pytest.approx(0.3, abs=0.03)
    assert len(np.unique(lanes[:, 0])) == 3_000


def test_another_seed_gives_an_unrelated_choice() -> None:
    lanes = lanes_of(*table(20_000))
    one, two = (choose_test_rows(lanes, share=0.5, seed=seed) for seed in (1, 2))
    assert (one == two).mean() == pytest.approx(0.5, abs=0.02)


def test_a_row_keeps_its_side_when_the_table_grows() -> None:
    features, codes = table(1_000)
    part, whole = lanes_of(features[:400], codes[:400]), lanes_of(features, codes)
    before = choose_test_rows(part, share=0.3, seed=7)
    assert (choose_test_rows(whole, share=0.3, seed=7)[:400] == before).all()


def dataset(codes: np.ndarray, classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    features = np.random.default_rng(0).normal(size=(len(codes), 2)).astype(np.float32)
    lanes = hash_rows(features, hash_words(codes, classes))
    return Dataset(
        features=features,
        targets=codes,
        classes=classes,
        lanes=lanes,
        sha256="",
        columns_sha256="",
    )


def test_the_sides_share_no_row_and_miss_none() -> None:
    whole = dataset(np.arange(200) % 2)
    train, test = split_rows(whole, SplitSection(test=0.25, seed=3))
    rows = [tuple(r) for side in (train, test) for r in side.features.tolist()]
    assert sorted(rows) == sorted(tuple(r) for r in whole.features.tolist())
    assert len(set(rows)) == 200


def test_a_side_without_rows_is_refused() -> None:
    with pytest.raises(RefusedError, match="leaves 0 held-out rows of 4, at least 2"):
        split_rows(dataset(np.array([0, 1, 0, 1])), SplitSection(test=1e-9))


def test_a_class_that_is_only_held_out_is_refused() -> None:
    codes = np.zeros(60, np.int64)
    whole = dataset(codes)
    held_out = choose_test_rows(whole.lanes, share=0.3, seed=0)
    lonely = int(np.argmax(held_out))
    whole.targets[lonely] = 1
    with pytest.raises(RefusedError, match="class 'b' has 1 row, all held out"):
        split_rows(whole, SplitSection(test=0.3, seed=0))


def test_class_shares_of_a_side() -> None:
    side = Side(features=np.zeros((4, 1), np.float32), targets=np.array([0, 1, 1, 1]))
    assert class_shares(side, ("a", "b")) == {"a": 0.25, "b": 0.75}
    assert class_shares(side, ()) == {}


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("3.0", "3", "1"), ("1", "3")),
        (("b", "a", " a "), ("a", "b")),
        (("007", "7"), ("007", "7")),
        (("1", "2", "unknown"), ("1", "2", "unknown")),
        (("true", "false"), ("false", "true")),
        (("1_0", "2"), ("1_0", "2")),
        (("1.5", "2.x"), ("1.5", "2.x")),
    ],
)
def test_classes_are_named_and_ordered(words: tuple[str, ...], classes: tuple[str, ...]) -> None:
    column = WordColumn(codes=np.arange(len(words)), words=words)
    indexes, found = name_classes(column)
    assert found == classes
    assert judge_classes("t", found) == []
    for word, index in zip(words, indexes, strict=True):
        assert found[index].removesuffix(".0") == word.strip().removesuffix(".0")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("a",), "one class only ('a' in every row)"),
        (("0.5", "1.0"), "has decimals (such as 0.5)"),
        (tuple(f"c{n}" for n in range(257)), "has 257 classes, at most 256"),
        (("a", "b" * 129), "has 129 characters, at most 128"),
    ],
)
def test_classes_that_cannot_be_learned(words: tuple[str, ...], problem: str) -> None:
    _, found = name_classes(WordColumn(codes=np.arange(len(words)), words=words))
    assert problem in judge_classes("t", found)[0]


def test_words_that_no_row_uses_are_no_classes() -> None:
    column = WordColumn(codes=np.array([1, 1, -1]), words=("unused", "used", " "))
    assert name_classes(column)[1] == ("used",)
    assert find_missing(column).tolist() == [False, False, True]
    blank = WordColumn(codes=np.array([0, 1]), words=("x", "  "))
    assert find_missing(blank).tolist() == [False, True]
