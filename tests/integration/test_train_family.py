"""A family from one spec: every member registered, failures listed, a run that goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from converters.families.member_converter import Way
from converters.runtime import GraphRunner
from device_profiles.catalog import load_profile
from edge_agent.contract.package import EVIDENCE, MODEL, SCHEMA
from edge_agent.contract.schema import ModelSchema
from edge_agent.statistics.packed_texts import pack_texts
from fleet_server.adapters.estimator_files import SkopsEstimatorWriter, read_estimator
from fleet_server.adapters.git_commit import GitCodeVersions
from fleet_server.adapters.member_pool import JoblibMemberPool
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.training import EstimatorWriter
from fleet_server.services.browse_family import BrowseFamily
from fleet_server.services.train_family import MemberPool, TrainedFamily, TrainFamily
from fleet_server.training.family import Member
from fleet_server.training.family_member import FamilyRecipe, MemberOutcome, train_members
from fleet_server.web.family_page import write_family_page
from tests.support.clock import FakeClock
from tests.support.killing_writer import KillingWriter
from tests.support.training import TrainingBench, edit, value_spec

pytestmark = pytest.mark.xdist_group("train-family")
FAMILY = edit(
    value_spec(
        'x = { type = "float32" }',
        'y = { type = "float32" }',
        task="regression",
        limit="{ ceiling = 0.5 }",
        steps='[{ use = "sklearn.preprocessing.StandardScaler" }]',
    ),
    {
        'name = "small"': 'name = "line-{route}"',
        "[train]": '[family]\npartition = "route"\nrows_min = 20\nfail_max = 0.2\n[train]',
    },
)


class OneAfterAnother:
    """A pool without processes."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[str] = []
        self._stop_after = stop_after

    def train(self, recipe: FamilyRecipe, members: Sequence[Member]) -> Iterator[MemberOutcome]:
        for member in members[: self._stop_after]:
            self.seen.append(member.name)
            yield from train_members(recipe, [member])


class Heard:
    def __init__(self) -> None:
        self.begins: list[tuple[int, int]] = []
        self.names: list[str] = []

    def begun(self, members: int, kept: int) -> None:
        self.begins.append((members, kept))

    def done(self, outcome: MemberOutcome) -> None:
        self.names.append(outcome.member)


def make_table(routes: int, *, rows: int = 60, noisy: Sequence[int] = ()) -> pa.Table:
    random = np.random.default_rng(5)
    parts = []
    for route in range(routes):
        x, y = random.normal(route, 2, rows), random.normal(0, 1, rows)
        noise = 20.0 if route in noisy else 0.1
        target = x * (route + 1) - y + random.normal(0, noise, rows)
        parts.append(pa.table({"route": [f"R{route}"] * rows, "x": x, "y": y, "t": target}))
    return pa.concat_tables(parts)


def run(
    bench: TrainingBench,
    table: pa.Table,
    pool: MemberPool | None = None,
    *,
    spec: str = FAMILY,
    writer: EstimatorWriter | None = None,
) -> tuple[TrainedFamily, Heard]:
    heard = Heard()
    service = TrainFamily(
        reader=PyarrowTableReader(),
        registry=bench.registry,
        packages=bench.objects,
        estimators=writer or SkopsEstimatorWriter(),
        code_versions=GitCodeVersions(),
        clock=FakeClock(),
        pool=pool or OneAfterAnother(),
        listener=heard,
    )
    return service.train(bench.write(spec, table), actor="ann"), heard


