"""``edge-convert`` as a user types it, on files of real rows."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

from converters.cli import app
from converters.skops_library import import_skops
from edge_agent.contract.package import MODEL, SCHEMA, pack_members, unpack_members
from tests.support.convert import fit_quietly, load_table

Array = NDArray[Any]


def edge_convert(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_csv(path: Path, rows: Array, targets: Array, names: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "answer"])
        writer.writerows([*row, target] for row, target in zip(rows, targets, strict=True))
    return path


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with a classifier, a regressor and their rows."""
    home = tmp_path_factory.mktemp("desk")
    for name, table, model in (
        ("wine", "wine", make_pipeline(StandardScaler(), LogisticRegression())),
        ("sugar", "diabetes", make_pipeline(StandardScaler(), Ridge())),
    ):
        rows, targets = load_table(table)
        names = [f"c{n}" for n in range(rows.shape[1])]
        write_csv(home / f"{name}.csv", rows, targets, names)
        import_skops().dump(model.fit(rows, targets), home / f"{name}.skops")
    done = edge_convert(*run_words(home, "wine"))
    assert done.exit_code == 0, done.output
    return home


def run_words(home: Path, name: str, *more: str | Path, out: str = "") -> list[str | Path]:
    return [
        *("run", home / f"{name}.skops", "--rows", home / f"{name}.csv", "--target", "answer"),
        *("--profile", "camera", "--out", home / (out or f"{name}.tar"), *more),
    ]


@pytest.mark.parametrize("name", ["wine", "sugar"])
def test_a_package_is_written_and_described(desk: Path, name: str) -> None:
    done = edge_convert(*run_words(desk, name, "--json"))
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    members = unpack_members((desk / f"{name}.tar").read_bytes())
    assert result["precision"] == "fp32"
    assert result["bytes"] == (desk / f"{name}.tar").stat().st_size
    assert json.loads(members[SCHEMA])["model"] == name
    assert "held out" in done.stderr
    shown = edge_convert("inspect", desk / f"{name}.tar", "--profile", "raspberry-pi-3", "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["misfits"] == []
    assert json.loads(shown.stdout)["built_for"] == "camera"


def test_targets_that_are_not_there_and_labels_of_one_are_said_before_the_work(desk: Path) -> None:
    words = run_words(desk, "wine", out="never.tar")
    one = edge_convert(*words, "--labels")
    assert one.exit_code == 2
    assert "is for several targets" in one.output
    other = edge_convert(*("nope" if word == "answer" else word for word in words))
    assert other.exit_code == 1
    assert "wine.csv has no column 'nope'; it has c0" in other.output
    assert not (desk / "never.tar").exists()


def test_people_get_a_table_and_a_sentence(desk: Path) -> None:
    done = edge_convert(*run_words(desk, "wine"))
    assert re.search(r"int8_static\w*\s+not built", done.stdout)
    assert "p95 ms" in done.stdout
    assert "ships fp32: no quantizable operator among" in done.stdout
    assert (
        "classes      [barbera, barolo, grignolino]"
        in edge_convert("inspect", desk / "wine.tar").stdout
    )


def test_inspect_says_what_each_profile_says_and_how_large_each_part_is(desk: Path) -> None:
    shown = edge_convert("inspect", desk / "wine.tar")
    assert shown.exit_code == 0, shown.output
    for words in ("largest parts", "operator", "raspberry-pi-3   yes", "ai.onnx 18"):
        assert words in shown.stdout
    result = json.loads(edge_convert("inspect", desk / "wine.tar", "--json").stdout)
    assert {one["profile"] for one in result["profiles"]} >= {"camera", "onprem-server"}
    sizes = [part["bytes"] for part in result["parts"]]
    assert sizes == sorted(sizes, reverse=True)
    assert result["inputs"] == {"features": [None, 13]}
    assert result["operator_versions"]


def test_every_build_of_a_model_is_measured_and_nothing_is_written(desk: Path) -> None:
    before = set(desk.iterdir())
    words: list[str | Path] = [
        *("bench", desk / "sugar.skops", "--rows", desk / "sugar.csv", "--target", "answer"),
        *("--profile", "camera", "--effort", "quick"),
    ]
    done = edge_convert(*words, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["ladder"][0]["is_built"]
    assert result["ships"].startswith("fp32")
    assert "p95 ms" in edge_convert(*words).stdout
    assert set(desk.iterdir()) == before


DEVICE = {
    "arch": "x86_64",
    "onnxruntime": "1.24.4",
    "opset_max": 15,
    "opset_ml_max": 2,
    "cpu_flags": ["avx2"],
    "calibration": {"suite": 1, "onnxruntime": "1.24.4", "threads": 1, "ms": {"call": 50.0}},
}


def test_a_package_is_built_for_what_one_device_says_of_itself(desk: Path) -> None:
    (desk / "device.json").write_text(json.dumps([{"check": "runs", "capabilities": DEVICE}]))
    done = edge_convert(
        *run_words(desk, "wine", "--for-device", desk / "device.json", "--json", out="own.tar")
    )
    assert done.exit_code == 0, done.output
    assert "for this device opset_max is 15 (profile camera: 18)" in done.stderr
    result = json.loads(done.stdout)
    estimate = result["estimate_on_device"]
    assert estimate["low_ms"] < estimate["p95_ms"] < estimate["high_ms"]
    assert estimate["p95_ms"] > 10 * result["latency_ms_p95"]
    assert "self-test may refuse" in done.stderr
    shown = json.loads(edge_convert("inspect", desk / "own.tar", "--json").stdout)
    assert shown["opset"] <= 15


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "names no capabilities"),
        (b" " * 1_048_577, "more than 1048576 bytes"),
        (json.dumps({"arch": "armv7l"}).encode(), "arch: needs x86_64 or aarch64, has armv7l"),
        (json.dumps({"runtime_fault": "died of SIGILL"}).encode(), "has died of SIGILL"),
    ],
)
def test_a_device_that_cannot_be_built_for_is_a_refusal(
    desk: Path, said: bytes, words: str
) -> None:
    (desk / "device.json").write_bytes(said)
    done = edge_convert(
        *run_words(desk, "wine", "--for-device", desk / "device.json", out="none.tar")
    )
    assert done.exit_code == 1
    assert words in done.stderr
    assert not (desk / "none.tar").exists()


