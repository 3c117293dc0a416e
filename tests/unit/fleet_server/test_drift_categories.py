"""A category's drift is found by the same test as a number's, and told by its texts."""

import json

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.reference import Reference, build_reference
from fleet_server.core.drift_counts import DeviceWindows, gather_families
from fleet_server.core.drift_finding import Evidence, judge_evidence
from fleet_server.core.drift_policy import DriftPolicy
from fleet_server.core.drift_test import compare_cells
from fleet_server.core.drift_verdict import Verdict, judge_family
from fleet_server.core.drift_words import say_finding
from tests.support.drift import NOW_MS, WINDOW_MS

HUES = ("red", "green", "blue", "teal", "pink")
SHARES = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
SCHEMA = ModelSchema(
    model="paint",
    task=Task.REGRESSION,
    features=(
        Feature(name="hue", dtype="category", categories=HUES, is_nullable=True, is_open=True),
    ),
    outputs=(Output(name="value", role=Role.VALUE),),
)


def _rows(seed: int, rows: int, shares: NDArray[np.float64] = SHARES) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed).choice(len(shares), rows, p=shares)
    return draw.astype(np.float32).reshape(-1, 1)


def _reference() -> Reference:
    rows = _rows(0, 5_000)
    return build_reference(SCHEMA, rows, {"value": np.ones(len(rows))})


def _count(reference: Reference, rows: NDArray[np.float32]) -> NDArray[np.int64]:
    counter = WindowCounter(reference)
    counter.add(rows, {"value": np.ones(len(rows), np.float32)}, 1.0)
    return counter.take()[1]


def _device(
    name: str, reference: Reference, seed: int, shares: NDArray[np.float64]
) -> DeviceWindows:
    windows = [_count(reference, _rows(seed * 100 + n, 100, shares)) for n in range(16)]
    ends = NOW_MS - np.arange(16, dtype=np.int64) * WINDOW_MS
    return DeviceWindows(
        device_id=name,
        reference=reference,
        counters=np.array(windows),
        t0_ms=ends - WINDOW_MS,
        t1_ms=ends,
    )


def _judge(shares: NDArray[np.float64]) -> Verdict:
    reference = _reference()
    devices = [_device(f"d{n}", reference, n, SHARES) for n in range(1, 6)]
    devices.append(_device("odd", reference, 9, shares))
    return judge_family(gather_families(devices)[0], {}, DriftPolicy(), now_ms=NOW_MS)


def test_a_category_that_grew_is_named_with_its_share() -> None:
    case = _judge(np.array([0.25, 0.25, 0.45, 0.05, 0.0])).cases[0]
    assert case.sentence.startswith("odd: hue is 'blue' in 4")
    assert "of the rows (before 20" in case.sentence


def test_categories_that_training_did_not_see_are_told_as_such() -> None:
    case = _judge(np.array([0.3, 0.3, 0.2, 0.1, 0.1])).cases[0]
    assert case.sentence.startswith("odd: hue is a category unseen in training in 9")


def test_the_same_mix_blames_nobody() -> None:
    assert _judge(SHARES).cases == ()


def test_a_stored_finding_says_the_same_again() -> None:
    reference = _reference()
    feature = reference.features[0]
    counts = _count(reference, _rows(5, 400, np.array([0.3, 0.25, 0.4, 0.05, 0.0])))
    pad = [0] * (10 - feature.bins)
    cell = counts[: feature.bins + 2].tolist()
    evidence = Evidence(
        feature="hue",
        windows=1,
        counts=(*cell[:-2], *pad, *cell[-2:]),
        baseline=(*feature.counts[:-2], *pad, *feature.counts[-2:]),
        classes=feature.labels,
    )
    again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    assert say_finding(judge_evidence(again)) == say_finding(judge_evidence(evidence))
    assert "'blue'" in say_finding(judge_evidence(again))


def test_without_drift_categories_alarm_as_seldom_as_they_should() -> None:
    reference = _reference()
    baseline = np.array(reference.features[0].counts)
    cells = np.array(
        [_count(reference, _rows(seed, 200))[: len(baseline)] for seed in range(2_000)]
    )
    share = float(np.mean(compare_cells(cells, baseline).log_p < np.log(0.05)))
    assert 0.01 < share < 0.07, share
