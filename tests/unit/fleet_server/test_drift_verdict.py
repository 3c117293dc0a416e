import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.statistics.reference import Reference, build_reference
from fleet_server.core.drift_case import AlarmCase, replay_case
from fleet_server.core.drift_compare import find_median_rank, find_notable, find_strength
from fleet_server.core.drift_counts import DeviceWindows, FamilyCounts, gather_families
from fleet_server.core.drift_finding import Change
from fleet_server.core.drift_policy import DriftPolicy, Level, Severity, find_log_threshold
from fleet_server.core.drift_test import Variation
from fleet_server.core.drift_verdict import Verdict, judge_family
from tests.support.drift import (
    NOW_MS,
    WINDOW_MS,
    class_reference,
    device_windows,
    normal_rows,
    value_schema,
)

REFERENCE = class_reference(normal_rows(0, 4_000, 5), answers=normal_rows(1, 2_000, 5))
POLICY = DriftPolicy()


def fleet(
    shifted: Mapping[int, float],
    *,
    size: int = 20,
    seed: int = 0,
    rows: int = 100,
    windows: int = 16,
    shifted_windows: int | None = None,
    feature: int = 3,
) -> FamilyCounts:
    """Devices ``d00`` up; some shifted in column f3."""
    devices = [
        device_windows(
            f"d{k:02}",
            REFERENCE,
            seed=1_000 * seed + k,
            rows=rows,
            windows=windows,
            shift=shifted.get(k, 0.0),
            feature=feature,
            shifted_windows=shifted_windows,
        )
        for k in range(size)
    ]
    return gather_families(devices)[0]