def test_the_device_may_be_told_on_standard_input(desk: Path) -> None:
    words = [str(w) for w in run_words(desk, "wine", "--for-device", "-", out="none.tar")]
    done = CliRunner().invoke(app, words, input=json.dumps({"arch": "armv7l"}))
    assert done.exit_code == 1
    assert "has armv7l" in done.stderr


@pytest.mark.parametrize("command", ["run", "bench", "inspect", "parity"])
def test_every_help_has_an_example(command: str) -> None:
    shown = edge_convert(command, "--help").stdout
    assert f"Example: edge-convert {command}" in " ".join(shown.split())


def test_the_ladder_is_drawn_when_it_is_built_and_from_the_package(desk: Path) -> None:
    drawn, again = desk / "built.svg", desk / "again.svg"
    done = edge_convert(*run_words(desk, "wine", "--plot", drawn, out="drawn.tar"))
    assert done.exit_code == 0, done.output
    assert drawn.read_text().startswith("<svg ")
    shown = edge_convert("inspect", desk / "drawn.tar", "--plot", again)
    assert shown.exit_code == 0, shown.output
    assert again.read_text() == drawn.read_text()


def test_held_out_rows_may_be_given(desk: Path) -> None:
    done = edge_convert(*run_words(desk, "wine", "--holdout", desk / "wine.csv"))
    assert "178 rows to calibrate, 178 held out" in done.stderr


@pytest.mark.parametrize("name", ["wine", "sugar"])
def test_a_package_and_its_graph_answer_as_their_source(desk: Path, name: str) -> None:
    edge_convert(*run_words(desk, name))
    graph = desk / f"{name}.onnx"
    graph.write_bytes(unpack_members((desk / f"{name}.tar").read_bytes())[MODEL])
    for shipped in (desk / f"{name}.tar", graph):
        found = edge_convert(
            "parity", desk / f"{name}.skops", shipped, "--rows", desk / f"{name}.csv",
            "--target", "answer", "--json",
        )  # fmt: skip
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["is_same"] is True


def test_a_difference_is_exit_one_with_the_worst_rows(desk: Path) -> None:
    rows, targets = load_table("wine")
    other = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3)).fit(rows, targets)
    import_skops().dump(other, desk / "other.skops")
    found = edge_convert(
        "parity", desk / "other.skops", desk / "wine.tar", "--rows", desk / "wine.csv"
    )
    assert found.exit_code == 1
    assert "rows are off by more than 0.0001" in found.stderr
    assert "expected" in found.stdout
    loose = edge_convert(
        "parity", desk / "other.skops", desk / "wine.tar", "--rows", desk / "wine.csv",
        "--rows-off-max", "1", "--label-flips-max", "1",
    )  # fmt: skip
    assert loose.exit_code == 0


