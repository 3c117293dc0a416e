"""Several labels out of one model: every way to ask, what is counted, and what is refused."""

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
from edge_agent.adapters.shadow_child import _answers, _name_columns, find_difference
from edge_agent.adapters.telemetry_recorder import WindowLimits
from edge_agent.cli import main
from edge_agent.client import Client, connect
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.contract.schema import NamedLabel
from edge_agent.errors import PackageError
from edge_agent.ports import SelfTestLimits
from edge_agent.statistics.agreement import Comparison
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import LabelsOutputReference, Reference
from edge_agent.statistics.varint import decode_counters
from tests.support.edges import agent_directory
from tests.support.serving import activate, build_several, golden_bytes, make_service, run_graph
from tests.support.serving_http import World, tensor

DAY = NamedLabel(name="day", classes=("work", "rest", "feast"))
RAIN = NamedLabel(name="rain, today", classes=("no", "yes"))
SNOW = NamedLabel(name="snow", classes=("no", "yes"))
BUILT = build_several((DAY, RAIN))
ROWS = BUILT.rows[:5]
EXPECTED = run_graph(package.unpack_members(BUILT.blob)[package.MODEL], ROWS, BUILT.schema)
NAMES = [(DAY.classes[a], RAIN.classes[b]) for a, b in EXPECTED["label"].tolist()]
LIMITS = SelfTestLimits(latency_ms_p95_max=1e6, rss_bytes_max=2**40, timeout_s=60)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("agent")
    with agent_directory(directory, BUILT) as world:
        yield directory, world


@pytest.fixture(scope="module")
def client(agent: tuple[Path, World]) -> Iterator[Client]:
    with connect(agent[0]) as client:
        yield client


# Answers ------------------------------------------------------------------------------------------


def test_the_metadata_names_the_labels_and_their_classes(agent: tuple[Path, World]) -> None:
    _, told = agent[1].ask("/v2/models/main")
    shapes = [(one["name"], one["datatype"], one["shape"]) for one in told["outputs"]]
    assert shapes == [
        ("label", "INT64", [-1, 2]),
        ("probabilities", "FP32", [-1, 5]),
        ("class", "BYTES", [-1, 2]),
    ]
    labels = [{"name": one.name, "classes": list(one.classes)} for one in (DAY, RAIN)]
    assert told["outputs"][0]["parameters"] == {"labels": labels}
    named = agent[1].ask("/v1/models/main")[1]
    assert (named["labels"], named["classes"], named["targets"]) == (labels, [], [])


def test_a_tensor_is_answered_with_a_column_a_label(
    agent: tuple[Path, World], client: Client
) -> None:
    _, answer = agent[1].ask("/v2/models/main/infer", {"inputs": [tensor(ROWS)]})
    label, probabilities, names = answer["outputs"]
    assert (label["shape"], probabilities["shape"], names["shape"]) == ([5, 2], [5, 5], [5, 2])
    assert label["data"] == EXPECTED["label"].ravel().tolist()
    assert names["data"] == [name for row in NAMES for name in row]
    np.testing.assert_allclose(
        np.reshape(probabilities["data"], (5, 5)), EXPECTED["probabilities"], rtol=1e-6
    )
    raw = client.predict(ROWS)  # raw bytes
    np.testing.assert_array_equal(raw.outputs["label"], EXPECTED["label"])
    np.testing.assert_array_equal(raw.outputs["probabilities"], EXPECTED["probabilities"])
    assert list(raw.class_names) == NAMES


def test_a_row_by_name_is_answered_by_label(agent: tuple[Path, World], client: Client) -> None:
    rows = [dict(zip(("f0", "f1", "f2", "f3"), map(float, row), strict=True)) for row in ROWS]
    _, answer = agent[1].ask("/v1/models/main/predict", {"rows": rows})
    first = answer["predictions"][0]
    assert first["class"] == dict(zip((DAY.name, RAIN.name), NAMES[0], strict=True))
    assert list(first["label"].values()) == EXPECTED["label"][0].tolist()
    assert [list(own) for own in first["probabilities"].values()] == [
        list(DAY.classes),
        list(RAIN.classes),
    ]
    named = client.predict(rows)
    assert named.labels == {DAY.name: DAY.classes, RAIN.name: RAIN.classes}
    np.testing.assert_array_equal(named.outputs["label"], EXPECTED["label"])
    np.testing.assert_allclose(named.outputs["probabilities"], EXPECTED["probabilities"])
    assert list(named.class_names) == NAMES
    told = describe_answer(named)  # what the bridge publishes
    assert told["class"] == first["class"]
    assert told["probabilities"]["rain, today"]["yes"] == pytest.approx(
        float(EXPECTED["probabilities"][0, 4])
    )


def test_a_file_is_answered_by_label(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    lines = ["f0,f1,f2,f3", *(",".join(repr(float(n)) for n in row) for row in ROWS)]
    rows.write_text("\n".join(lines) + "\n")
    assert main(["predict", str(rows), "--dir", str(agent[0])]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(one["class"].values()) for one in answers] == NAMES
    assert main(["predict", str(rows), "--csv", str(out), "--dir", str(agent[0])]) == 0
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["class_day"], row["class_rain, today"]) for row in table] == NAMES
    np.testing.assert_allclose(
        [float(row["probabilities_day_feast"]) for row in table],
        EXPECTED["probabilities"][:, 2],
    )


# Counting -----------------------------------------------------------------------------------------


