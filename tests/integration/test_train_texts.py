"""A table with a column of free text, from its spec to the answers of a device."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from converters.tables import Table
from edge_agent.contract.schema import ModelSchema
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import Version
from fleet_server.training.spec_problems import SpecError
from tests.support.convert import Array
from tests.support.serving import TARGET, make_service
from tests.support.training import TrainingBench

PROFILE = "iot-gateway"
SPEC = """
[model]
name = "tickets"
task = "classification"
problem = "Say which ticket is urgent; a late one costs a visit."

[data]
source = "file:tickets.parquet"
target = "state"
[data.features]
age = { type = "float32", missing = "allow" }
note = { type = "text", chars_max = 80, terms_max = 60, ngrams = 2, missing = "allow" }
site = { type = "category", values = ["north", "south"], unknown = "other" }

[split]
test = 0.30
seed = 7

[train]
estimator = "sklearn.linear_model.LogisticRegression"

[metrics]
primary = "accuracy"
accuracy = { floor = 0.8 }

[profiles]
iot-gateway = { latency_ms_p95_max = 50 }
"""


def tickets(rows: int = 240) -> pa.Table:
    draw = np.random.default_rng(5)
    urgent = draw.random(rows) < 0.5
    words = {True: ["smoke", "hot", "\u00dcBERHITZT", "leak"], False: ["invoice", "when", "thanks"]}
    cells: dict[str, list[Any]] = {"age": [], "note": [], "site": [], "state": []}
    for is_urgent in urgent:
        own = [*words[bool(is_urgent)], "the", "pump,\nplease"]
        note = " ".join(draw.choice(own, int(draw.integers(2, 8))))
        cells["age"].append(None if draw.random() < 0.1 else float(draw.normal()))
        cells["note"].append(None if draw.random() < 0.05 else note)
        cells["site"].append(str(draw.choice(["north", "south"])))
        cells["state"].append("urgent" if is_urgent else "calm")
    return pa.table(cells)


TABLE = tickets()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainingBench:
    return TrainingBench(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def version(bench: TrainingBench) -> Version:
    return bench.train(SPEC, TABLE, name="tickets.parquet")


def pack(schema: ModelSchema) -> Array:
    columns = {name: TABLE.column(name).to_pylist() for name in TABLE.column_names}
    return Table(name="rows", columns=columns).read_packed(schema.features).astype(np.float32)


def test_a_device_answers_as_the_model_that_was_trained(
    bench: TrainingBench, version: Version
) -> None:
    schema = ModelSchema.decode(bench.member(version, "schema.json", PROFILE))
    assert [feature.dtype for feature in schema.features] == ["float32", "text", "category"]
    (artifact,) = version.artifacts
    sha256 = artifact.package.sha256
    service = make_service()
    service.activate("main", blob=bench.objects.read(sha256), target=TARGET, sha256=sha256)
    rows = pack(schema)[:200]
    answered = service.predict("main", rows).outputs
    source = read_estimator(bench.objects.read(version.run["source_model"]))
    wanted = source.predict_proba(rows)
    np.testing.assert_allclose(answered["probabilities"], wanted, atol=1e-5)
    assert wanted.max(axis=1).mean() > 0.7


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("chars_max = 80", "chars_max = 20", "longer than chars_max = 20, the longest has"),
        (', missing = "allow" }\nsite', " }\nsite", "texts are missing; first in row"),
        ("chars_max = 80", "chars_max = 9000", "chars_max"),
        ("ngrams = 2", 'unit = "m"', "unit: a text has none"),
        ("terms_max = 60", 'unknown = "other"', "unknown: a text has none"),
        ('missing = "allow" }\nnote', "chars_max = 3 }\nnote", "chars_max: a float32 has none"),
    ],
)
def test_what_a_spec_says_wrong_of_a_text_is_told(
    bench: TrainingBench, old: str, new: str, words: str
) -> None:
    assert old in SPEC
    with pytest.raises((RefusedError, SpecError), match=words):
        bench.train(SPEC.replace(old, new), TABLE, name="tickets.parquet")
