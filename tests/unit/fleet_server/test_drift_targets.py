"""Drift of the answers of several targets or labels: what moved is named, the others are not."""

import numpy as np

from edge_agent.contract.schema import (
    Feature,
    ModelSchema,
    NamedLabel,
    Output,
    Role,
    Task,
)
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.reference import Reference, build_reference
from fleet_server.core.drift_case import replay_case
from fleet_server.core.drift_cells import feature_names
from fleet_server.core.drift_counts import DeviceWindows, gather_families
from fleet_server.core.drift_policy import DriftPolicy, Level
from fleet_server.core.drift_verdict import Verdict, judge_family
from tests.support.drift import NOW_MS, WINDOW_MS, normal_rows, value_schema

TARGETS = ("flow", "heat")
POLICY = DriftPolicy()


def reference_of(*targets: str) -> Reference:
    schema = ModelSchema(
        model="m",
        task=Task.REGRESSION,
        features=tuple(Feature(name=f"f{k}") for k in range(3)),
        outputs=(Output(name="value", role=Role.VALUE, targets=targets),),
    )
    values = normal_rows(1, 2_000, len(targets))
    return build_reference(schema, normal_rows(0, 4_000), {"value": values})


def device(name: str, reference: Reference, seed: int, *shifts: float) -> DeviceWindows:
    """Windows of a device whose answers are shifted, each target by its own."""
    draw, counters = np.random.default_rng(seed), []
    width = max(1, len(shifts))
    for _ in range(16):
        counter = WindowCounter(reference)
        values = draw.normal(size=(100, width)).astype(np.float32)
        values = (values + np.array(shifts or (0,), np.float32)).astype(np.float32)
        counter.add(draw.normal(size=(100, 3)).astype(np.float32), {"value": values}, 1.0)
        counters.append(counter.take()[1])
    ends = NOW_MS - np.arange(16, dtype=np.int64) * WINDOW_MS
    return DeviceWindows(
        device_id=name,
        reference=reference,
        counters=np.array(counters),
        t0_ms=ends - WINDOW_MS,
        t1_ms=ends,
    )


def judge(devices: list[DeviceWindows]) -> Verdict:
    (family,) = gather_families(devices)
    return judge_family(family, {}, POLICY, now_ms=NOW_MS)


def test_the_target_that_moved_is_named() -> None:
    reference = reference_of(*TARGETS)
    devices = [device(f"d{n}", reference, n, 0.0, 1.5 * (n == 3)) for n in range(8)]
    assert feature_names(gather_families(devices)[0])[3:] == ("answers flow", "answers heat")
    verdict = judge(devices)
    (case,) = verdict.cases
    assert (case.level, case.subject, case.features) == (Level.DEVICE, "d3", ("answers heat",))
    assert case.sentence.startswith("d3: answers heat moved up (location z +")
    assert replay_case(case.inputs)[1] == case.sentence


def test_versions_of_other_targets_are_judged_side_by_side() -> None:
    two, swapped = reference_of(*TARGETS), reference_of(*TARGETS[::-1])
    one = build_reference(
        value_schema(), normal_rows(0, 4_000), {"value": normal_rows(1, 2_000, 1)[:, 0]}
    )
    devices = [
        *(device(f"a{n}", two, n, 0.0, 0.0) for n in range(4)),
        *(device(f"b{n}", swapped, 10 + n, 2.0 * (n == 1), 0.0) for n in range(4)),
        *(device(f"c{n}", one, 20 + n) for n in range(4)),
    ]
    (family,) = gather_families(devices)
    assert feature_names(family)[3:] == ("answers flow", "answers heat", "answers")
    (case,) = judge(devices).cases
    assert (case.subject, case.features) == ("b1", ("answers heat",))


# Several labels -----------------------------------------------------------------------------------

DAY = NamedLabel(name="day", classes=("work", "rest", "feast"))
RAIN = NamedLabel(name="rain", classes=("no", "yes"))


def draw_labels(
    draw: np.random.Generator, labels: tuple[NamedLabel, ...], rows: int, moved: str, sure: float
) -> dict[str, np.ndarray]:
    """Draw answers; of the label that moved the last class is answered far more often."""
    indexes, shares = [], []
    for label in labels:
        count = len(label.classes)
        weights = np.ones(count) / count
        if label.name == moved:
            weights = np.array([*([0.1 / (count - 1)] * (count - 1)), 0.9])
        own = draw.choice(count, rows, p=weights)
        best = np.clip(draw.normal(sure, 0.05, rows), 0.4, 0.99)
        table = np.repeat(((1 - best) / (count - 1))[:, None], count, axis=1)
        table[np.arange(rows), own] = best
        indexes.append(own)
        shares.append(table)
    return {
        "label": np.stack(indexes, axis=1),
        "probabilities": np.hstack(shares).astype(np.float32),
    }


def labels_reference(*labels: NamedLabel) -> Reference:
    schema = ModelSchema(
        model="m",
        task=Task.CLASSIFICATION,
        features=tuple(Feature(name=f"f{k}") for k in range(3)),
        outputs=(
            Output(name="label", role=Role.LABEL, labels=labels),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
    )
    answers = draw_labels(np.random.default_rng(1), labels, 2_000, "", 0.8)
    return build_reference(schema, normal_rows(0, 4_000), answers)


def label_device(
    name: str,
    reference: Reference,
    seed: int,
    labels: tuple[NamedLabel, ...],
    moved: str = "",
    sure: float = 0.8,
) -> DeviceWindows:
    draw, counters = np.random.default_rng(seed), []
    for _ in range(16):
        counter = WindowCounter(reference)
        answers = draw_labels(draw, labels, 100, moved, sure)
        counter.add(draw.normal(size=(100, 3)).astype(np.float32), answers, 1.0)
        counters.append(counter.take()[1])
    ends = NOW_MS - np.arange(16, dtype=np.int64) * WINDOW_MS
    return DeviceWindows(
        device_id=name,
        reference=reference,
        counters=np.array(counters),
        t0_ms=ends - WINDOW_MS,
        t1_ms=ends,
    )


def test_the_label_whose_mix_moved_is_named_with_the_class() -> None:
    both = (DAY, RAIN)
    reference = labels_reference(*both)
    devices = [
        label_device(f"d{n}", reference, n, both, "rain" if n == 3 else "") for n in range(8)
    ]
    assert feature_names(gather_families(devices)[0])[3:] == ("answers day", "answers rain")
    (case,) = judge(devices).cases
    assert (case.level, case.subject, case.features) == (Level.DEVICE, "d3", ("answers rain",))
    assert case.sentence.startswith("d3: answer 'no' of 'rain' is now 6 % of the answers (before")
    assert replay_case(case.inputs)[1] == case.sentence


def test_packages_of_labels_in_another_order_are_judged_side_by_side() -> None:
    both, turned = (DAY, RAIN), (RAIN, DAY)
    first, second = labels_reference(*both), labels_reference(*turned)
    devices = [
        *(label_device(f"a{n}", first, n, both) for n in range(4)),
        *(label_device(f"b{n}", second, 9 + n, turned, "day" if n == 1 else "") for n in range(4)),
    ]
    (family,) = gather_families(devices)
    assert feature_names(family)[3:] == ("answers day", "answers rain")
    (case,) = judge(devices).cases
    assert (case.subject, case.features) == ("b1", ("answers day",))
    assert "answer 'feast' of 'day' is now" in case.sentence
