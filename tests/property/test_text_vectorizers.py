"""The graph of a vectorizer counts what scikit-learn counts, whatever the text holds."""

import random
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)

from converters.errors import UnsupportedEstimatorError
from converters.text_plan import read_plan
from converters.text_table import TextTable, register_text_table
from edge_agent.statistics.packed_texts import pack_texts

CHARS_MAX = 48
PIECES = [
    *"abcABC  xyz\n\r\t_-'1#.:",
    *"\u00c4\u00e4\u00df\u00e9\u0130\u0131\ufb01\u00bd\u00b2\u0663\u4e2d\u6587\U0001f600\x00\u2028\u00a0\u0345\u00ad",
    *"\u03a3\u03c3\u03c2\u039f\u03bf\ud800",
    *["hello ", "the ", "Hello ", "cafe\u0301 ", "caf\u00e9 ", "new york ", "\ufb01ne ", "don't "],
    *[
        "\u039f\u0394\u039f\u03a3 ",
        "\u03bf\u03b4\u03bf\u03c2 ",
        "stra\u00dfe ",
        "a ",
        "ab ",
        "not ",
    ],
]


def draw_texts(count: int, seed: int) -> list[str]:
    random_ = random.Random(seed)
    texts = ["", " ", "hello", "\r\n", "\x00", "ab" * (CHARS_MAX // 2)]
    for _ in range(count):
        parts = [
            random_.choice(PIECES) if random_.random() < 0.97 else chr(random_.randrange(0x110000))
            for _ in range(random_.randrange(12))
        ]
        texts.append("".join(parts)[:CHARS_MAX])
    return texts


FITTED_ON = draw_texts(120, seed=1)
ASKED = draw_texts(250, seed=2)


def make_session(table: TextTable, *, is_wide: bool) -> onnxruntime.InferenceSession:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    register_text_table()
    kind = DoubleTensorType if is_wide else FloatTensorType
    model = convert_sklearn(
        table,
        initial_types=[("features", kind([None, 1 + CHARS_MAX]))],
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    return onnxruntime.InferenceSession(model.SerializeToString())


def answer(table: TextTable, texts: list[str | None], *, is_wide: bool = False) -> NDArray[Any]:
    rows = pack_texts(texts, CHARS_MAX).astype(np.float64 if is_wide else np.float32)
    found: NDArray[Any] = make_session(table, is_wide=is_wide).run(None, {"features": rows})[0]
    return found


WORDS = {
    "default": CountVectorizer(),
    "lower case, accents": CountVectorizer(strip_accents="unicode", ngram_range=(1, 2)),
    "ascii, one letter": CountVectorizer(strip_accents="ascii", token_pattern=r"(?u)\b\w+\b"),
    "stop words, weights": TfidfVectorizer(
        ngram_range=(1, 3), stop_words="english", sublinear_tf=True, norm="l1"
    ),
    "as it is": TfidfVectorizer(
        lowercase=False, token_pattern=r"\S+", binary=True, use_idf=False, norm=None
    ),
    "letters alone": CountVectorizer(token_pattern=r"\b[a-z]+\b", ngram_range=(2, 2)),
    "runs": CountVectorizer(token_pattern=r"(?i)([a-z]{2,})", lowercase=False),
    "given vocabulary": CountVectorizer(
        vocabulary=["hello", "Hello", "a b", "\u03bf\u03b4\u03bf\u03c2"]
    ),
    "no word that can be": CountVectorizer(vocabulary=["A"]),
}
CHARACTERS = {
    "characters": TfidfVectorizer(analyzer="char", ngram_range=(1, 3)),
    "longer": CountVectorizer(analyzer="char", ngram_range=(3, 4), lowercase=False),
    "within words": TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)),
    "short words": CountVectorizer(analyzer="char_wb", ngram_range=(4, 5)),
}


@pytest.mark.filterwarnings("ignore:Upper case characters found")
@pytest.mark.parametrize("name", [*WORDS, *CHARACTERS])
def test_a_graph_counts_as_its_vectorizer(name: str) -> None:
    vectorizer = (WORDS | CHARACTERS)[name]
    vectorizer.fit(FITTED_ON)
    table = TextTable(vectorizer, chars_max=CHARS_MAX)
    got = answer(table, [*ASKED])
    wanted = vectorizer.transform(ASKED).toarray()
    off = np.abs(got - wanted).max(axis=1) > 1e-6
    assert not off.any(), [(ASKED[n], got[n] - wanted[n]) for n in np.flatnonzero(off)[:3]]
    assert name == "no word that can be" or wanted.any(axis=1).mean() > 0.1


def test_weights_behind_counts_are_part_of_them_and_a_missing_text_is_an_empty_one() -> None:
    vectorizer, weights = CountVectorizer(), TfidfTransformer(sublinear_tf=True)
    weights.fit(vectorizer.fit_transform(FITTED_ON))
    table = TextTable(vectorizer, weights, CHARS_MAX)
    got = answer(table, ["hello hello the", None, "nobody knows"])
    wanted = weights.transform(vectorizer.transform(["hello hello the", "", "nobody knows"]))
    assert got == pytest.approx(wanted.toarray(), abs=1e-7)
    assert not got[1:].any()


@pytest.mark.parametrize(
    ("vectorizer", "reason"),
    [
        (HashingVectorizer(n_features=8), "hash of its bytes"),
        (CountVectorizer(token_pattern=r"\b\w+(?:'\w+)?\b"), "runs of one class"),
        (CountVectorizer(token_pattern=r"\b[\w-]+\b"), "runs of one class"),
        (CountVectorizer(token_pattern=r"[a-z ]+", ngram_range=(1, 2)), "may hold spaces"),
        (CountVectorizer(tokenizer=str.split, token_pattern=None), "tokenizer is a function"),
        (CountVectorizer(preprocessor=str.strip), "preprocessor is a function"),
        (CountVectorizer(analyzer=str.split), "analyzer is a function"),
        (CountVectorizer(strip_accents=str.lower), "strip_accents is a function"),
        (CountVectorizer(analyzer="char", ngram_range=(1, 17)), "up to 17 items"),
    ],
)
def test_what_a_graph_cannot_do_is_refused_with_its_reason(vectorizer: Any, reason: str) -> None:
    vectorizer.fit(["hello the world of hello worlds"])
    with pytest.raises(UnsupportedEstimatorError, match=reason):
        read_plan(vectorizer)


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(),
        TfidfVectorizer(sublinear_tf=True, norm="l1", ngram_range=(1, 2)),
        TfidfVectorizer(binary=True, smooth_idf=False),
    ],
    ids=["default", "sublinear, l1", "binary"],
)
def test_weights_in_float64_are_those_of_scikit_learn_to_the_last_bit(vectorizer: Any) -> None:
    draw = random.Random(4)
    words = [f"w{letter}" for letter in "abcdefghijkl"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(14))) for _ in range(400)]
    wanted = vectorizer.fit(texts).transform(texts).toarray()
    table = TextTable(vectorizer, chars_max=CHARS_MAX)
    got = answer(table, [*texts], is_wide=True)
    np.testing.assert_array_equal(got, wanted)
