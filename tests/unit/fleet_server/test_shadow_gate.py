"""The gate on what candidates in shadow answered otherwise: cases, laws, and whole rollouts."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from fleet_server.core.rollout_gate import Basis, Verdict
from fleet_server.core.rollout_limits import (
    AUTO_IN_FLIGHT,
    OnHalt,
    OnInconclusive,
    RolloutPolicy,
)
from fleet_server.core.rollout_look import plan_round
from fleet_server.core.rollout_machine import RolloutEvent, RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_replay import replay_decision
from fleet_server.core.rollout_state import dump_memory, read_memory
from fleet_server.core.shadow_gate import (
    ShadowCounts,
    ShadowJudgement,
    ShadowSettled,
    count_compared,
    judge_shadow,
    settle_shadow,
    weigh_stage,
)
from fleet_server.core.shadow_limits import DisagreementTest, has_compared
from tests.support.rollouts import NEW, FakeDevice, RolloutWorld, fleet

NOW = datetime(2026, 1, 1, 14, 9, tzinfo=UTC)
TEST = DisagreementTest()
SHADOW = ShadowPolicy(duration_s=30, rows_min=200)
POLICY = RolloutPolicy(shadow=SHADOW, disagreement=TEST)
rows = st.tuples(st.integers(1, 400), st.integers(0, 400)).map(lambda d: (d[0], min(d)))
stages = st.lists(rows, max_size=8)
KINDNESS = {
    Verdict.HALT: 0,
    Verdict.INCONCLUSIVE: 1,
    Verdict.WAIT: 2,
    Verdict.WAIT_NO_DATA: 2,
    Verdict.ADVANCE: 3,
}


def counts(*devices: tuple[int, int], to_come: int = 0) -> ShadowCounts:
    return ShadowCounts(compared=count_compared(devices), through=len(devices), to_come=to_come)


def judge(
    found: ShadowCounts,
    settled: ShadowSettled | None = None,
    on: OnInconclusive = OnInconclusive.PAUSE,
    test: DisagreementTest = TEST,
) -> ShadowJudgement:
    return judge_shadow(found, test, settled, now=NOW, on_inconclusive=on)


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        pytest.param(counts(to_come=3), Verdict.WAIT_NO_DATA, "No rows", id="no rows yet"),
        pytest.param(counts(), Verdict.ADVANCE, "Nobody here compares", id="all left out"),
        pytest.param(
            replace(counts(), through=3), Verdict.INCONCLUSIVE, "nothing to judge", id="all skipped"
        ),
        pytest.param(counts((200, 0), to_come=9), Verdict.ADVANCE, "below 10 %", id="all alike"),
        pytest.param(counts((200, 8), to_come=9), Verdict.WAIT, "9 still to compare", id="open"),
        pytest.param(counts((200, 60), to_come=9), Verdict.HALT, "too many", id="one far off"),
        pytest.param(counts((200, 20), to_come=9), Verdict.WAIT, "not decided", id="one at limit"),
        pytest.param(counts((200, 20), (200, 20), to_come=9), Verdict.HALT, "evidence", id="two"),
        pytest.param(counts((200, 20)), Verdict.HALT, "all compared rows", id="no more to come"),
        pytest.param(counts((200, 4)), Verdict.ADVANCE, "too few", id="small within the goal"),
        pytest.param(counts((200, 10)), Verdict.INCONCLUSIVE, "decides neither", id="between"),
    ],
)
def test_each_rule_decides_alone(found: ShadowCounts, verdict: Verdict, words: str) -> None:
    judged = judge(found)
    assert judged.verdict is verdict
    assert words in judged.sentence
    assert (judged.settled is not None) is (verdict is Verdict.ADVANCE and found.rows > 0)


def test_the_policy_decides_for_a_person() -> None:
    between = counts((200, 10))
    assert judge(between, on=OnInconclusive.HALT).verdict is Verdict.HALT
    passed = judge(between, on=OnInconclusive.ADVANCE)
    assert passed.settled is not None
    assert passed.settled.basis is Basis.POLICY


def test_a_stage_that_passed_is_watched_on_and_needs_more_to_be_stopped() -> None:
    settled = settle_shadow(counts((200, 0)), Basis.EVIDENCE, now=NOW)
    more = counts((200, 20), (200, 20), to_come=1)
    assert judge(more).verdict is Verdict.HALT
    assert judge(more, settled).verdict is Verdict.ADVANCE
    worse = judge(counts((200, 40), (200, 30), to_come=1), settled)
    assert worse.verdict is Verdict.HALT
    assert "it passed at 14:09:00" in worse.sentence


def test_rows_of_one_device_are_not_independent() -> None:
    """However many rows a device has compared, its evidence is bounded; further devices add."""
    one, long = counts((400, 40)), counts((400_000, 40_000))
    assert weigh_stage(long, TEST) < weigh_stage(one, TEST) + 0.3
    assert judge(replace(long, to_come=1)).verdict is Verdict.WAIT
    assert weigh_stage(counts((400, 40), (400, 40)), TEST) == 2 * weigh_stage(one, TEST)


@given(stages, st.integers(0, 3), st.data())
def test_one_more_row_that_differs_is_never_judged_kinder(
    devices: list[tuple[int, int]], to_come: int, data: st.DataObject
) -> None:
    can = [n for n, (compared, differing) in enumerate(devices) if differing < compared]
    if not can:
        return
    worse = list(devices)
    at = data.draw(st.sampled_from(can))
    worse[at] = (devices[at][0], devices[at][1] + 1)
    better, found = counts(*devices, to_come=to_come), counts(*worse, to_come=to_come)
    assert weigh_stage(found, TEST) > weigh_stage(better, TEST)
    assert KINDNESS[judge(found).verdict] <= KINDNESS[judge(better).verdict]


@given(stages, st.integers(0, 3), st.booleans(), st.sampled_from(OnInconclusive))
def test_a_verdict_comes_out_again_from_its_stored_inputs(
    devices: list[tuple[int, int]], to_come: int, was_settled: bool, on: OnInconclusive
) -> None:
    found = counts(*devices, to_come=to_come)
    settled = settle_shadow(found, Basis.EVIDENCE, now=NOW) if was_settled else None
    read = ShadowSettled.from_json(settled.to_json() if settled else None)
    again = ShadowCounts.from_json(found.to_json())
    assert judge(again, read, on) == judge(found, settled, on)


def test_what_counts_as_differing() -> None:
    report = ShadowReport(
        sha256="2" * 64, rows=100, differs=7, non_finite=2, errors=5,
        difference=(50, 20, 10, 8, 4, 3, 2, 1),
    )  # fmt: skip
    assert TEST.count(report) == (105, 12)
    assert replace(TEST, difference_min=0.01).count(report) == (105, 6 + 2 + 5)
    assert replace(TEST, difference_min=1.0).count(report) == (105, 1 + 2 + 5)
    with pytest.raises(ValueError, match=r"1e-06.*0\.1, 1 on, not from 0\.5"):
        DisagreementTest(difference_min=0.5)
    with pytest.raises(ValueError, match="need a time of shadowing"):
        RolloutPolicy(disagreement=TEST)


@pytest.mark.parametrize(
    ("report", "is_enough"),
    [
        ({"seconds": 30, "rows": 200}, True),
        ({"seconds": 29, "rows": 200}, False),
        ({"seconds": 30, "rows": 199}, False),
        ({"state": ShadowState.OVER}, True),
        ({"state": ShadowState.SKIPPED}, True),
    ],
)
def test_a_device_has_compared_enough(report: dict[str, Any], is_enough: bool) -> None:
    given_report = ShadowReport(**{"sha256": "2", "state": ShadowState.COMPARING} | report)
    assert has_compared(given_report, SHADOW) is is_enough


def test_policy_and_memory_survive_storing_and_older_ones_are_read() -> None:
    assert RolloutPolicy.from_json(POLICY.to_json()) == POLICY
    older = POLICY.to_json()
    del older["disagreement"]
    assert RolloutPolicy.from_json(older) == replace(POLICY, disagreement=None)
    world = RolloutWorld(fleet(4, differs=0), policy=POLICY)
    world.start()
    world.run(40)
    memory = dump_memory(world.rollout)
    assert memory["stages"][0]["shadow"]["basis"] == "evidence"
    assert read_memory(memory)["stages"] == world.rollout.stages
    for stage in memory["stages"]:
        del stage["shadow"]
    assert read_memory(memory)["stages"][0].shadow is None


def serving_new(world: RolloutWorld) -> list[int]:
    return [n for n, d in world.devices.items() if d.slot.running_target == NEW]


def run_watching(world: RolloutWorld, ticks: int = 80) -> set[int]:
    """Run a rollout; return the devices on which the version ever answered."""
    answered: set[int] = set()
    world.start()
    for _ in range(ticks):
        world.tick()
        answered |= set(serving_new(world))
        if world.rollout.finished_at is not None:
            break
    return answered


def test_a_candidate_that_answers_otherwise_is_stopped_before_it_answers_anybody() -> None:
    world = RolloutWorld(fleet(40, differs=30), stages="50%,100%", policy=POLICY)
    assert run_watching(world) == set()
    assert world.rollout.state is RolloutState.ROLLED_BACK
    assert "In shadow: 150 of 500 rows on 5 devices differ: 30 %" in world.rollout.stop_reason
    assert "Never above 10 % (goal 2 %)" in world.rollout.stop_reason
    assert len(world.offered_total) == 2 * AUTO_IN_FLIGHT
    (halt,) = [d for plan in world.plans for d in plan.decisions if d.verdict == Verdict.HALT]
    again = replay_decision(halt.verdict, halt.inputs)
    assert again is not None
    assert again.is_same
    assert any(line.startswith("in shadow: 150 of 500") for line in again.workings)


def test_devices_at_the_limit_are_held_until_the_stage_has_decided() -> None:
    """No device is near enough to decide alone: nobody leaves before all together have."""
    devices = fleet(12, differs=5)
    world = RolloutWorld(devices, policy=replace(POLICY, on_halt=OnHalt.STAY))
    world.start()
    for _ in range(14):
        world.tick()
        assert serving_new(world) == []
    assert world.rollout.state is RolloutState.RUNNING or world.rollout.stop_reason
    assert world.outcomes().get(Outcome.SHADOW, 0) > AUTO_IN_FLIGHT


def test_who_has_compared_enough_is_held_while_another_is_to_come() -> None:
    silent = FakeDevice(number=2, is_dead_after_offer=True)
    world = RolloutWorld([FakeDevice(number=1, differs=5), silent], policy=POLICY)
    world.start()
    for _ in range(14):
        world.tick()
    assert world.outcomes() == {Outcome.SHADOW: 1, Outcome.OFFERED: 1}
    shadow = world.devices[1].shadow
    assert shadow is not None
    assert has_compared(shadow, SHADOW)


@pytest.mark.parametrize("rows_a_tick", [0, 1])
def test_too_little_compared_in_time_is_a_persons_and_nobody_is_let_go(rows_a_tick: int) -> None:
    policy = replace(
        POLICY,
        deadline_s=60,
        shadow=replace(SHADOW, timeout_s=300),
        disagreement=replace(TEST, likeness=0.3),
    )
    world = RolloutWorld(fleet(3, differs=0, rows_a_tick=rows_a_tick), policy=policy)
    world.start()
    world.run(32)
    assert world.rollout.state is RolloutState.RUNNING
    world.run(100)
    assert (world.rollout.state, world.rollout.is_undecided) == (RolloutState.PAUSED, True)
    assert "3 devices are held: their time is over, with less than" in world.rollout.sentence
    assert world.outcomes() == {Outcome.SHADOW: 3}
    assert serving_new(world) == []
    decisions = [d for plan in world.plans for d in plan.decisions]
    assert decisions[-1].verdict == Verdict.INCONCLUSIVE
    again = replay_decision(decisions[-1].verdict, decisions[-1].inputs)
    assert again is not None
    assert again.is_same
    settled = ShadowSettled(at=world.now, basis=Basis.OPERATOR, devices=3, rows=0, differing=0)
    stages = (replace(world.rollout.stages[0], shadow=settled),)
    world.rollout = replace(world.rollout, stages=stages)
    world.steer(RolloutEvent.RESUME)
    world.run(40)
    assert world.rollout.state is RolloutState.COMPLETED
    assert world.outcomes() == {Outcome.CONFIRMED: 3}


def test_a_halted_candidate_that_stays_answers_nobody_however_long_it_stays() -> None:
    shadow = replace(SHADOW, timeout_s=100)
    policy = replace(POLICY, on_halt=OnHalt.STAY, deadline_s=60, shadow=shadow)
    world = RolloutWorld(fleet(3, differs=30), policy=policy)
    world.start()
    for _ in range(60):
        world.tick()
        assert serving_new(world) == []
    assert world.rollout.state is RolloutState.HALTED
    assert world.outcomes() == {Outcome.SHADOW: 3}


def test_a_device_that_dies_once_it_was_let_go_is_silent_after_its_deadline() -> None:
    policy = replace(POLICY, deadline_s=60, shadow=replace(SHADOW, timeout_s=100))
    world = RolloutWorld(fleet(2, differs=0, rows_a_tick=20), policy=policy)
    world.start()
    while not any(plan.releases for plan in world.plans):
        world.tick()
    world.devices[1].is_dead_after_offer = True
    world.run(5)
    assert Outcome.SILENT_AFTER not in world.outcomes()
    world.run(12)
    assert world.outcomes() == {Outcome.SILENT_AFTER: 1, Outcome.CONFIRMED: 1}


def test_who_has_nothing_to_compare_is_let_go_by_the_others_evidence_after_its_time() -> None:
    devices = fleet(6, differs=0)
    devices[-1].rows_a_tick = 0
    policy = replace(POLICY, in_flight_max=6, shadow=replace(SHADOW, timeout_s=300))
    world = RolloutWorld(devices, policy=policy)
    world.start()
    world.run(30)
    assert world.outcomes() == {Outcome.CONFIRMED: 5, Outcome.SHADOW: 1}
    world.run(10)
    assert world.rollout.state is RolloutState.COMPLETED
    assert world.outcomes() == {Outcome.CONFIRMED: 6}


def test_a_device_that_lies_about_its_counts_weighs_no_more_than_one_that_compared_long() -> None:
    lie = TEST.count(ShadowReport(sha256="2", rows=2**53, differs=0))
    honest = [TEST.count(ShadowReport(sha256="2", rows=200, differs=40)) for _ in range(5)]
    assert judge(counts(lie, *honest, to_come=1)).verdict is Verdict.HALT
    assert weigh_stage(counts((10**9, 0), *honest), TEST) < -TEST.halt_at
    found = counts(lie, *honest)
    assert (found.rows, found.differing) == (2_000, 200)
    for differs in (0, 1, 500, 1_000):
        long = TEST.count(ShadowReport(sha256="2", rows=1_000, differs=differs))
        assert TEST.count(ShadowReport(sha256="2", rows=10**6, differs=differs * 1_000)) == long


def test_a_good_candidate_passes_the_shadow_and_the_probation() -> None:
    world = RolloutWorld(fleet(20, differs=0), stages="5,rest", policy=POLICY)
    world.start()
    seen: set[Outcome] = set()
    for _ in range(120):
        world.tick()
        seen |= set(world.outcomes())
    assert world.rollout.state is RolloutState.COMPLETED
    assert Outcome.SHADOW in seen
    assert world.outcomes() == {Outcome.CONFIRMED: 20}
    assert all(d.shadow is not None and d.shadow.rows >= 200 for d in world.devices.values())
    decisions = [d for plan in world.plans for d in plan.decisions]
    for decision in decisions:
        again = replay_decision(decision.verdict, decision.inputs)
        assert again is not None
        assert again.is_same
    assert any("In shadow: Decided" in d.sentence for d in decisions)


def test_devices_that_cannot_compare_leave_it_to_a_person() -> None:
    world = RolloutWorld(fleet(4), policy=POLICY)
    world.start()
    world.run(30)
    assert world.rollout.state is RolloutState.PAUSED
    assert world.rollout.is_undecided
    assert "No rows were compared" in world.rollout.sentence


def test_without_limits_a_shadow_is_only_shown() -> None:
    world = RolloutWorld(fleet(4, differs=90), policy=replace(POLICY, disagreement=None))
    world.start()
    world.run(60)
    assert world.rollout.state is RolloutState.COMPLETED
    assert all(not plan.releases for plan in world.plans)


def test_a_pause_lets_nobody_go_and_a_look_done_twice_changes_nothing() -> None:
    world = RolloutWorld(fleet(4, differs=0), policy=POLICY)
    world.start()
    while not any(plan.releases for plan in world.plans):
        view = world.view()
        if view.rollout.stages[0].shadow is None:
            world.steer(RolloutEvent.PAUSE)
            assert plan_round(world.view()).releases == ()
            world.steer(RolloutEvent.RESUME)
        assert plan_round(view) == plan_round(view)
        world.tick()
    released = [offer.device.number for plan in world.plans for offer in plan.releases]
    world.run(20)
    after = [offer.device.number for plan in world.plans for offer in plan.releases]
    assert sorted(after) == sorted(set(after)) == [1, 2, 3, 4]
    assert set(released) <= set(after)