def test_every_member_is_a_model_of_its_own(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    trained, heard = run(bench, make_table(6))
    assert trained.registered == {f"line-r{n}": 1 for n in range(6)}
    assert heard.begins == [(6, 0)]
    assert trained.is_acceptable
    version = bench.registry.find_version("line-r4", 1)
    assert version is not None
    assert version.run["family"]["values"] == {"route": "R4"}
    assert set(trained.ways) <= set(Way)
    assert trained.ways[Way.FILLED] == 4
    graphs = {bench.member(_version(bench, n), MODEL) for n in trained.registered}
    assert len(graphs) == 6
    assert b'"filled in"' in bench.member(version, EVIDENCE)


def test_a_run_goes_on_where_it_was_and_trains_only_what_changed(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    run(bench, make_table(4), OneAfterAnother(stop_after=2))
    pool = OneAfterAnother()
    trained, heard = run(bench, make_table(4), pool)
    assert pool.seen == ["line-r2", "line-r3"]
    assert heard.begins == [(4, 2)]
    assert trained.kept == ("line-r0", "line-r1")
    pool = OneAfterAnother()
    table = make_table(4)
    changed = table.set_column(1, "x", pa.array(_moved(table["x"].to_pylist())))
    trained, _ = run(bench, changed, pool)
    assert pool.seen == ["line-r0"]
    assert trained.registered == {"line-r0": 2}


def test_the_fallback_is_trained_from_the_rows_of_all(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    spec = edit(FAMILY, {"fail_max = 0.2": 'fail_max = 0.2\nfallback = "pooled"'})
    spec = edit(spec, {"ceiling = 0.5": "ceiling = 50"})
    table = pa.concat_tables([make_table(2), make_table(3).slice(120, 10)])
    trained, _ = run(bench, table, spec=spec)
    assert trained.registered == {"line-r0": 1, "line-r1": 1, "line-pooled": 1}
    assert trained.too_small == {"line-r2": 10}
    fallback = _version(bench, "line-pooled")
    rows = fallback.run["split"]
    assert rows["train_rows"] + rows["test_rows"] == 130
    assert fallback.run["family"]["is_fallback"] is True
    members = bench.registry.list_family("line-{route}")
    compared = members[1].evaluation["against_fallback"]
    assert (compared["fallback"], compared["metric"]) == (1, "mae")
    assert compared["value"] > 0.1, "one line for two slopes is worse than one for each"
    assert "against_fallback" not in fallback.evaluation
    view = BrowseFamily(registry=bench.registry).view("line-{route}")
    assert {str(view.against_fallback[f"line-r{n}"]) for n in (0, 1)} == {"better"}
    page = write_family_page(view, at=FakeClock().now())
    assert page.count("<circle") == 4, "each member, and the fallback on its rows"
    assert "10 rows, fewer than rows_min" in page
    assert [one.model for one in members] == ["line-pooled", "line-r0", "line-r1"]
    assert {model.family for model in bench.registry.list_models()} == {"line-{route}"}


def test_members_are_compared_with_those_in_service(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    table = make_table(3)
    run(bench, table)
    for name in ("line-r0", "line-r1"):
        bench.crown(name, 1)
    targets = np.array(table["t"].to_pylist())
    targets[60:120] += 3.0
    moved = table.set_column(3, "t", pa.array(targets))
    spec = edit(FAMILY, {"{ ceiling = 0.5 }": "{ regression_max = 0.05 }"})
    run(bench, moved, spec=spec)
    view = BrowseFamily(registry=bench.registry).view("line-{route}")
    assert str(view.standings["line-r1"]) == "better"
    assert str(view.standings["line-r2"]) == "not compared"
    version = bench.registry.find_version("line-r1", 2)
    assert version is not None
    assert version.evaluation["against_champion"]["value"] == pytest.approx(3.0, abs=0.3)
    assert [gate["comparison"] for gate in version.evaluation["gates"]] == ["better"]


def test_a_member_that_is_worse_than_the_one_in_service_has_failed(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    run(bench, make_table(2))
    bench.crown("line-r1", 1)
    spec = edit(FAMILY, {"{ ceiling = 0.5 }": "{ regression_max = 0.05 }"})
    spec = edit(spec, {"params = {}": "params = { alpha = 1000.0 }"})
    trained, _ = run(bench, make_table(2), spec=spec)
    assert list(trained.failed) == ["line-r1"]
    assert "against champion 1" in trained.failed["line-r1"]


def _moved(values: list[float]) -> list[float]:
    return [values[0] + 1.0, *values[1:]]


def _version(bench: TrainingBench, name: str) -> Any:
    return bench.registry.find_version(name, 1)


def test_a_member_that_fails_is_listed_and_stops_no_other(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    trained, _ = run(bench, make_table(6, noisy=[1]))
    assert list(trained.failed) == ["line-r1"]
    assert "mae" in trained.failed["line-r1"]
    assert len(trained.registered) == 5
    assert trained.is_acceptable
    assert bench.registry.find_model("line-r1") is None
    kept = bench.registry.find_family_run("line-{route}")
    assert kept is not None
    assert (dict(kept.failed), kept.registered) == (dict(trained.failed), 5)
    assert kept.sentence == "5 registered, 0 up to date, 1 failed, 0 with too few rows."
    trained, _ = run(bench, make_table(6, noisy=[1, 2]))
    assert not trained.is_acceptable


def test_data_a_member_cannot_have_fails_that_member(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    table = make_table(3)
    values = table["x"].to_pylist()
    values[70] = None
    broken = table.set_column(1, "x", pa.array(values))
    trained, _ = run(bench, broken)
    assert list(trained.failed) == ["line-r1"]
    assert "column 'x': 1 of 60 values are missing" in trained.failed["line-r1"]


def test_processes_train_and_one_that_dies_takes_only_its_member(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    table = make_table(5)
    answers = table["t"].to_pylist()
    shifted = [value + (1e6 if 180 <= row < 240 else 0.0) for row, value in enumerate(answers)]
    table = table.set_column(3, "t", pa.array(shifted))
    trained, heard = run(bench, table, JoblibMemberPool(2), writer=KillingWriter())
    assert list(trained.failed) == ["line-r3"]
    assert "ended its process" in trained.failed["line-r3"]
    assert sorted(trained.registered) == [f"line-r{n}" for n in range(5) if n != 3]
    assert sorted(heard.names) == [f"line-r{n}" for n in range(5)]


def test_what_is_no_family_is_refused(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    table = make_table(2)
    with pytest.raises(MisuseError, match="is the spec of one model"):
        run(bench, table, spec=value_spec(task="regression"))
    with pytest.raises(RefusedError, match=r"column 'route' \(family.partition\) is not"):
        run(bench, table.drop_columns(["route"]))
    with pytest.raises(MisuseError, match="is the spec of a family"):
        bench.trainer.train(bench.write(FAMILY, table), actor="ann")
    assert replace(run(bench, table)[0], failed={"a": ""}).is_acceptable is False


TYPED = edit(
    value_spec(
        'heat = { type = "float32", missing = "allow" }',
        'mode = { type = "category", unknown = "other", missing = "allow" }',
        'busy = { type = "bool", missing = "allow" }',
        task="regression",
        limit="{ ceiling = 5 }",
    ),
    {
        'name = "small"': 'name = "line-{route}"',
        "[train]": '[family]\npartition = "route"\nrows_min = 20\nfallback = "pooled"\n[train]',
    },
)


def test_members_with_categories_booleans_and_gaps_answer_as_their_sources(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    parts = []
    for route, modes in (("a", ["slow", "fast"]), ("b", ["slow", "tow"]), ("c", ["slow", "fast"])):
        mode = [None if n % 11 == 0 else modes[random.integers(2)] for n in range(80)]
        heat = [None if n % 9 == 0 else random.normal(20, 3) for n in range(80)]
        busy = [None if n % 13 == 0 else bool(random.integers(2)) for n in range(80)]
        target = [(h or 18.0) + 3.0 * (m == "slow") for h, m in zip(heat, mode, strict=True)]
        names = [route] * 80
        parts.append(
            pa.table({"route": names, "heat": heat, "mode": mode, "busy": busy, "t": target})
        )
    bench = TrainingBench(tmp_path)
    trained, _ = run(bench, pa.concat_tables(parts), spec=TYPED)
    assert not trained.failed
    assert trained.ways == {Way.FULL: 4}, "an encoder's categories are not filled in"
    known = {"line-a": "fast", "line-b": "tow", "line-c": "fast"}
    for name in (*known, "line-pooled"):
        version = _version(bench, name)
        schema = ModelSchema.decode(bench.member(version, SCHEMA))
        categories = set(schema.features[1].categories)
        assert categories == ({"slow", known[name]} if name in known else {"slow", "fast", "tow"})
        rows = np.array([[21, 0, 1], [np.nan, 1, 0], [19, np.nan, np.nan], [20, -1, 1]], np.float32)
        runner = GraphRunner(bench.member(version, MODEL), load_profile("camera"))
        source = read_estimator(bench.objects.read(version.run["source_model"]))
        np.testing.assert_allclose(runner.run(rows)["value"], source.predict(rows), atol=1e-4)


def test_members_of_several_targets_answer_each_and_are_filled_in(tmp_path: Path) -> None:
    bench = TrainingBench(tmp_path)
    table = make_table(3)
    doubled = np.array(table["t"].to_pylist()) * 2 + np.array(table["y"].to_pylist())
    spec = edit(FAMILY, {'target = "t"': 'target = ["t", "u"]', "ceiling = 0.5": "ceiling = 5"})
    table = table.append_column("u", pa.array(doubled))
    trained, _ = run(bench, table, spec=spec)
    assert trained.ways == {Way.FULL: 2, Way.FILLED: 1}
    assert list(trained.reasons.values()) == [2]
    for name in trained.registered:
        version = _version(bench, name)
        assert ModelSchema.decode(bench.member(version, SCHEMA)).targets == ("t", "u")
        assert set(version.evaluation["shipped"]["camera"]["targets"]) == {"t", "u"}
        rows = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
        runner = GraphRunner(bench.member(version, MODEL), load_profile("camera"))
        source = read_estimator(bench.objects.read(version.run["source_model"]))
        np.testing.assert_allclose(runner.run(rows)["value"], source.predict(rows), atol=1e-4)
    bench.crown("line-r1", 1)
    moved = table.set_column(3, "t", pa.array(np.array(table["t"].to_pylist()) + 9.0))
    run(bench, moved, spec=edit(spec, {"ceiling = 5": "ceiling = 50"}))
    view = BrowseFamily(registry=bench.registry).view("line-{route}")
    assert str(view.standings["line-r1"]) == "better"


def test_members_of_several_labels_answer_each_and_are_converted_in_full(tmp_path: Path) -> None:
    spec = edit(
        value_spec(
            'x = { type = "float32" }',
            'y = { type = "float32" }',
            estimator="sklearn.tree.DecisionTreeClassifier",
            params="{ max_depth = 2 }",
        ),
        {
            'name = "small"': 'name = "line-{route}"',
            'target = "t"': 'target = ["t", "u"]',
            "[train]": '[family]\npartition = "route"\nrows_min = 20\n[train]',
        },
    )
    table = make_table(2)
    late = np.array(table["t"].to_pylist()) > 0
    table = table.set_column(3, "t", pa.array(np.where(late, "late", "ok")))
    full = np.digitize(table["y"].to_pylist(), [-0.5, 0.5])
    table = table.append_column("u", pa.array(np.array(["empty", "half", "full"])[full]))
    bench = TrainingBench(tmp_path)
    trained, _ = run(bench, table, spec=spec)
    assert trained.reasons == {"several labels a row are put together from parts": 2}
    version = _version(bench, "line-r1")
    schema = ModelSchema.decode(bench.member(version, SCHEMA))
    assert [label.name for label in schema.labels] == ["t", "u"]
    assert trained.metrics["line-r1"]["accuracy"] > 0.7


TEXTS = edit(
    value_spec('note = { type = "text", chars_max = 24, terms_max = 12, missing = "allow" }'),
    {
        'name = "small"': 'name = "line-{route}"',
        "[train]": '[family]\npartition = "route"\nrows_min = 20\n[train]',
    },
)


def test_members_of_free_texts_learn_their_own_words_and_are_converted_in_full(
    tmp_path: Path,
) -> None:
    words = {"R0": (["leak", "\u00dcberhitzt"], ["thanks"]), "R1": (["smoke"], ["invoice", "soon"])}
    draw = np.random.default_rng(3)
    cells: dict[str, list[Any]] = {"route": [], "note": [], "t": []}
    for row in range(120):
        route, is_bad = f"R{row // 60}", bool(draw.random() < 0.5)
        note = f"{draw.choice(words[route][not is_bad])} pump {row}"
        cells["route"].append(route)
        cells["note"].append(None if row % 17 == 0 else note)
        cells["t"].append("bad" if is_bad else "good")
    bench = TrainingBench(tmp_path)
    trained, _ = run(bench, pa.table(cells), spec=TEXTS)
    assert (dict(trained.failed), trained.ways) == ({}, {Way.FULL: 2})
    assert trained.metrics["line-r1"]["accuracy"] > 0.8
    schema = ModelSchema.decode(bench.member(_version(bench, "line-r0"), SCHEMA))
    notes = ["Leak pump 1", "\u00dcBERHITZT", "smoke 2", "invoice soon", "", "thanks"]
    rows = pack_texts(notes, schema.texts[0].chars_max)
    shares = []
    for name in trained.registered:
        version = _version(bench, name)
        runner = GraphRunner(bench.member(version, MODEL), load_profile("camera"))
        source = read_estimator(bench.objects.read(version.run["source_model"]))
        shares.append(runner.run(rows)["probabilities"])
        np.testing.assert_allclose(shares[-1], source.predict_proba(rows), atol=1e-5)
    assert np.abs(shares[0] - shares[1]).max() > 0.2, "each knows its own words"
