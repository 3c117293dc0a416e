"""Opening, loading and self-testing packages: what is wrong with one is told by its code."""

import io
import json
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.package_check import check_package
from edge_agent.adapters.self_test import decode_result, encode_result, run_self_test
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.errors import PackageError
from edge_agent.ports import SelfTestLimits, SelfTestResult
from tests.support.serving import (
    BuiltPackage,
    Edit,
    build_classifier,
    build_regressor,
    classifier_graph,
    golden_bytes,
    graph_bytes,
    run_graph,
)

LIMITS = SelfTestLimits(latency_ms_p95_max=1_000, rss_bytes_max=2**30, timeout_s=60)
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def replace(name: str, content: bytes | Callable[[bytes], bytes]) -> Edit:
    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        new = content if isinstance(content, bytes) else content(members[name])
        return {**members, name: new}

    return edit


def external_graph(location: str) -> bytes:
    """A graph that is in order but for the place of one constant, which no optimiser folds."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 3])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["features", "w"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "graph",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
        ],
        [tensor],
    )
    opset = [helper.make_opsetid("", 17)]
    encoded: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return encoded


def custom_op_graph() -> bytes:
    node = helper.make_node("Exec", ["scores"], ["shaped"], domain="evil")
    return classifier_graph(WEIGHTS, extra=(node,))


def swapped_names_graph() -> bytes:
    return graph_bytes(
        [helper.make_node("MatMul", ["features", "w"], ["value"])],
        width=4,
        constants={"w": WEIGHTS},
        outputs=[helper.make_tensor_value_info("value", TensorProto.FLOAT, ["rows", 3])],
    )


def truncate(content: bytes) -> bytes:
    return content[:-40]


def change_json(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def without_tolerance(content: bytes) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        kept = {n: arrays[n] for n in arrays.files if not n.startswith("tolerance:")}
    buffer = io.BytesIO()
    np.savez(buffer, **kept)
    return buffer.getvalue()


def wrong_golden(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            features = arrays["input"]
            outputs = {n: arrays[f"output:{n}"] for n in ("label", "probabilities")}
        change(outputs)
        return golden_bytes(features, outputs)

    return edit


def shift_probability(outputs: dict[str, np.ndarray]) -> None:
    outputs["probabilities"][3, 1] += 0.01


def flip_label(outputs: dict[str, np.ndarray]) -> None:
    outputs["label"][5] = (outputs["label"][5] + 1) % 3


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (replace(package.MODEL, b"not a graph"), Code.PACKAGE_FORMAT, "not a sound protobuf"),
        (replace(package.MODEL, truncate), Code.PACKAGE_FORMAT, "where .* are left"),
        (replace(package.MODEL, custom_op_graph()), Code.PACKAGE_FORMAT, "Exec of domain 'evil'"),
        (replace(package.MODEL, swapped_names_graph()), Code.SELFTEST_LOAD, "the graph gives"),
        (
            replace(package.MODEL, classifier_graph(WEIGHTS[:3])),
            Code.SELFTEST_LOAD,
            "must take 'features'",
        ),
        (
            replace(package.MODEL, classifier_graph(WEIGHTS, rows=1)),
            Code.SELFTEST_LOAD,
            "it takes",
        ),
        (
            replace(package.MODEL, classifier_graph(WEIGHTS[:, :2])),
            Code.SELFTEST_LOAD,
            r"shape \(1, 2\)",
        ),
        (replace(package.SCHEMA, b"{}"), Code.PACKAGE_FORMAT, "schema.json"),
        (replace(package.SCHEMA, change_json(outputs=[])), Code.PACKAGE_FORMAT, "answers"),
        (replace(package.SCHEMA, change_json(task="regression")), Code.PACKAGE_FORMAT, "regressi"),
        (
            replace(package.SCHEMA, change_json(classes=["a", "b", "c"])),
            Code.PACKAGE_FORMAT,
            "classes differ",
        ),
        (replace(package.REFERENCE, b"[]"), Code.PACKAGE_FORMAT, "reference.json"),
        (replace(package.GOLDEN, b"PK nothing"), Code.PACKAGE_FORMAT, "golden.npz"),
        (replace(package.GOLDEN, truncate), Code.PACKAGE_FORMAT, "golden.npz"),
        (replace(package.GOLDEN, without_tolerance), Code.PACKAGE_FORMAT, "tolerance"),
        (
            replace(package.GOLDEN, golden_bytes(np.zeros((33, 4), np.float32), {})),
            Code.PACKAGE_FORMAT,
            "1..32",
        ),
        (
            replace(package.GOLDEN, wrong_golden(shift_probability)),
            Code.SELFTEST_GOLDEN,
            "golden row 3",
        ),
        (replace(package.GOLDEN, wrong_golden(flip_label)), Code.SELFTEST_GOLDEN, "row 5"),
    ],
)
def test_a_broken_package_fails_with_its_code(edit: Edit, code: Code, words: str) -> None:
    built = build_classifier(edit=edit)
    result = check_package(built.blob, built.sha256, LIMITS, 1)
    assert (result.ok, result.code) == (False, code)
    assert re.search(words, result.detail), result.detail


@pytest.mark.parametrize("location", ["w.bin", "../{here}/w.bin", "{root}/w.bin"])
def test_external_data_is_not_read_even_where_the_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    (tmp_path / "w.bin").write_bytes(np.zeros(3, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    graph = external_graph(location.format(here=tmp_path.name, root=tmp_path))
    built = build_classifier(width=3, edit=replace(package.MODEL, graph))
    result = check_package(built.blob, built.sha256, LIMITS, 1)
    assert result.code is Code.PACKAGE_FORMAT
    assert "lies in another file" in result.detail
    with pytest.raises(PackageError, match="External data path"):  # the runtime would not either
        LoadedModel.from_package(built.blob, built.sha256)


def test_bytes_other_than_the_signed_ones_are_refused_before_anything_is_read() -> None:
    built = build_classifier()
    for blob in (built.blob[:-1], built.blob[:200] + b"x" + built.blob[201:], b""):
        result = check_package(blob, built.sha256, LIMITS, 1)
        assert result.code is Code.BLOB_HASH


@pytest.mark.parametrize("built", [build_classifier(), build_regressor()])
def test_a_sound_package_passes_and_tells_its_latency(built: BuiltPackage) -> None:
    result = check_package(built.blob, built.sha256, LIMITS, 1)
    assert result.ok, result.detail
    assert result.latency_ms_p95 is not None
    assert 0 < result.latency_ms_p95 < 1_000


def test_a_package_too_slow_for_the_profile_fails() -> None:
    built = build_classifier()
    limits = SelfTestLimits(latency_ms_p95_max=1e-6, rss_bytes_max=2**30)
    result = check_package(built.blob, built.sha256, limits, 1)
    assert result.code is Code.SELFTEST_LATENCY


def test_a_label_may_differ_only_where_the_probabilities_are_level() -> None:
    built = build_classifier()
    level = np.zeros((1, 4), np.float32)
    outputs = run_graph(package.unpack_members(built.blob)[package.MODEL], level, built.schema)
    assert outputs["label"].tolist() == [0]
    for label, is_ok in ((1, True), (0, True)):
        expected = {**outputs, "label": np.array([label])}
        edit = replace(package.GOLDEN, golden_bytes(level, expected))
        edited = build_classifier(edit=edit)
        assert check_package(edited.blob, edited.sha256, LIMITS, 1).ok is is_ok


def test_a_loaded_model_answers_as_the_graph_does() -> None:
    built = build_classifier()
    model = LoadedModel.from_package(
        built.blob, built.sha256, RuntimeOptions(intra_op_threads=2, arena=False)
    )
    expected = run_graph(
        package.unpack_members(built.blob)[package.MODEL], built.rows, built.schema
    )
    outputs = model.infer(built.rows)
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)
    assert [o.dtype for o in outputs.values()] == [np.int64, np.float32]


def test_the_runtime_still_has_the_inner_session_that_spares_checking_twice() -> None:
    built = build_classifier()
    model = LoadedModel.from_package(built.blob, built.sha256)
    inner = getattr(model.session_run, "__self__", None)
    assert type(inner).__module__.endswith("onnxruntime_pybind11_state")


def test_a_package_from_elsewhere_is_named() -> None:
    with pytest.raises(PackageError, match="sha256 is"):
        LoadedModel.from_package(b"x", "0" * 64)


# The child ----------------------------------------------------------------------------------------


@pytest.fixture
def blob_path(tmp_path: Path) -> Path:
    built = build_classifier()
    path = tmp_path / built.sha256
    path.write_bytes(built.blob)
    return path


def test_the_child_tells_latency_and_memory(blob_path: Path) -> None:
    result = run_self_test(blob_path, blob_path.name, LIMITS, 1)
    assert result.ok, result.detail
    assert result.rss_bytes is not None
    assert 2**24 < result.rss_bytes < 2**30


def test_the_child_hashes_the_file_again(blob_path: Path) -> None:
    damaged = bytearray(blob_path.read_bytes())
    damaged[700] ^= 1
    blob_path.write_bytes(damaged)
    assert run_self_test(blob_path, blob_path.name, LIMITS, 1).code is Code.BLOB_HASH


def test_a_package_that_needs_more_memory_than_the_profile_has_fails(blob_path: Path) -> None:
    limits = SelfTestLimits(latency_ms_p95_max=1_000, rss_bytes_max=2**20, timeout_s=60)
    result = run_self_test(blob_path, blob_path.name, limits, 1)
    assert result.code is Code.SELFTEST_MEMORY
    assert "MiB" in result.detail


def test_a_package_that_eats_memory_is_stopped_in_the_child(tmp_path: Path) -> None:
    eater = graph_bytes(
        [
            helper.make_node("MatMul", ["features", "w"], ["scores"]),
            helper.make_node("ReduceMean", ["scores"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["thousands", "thousands"], ["vast"]),  # seen by no check
            helper.make_node("Expand", ["mean", "vast"], ["filled"]),
            helper.make_node("ReduceMin", ["filled"], ["least"], keepdims=1),
            helper.make_node("Sub", ["scores", "least"], ["shaped"]),
            helper.make_node("Softmax", ["shaped"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        width=4,
        constants={"w": WEIGHTS, "thousands": np.array([1_000, 4_000], np.int64)},
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
        ],
    )
    built = build_classifier(edit=replace(package.MODEL, eater))
    path = tmp_path / "blob"
    path.write_bytes(built.blob)
    limits = SelfTestLimits(latency_ms_p95_max=1_000, rss_bytes_max=2**28, timeout_s=60)
    result = run_self_test(path, built.sha256, limits, 1)
    assert result.code is Code.SELFTEST_MEMORY
    assert "memory ran out" in result.detail


def test_an_absent_file_is_the_disks_fault(tmp_path: Path) -> None:
    assert run_self_test(tmp_path / "no", "0" * 64, LIMITS, 1).code is Code.DISK_ERROR


def script(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", body)


@pytest.mark.parametrize(
    ("child", "code", "words"),
    [
        (script("import os, signal; os.kill(os.getpid(), signal.SIGILL)"), "crash", "SIGILL"),
        (script("import os; os.abort()"), "crash", "SIGABRT"),
        (script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "memory", "killed"),
        (script("raise SystemExit(3)"), "crash", "status 3: no word"),
        (script("raise ValueError('why')"), "crash", "status 1: ValueError: why"),
        (script("print('garbage')"), "crash", "makes no sense"),
        (script("print('x' * 10**6)"), "crash", "limit is 65536"),
        (script("pass"), "crash", "makes no sense"),
        (script('print(\'{"ok": true, "code": "misfit"}\')'), "crash", "makes no sense"),
        (script('print(\'{"ok": false, "code": "new"}\')'), "crash", "makes no sense"),
        (("/does/not/exist",), "disk-error", "could not be started"),
    ],
)
def test_whatever_becomes_of_the_child_is_a_code(
    child: tuple[str, ...], code: str, words: str
) -> None:
    result = run_self_test(Path("any"), "0" * 64, LIMITS, 1, child=child)
    wanted = code if code == "disk-error" else f"selftest-{code}"
    assert (result.ok, result.code) == (False, Code(wanted))
    assert words in result.detail


def test_a_child_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = textwrap.dedent(
        f"""
        import pathlib, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))
        signal.pause()
        """
    )
    limits = SelfTestLimits(latency_ms_p95_max=1, rss_bytes_max=1, timeout_s=1.5)
    began = time.monotonic()
    result = run_self_test(Path("any"), "0" * 64, limits, 1, child=script(body))
    assert result.code is Code.SELFTEST_TIMEOUT
    assert time.monotonic() - began < 10
    assert _is_gone(int(pid_file.read_text()))


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.parametrize(
    "result",
    [
        SelfTestResult(ok=True, latency_ms_p95=0.5, rss_bytes=7),
        SelfTestResult(ok=False, code=Code.SELFTEST_GOLDEN, detail="row 3"),
    ],
)
def test_a_result_survives_its_encoding(result: SelfTestResult) -> None:
    assert decode_result(encode_result(result)) == result