def group(size: int, members: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    mask[list(members)] = True
    return mask


HALVES = {"cameras": group(20, range(10)), "gateways": group(20, range(10, 20))}


def judge(family: FamilyCounts, groups: Mapping[str, NDArray[np.bool_]] = HALVES) -> Verdict:
    return judge_family(family, groups, POLICY, now_ms=NOW_MS)


def subjects(verdict: Verdict) -> list[tuple[str, str]]:
    return [(str(case.level), case.subject) for case in verdict.cases]


def case_of(verdict: Verdict) -> AlarmCase:
    assert len(verdict.cases) == 1, subjects(verdict)
    return verdict.cases[0]


def test_without_drift_nobody_is_blamed() -> None:
    for seed in range(6):
        verdict = judge(fleet({}, seed=seed))
        assert verdict.cases == (), f"seed {seed}"
        assert sum(cell.is_notable for cell in verdict.cells) <= 2, f"seed {seed}"


def test_one_broken_device_is_blamed_alone() -> None:
    case = case_of(judge(fleet({4: 1.5})))
    assert (case.level, case.subject) == (Level.DEVICE, "d04")
    assert case.features[0] == "f3"
    assert case.severity is Severity.ACT
    assert case.sentence.startswith("d04: f3 moved up (location z +")
    assert case.sentence.endswith("rest of fleet unchanged")


def test_a_drifting_group_is_named_and_its_devices_are_not() -> None:
    case = case_of(judge(fleet(dict.fromkeys(range(10), 0.5))))
    assert (case.level, case.subject, case.features) == (Level.GROUP, "cameras", ("f3",))
    assert "on 10 of 10 devices" in case.sentence
    assert "rest of fleet unchanged" in case.sentence


def test_a_shift_too_small_for_any_device_is_found_in_the_group() -> None:
    family = fleet(dict.fromkeys(range(10), 0.3), rows=30, windows=8)
    case = case_of(judge(family))
    assert (case.level, case.subject) == (Level.GROUP, "cameras")


def test_the_whole_fleet_is_blamed_when_everybody_moved() -> None:
    case = case_of(judge(fleet(dict.fromkeys(range(20), -0.5))))
    assert case.level is Level.FLEET
    assert case.sentence.startswith("the whole fleet: f3 moved down")
    assert "on 20 of 20 devices" in case.sentence


def test_one_huge_device_does_not_blame_its_group_or_the_fleet() -> None:
    assert subjects(judge(fleet({2: 8.0}, rows=500))) == [("device", "d02")]


def test_a_group_and_a_device_elsewhere_are_told_apart() -> None:
    verdict = judge(fleet({**dict.fromkeys(range(10), 0.5), 15: 1.5}))
    assert subjects(verdict) == [("group", "cameras"), ("device", "d15")]


def test_the_group_that_fits_best_is_chosen_among_overlapping_ones() -> None:
    groups = {
        "mixed": group(20, range(4, 16)),
        "cameras": group(20, range(10)),
        "some": group(20, range(3)),
    }
    assert subjects(judge(fleet(dict.fromkeys(range(10), 0.5)), groups)) == [("group", "cameras")]


def test_two_groups_that_moved_are_both_named() -> None:
    groups = {f"g{k}": group(20, range(4 * k, 4 * k + 4)) for k in range(5)}
    family = fleet({**dict.fromkeys(range(4), 0.6), **dict.fromkeys(range(8, 12), -0.6)})
    assert sorted(subjects(judge(family, groups))) == [("group", "g0"), ("group", "g2")]


def test_groups_that_say_nothing_are_not_judged() -> None:
    groups = {
        "everybody": group(20, range(20)),
        "one": group(20, [3]),
        "cameras": group(20, range(10)),
        "same": group(20, range(10)),
    }
    levels = {(cell.level, cell.subject) for cell in judge(fleet({}), groups).cells}
    assert {s for level, s in levels if level is Level.GROUP} == {"cameras"}


def test_an_effect_below_the_floor_is_certain_but_no_alarm() -> None:
    verdict = judge(fleet(dict.fromkeys(range(20), 0.1), rows=500))
    assert verdict.cases == ()
    cell = next(c for c in verdict.cells if c.level is Level.FLEET and c.finding.feature == "f3")
    assert cell.is_notable
    assert cell.finding.p_value < 1e-6
    assert cell.finding.psi < 0.05


def test_the_start_of_a_shift_is_estimated() -> None:
    case = case_of(judge(fleet(dict.fromkeys(range(10), 1.0), windows=64, shifted_windows=16)))
    assert case.since_ms == NOW_MS - 16 * WINDOW_MS
    assert (case.windows, case.is_confirmed) == (1, True)


def test_answers_are_judged_as_one_more_feature() -> None:
    verdict = judge(fleet(dict.fromkeys(range(10), 1.5), feature=0))
    case = case_of(verdict)
    assert set(case.features) == {"f0", "answers"}
    cell = next(
        c for c in verdict.cells if c.subject == "cameras" and c.finding.feature == "answers"
    )
    assert cell.finding.change is Change.MIX
    assert "answer 'a' is now" in cell.sentence


def test_a_regression_is_judged_by_its_values() -> None:
    rows = normal_rows(2, 3_000, 2)
    reference = build_reference(value_schema(2), rows, {"value": rows[:, 0]})
    devices = [
        device_windows(f"d{k}", reference, seed=k, shift=0.8 * (k < 2), classes=0) for k in range(4)
    ]
    family = gather_families(devices)[0]
    verdict = judge_family(family, {"pair": group(4, [0, 1])}, POLICY, now_ms=NOW_MS)
    assert subjects(verdict) == [("group", "pair")]
    assert "answers" in verdict.cases[0].features


def with_missing(device: DeviceWindows, rows: int) -> DeviceWindows:
    """Move rows of f0 from its first bin to missing."""
    counters = device.counters.copy()
    counters[:, 0] -= rows
    counters[:, 10] += rows
    return DeviceWindows(
        device_id=device.device_id,
        reference=device.reference,
        counters=counters,
        t0_ms=device.t0_ms,
        t1_ms=device.t1_ms,
    )


def test_missing_values_are_told_as_such() -> None:
    devices = [device_windows(f"d{k}", REFERENCE, seed=k) for k in range(3)]
    family = gather_families([with_missing(devices[0], 5), *devices[1:]])[0]
    case = case_of(judge_family(family, {}, POLICY, now_ms=NOW_MS))
    assert case.sentence.startswith("d0: f0 is missing in 5 % of the rows (before 0 %)")


def test_a_case_is_replayed_from_its_stored_inputs() -> None:
    for shifted in ({4: 1.5}, dict.fromkeys(range(10), 0.5), dict.fromkeys(range(20), -0.5)):
        case = case_of(judge(fleet(shifted)))
        stored = json.loads(json.dumps(case.inputs))
        assert replay_case(stored) == (case.severity, case.sentence)


def test_inputs_that_make_no_alarm_are_refused() -> None:
    stored = json.loads(json.dumps(dict(case_of(judge(fleet({4: 1.5}))).inputs)))
    stored["evidence"][0]["counts"] = stored["evidence"][0]["baseline"]
    with pytest.raises(ValueError, match="is no alarm"):
        replay_case(stored)


def test_judging_twice_gives_the_same() -> None:
    family = fleet(dict.fromkeys(range(10), 0.5))
    assert judge(family) == judge(family)


def test_a_device_that_fell_silent_is_left_out_of_sums() -> None:
    old = NOW_MS - 10 * 3_600_000
    devices = [
        device_windows(f"d{k:02}", REFERENCE, seed=k, newest_ms=old if k < 5 else NOW_MS)
        for k in range(20)
    ]
    verdict = judge(gather_families(devices)[0])
    fleet_rows = {c.finding.rows for c in verdict.cells if c.level is Level.FLEET}
    assert fleet_rows == {15 * 16 * 100}
    # Of the group's 10 members 5 count.
    group_rows = {c.finding.rows for c in verdict.cells if c.subject == "cameras"}
    assert group_rows == {5 * 16 * 100}


def test_references_with_other_bins_are_never_added() -> None:
    other = class_reference(normal_rows(9, 3_000, 5))
    devices = [device_windows(f"d{k}", REFERENCE, seed=k) for k in range(3)]
    devices += [device_windows("e0", other, seed=7)]
    families = gather_families(devices)
    assert [f.device_ids for f in families] == [("d0", "d1", "d2"), ("e0",)]


def test_packages_that_answer_differently_share_features_but_not_answers() -> None:
    twin = Reference(
        rows=REFERENCE.rows,
        features=REFERENCE.features,
        output=class_reference(normal_rows(0, 4_000, 5), answers=normal_rows(5, 900, 5)).output,
    )
    devices = [device_windows(f"d{k}", REFERENCE if k < 7 else twin, seed=k) for k in range(10)]
    (family,) = gather_families(devices)
    assert len(family.outputs) == 2
    cells = [c for c in judge(family, {}).cells if c.level is Level.FLEET]
    rows = {c.finding.feature: c.finding.rows for c in cells}
    assert rows["f0"] == 10 * 16 * 100
    assert rows["answers"] == 7 * 16 * 100


def test_open_alarms_are_told_whether_they_are_quiet() -> None:
    group_key = (Level.GROUP, "cameras")
    keys = {group_key: ("f3",), (Level.DEVICE, "d04"): ("f3",), (Level.DEVICE, "gone"): ("f3",)}
    loud = fleet(dict.fromkeys(range(10), 0.5))
    verdict = judge_family(loud, HALVES, POLICY, now_ms=NOW_MS, open_alarms=keys)
    assert verdict.quiet == {group_key: False, (Level.DEVICE, "d04"): False}
    assert verdict.folded == {(Level.DEVICE, "d04"): group_key}
    calm = judge_family(fleet({}), HALVES, POLICY, now_ms=NOW_MS, open_alarms=keys)
    assert calm.quiet[group_key]
    assert calm.folded == {}


def test_what_a_closed_alarm_has_said_is_not_said_again() -> None:
    family = fleet(dict.fromkeys(range(10), 0.5))
    key = (Level.GROUP, "cameras")
    ignored = judge_family(
        family, HALVES, POLICY, now_ms=NOW_MS, ignore_before_ms={key: NOW_MS + 1}
    )
    assert ("group", "cameras") not in subjects(ignored)
    kept = judge_family(
        family, HALVES, POLICY, now_ms=NOW_MS, ignore_before_ms={key: NOW_MS - 5 * WINDOW_MS}
    )
    assert ("group", "cameras") in subjects(kept)


def test_few_rows_wait_for_more() -> None:
    family = fleet({4: 4.0}, rows=20, windows=2)
    assert judge(family).cases == ()
    assert subjects(judge(fleet({4: 4.0}, rows=20, windows=6))) == [("device", "d04")]


def test_the_threshold_shares_the_budget_among_all_that_is_looked_at() -> None:
    def threshold(subjects: int, features: int, window_ms: int, budget: float = 1.0) -> float:
        policy = DriftPolicy(false_alarms_per_day=budget)
        return math.exp(
            find_log_threshold(policy, subjects=subjects, features=features, window_ms=window_ms)
        )

    base = threshold(100, 20, 60_000)
    assert base == pytest.approx(1 / (100 * 1_440 * 4 * 20))
    assert threshold(200, 20, 60_000) == pytest.approx(base / 2)
    assert threshold(100, 40, 60_000) == pytest.approx(base / 2)
    assert threshold(100, 20, 120_000) == pytest.approx(base * 2)
    assert threshold(100, 20, 60_000, budget=5) == pytest.approx(base * 5)
    assert threshold(1, 1, 86_400_000, budget=1_000) == pytest.approx(0.05)


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="must be in"):
        DriftPolicy(false_alarms_per_day=0)
    with pytest.raises(ValueError, match="must be in"):
        DriftPolicy(notable_rate=1)
    with pytest.raises(ValueError, match="psi_quiet <= psi_watch"):
        DriftPolicy(psi_watch=0.3)
    with pytest.raises(ValueError, match="psi_quiet <= psi_watch"):
        DriftPolicy(psi_quiet=0.1)


