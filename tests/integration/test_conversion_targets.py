"""Several targets out of one model, from a file to a package that a device accepts."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_linnerud
from sklearn.linear_model import Ridge
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

from converters.build import build_package
from converters.cli import app
from converters.distil import distil
from converters.errors import InvalidRequestError, UnsupportedEstimatorError
from converters.from_onnx import OnnxSource
from converters.from_sklearn import SklearnSource
from converters.normalise import normalise
from converters.request import BuildRequest, BuiltPackage, Effort
from converters.runtime import GraphRunner
from converters.skops_library import import_skops
from converters.sources import make_source
from device_profiles.catalog import load_profile
from edge_agent.adapters.onnx_model_runner import LoadedModel
from edge_agent.adapters.package_check import check_package
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.contract.package import GOLDEN, GOLDEN_OUTPUT_PREFIX, MODEL, unpack_members
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.ports import SelfTestLimits
from tests.support.convert import QUICK, schema_of

Array = NDArray[Any]
FEATURES, TARGETS = ("Chins", "Situps", "Jumps"), ("Weight", "Waist", "Pulse")
CAMERA = load_profile("camera")


def load_bodies() -> tuple[Array, Array]:
    rows, targets = load_linnerud(return_X_y=True)
    return rows, targets


def schema() -> ModelSchema:
    return ModelSchema(
        model="body",
        task=Task.REGRESSION,
        features=tuple(Feature(name=name) for name in FEATURES),
        outputs=(Output(name="value", role=Role.VALUE, targets=TARGETS),),
    )


def request_of(estimator: Any) -> BuildRequest:
    rows, targets = load_bodies()
    return BuildRequest(
        estimator=estimator.fit(rows[:12], targets[:12]),
        schema=schema(),
        profile=CAMERA,
        calibration=rows[:12],
        holdout=rows[12:],
        holdout_targets=targets[12:],
        plan=QUICK,
        effort=Effort.BRIEF,
    )


@pytest.fixture(scope="module")
def built() -> BuiltPackage:
    return build_package(request_of(make_pipeline(StandardScaler(), RegressorChain(Ridge()))))


# Packages -----------------------------------------------------------------------------------------


def test_a_device_accepts_the_package_and_answers_as_the_source(built: BuiltPackage) -> None:
    limits = SelfTestLimits(latency_ms_p95_max=1e6, rss_bytes_max=2**40, timeout_s=60)
    assert check_package(built.blob, built.sha256, limits, threads=1).ok
    rows, targets = load_bodies()
    source = make_pipeline(StandardScaler(), RegressorChain(Ridge())).fit(rows[:12], targets[:12])
    got = LoadedModel.from_package(built.blob, built.sha256).infer(rows.astype(np.float32))
    assert got["value"].shape == (20, 3)
    np.testing.assert_allclose(got["value"], source.predict(rows), rtol=1e-4)


def test_the_evidence_has_each_target(built: BuiltPackage) -> None:
    evidence = built.evidence
    assert evidence["metric"]["name"] == "r2"
    assert set(evidence["metric"]["targets"]) == set(TARGETS)
    each = [one["source"] for one in evidence["metric"]["targets"].values()]
    assert evidence["metric"]["source"] == pytest.approx(np.mean(each))
    assert [one["target"] for one in evidence["parity"]["targets"]] == list(TARGETS)
    assert {row["target"] for row in evidence["parity"]["worst"]} <= set(TARGETS)
    assert set(evidence["residual_percentiles"]) == set(TARGETS)
    with np.load(io.BytesIO(unpack_members(built.blob)[GOLDEN]), allow_pickle=False) as golden:
        assert golden[f"{GOLDEN_OUTPUT_PREFIX}value"].shape == (8, 3)


@pytest.mark.parametrize("is_of_trees", [True, False])
def test_a_student_learns_every_target(is_of_trees: bool) -> None:
    rows, targets = load_bodies()
    packed = rows.astype(np.float32)
    taught = {"value": targets}
    model = distil(schema(), CAMERA, packed, taught, is_of_trees=is_of_trees)
    answers = GraphRunner(normalise(model, CAMERA), CAMERA).run(packed)["value"]
    assert answers.shape == (20, 3)
    assert np.all(np.abs(answers.mean(axis=0) - targets.mean(axis=0)) < targets.std(axis=0))


def test_trees_of_xgboost_are_taken_apart_by_target() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(120, 3)).astype(np.float32)
    targets = np.column_stack([rows[:, 0] + 9, rows[:, 1] ** 2 - 5, rows.sum(axis=1) * 3])
    how = {"n_jobs": 1, "random_state": 0}
    stopped = xgboost.XGBRegressor(n_estimators=40, early_stopping_rounds=1, **how)
    seen = [(rows[80:], targets[80:])]
    stopped.fit(rows[:80], targets[:80], eval_set=seen, verbose=False)
    for model in (stopped, xgboost.train({}, xgboost.DMatrix(rows, targets), num_boost_round=3)):
        done = make_source(model, schema()).convert(schema(), CAMERA, rows)
        assert done.tries[-1].is_exact
        assert done.repairs[0].endswith("its 3 targets written as a booster each")
    for parts in ({"multi_strategy": "multi_output_tree"}, {"booster": "gblinear"}):
        model = xgboost.XGBRegressor(n_estimators=2, **how, **parts).fit(rows, targets)
        with pytest.raises(UnsupportedEstimatorError, match="its 3 targets are not trees apart"):
            make_source(model, schema()).convert(schema(), CAMERA, rows)


# Refusals -----------------------------------------------------------------------------------------


def test_another_number_of_targets_is_refused_with_both() -> None:
    rows, targets = load_bodies()
    request = request_of(Ridge())
    with pytest.raises(InvalidRequestError, match=r"needs \(8, 3\)"):
        build_package(replace(request, holdout_targets=targets[12:, :2]))
    with pytest.raises(
        UnsupportedEstimatorError, match="answers 2 targets a row, the schema has 3"
    ):
        build_package(replace(request, estimator=Ridge().fit(rows, targets[:, :2])))
    wide = Ridge().fit(rows, np.tile(targets, 100))
    with pytest.raises(UnsupportedEstimatorError, match=f"at most {TARGETS_MAX}: train several"):
        SklearnSource(wide, Task.REGRESSION, targets=3).answer(rows)


# Files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("desk")
    rows, targets = load_bodies()
    with (home / "body.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*FEATURES, *TARGETS])
        writer.writerows(np.hstack([rows, targets]).tolist())
    model = MultiOutputRegressor(Ridge()).fit(rows, targets)
    import_skops().dump(model, home / "body.skops")
    return home


def convert(home: Path, *more: str, target: str = "") -> Result:
    words = [
        "run",
        str(home / "body.skops"),
        "--rows",
        str(home / "body.csv"),
        "--profile",
        "camera",
    ]
    words += ["--target", target or ",".join(TARGETS), "--out", str(home / "body.tar"), *more]
    return CliRunner().invoke(app, words)


def test_target_columns_make_the_package_and_parity_names_them(desk: Path) -> None:
    done = convert(desk, "--json")
    assert done.exit_code == 0, done.output
    members = unpack_members((desk / "body.tar").read_bytes())
    (desk / "body.onnx").write_bytes(members[MODEL])
    words = ["inspect", str(desk / "body.tar"), "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["targets"] == list(TARGETS)
    compared = CliRunner().invoke(
        app,
        [
            *("parity", str(desk / "body.skops"), str(desk / "body.onnx")),
            *("--rows", str(desk / "body.csv"), "--target", ", ".join(TARGETS)),
        ],
    )
    assert compared.exit_code == 0, compared.output
    assert all(name in compared.stdout for name in TARGETS)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("Weight,Waist,Weight", "each named once"),
        ("Weight,Size,Pulse", "no column 'Size', which --target names"),
    ],
)
def test_targets_that_are_not_the_models_are_refused(desk: Path, target: str, words: str) -> None:
    done = convert(desk, target=target)
    assert done.exit_code == 1
    assert words in " ".join(done.output.split())


def test_a_schema_fixes_the_order_of_the_targets(desk: Path) -> None:
    (desk / "schema.json").write_bytes(schema().encode())
    done = convert(desk, "--schema", str(desk / "schema.json"), target="Waist,Weight,Pulse")
    assert done.exit_code == 1
    assert "the model's targets are Weight, Waist, Pulse, in this order" in " ".join(
        done.output.split()
    )


def test_a_graph_of_numbers_needs_its_targets_named() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32)[::-1].copy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    OnnxSource(content, schema(), CAMERA)
    with pytest.raises(InvalidRequestError, match="answers 3 numbers a row and the schema one"):
        OnnxSource(content, schema_of(3), CAMERA)
    with pytest.raises(InvalidRequestError, match=r"this regression answers \['N', 2\]"):
        OnnxSource(content, schema_of(3, targets=("a", "b")), CAMERA)
