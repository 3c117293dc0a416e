"""Several targets out of one model: every way to ask, what is counted, and what is refused."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters.mqtt_bridge import describe_answer
from edge_agent.adapters.onnx_model_runner import LoadedModel
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.package_check import check_package
from edge_agent.adapters.shadow_child import find_difference
from edge_agent.adapters.telemetry_recorder import WindowLimits
from edge_agent.cli import main
from edge_agent.client import Client, connect
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.errors import InputError, PackageError
from edge_agent.ports import SelfTestLimits
from edge_agent.statistics.agreement import Answers, Comparison
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference
from edge_agent.statistics.varint import decode_counters
from tests.support.edges import agent_directory
from tests.support.serving import (
    Edit,
    activate,
    build_regressor,
    golden_bytes,
    make_service,
    run_graph,
)
from tests.support.serving_http import World, tensor

TARGETS = ("flow", "heat, inside")
BUILT = build_regressor(targets=TARGETS)
ROWS = BUILT.rows[:5]
EXPECTED = run_graph(package.unpack_members(BUILT.blob)[package.MODEL], ROWS, BUILT.schema)["value"]
LIMITS = SelfTestLimits(latency_ms_p95_max=1e6, rss_bytes_max=2**40, timeout_s=60)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("agent")
    with agent_directory(directory, BUILT, takes_labels=True) as world:
        yield directory, world


@pytest.fixture(scope="module")
def client(agent: tuple[Path, World]) -> Iterator[Client]:
    with connect(agent[0]) as client:
        yield client


# Answers ------------------------------------------------------------------------------------------


def test_the_metadata_names_the_targets(agent: tuple[Path, World]) -> None:
    _, told = agent[1].ask("/v2/models/main")
    assert told["outputs"] == [
        {
            "name": "value",
            "datatype": "FP32",
            "shape": [-1, 2],
            "parameters": {"targets": list(TARGETS)},
        }
    ]
    assert agent[1].ask("/v1/models/main")[1]["targets"] == list(TARGETS)


def test_a_tensor_is_answered_with_a_column_a_target(
    agent: tuple[Path, World], client: Client
) -> None:
    _, answer = agent[1].ask("/v2/models/main/infer", {"inputs": [tensor(ROWS)]})
    (output,) = answer["outputs"]
    assert output["shape"] == [5, 2]
    np.testing.assert_allclose(np.reshape(output["data"], (5, 2)), EXPECTED, rtol=1e-6)
    np.testing.assert_array_equal(client.predict(ROWS).outputs["value"], EXPECTED)  # raw bytes


def test_a_row_by_name_is_answered_by_target(agent: tuple[Path, World], client: Client) -> None:
    rows = [dict(zip(("f0", "f1", "f2"), map(float, row), strict=True)) for row in ROWS]
    _, answer = agent[1].ask("/v1/models/main/predict", {"rows": rows})
    assert [list(one["value"]) for one in answer["predictions"]] == [list(TARGETS)] * 5
    got = [list(one["value"].values()) for one in answer["predictions"]]
    np.testing.assert_allclose(got, EXPECTED, rtol=1e-6)
    named = client.predict(rows)
    assert named.targets == TARGETS
    np.testing.assert_array_equal(named.outputs["value"], EXPECTED)
    assert describe_answer(named)["value"] == dict(zip(TARGETS, EXPECTED[0].tolist(), strict=True))


def test_a_file_is_answered_by_target(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    lines = ["f0,f1,f2", *(",".join(repr(float(n)) for n in row) for row in ROWS)]
    rows.write_text("\n".join(lines) + "\n")
    assert main(["predict", str(rows), "--dir", str(agent[0])]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(one["value"]) for one in answers] == [TARGETS] * 5
    assert main(["predict", str(rows), "--csv", str(out), "--dir", str(agent[0])]) == 0
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["row", "value_flow", "value_heat, inside", "prediction_id"]
    np.testing.assert_allclose([float(row["value_flow"]) for row in table], EXPECTED[:, 0])


# Counting -----------------------------------------------------------------------------------------


def test_a_window_counts_each_target_by_itself() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox, windows=WindowLimits(window_rows_max=500))
    activate(service, BUILT)
    for n in range(0, 300, 3):
        service.predict("main", BUILT.rows[n : n + 3])
    service.predict("main", BUILT.rows[300:])
    service.close_due(is_last=True)
    ((_, window),) = outbox.pending(10)
    reference = Reference.decode(package.unpack_members(BUILT.blob)[package.REFERENCE])
    layout = CounterLayout.of(reference)
    counted = decode_counters(window.counters, layout.size)[layout.output]
    assert counted.tolist() == list(reference.output.counts)
    assert (window.rows, counted.sum()) == (500, 1_000)


def test_a_row_with_one_answer_that_is_no_number_is_in_no_target() -> None:
    service = make_service()
    activate(service, BUILT)
    rows = np.array([[3e38, 3e38, 3e38], [0, 0, 0]], np.float32)
    values = service.predict("main", rows).outputs["value"]
    assert not np.isfinite(values[0]).all()
    assert service.probation_stats("main").non_finite_rows == 1


def test_the_most_shifted_target_is_named_to_the_probation() -> None:
    service = make_service()
    activate(service, BUILT)
    assert service.probation_stats("main").output_shift is None
    weights = np.linalg.lstsq(BUILT.rows, run(BUILT.rows), rcond=None)[0]
    along = weights[:, 1] - weights[:, 0] * (weights[:, 0] @ weights[:, 1]) / (
        weights[:, 0] @ weights[:, 0]
    )
    moved = BUILT.rows[:200] + 5 * (along / np.linalg.norm(along)).astype(np.float32)
    service.predict("main", moved)  # moves along what leaves the first target alone
    stats = service.probation_stats("main")
    assert stats.shifted_target == TARGETS[1]
    assert stats.output_shift is not None
    assert stats.output_shift > 0.5


def run(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    model = package.unpack_members(BUILT.blob)[package.MODEL]
    return run_graph(model, rows, BUILT.schema)["value"]


def test_feedback_on_several_targets_goes_by_name_and_may_come_in_parts(
    agent: tuple[Path, World], client: Client
) -> None:
    name = client.predict(ROWS[:1]).prediction_ids[0]
    client.feedback(name, {"heat, inside": 20})
    body = {"prediction_id": name, "labels": {"flow": 3.1}}
    assert agent[1].ask("/v1/feedback", body) == (200, {"taken": 1, "refused": 0})
    status, told = agent[1].ask("/v1/feedback", body)
    assert (status, "has its label already" in told["error"]) == (400, True)
    for label, words in (
        (3.0, "answered 2 targets, so its labels have names"),
        ({"flaw": 1.0}, "has no target 'flaw'; known are flow, heat, inside"),
        ({"flow": "wet"}, r"flow of .* is a regression's"),
    ):
        with pytest.raises(InputError, match=words):
            client.feedback(name, label)


def test_a_file_of_answers_comes_back_with_what_became_true(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    lines = ["f0,f1,f2", *(",".join(repr(float(n)) for n in row) for row in ROWS)]
    rows.write_text("\n".join(lines) + "\n")
    assert main(["predict", str(rows), "--csv", str(answers), "--dir", str(agent[0])]) == 0
    with answers.open(newline="") as file:
        table = list(csv.DictReader(file))
    truth = [("3.5", "20"), ("", "21"), ("", ""), ("wet", ""), ("1", "2")]
    table[4]["prediction_id"] = "7"
    for row, (flow, heat) in zip(table, truth, strict=True):
        row |= {"true_value_flow": flow, "true_value_heat, inside": heat}
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    capsys.readouterr()
    assert main(["label", str(answers), "--dir", str(agent[0])]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "edge-agent: line 5: true_value_flow is 'wet', which is no finite number",
        "edge-agent: line 6: '7' is no prediction id; give it as answered",
        "edge-agent: labels of 2 answers taken, of 2 refused, 1 lines had none",
    ]
    assert main(["label", str(answers), "--dir", str(agent[0])]) == 1
    told = capsys.readouterr().err
    assert "has its label already" in told
    assert "labels of 0 answers taken, of 4 refused" in told
    assert main(["label", str(rows), "--dir", str(agent[0])]) == 1
    assert "needs column prediction_id and one or more of true_class" in capsys.readouterr().err


# Shadow -------------------------------------------------------------------------------------------


def test_two_models_are_compared_target_by_target() -> None:
    first = Answers(labels=None, numbers=np.array([[1, 5], [2, 6]], np.float32))
    second = Answers(labels=None, numbers=np.array([[5, 1], [6, 3]], np.float32))
    found = Comparison(("a", "b"), ("b", "a"), (1e-6, 0.1)).compare(first, second)
    assert found.difference == (1, 0, 1)  # the second row differs in "a" alone
    swapped = build_regressor(targets=TARGETS[::-1])
    assert find_difference(BUILT.schema, swapped.schema) == ""
    for other in (build_regressor(targets=("flow", "heat")), build_regressor()):
        assert "different targets" in find_difference(BUILT.schema, other.schema)


# Self-test ----------------------------------------------------------------------------------------


def test_the_golden_rows_of_all_targets_are_replayed() -> None:
    assert check_package(BUILT.blob, BUILT.sha256, LIMITS, threads=1).ok
    wrong = build_regressor(
        targets=TARGETS, edit=_edit_golden(lambda values: np.add(values, [0, 1]))
    )
    result = check_package(wrong.blob, wrong.sha256, LIMITS, threads=1)
    assert result.code is Code.SELFTEST_GOLDEN
    assert "of target 'heat, inside'" in result.detail


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (lambda values: values[:, :1], Code.PACKAGE_FORMAT, r"shape \(5, 1\), the schema has 2"),
        (lambda values: np.hstack([values, values]), Code.PACKAGE_FORMAT, "the schema has 2"),
    ],
)
def test_golden_rows_of_another_number_of_targets_are_refused(
    edit: Any, code: Code, words: str
) -> None:
    wrong = build_regressor(targets=TARGETS, edit=_edit_golden(edit))
    with pytest.raises(PackageError, match=words) as caught:
        LoadedModel.from_package(wrong.blob, wrong.sha256)
    assert caught.value.code is code


def test_a_graph_or_reference_of_other_targets_is_refused() -> None:
    three = package.unpack_members(build_regressor(targets=("a", "b", "c")).blob)
    graph = build_regressor(
        targets=TARGETS, edit=lambda own: {**own, package.MODEL: three[package.MODEL]}
    )
    with pytest.raises(PackageError, match=r"shape \(1, 3\), not \(1, 2\)"):
        LoadedModel.from_package(graph.blob, graph.sha256)
    other = build_regressor(
        targets=TARGETS, edit=lambda own: {**own, package.REFERENCE: three[package.REFERENCE]}
    )
    with pytest.raises(PackageError, match=r"targets differ from schema\.json"):
        LoadedModel.from_package(other.blob, other.sha256)


def _edit_golden(change: Any) -> Edit:
    return lambda own: {**own, package.GOLDEN: golden_bytes(ROWS, {"value": change(EXPECTED)})}
