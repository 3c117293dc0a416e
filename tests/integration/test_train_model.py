"""A spec becomes a registered version, or leaves everything as it was."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sqlmodel import select

from edge_agent.contract.package import EVIDENCE, MODEL, REFERENCE, SCHEMA
from edge_agent.contract.schema import ModelSchema
from edge_agent.contract.transfer import CHUNK_BYTES
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import ArtifactRow, AuditRow, ModelRow, VersionRow
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.errors import FleetError, MisuseError, NotFoundError, RefusedError
from tests.support.training import BLOB_FEATURES, TrainingBench, blob_table, edit, value_spec

SPEC = value_spec(*BLOB_FEATURES, limit="{ floor = 0.8 }")
STRICT = value_spec(*BLOB_FEATURES, limit="{ floor = 0.999 }")
MARGIN = value_spec(*BLOB_FEATURES, limit="{ regression_max = 0.05 }")


@pytest.fixture
def bench(tmp_path: Path) -> TrainingBench:
    return TrainingBench(tmp_path)


def is_empty(bench: TrainingBench) -> bool:
    with read_session(bench.engine) as session:
        return not any(
            session.exec(select(table)).first()
            for table in (ModelRow, VersionRow, ArtifactRow, AuditRow)
        )


def test_a_version_holds_what_was_trained_and_the_packages_it_ships(bench: TrainingBench) -> None:
    version = bench.train(SPEC, blob_table())
    assert (version.model, version.number, version.state) == ("small", 1, "registered")
    assert version.spec == SPEC
    assert version.metrics["accuracy"] > 0.9
    assert version.evaluation["classes"] == ["left", "right", "top"]
    split = version.run["split"]
    assert split["train_rows"] + split["test_rows"] == 240
    assert sum(map(sum, version.evaluation["confusion"])) == split["test_rows"]
    assert version.evaluation["gates"][0]["verdict"] == "kept"
    (artifact,) = version.artifacts
    package, blob = artifact.package, bench.objects.read(artifact.package.sha256)
    assert artifact.target == "small/1/camera.tar"
    assert package.size_bytes == len(blob)
    hashes = [
        hashlib.sha256(blob[n : n + CHUNK_BYTES]).digest() for n in range(0, len(blob), CHUNK_BYTES)
    ]
    assert package.chunks_sha256 == hashlib.sha256(b"".join(hashes)).hexdigest()
    schema = bench.member(version, SCHEMA)
    assert package.schema_sha256 == hashlib.sha256(schema).hexdigest()
    assert ModelSchema.decode(schema).columns == ("x", "y")
    reference = bench.member(version, REFERENCE)
    assert package.reference_hash == hashlib.sha256(reference).hexdigest()[:16]
    context = json.loads(bench.member(version, EVIDENCE))["context"]
    assert context["data_sha256"] == version.data_sha256
    source = read_estimator(bench.objects.read(version.run["source_model"]))
    assert source.classes_.tolist() == [0, 1, 2]


def test_the_steps_are_heard_in_order(bench: TrainingBench) -> None:
    bench.train(SPEC, blob_table())
    steps = [step for step, _ in bench.heard.lines]
    assert steps == ["ingest", "split", "train", "evaluate", "build camera", "register"]
    assert bench.heard.lines[0][1].startswith("240 rows of 2 columns, 3 classes   data ")
    assert bench.heard.lines[-1][1] == "small 1"


def test_registration_is_in_the_audit_log(bench: TrainingBench) -> None:
    version = bench.train(SPEC, blob_table())
    with read_session(bench.engine) as session:
        (row,) = session.exec(select(AuditRow)).all()
    assert (row.actor, row.act, row.object) == ("ann", "model.register", "small/1")
    assert json.loads(row.detail)["packages"] == {"camera": version.artifacts[0].package.sha256}


def test_a_missed_limit_refuses_before_anything_is_registered(bench: TrainingBench) -> None:
    path = bench.write(STRICT, blob_table())
    with pytest.raises(RefusedError) as caught:
        bench.trainer.train(path, actor="ann")
    assert "small is not registered: 1 limit missed\n  accuracy 0." in str(caught.value)
    assert '--force "reason"' in str(caught.value)
    assert is_empty(bench)


def test_a_reason_registers_it_and_is_kept(bench: TrainingBench) -> None:
    version = bench.train(STRICT, blob_table(), force_reason="first trial on site")
    assert version.forced_reason == "first trial on site"
    assert version.evaluation["gates"][0]["verdict"] == "missed"
    with read_session(bench.engine) as session:
        assert session.exec(select(AuditRow)).one().reason == "first trial on site"


def test_a_reason_that_was_not_needed_is_not_kept(bench: TrainingBench) -> None:
    assert bench.train(SPEC, blob_table(), force_reason="just in case").forced_reason == ""


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1_001])
def test_force_needs_a_reason(bench: TrainingBench, reason: str) -> None:
    with pytest.raises(MisuseError, match="reason of 1 to 1000 characters"):
        bench.trainer.train(bench.folder / "any.toml", actor="ann", force_reason=reason)


@pytest.mark.parametrize(
    ("spec", "table", "error", "sentence"),
    [
        (SPEC, blob_table(0), FleetError, "the table has no rows"),
        (SPEC, blob_table().drop_columns(["y"]), FleetError, "column 'y' (data.features.y) is not"),
        (
            SPEC,
            blob_table().set_column(0, "x", pa.array(["1"] * 7 + ["bad"] * 233)),
            FleetError,
            "233 of 240 values are not numbers (such as 'bad'); first in row 8",
        ),
        (
            SPEC,
            blob_table().set_column(2, "t", pa.array(["left"] * 240)),
            FleetError,
            "one class only ('left' in every row)",
        ),
        (SPEC.replace("camera", "camra"), blob_table(), MisuseError, "did you mean camera?"),
        (
            SPEC.replace("LogisticRegression", "LinearSVC"),
            blob_table(),
            MisuseError,
            "it gives no probabilities",
        ),
        (
            SPEC.replace("camera = {}", "camera = { package_bytes_max = 2000 }"),
            blob_table(),
            RefusedError,
            "no build fits profile camera",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_half_done(
    bench: TrainingBench, spec: str, table: pa.Table, error: type[FleetError], sentence: str
) -> None:
    path = bench.write(spec, table)
    with pytest.raises(error) as caught:
        bench.trainer.train(path, actor="ann")
    assert sentence in str(caught.value)
    assert is_empty(bench)


def test_missing_files_are_named(bench: TrainingBench) -> None:
    with pytest.raises(MisuseError, match=r"no spec file .*nowhere\.toml"):
        bench.trainer.train(bench.folder / "nowhere.toml", actor="ann")
    path = bench.write(SPEC, blob_table())
    (bench.folder / "rows.csv").unlink()
    with pytest.raises(NotFoundError, match=r"no file .*rows\.csv"):
        bench.trainer.train(path, actor="ann")


def test_order_and_format_of_the_file_change_nothing(bench: TrainingBench) -> None:
    table = blob_table()
    first = bench.train(SPEC, table)
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    second = bench.train(SPEC, shuffled, name="rows.parquet")
    assert (first.number, second.number) == (1, 2)
    assert first.data_sha256 == second.data_sha256
    assert first.metrics == second.metrics
    assert bench.member(first, MODEL) == bench.member(second, MODEL)


def test_without_a_champion_the_margin_is_noted_as_not_judged(bench: TrainingBench) -> None:
    version = bench.train(MARGIN, blob_table())
    assert version.run["notes"] == [
        "no champion yet, so regression_max had nothing to compare with"
    ]
    assert version.evaluation["champion"] == 0


def test_the_same_again_is_not_worse_than_the_champion(bench: TrainingBench) -> None:
    bench.crown("small", bench.train(MARGIN, blob_table()).number)
    gate = bench.train(MARGIN, blob_table()).evaluation["gates"][0]
    assert (gate["comparison"], gate["value"]) == ("not worse", 0.0)
    assert gate["bound"] > -0.05


def test_a_candidate_worse_than_the_champion_is_refused(bench: TrainingBench) -> None:
    bench.crown("small", bench.train(MARGIN, blob_table()).number)
    blind = edit(MARGIN, {"params = {}": "params = { C = 1e-6 }"})
    path = bench.write(blind, blob_table())
    with pytest.raises(RefusedError, match=r"against champion 1: -0\.\d+, worse"):
        bench.trainer.train(path, actor="ann")
    forced = bench.trainer.train(path, actor="ann", force_reason="to see it fail")
    assert [gate.comparison for gate in forced.missed] == ["worse"]


def test_a_candidate_better_than_the_champion_says_so(bench: TrainingBench) -> None:
    blind = edit(MARGIN, {"params = {}": "params = { C = 1e-6 }"})
    bench.crown("small", bench.train(blind, blob_table()).number)
    gate = bench.train(MARGIN, blob_table()).evaluation["gates"][0]
    assert gate["comparison"] == "better"
    assert gate["bound"] > 0


def test_a_champion_with_fewer_and_reordered_columns_can_still_be_asked(
    bench: TrainingBench,
) -> None:
    loose = edit(MARGIN, {"test = 0.3": "test = 0.3\nfreeze = false"})
    bench.crown("small", bench.train(loose, blob_table()).number)
    x, y = BLOB_FEATURES
    turned = edit(loose, {f"{x}\n{y}": f'{y}\nz = {{ type = "int64" }}\n{x}'})
    table = blob_table()
    wider = table.append_column("z", pa.array([1] * len(table)))
    gate = bench.train(turned, wider).evaluation["gates"][0]
    assert gate["comparison"] == "not worse"
    assert abs(gate["value"]) < 0.03, "both learned the same from the same columns"


def test_a_champion_with_other_classes_is_inconclusive(bench: TrainingBench) -> None:
    bench.crown("small", bench.train(MARGIN, blob_table()).number)
    table = blob_table()
    renamed = pa.array([name.as_py().replace("top", "up") for name in table["t"]])
    gate = bench.train(MARGIN, table.set_column(2, "t", renamed)).evaluation["gates"][0]
    assert gate["sentence"].endswith("champion 1: it answers other classes")


def test_a_champion_that_reads_other_columns_is_inconclusive(bench: TrainingBench) -> None:
    loose = edit(MARGIN, {"test = 0.3": "test = 0.3\nfreeze = false"})
    bench.crown("small", bench.train(loose, blob_table()).number)
    narrow = edit(loose, {BLOB_FEATURES[1]: ""})
    gate = bench.train(narrow, blob_table()).evaluation["gates"][0]
    assert gate["sentence"] == (
        "accuracy on camera is not compared with champion 1: it reads column 'y', which the"
        " candidate does not"
    )
    assert gate["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"test = 0.3": "test = 0.25"}, "test 0.25 and seed 0 instead of 0.3 and 0"),
        ({"test = 0.3": "test = 0.3\nseed = 1"}, "test 0.3 and seed 1 instead of 0.3 and 0"),
        ({BLOB_FEATURES[1]: ""}, "other features or another target"),
    ],
)
def test_a_frozen_split_stays(bench: TrainingBench, change: dict[str, str], what: str) -> None:
    bench.train(SPEC, blob_table())
    changed = edit(SPEC, change)
    with pytest.raises(RefusedError, match=f"small 1 has frozen its held-out rows, and {what}"):
        bench.trainer.train(bench.write(changed, blob_table()), actor="ann")
    thawed = edit(changed, {"[train]": "freeze = false\n[train]"})
    assert bench.train(thawed, blob_table(), force_reason="fewer columns").number == 2


def test_a_model_keeps_its_task(bench: TrainingBench) -> None:
    bench.train(SPEC, blob_table())
    other = value_spec(*BLOB_FEATURES[:1], task="regression", target="y")
    with pytest.raises(RefusedError, match="small is a classification since its first version"):
        bench.trainer.train(bench.write(other, blob_table()), actor="ann")


def test_a_regression_is_trained_judged_and_shipped(bench: TrainingBench) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 300))
    table = pa.table({"x": x, "y": y, "t": 3 * x - y + draw.normal(size=300) / 10})
    spec = value_spec(*BLOB_FEATURES, task="regression", limit="{ ceiling = 0.2 }")
    version = bench.train(spec, table)
    assert version.metrics["mae"] == pytest.approx(0.08, abs=0.02)
    assert version.metrics["r2"] > 0.99
    assert version.evaluation["confusion"] == []
    shipped = version.evaluation["shipped"]["camera"]["metrics"]["mae"]
    assert shipped["low"] <= shipped["value"] <= shipped["high"] <= 0.2
    assert shipped["value"] == pytest.approx(version.metrics["mae"], rel=1e-3)


def test_a_profile_of_the_workspace_is_built_for(bench: TrainingBench) -> None:
    shipped = Path(__file__).parents[2] / "device_profiles" / "data" / "camera.toml"
    own = shipped.read_text().replace('id = "camera"', 'id = "door"')
    (bench.profiles_dir / "door.toml").write_text(own)
    version = bench.train(SPEC.replace("camera", "door"), blob_table())
    assert [a.target for a in version.artifacts] == ["small/1/door.tar"]


def test_the_commit_of_the_spec_is_recorded(bench: TrainingBench) -> None:
    code = bench.train(SPEC, blob_table()).run["code"]
    assert code == {"commit": "", "is_dirty": False}
    found = bench.trainer.code_versions.find(Path(__file__).parent)
    assert found.commit == "" or len(found.commit) == 40