def test_a_graph_from_elsewhere_is_packed(desk: Path) -> None:
    members = unpack_members((desk / "wine.tar").read_bytes())
    (desk / "foreign.onnx").write_bytes(members[MODEL])
    words: list[str | Path] = [
        *("run", desk / "foreign.onnx", "--rows", desk / "wine.csv", "--target", "answer"),
        *("--profile", "camera", "--out", desk / "foreign.tar"),
    ]
    refused = edge_convert(*words)
    assert refused.exit_code == 1
    assert "'barbera', which is no class of the model: 0, 1, 2" in refused.stderr
    (desk / "schema.json").write_bytes(members[SCHEMA])
    assert edge_convert(*words, "--schema", desk / "schema.json").exit_code == 0
    assert unpack_members((desk / "foreign.tar").read_bytes())[MODEL] == members[MODEL]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--package-bytes-max", "100"], "no build fits profile camera: fp32: package"),
        (["--metric", "mae"], "no classification metric 'mae'; known: accuracy"),
        (["--profile", "cmaera"], "did you mean 'camera'"),
        (["--target", "cultivar"], "no column 'cultivar'"),
        (["--error-max", "1e-12"], "no build fits profile camera: the fp32 graph is not the model"),
    ],
)
def test_a_refusal_is_one_sentence_and_writes_nothing(
    desk: Path, more: list[str], words: str
) -> None:
    done = edge_convert(*run_words(desk, "wine", *more, out="none.tar"))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (desk / "none.tar").exists()


def test_wrong_use_is_exit_two(desk: Path) -> None:
    assert edge_convert("run", desk / "wine.skops").exit_code == 2
    assert edge_convert("inspect", desk / "nowhere.tar").exit_code == 2
    for option, word in (("--effort", "lots"), ("--smaller", "tiny"), ("--prefer", "beauty")):
        done = edge_convert(*run_words(desk, "wine", option, word, out="none.tar"))
        assert done.exit_code == 2
        assert f"'{word}' is none of" in done.stderr


def test_pickles_and_broken_files_are_never_read(desk: Path) -> None:
    for path, words in (
        ("model.pkl", "is a pickle"),
        ("model.joblib", "is a pickle"),
        ("broken.skops", "not a readable skops file"),
    ):
        (desk / path).write_bytes(b"\x80\x04.")
        done = edge_convert("run", desk / path, *run_words(desk, "wine")[2:])
        assert done.exit_code == 1
        assert words in done.stderr


def test_a_package_with_broken_members_is_refused(desk: Path) -> None:
    members = unpack_members((desk / "wine.tar").read_bytes())
    for name, content in (
        ("evidence.json", b"{"),
        ("schema.json", b"[]"),
        ("model.onnx", b"graph"),
    ):
        (desk / "broken.tar").write_bytes(pack_members({**members, name: content}))
        shown = edge_convert("inspect", desk / "broken.tar")
        assert shown.exit_code == 1
        assert "edge-convert: " in shown.stderr
        assert "Traceback" not in shown.output
    (desk / "broken.tar").write_bytes(b"no tar")
    assert "package" in edge_convert("inspect", desk / "broken.tar").stderr


def test_a_function_in_a_skops_file_is_refused_by_name(desk: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer

    rows, targets = load_table("wine")
    model = make_pipeline(FunctionTransformer(subprocess.getoutput), LogisticRegression())
    fit_quietly(model.steps[1][1], rows, targets)
    import_skops().dump(model, desk / "hostile.skops")
    done = edge_convert("run", desk / "hostile.skops", *run_words(desk, "wine")[2:])
    assert done.exit_code == 1
    assert "subprocess.getoutput, which is not among the types that are read" in done.stderr


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from converters.cli import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0;"
        "heavy = {'sklearn', 'skl2onnx', 'onnx', 'onnxruntime', 'numpy', 'pyarrow', 'skops'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_worst_rows_are_shown_with_their_inputs(desk: Path) -> None:
    rows, targets = load_table("wine")
    other = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3)).fit(rows, targets)
    import_skops().dump(other, desk / "flat.skops")
    edge_convert(*run_words(desk, "wine"))
    found = edge_convert(
        "parity", desk / "flat.skops", desk / "wine.tar", "--rows", desk / "wine.csv", "--json"
    )
    worst = json.loads(found.stdout)["worst"][0]
    assert list(worst["inputs"]) == sorted(f"c{n}" for n in range(13))
    assert worst["inputs"]["c0"] == pytest.approx(rows[worst["row"]][0])
    shown = edge_convert(
        "parity", desk / "flat.skops", desk / "wine.tar", "--rows", desk / "wine.csv"
    )
    assert "c0 " in shown.stdout
