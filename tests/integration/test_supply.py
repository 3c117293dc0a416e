"""Models from outside: nothing in them runs when read; a runtime they break is a child's."""

import io
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters.build import BuildRequest, ProfileLimits, build_package
from converters.errors import (
    ConversionError,
    InvalidRequestError,
    NoRungFitsError,
    ProfileMisfitError,
    RuntimeRefusedError,
)
from converters.explain import describe_file
from converters.from_onnx import OnnxSource
from converters.guarded import GuardLimits, run_child
from converters.source_files import check_archive, load_estimator
from device_profiles.catalog import load_profile
from edge_agent.adapters.golden_vectors import GoldenVectors
from edge_agent.adapters.package_check import check_package
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.errors import PackageError
from edge_agent.ports import SelfTestLimits
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.errors import RefusedError
from tests.support.convert import QUICK, schema_of
from tests.support.serving import build_classifier

CAMERA = load_profile("camera")
SCHEMA = schema_of(2, ["a", "b", "c"])
ROWS = np.random.default_rng(0).normal(size=(60, 2))
TARGETS = np.arange(60) % 3
TIGHT = GuardLimits(memory_bytes_max=2**30, first_answer_s=3, total_s=60)


# Pickles under other names


def evil_pickle(canary: Path) -> bytes:
    """A pickle, written by hand, that makes a file when it is read."""
    return f"cbuiltins\nexec\n(S'open({str(canary)!r}, \"w\").close()'\ntR.".encode()


def wrapped(kind: str, content: bytes) -> bytes:
    """Give a pickle as it is, as the schema of a skops file or as an array of objects."""
    if kind == "plain":
        return content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if kind == "skops":
            archive.writestr("schema.json", content)
        else:
            header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
            head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            archive.writestr("input.npy", head + content)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["plain", "skops", "npz"])
@pytest.mark.parametrize("suffix", [".skops", ".onnx", ".npz", ".tar", ".pkl", ".joblib"])
def test_a_pickle_runs_under_no_name(tmp_path: Path, kind: str, suffix: str) -> None:
    canary = tmp_path / "canary"
    content = wrapped(kind, evil_pickle(canary))
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConversionError):
        load_estimator(path)
    with pytest.raises(ConversionError):
        describe_file(path, [])
    with pytest.raises(ConversionError):
        OnnxSource(content, SCHEMA, CAMERA)
    with pytest.raises(RefusedError):
        read_estimator(content)
    built = build_classifier(edit=lambda members: members | {package.MODEL: content})
    limits = SelfTestLimits(latency_ms_p95_max=1e3, rss_bytes_max=2**30)
    assert check_package(built.blob, built.sha256, limits, 1).code is Code.PACKAGE_FORMAT
    with pytest.raises(PackageError):
        GoldenVectors.decode(content, built.schema)
    assert not canary.exists()


def test_the_canary_works(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    read = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"  # in no process of ours
    subprocess.run([sys.executable, "-c", read], input=evil_pickle(canary), check=True)
    assert canary.exists()


def test_an_archive_that_unfolds_to_more_than_a_model_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2**20))
    content = bytearray(buffer.getvalue())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (2**31).to_bytes(4, "little")
    with pytest.raises(InvalidRequestError, match="unfolds to 2147483648 bytes in 1 members"):
        check_archive(bytes(content))
    with pytest.raises(RefusedError, match="unfolds to 2147483648"):
        read_estimator(bytes(content))


# Foreign graphs in a child process


def classifier(*nodes: Any, **constants: Any) -> bytes:
    """Probabilities of three classes from ``scores``, which the nodes make of ``features``."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Softmax", ["scores"], ["p"], axis=1)],
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def linear() -> bytes:
    weights = np.array([[1, 2, 3], [3, 1, -2]], np.float32)
    return classifier(helper.make_node("MatMul", ["features", "w"], ["scores"]), w=weights)


def hungry() -> bytes:
    """Makes a tensor of 64 GB whose shape is only computed when it runs."""
    weights = np.ones((2, 3), np.float32)
    return classifier(
        helper.make_node("MatMul", ["features", "w"], ["plain"]),
        helper.make_node("Mul", ["side", "side"], ["shape"]),
        helper.make_node("ReduceMean", ["plain"], ["mean"], keepdims=1),
        helper.make_node("Expand", ["mean", "shape"], ["filled"]),
        helper.make_node("ReduceMin", ["filled"], ["least"], keepdims=1),
        helper.make_node("Sub", ["plain", "least"], ["scores"]),
        w=weights,
        side=np.array([400, 316], np.int64),
    )


def endless() -> bytes:
    """Counts for ever: a loop without a bound whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None, 3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [None, 3]),
        ],
    )
    return classifier(
        helper.make_node("MatMul", ["features", "w"], ["plain"]),
        helper.make_node("Loop", ["", "true", "plain"], ["scores"], body=body),
        w=np.ones((2, 3), np.float32),
        true=np.array(True),
        one=np.array(1, np.float32),
    )


