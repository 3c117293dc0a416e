"""The sweep's cases that read texts: a vectorizer before a linear model, asked with odd texts."""

import random
import warnings
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from converters.attempts import measure_try
from converters.errors import ConversionError
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.sources import make_source
from converters.table_feed import TableModel
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.packed_texts import pack_texts

CHARS_MAX = 80
_WORDS = [
    *("the", "quick", "Caf\u00e9", "na\u00efve", "dog", "jumps", "over", "a", "l\u00e1zy", "fox,"),
    *("twice;", "GR\u00dcN", "and", "\u0394\u039f\u03a3"),
]
_ODD = [
    "",
    " ",
    "\U0001f525 \r\n\t",
    "\u0130stanbul \u4e2d\u6587 \u00bd",
    "x" * CHARS_MAX,
    "nobody knows these",
]


def judge_texts(name: str, make: Any) -> tuple[bool, str]:
    """Convert one vectorizer (or what weighs its counts); tell whether it is exact, or why not.

    Returns:
        Whether every answer is the same, and the reason of a refusal or "".
    """
    draw = random.Random(4)
    texts = [" ".join(draw.choices(_WORDS, k=draw.randrange(12)))[:CHARS_MAX] for _ in range(90)]
    targets = [int("dog" in text) for text in texts]
    steps = [CountVectorizer(), make()] if name == "TfidfTransformer" else [make()]
    model = make_pipeline(*steps, LogisticRegression()).fit(texts, targets)
    schema = ModelSchema(
        model="sweep",
        task=Task.CLASSIFICATION,
        features=(Feature(name="text", dtype="text", chars_max=CHARS_MAX),),
        outputs=(
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        classes=("0", "1"),
    )
    profile = load_profile("camera")
    rows = pack_texts([*texts[60:], *_ODD], CHARS_MAX)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = make_source(TableModel(estimator=model), schema)
            made = source.convert(schema, profile, rows)
    except ConversionError as error:
        return False, str(error)
    got = GraphRunner(normalise(made.model, profile), profile).run(rows)
    done = measure_try("", schema.task, source.answer(rows), got)
    assert np.isfinite(got["probabilities"]).all()
    return done.is_exact and not made.repairs, ""