def test_a_window_counts_each_label_by_itself() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox, windows=WindowLimits(window_rows_max=500))
    activate(service, BUILT)
    for n in range(0, 300, 3):
        service.predict("main", BUILT.rows[n : n + 3])
    service.predict("main", BUILT.rows[300:])
    service.close_due(is_last=True)
    ((_, window),) = outbox.pending(10)
    members = package.unpack_members(BUILT.blob)
    reference = Reference.decode(members[package.REFERENCE])
    assert json.loads(members[package.REFERENCE])["format"] == 4
    assert isinstance(reference.output, LabelsOutputReference)
    assert [(one.name, one.classes) for one in reference.output.labels] == [
        (DAY.name, DAY.classes),
        (RAIN.name, RAIN.classes),
    ]
    layout = CounterLayout.of(reference)
    counted = decode_counters(window.counters, layout.size)[layout.output]
    assert counted.tolist() == list(reference.output.counts)
    assert (window.rows, counted.sum()) == (500, 1_000)


def test_a_row_with_one_answer_that_is_no_number_is_in_no_label() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox, windows=WindowLimits(window_rows_max=2))
    activate(service, BUILT)
    service.predict("main", np.array([[3e38] * 4, [0, 0, 0, 0]], np.float32))
    assert service.probation_stats("main").non_finite_rows == 1
    service.close_due(is_last=True)
    ((_, window),) = outbox.pending(10)
    layout = CounterLayout.of(reference_of(BUILT.blob))
    counted = decode_counters(window.counters, layout.size)
    assert (counted[layout.output].sum(), counted[layout.non_finite]) == (2, 1)


def reference_of(blob: bytes) -> Reference:
    return Reference.decode(package.unpack_members(blob)[package.REFERENCE])


def test_the_most_shifted_label_is_named_to_the_probation() -> None:
    service = make_service()
    activate(service, BUILT)
    assert service.probation_stats("main").output_shift is None
    every = run_graph(package.unpack_members(BUILT.blob)[package.MODEL], BUILT.rows, BUILT.schema)
    service.predict("main", BUILT.rows[every["label"][:, 1] == 1])
    stats = service.probation_stats("main")
    assert (stats.shifted_label, stats.shifted_target) == (RAIN.name, "")
    assert stats.output_shift is not None
    assert stats.output_shift > 0.3


# Shadow -------------------------------------------------------------------------------------------


def test_two_models_are_compared_label_by_label_whatever_their_order() -> None:
    swapped = build_several(
        (
            NamedLabel(name=RAIN.name, classes=("yes", "no", "hail")),
            NamedLabel(name="day", classes=DAY.classes),
        )
    ).schema
    ours = np.array([[0, 0], [1, 1], [2, 1], [2, 0]]), np.zeros((4, 5), np.float32)
    theirs = np.array([[1, 0], [0, 1], [2, 2], [1, 1]]), np.zeros((4, 6), np.float32)
    theirs[1][3, 0] = 0.5  # "yes" of the rain
    comparison = Comparison(_name_columns(BUILT.schema), _name_columns(swapped), (1e-6, 0.1))
    found = comparison.compare(_answers(BUILT.schema, ours, 4), _answers(swapped, theirs, 4))
    assert found.differs == 2  # hail is not rain, and rest is no feast
    assert found.difference == (3, 0, 1)
    assert find_difference(BUILT.schema, swapped) == ""
    other = build_several((DAY, NamedLabel(name="rain", classes=("no", "yes")))).schema
    assert "different labels" in find_difference(BUILT.schema, other)


# Self-test ----------------------------------------------------------------------------------------


def broken(name: str, change: Any) -> Any:
    def edit(own: dict[str, bytes]) -> dict[str, bytes]:
        golden = golden_bytes(ROWS, EXPECTED | {name: change(EXPECTED[name].copy())})
        return {**own, package.GOLDEN: golden}

    return build_several((DAY, RAIN), edit=edit)


def test_the_golden_rows_of_all_labels_are_replayed() -> None:
    assert check_package(BUILT.blob, BUILT.sha256, LIMITS, threads=1).ok

    def turn(labels: Any) -> Any:
        labels[2, 1] = 1 - labels[2, 1]
        return labels

    wrong = broken("label", turn)
    result = check_package(wrong.blob, wrong.sha256, LIMITS, threads=1)
    assert result.code is Code.SELFTEST_GOLDEN
    assert "row 2 of label 'rain, today'" in result.detail


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("label", lambda v: v[:, :1], r"shape \(5, 1\).* need \(5, 2\)"),
        ("probabilities", lambda v: v[:, :4], r"shape \(5, 4\).* need \(5, 5\)"),
    ],
)
def test_golden_rows_of_other_labels_are_refused(name: str, change: Any, words: str) -> None:
    wrong = broken(name, change)
    with pytest.raises(PackageError, match=words) as caught:
        LoadedModel.from_package(wrong.blob, wrong.sha256)
    assert caught.value.code is Code.PACKAGE_FORMAT


def test_a_graph_or_reference_of_other_labels_is_refused() -> None:
    other = package.unpack_members(build_several((RAIN, DAY)).blob)
    three = package.unpack_members(build_several((DAY, RAIN, SNOW)).blob)
    graph = build_several(
        (DAY, RAIN), edit=lambda own: {**own, package.MODEL: three[package.MODEL]}
    )
    with pytest.raises(PackageError, match=r"shape \(1, 3\), not \(1, 2\)"):
        LoadedModel.from_package(graph.blob, graph.sha256)
    reference = build_several(
        (DAY, RAIN), edit=lambda own: {**own, package.REFERENCE: other[package.REFERENCE]}
    )
    with pytest.raises(PackageError, match=r"labels differ from schema\.json"):
        LoadedModel.from_package(reference.blob, reference.sha256)