def request_with(content: bytes, **changes: Any) -> BuildRequest:
    request = BuildRequest(
        estimator=OnnxSource(content, SCHEMA, CAMERA, TIGHT),
        schema=SCHEMA,
        profile=CAMERA,
        calibration=ROWS,
        holdout=ROWS,
        holdout_targets=TARGETS,
        limits=ProfileLimits(),
        evidence_context={"came": "from elsewhere"},
        plan=QUICK,
    )
    return replace(request, **changes)


def test_a_foreign_graph_is_built_in_a_child_and_comes_back_as_a_package() -> None:
    built = build_package(request_with(linear()))
    assert built.evidence["context"] == {"came": "from elsewhere"}
    assert built.evidence["source"] == "onnx"
    assert built.needs.package_bytes == len(built.blob)
    assert built.schema == SCHEMA
    assert 0 < built.latency_ms_p95 < 1e3
    limits = SelfTestLimits(latency_ms_p95_max=1e3, rss_bytes_max=2**30)
    assert check_package(built.blob, built.sha256, limits, 1).ok


def test_a_graph_that_wants_all_memory_is_refused_and_we_live() -> None:
    source = OnnxSource(hungry(), SCHEMA, CAMERA, replace(TIGHT, first_answer_s=50))
    with pytest.raises(RuntimeRefusedError, match=r"(?i)alloc|memory"):
        build_package(request_with(hungry(), estimator=source))


def test_a_graph_that_loops_for_ever_is_refused_and_we_live() -> None:
    began = time.monotonic()
    source = OnnxSource(endless(), SCHEMA, CAMERA, replace(TIGHT, first_answer_s=1.5))
    with pytest.raises(RuntimeRefusedError, match=r"did not answer one row within 1\.5 s"):
        source.answer(ROWS)
    assert time.monotonic() - began < 30


def test_what_the_child_refuses_is_told_as_if_it_had_been_here() -> None:
    with pytest.raises(NoRungFitsError, match="package") as caught:
        build_package(request_with(linear(), limits=ProfileLimits(package_bytes_max=100)))
    assert caught.value.rungs[0]["precision"] == "fp32"
    with pytest.raises(ProfileMisfitError, match="opset_max") as misfit:
        build_package(request_with(linear(), profile=replace(CAMERA, opset_max=12)))
    assert misfit.value.misfits[0].field == "opset_max"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", r"crashed on the foreign graph \(SIGABRT\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"\(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed for its memory"),
        ("raise SystemExit('no room')", "ended with status 1: no room"),
        (
            "import sys; open(sys.argv[1] + '/refusal.json', 'w').write('[' * 9000); sys.exit(1)",
            "says something else",
        ),
        (
            "import sys; open(sys.argv[1] + '/refusal.json', 'w').write("
            '\'{"kind": "SystemExit", "message": "tried"}\'); sys.exit(1)',
            "tried",
        ),
        ("import time; time.sleep(60)", "did not answer one row"),
    ],
)
def test_whatever_happens_to_the_child_is_a_refusal_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr("converters.guarded.LATE_S", 0.5)
    limits = replace(TIGHT, total_s=1.0)
    with pytest.raises(RuntimeRefusedError, match=words):
        run_child(tmp_path, limits, child=(sys.executable, "-c", code))


@pytest.mark.parametrize(
    "answer", [{}, {"label": np.zeros(3)}, {"label": np.zeros(60), "probabilities": np.zeros(9)}]
)
def test_answers_of_another_shape_are_not_believed(tmp_path: Path, answer: dict[str, Any]) -> None:
    from converters.guarded_files import read_answers

    with (tmp_path / "answers.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **answer)
    with pytest.raises(RuntimeRefusedError):
        read_answers(tmp_path / "answers.npz", SCHEMA, 60)