def test_natural_variation_raises_the_bar() -> None:
    calm = DriftPolicy(variation=Variation(concentration=5.0))
    family = fleet({4: 0.6}, windows=4)
    assert subjects(judge(family)) == [("device", "d04")]
    assert judge_family(family, HALVES, calm, now_ms=NOW_MS).cases == ()


def test_benjamini_hochberg_selects_what_it_should() -> None:
    p = np.array([[0.001, 0.008, 0.039, 0.041, 0.6], [0.2, 0.3, 0.4, 0.5, 0.6]])
    assert find_notable(np.log(p), 0.05).tolist() == [
        [True, True, False, False, False],
        [False] * 5,
    ]
    assert find_notable(np.zeros((0,)), 0.05).shape == (0,)


def test_strength_and_rank_put_numbers_in_words() -> None:
    assert float(find_strength(math.log(2.7e-3))) == pytest.approx(3.0, abs=0.01)
    assert float(find_strength(-5_000.0)) == pytest.approx(100, abs=1)
    assert find_median_rank([0] * 12, [1] * 12) == 0.5
    assert find_median_rank([5, 5, 0], [1, 1, 1]) == pytest.approx(1 / 3)
    assert find_median_rank([0, 0, 4], [1, 1, 2]) == 0.75


def test_windows_beyond_the_longest_horizon_are_refused() -> None:
    device = device_windows("d", REFERENCE, seed=1, rows=5, windows=1)
    with pytest.raises(ValueError, match="0 windows"):
        DeviceWindows(
            device_id="d",
            reference=REFERENCE,
            counters=device.counters[:0],
            t0_ms=device.t0_ms[:0],
            t1_ms=device.t1_ms[:0],
        )
