"""Specs, tables and fakes for tests of training."""

from collections.abc import Mapping, Sequence

import numpy as np

from fleet_server.ports.training import NumberColumn, RawTable, WordColumn
from fleet_server.training.spec import Spec
from fleet_server.training.spec_parser import parse_spec

PROFILES = ("camera", "iot-gateway", "onprem-server")

DIGITS_SPEC = """\
# A camera reads single digits.
[model]
name = "digits"
task = "classification"
problem = "Read the digit in an 8x8 crop."
owner = "vision@example.org"
business = { metric = "misrouted parcels per 1,000", baseline = 8.1, target = 4.0 }

[data]
source = "file:digits.csv"
target = "digit"
[data.features]
pixels = { type = "float32", shape = [8, 8], range = [0, 16] }

[split]
test = 0.30
seed = 7
freeze = true

[train]
estimator = "sklearn.neural_network.MLPClassifier"
params = { hidden_layer_sizes = [64], max_iter = 60, random_state = 0 }
steps = [{ use = "sklearn.preprocessing.StandardScaler" }]

[metrics]
primary = "accuracy"
accuracy = { floor = 0.94, regression_max = 0.01 }
log_loss = { ceiling = 0.30 }

[profiles]
camera = { latency_ms_p95_max = 5, package_bytes_max = 500_000, metric_drop_max = 0.005 }

[approval]
signatures = 1
"""


def edit(text: str, changes: Mapping[str, str]) -> str:
    """Replace each key's one occurrence; a text that is not there is a fault of the test."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text


def raw_table(
    numbers: Mapping[str, Sequence[float]] | None = None,
    words: Mapping[str, Sequence[str | None]] | None = None,
) -> RawTable:
    """A table as a reader gives it; None is a missing word, NaN a missing number."""
    columns = {
        name: NumberColumn(values=np.array(values, np.float64), unreadable=np.empty(0, np.int64))
        for name, values in (numbers or {}).items()
    }
    word_columns = {}
    for name, values in (words or {}).items():
        known = tuple(dict.fromkeys(word for word in values if word is not None))
        codes = [known.index(word) if word is not None else -1 for word in values]
        word_columns[name] = WordColumn(codes=np.array(codes, np.int64), words=known)
    sizes = {len(c.values) for c in columns.values()} | {
        len(c.codes) for c in word_columns.values()
    }
    (rows,) = sizes
    return RawTable(rows=rows, numbers=columns, words=word_columns)


def value_spec(
    *features: str, task: str = "classification", target: str = "t", **train: str
) -> str:
    """A small spec; each feature is its line, such as ``x = { type = "float32" }``."""
    metric = "accuracy" if task == "classification" else "mae"
    estimator = train.get(
        "estimator",
        "sklearn.linear_model.LogisticRegression"
        if task == "classification"
        else "sklearn.linear_model.Ridge",
    )
    lines = "\n".join(features or ('x = { type = "float32" }',))
    return f"""\
[model]
name = "small"
task = "{task}"
problem = "Try."
[data]
source = "file:rows.csv"
target = "{target}"
[data.features]
{lines}
[split]
test = 0.3
[train]
estimator = "{estimator}"
params = {train.get("params", "{}")}
steps = {train.get("steps", "[]")}
[metrics]
primary = "{metric}"
{metric} = {train.get("limit", "{}")}
[profiles]
camera = {{}}
"""


def read_spec(text: str) -> Spec:
    return parse_spec(text, source="small.toml", profiles=PROFILES)
