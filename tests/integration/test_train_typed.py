"""A table of numbers, categories, booleans and gaps, from its spec to a device's answers."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from converters.tables import Table
from edge_agent.contract.schema import ModelSchema
from edge_agent.errors import InputError
from edge_agent.statistics.reference import Reference
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import Version
from tests.support.convert import Array
from tests.support.serving import TARGET, make_service
from tests.support.training import TrainingBench, edit

EXAMPLE = Path("examples/machines")
SPEC = (EXAMPLE / "machines.toml").read_text()
PROFILE = "iot-gateway"


def _load_export() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machines", EXAMPLE / "export_machines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXPORT = _load_export()
TABLE: pa.Table = EXPORT.machines_table(rows=900)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainingBench:
    return TrainingBench(tmp_path_factory.mktemp("typed"))


@pytest.fixture(scope="module")
def version(bench: TrainingBench) -> Version:
    return bench.train(SPEC, TABLE, name="machines.csv")


def _pack(schema: ModelSchema, table: pa.Table) -> Array:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(name="rows", columns=columns).read_packed(schema.features).astype(np.float32)


def test_the_schema_says_what_was_learned(bench: TrainingBench, version: Version) -> None:
    schema = ModelSchema.decode(bench.member(version, "schema.json", PROFILE))
    by_name = {feature.name: feature for feature in schema.features}
    assert by_name["vendor"].categories == ("acme", "brill", "corto", "delta")
    assert (by_name["vendor"].is_open, by_name["vendor"].is_nullable) == (True, False)
    assert by_name["site"].categories == ("north", "south", "east")
    assert (by_name["site"].is_open, by_name["site"].is_nullable) == (False, True)
    assert (by_name["is_open"].dtype, by_name["pressure"].is_nullable) == ("bool", True)
    reference = Reference.decode(bench.member(version, "reference.json", PROFILE))
    assert set(reference.features[3].labels) == {"acme", "brill", "corto", "delta"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            '"sklearn.ensemble.HistGradientBoostingClassifier"': (
                '"sklearn.linear_model.LogisticRegression"'
            ),
            "{ max_iter = 60 }": ('{}\nsteps = [{ use = "sklearn.preprocessing.StandardScaler" }]'),
            'name = "machines"': 'name = "machines-linear"',
            "{ floor = 0.90 }": "{ floor = 0.7 }",
        },
        {
            "HistGradientBoostingClassifier": "RandomForestClassifier",
            "{ max_iter = 60 }": "{ n_estimators = 20, max_depth = 8 }",
            'name = "machines"': 'name = "machines-forest"',
            "{ floor = 0.90 }": "{ floor = 0.8 }",
        },
    ],
    ids=["boosted", "linear", "forest"],
)
def test_a_device_answers_raw_rows_as_the_source_model_does(
    bench: TrainingBench, version: Version, changes: dict[str, str]
) -> None:
    made = bench.train(edit(SPEC, changes), TABLE, name="machines.csv") if changes else version
    (artifact,) = made.artifacts
    schema = ModelSchema.decode(bench.member(made, "schema.json", PROFILE))
    later = _pack(schema, EXPORT.machines_table(rows=400, seed=9, has_new_vendor=True))
    assert np.isnan(later).any()
    assert (later[:, 3] == -1).any()
    service = make_service()
    blob = bench.objects.read(artifact.package.sha256)
    service.activate("main", blob=blob, target=TARGET, sha256=artifact.package.sha256)
    source = read_estimator(bench.objects.read(made.run["source_model"]))
    got = service.predict("main", later).outputs
    np.testing.assert_allclose(got["probabilities"], source.predict_proba(later), atol=2e-5)
    rows = later[:1].copy()
    rows[0, 4] = -1
    with pytest.raises(InputError, match="site is code -1"):
        service.find("main").check_ranges(rows)


def test_a_champion_with_another_list_is_asked_by_texts(
    bench: TrainingBench, version: Version
) -> None:
    bench.crown("machines", version.number)
    more = EXPORT.machines_table(rows=900, seed=3, has_new_vendor=True)
    spec = edit(SPEC, {"floor = 0.90": "floor = 0.8, regression_max = 0.1"})
    newer = bench.train(spec, more, name="machines.csv")
    (gate,) = [g for g in newer.evaluation["gates"] if "champion" in g["sentence"]]
    assert gate["verdict"] in ("kept", "inconclusive"), gate
    assert "not asked" not in gate["sentence"]


def test_rows_keep_their_side_when_a_list_grows(bench: TrainingBench) -> None:
    first = edit(SPEC, {'name = "machines"': 'name = "machines-sides"'})
    one = bench.train(first, TABLE, name="machines.csv")
    names = ["aaa" if name == "delta" else name for name in TABLE.column("vendor").to_pylist()]
    turned = TABLE.set_column(3, "vendor", pa.array(names))
    two = bench.train(first, turned, name="machines.csv")
    rows = [version.run["split"]["test_rows"] for version in (one, two)]
    # The rows of one vendor are others now; all the rest stay where they were.
    assert abs(rows[0] - rows[1]) < 40


@pytest.mark.parametrize(
    ("changes", "column", "cells", "words"),
    [
        ({}, "site", ["west"], "'site': 1 values are not among 'north', 'south', 'east', such as"),
        ({}, "vendor", [""], "'vendor': 1 of 900 values are missing; first in row 1"),
        ({}, "is_open", ["ajar"], "'is_open': 1 values are not among true and false, such as 'aja"),
        ({"values_max = 40": "values_max = 3"}, "vendor", [], "has 4 different values, at most 3"),
        ({', missing = "allow" }\nhours': " }\nhours"}, "heat", [], "'pressure': "),
    ],
)
def test_cells_that_the_spec_does_not_allow_are_told_by_column(
    bench: TrainingBench, changes: dict[str, str], column: str, cells: list[str], words: str
) -> None:
    texts = ["" if cell is None else str(cell) for cell in TABLE.column(column).to_pylist()]
    texts[: len(cells)] = cells
    place = TABLE.column_names.index(column)
    table = TABLE.set_column(place, column, pa.array(texts)) if cells else TABLE
    with pytest.raises(RefusedError) as error:
        bench.train(edit(SPEC, changes), table, name="machines.csv")
    assert words in str(error.value)
