"""A rollout's life on a fleet in memory: each test is one story."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fleet_server.core.rollout_device import AGAIN_STEP
from fleet_server.core.rollout_gate import Verdict
from fleet_server.core.rollout_limits import AUTO_IN_FLIGHT, GatePolicy, OnHalt, RolloutPolicy
from fleet_server.core.rollout_look import plan_round
from fleet_server.core.rollout_machine import RolloutEvent, RolloutState
from fleet_server.core.rollout_outcome import IN_FLIGHT, Outcome
from fleet_server.core.rollout_state import Desired
from tests.support.rollouts import NEW, NEW_SHA, OLD, OLD_SHA, FakeDevice, RolloutWorld, fleet

S, Out = RolloutState, Outcome
WIDE = RolloutPolicy(in_flight_max=1_000)


def state_of(world: RolloutWorld) -> RolloutState:
    return world.rollout.state


def outcome_of(world: RolloutWorld, number: int) -> Outcome:
    return world.rows[number].progress.outcome


def test_a_good_release_reaches_everyone_and_becomes_champion() -> None:
    world = RolloutWorld(fleet(20), stages="5%,25%,100%", policy=WIDE)
    world.start()
    world.run(60)
    assert state_of(world) is S.COMPLETED
    assert world.outcomes() == {Out.CONFIRMED: 20}
    assert world.champion == 2
    assert world.rollout.champion_before == 1
    assert world.rollout.sentence == "m 2 is confirmed on 20 devices."
    assert all(device.slot.running_sha256 == NEW_SHA for device in world.devices.values())


def test_a_bad_release_halts_at_its_first_stage_and_devices_return() -> None:
    world = RolloutWorld(fleet(40, fails_with="selftest-golden"), stages="10%,100%")
    world.start()
    world.run(60)
    assert state_of(world) is S.ROLLED_BACK
    assert len(world.exposed()) == 4
    assert world.outcomes() == {Out.FAILED: 4, Out.PENDING: 36}
    assert all(desired.target == OLD for desired in world.desired.values())
    assert world.champion == 1
    assert world.rollout.sentence.startswith("Stage 1 of 2 (10%): 4 of 4 failed")
    assert any(d.verdict == Verdict.HALT for plan in world.plans for d in plan.decisions)


def test_a_release_bad_for_a_part_returns_those_that_had_confirmed_it() -> None:
    devices = [
        FakeDevice(number=k, fails_with="probation-errors" if k % 3 else "") for k in range(1, 31)
    ]
    world = RolloutWorld(devices, policy=WIDE)
    world.start()
    world.run(60)
    assert state_of(world) is S.ROLLED_BACK
    assert world.outcomes() == {Out.FAILED: 20, Out.RETURNED: 10}
    assert all(device.slot.running_target == OLD for device in world.devices.values())
    assert "10 devices returned." in world.rollout.sentence


@pytest.mark.parametrize(
    ("on_halt", "running_new"), [(OnHalt.ROLL_BACK, 0), (OnHalt.ROLL_BACK_STAGE, 10)]
)
def test_the_policy_says_how_far_a_halt_reaches_back(on_halt: OnHalt, running_new: int) -> None:
    world = RolloutWorld(fleet(20), stages="50%,100%", policy=replace(WIDE, on_halt=on_halt))
    second = {number for number, row in world.rows.items() if row.stage == 1}
    for number in second:
        world.devices[number].fails_with = "selftest-crash"
    world.start()
    world.run(80)
    assert state_of(world) is S.ROLLED_BACK
    running = [d for d in world.devices.values() if d.slot.running_target == NEW]
    assert len(running) == running_new


def test_a_halt_that_stays_offers_nothing_more_and_waits_for_the_operator() -> None:
    world = RolloutWorld(
        fleet(20, fails_with="selftest-crash"), policy=RolloutPolicy(on_halt=OnHalt.STAY)
    )
    world.start()
    world.run(30)
    assert state_of(world) is S.HALTED
    assert len(world.exposed()) == AUTO_IN_FLIGHT
    world.steer(RolloutEvent.ROLL_BACK)
    world.run(10)
    assert state_of(world) is S.ROLLED_BACK


def test_offline_devices_hold_nobody_up_and_catch_up_in_the_stage_open_then() -> None:
    devices = fleet(20)
    for device in devices[:6]:
        device.is_online = False
    world = RolloutWorld(devices, stages="50%,100%", policy=WIDE)
    world.start()
    while world.rollout.stage == 0:
        world.tick()
    devices[0].is_online = True
    world.tick()
    assert world.rows[1].stage == 1
    world.run(60)
    assert state_of(world) is S.COMPLETED
    assert world.outcomes() == {Out.CONFIRMED: 15, Out.SILENT_BEFORE: 5}
    assert "15 devices (5 offline before the offer)" in world.rollout.sentence
    for device in devices:
        device.is_online = True
    for _ in range(10):
        world.tick()
    assert world.outcomes() == {Out.CONFIRMED: 20}
    assert state_of(world) is S.COMPLETED


def test_a_device_that_was_heard_a_moment_ago_is_waited_for() -> None:
    devices = fleet(2)
    world = RolloutWorld(devices, policy=WIDE)
    world.tick()
    world.start()
    devices[0].is_online = False
    world.tick()
    assert outcome_of(world, 1) is Out.PENDING
    world.tick()
    world.tick()
    assert outcome_of(world, 1) is Out.SILENT_BEFORE


def test_silence_after_the_offer_counts_as_failure() -> None:
    world = RolloutWorld(
        fleet(4, is_dead_after_offer=True),
        policy=RolloutPolicy(deadline_s=100, on_halt=OnHalt.STAY),
    )
    world.start()
    world.run(30)
    assert state_of(world) is S.HALTED
    assert world.outcomes() == {Out.SILENT_AFTER: 4}


def test_who_joins_the_group_enters_the_open_stage_or_the_next_once_that_has_passed() -> None:
    world = RolloutWorld(
        fleet(10), stages="50%,100%", policy=replace(WIDE, gate=GatePolicy(soak_s=60))
    )
    world.start()
    world.tick()
    world.add(FakeDevice(number=100))
    world.tick()
    assert world.rows[100].stage == 0
    while world.rollout.stages[0].settled is None:
        world.tick()
    world.add(FakeDevice(number=101))
    world.tick()
    assert world.rows[101].stage == 1
    while world.rollout.stages[1].settled is None:
        world.tick()
    world.add(FakeDevice(number=102, has_old=False))
    world.tick()
    assert outcome_of(world, 102) is Out.SILENT_BEFORE
    for _ in range(20):
        world.tick()
    assert state_of(world) is S.COMPLETED
    assert world.outcomes() == {Out.CONFIRMED: 13}


def test_paused_offers_nothing_and_lets_what_is_in_flight_finish() -> None:
    world = RolloutWorld(fleet(20))
    world.start()
    world.tick()
    world.steer(RolloutEvent.PAUSE)
    for _ in range(20):
        world.tick()
    assert len(world.exposed()) == AUTO_IN_FLIGHT
    assert world.outcomes() == {Out.CONFIRMED: AUTO_IN_FLIGHT, Out.PENDING: 15}
    world.steer(RolloutEvent.RESUME)
    world.run(60)
    assert state_of(world) is S.COMPLETED


def test_a_paused_rollout_still_halts_when_what_is_in_flight_fails() -> None:
    world = RolloutWorld(fleet(20, fails_with="selftest-crash"))
    world.start()
    world.tick()
    world.steer(RolloutEvent.PAUSE)
    world.run(20)
    assert state_of(world) is S.ROLLED_BACK


def test_an_undecided_stage_pauses_for_the_operator() -> None:
    devices = fleet(10)
    devices[3].fails_with = "selftest-latency"
    world = RolloutWorld(devices, policy=WIDE)
    world.start()
    for _ in range(15):
        world.tick()
    assert state_of(world) is S.PAUSED
    assert world.rollout.is_undecided
    assert "decides neither" in world.rollout.sentence


def test_abort_takes_back_what_is_not_activated_and_leaves_what_is() -> None:
    world = RolloutWorld(fleet(10), policy=RolloutPolicy(in_flight_max=4))
    world.start()
    for _ in range(6):
        world.tick()
    confirmed = {n for n, r in world.rows.items() if r.progress.outcome is Out.CONFIRMED}
    under_way = {n for n, r in world.rows.items() if r.progress.outcome in IN_FLIGHT}
    assert len(confirmed) == 4
    assert len(under_way) == 4
    world.steer(RolloutEvent.ABORT)
    for _ in range(10):
        world.tick()
    assert {n for n, d in world.devices.items() if d.slot.running_target == NEW} == confirmed
    assert world.outcomes() == {Out.CONFIRMED: 4, Out.RETURNED: 4, Out.PENDING: 2}


def test_a_rollback_after_completion_returns_everyone() -> None:
    world = RolloutWorld(fleet(10), policy=WIDE)
    world.start()
    world.run(20)
    world.steer(RolloutEvent.ROLL_BACK)
    world.run(20)
    assert state_of(world) is S.ROLLED_BACK
    assert world.outcomes() == {Out.RETURNED: 10}


def test_a_rollback_leaves_alone_what_someone_else_has_assigned_since() -> None:
    world = RolloutWorld(fleet(4), policy=WIDE)
    world.start()
    world.run(20)
    world.desired[2] = Desired(target="m/9/camera.tar", rollout=9)
    world.steer(RolloutEvent.ROLL_BACK)
    plan = world.look()
    assert {w.device.number for w in plan.withdrawals} == {1, 3, 4}


def test_a_rollback_does_not_wait_for_the_offline_but_reaches_them() -> None:
    devices = fleet(4)
    world = RolloutWorld(devices, policy=WIDE)
    world.start()
    world.run(20)
    devices[0].is_online = False
    world.steer(RolloutEvent.ROLL_BACK)
    world.run(20)
    assert state_of(world) is S.ROLLED_BACK
    assert world.outcomes() == {Out.RETURNED: 3, Out.WITHDRAWN: 1}
    devices[0].is_online = True
    for _ in range(10):
        world.tick()
    assert world.outcomes() == {Out.RETURNED: 4}


def test_a_device_that_had_nothing_before_keeps_what_it_confirmed() -> None:
    world = RolloutWorld(fleet(3, has_old=False), policy=WIDE)
    world.start()
    world.run(20)
    world.steer(RolloutEvent.ROLL_BACK)
    world.run(10)
    assert state_of(world) is S.ROLLED_BACK
    assert world.desired == {}
    assert world.outcomes() == {Out.CONFIRMED: 3}
    assert {row.progress.detail for row in world.rows.values()} == {"had nothing before, keeps it"}


def test_network_failures_are_tried_again_and_never_counted_against_the_release() -> None:
    devices = fleet(6)
    devices[0].fails_with = "fetch-timeout"
    world = RolloutWorld(devices, policy=replace(WIDE, retry_delay_s=20, tries_max=3))
    world.start()
    world.run(80)
    assert state_of(world) is S.COMPLETED
    assert world.outcomes() == {Out.CONFIRMED: 5, Out.FAILED: 1}
    assert world.offered_total.count(1) == 3
    assert world.rows[1].progress.tries == 3


def test_a_broken_package_is_never_offered_twice() -> None:
    devices = fleet(40)
    devices[0].fails_with = "selftest-golden"
    world = RolloutWorld(devices, policy=WIDE)
    world.start()
    world.run(80)
    assert world.offered_total.count(1) == 1


def test_a_version_no_longer_approved_halts() -> None:
    world = RolloutWorld(fleet(4), policy=WIDE)
    world.start()
    plan = plan_round(replace(world.view(), is_approved=False))
    assert plan.rollout.state is S.HALTED
    assert plan.offers == ()
    assert "no longer approved" in plan.rollout.stop_reason


def test_the_number_in_flight_grows_only_after_the_stage_has_passed() -> None:
    world = RolloutWorld(fleet(300))
    world.start()
    largest_before = 0
    while world.rollout.stages[0].settled is None:
        largest_before = max(largest_before, sum(world.outcomes()[o] for o in IN_FLIGHT))
        world.tick()
    assert largest_before == AUTO_IN_FLIGHT
    for _ in range(6):
        world.tick()
    assert sum(world.outcomes()[o] for o in IN_FLIGHT) > 30


def test_a_return_is_believed_only_when_the_device_has_accepted_it() -> None:
    world = RolloutWorld(fleet(2), policy=WIDE)
    world.start()
    world.tick()
    world.tick()
    world.steer(RolloutEvent.ROLL_BACK)
    world.look()
    world.look()
    assert world.outcomes() == {Out.WITHDRAWN: 2}
    assert "2 still to return" in world.rollout.sentence
    world.tick()
    assert world.outcomes() == {Out.RETURNED: 2}


def test_a_device_that_cannot_return_holds_the_end_until_the_deadline_only() -> None:
    world = RolloutWorld(fleet(2), policy=replace(WIDE, deadline_s=300))
    world.start()
    world.run(20)
    world.devices[1].is_dead_after_offer = True
    world.steer(RolloutEvent.ROLL_BACK)
    for _ in range(29):
        world.tick()
    assert state_of(world) is S.ROLLING_BACK
    world.tick()
    assert state_of(world) is S.ROLLED_BACK
    assert "1 device returned, 1 still to return." in world.rollout.sentence


def test_each_new_try_raises_the_retry_number() -> None:
    world = RolloutWorld(
        fleet(3, fails_with="disk-full"), policy=replace(WIDE, retry_delay_s=20, tries_max=3)
    )
    world.start()
    world.run(40)
    retries = [offer.retry for plan in world.plans for offer in plan.offers]
    assert sorted(retries) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    again = replace(WIDE, retry_delay_s=20, tries_max=2, is_again=True)
    world = RolloutWorld(fleet(1, fails_with="disk-full"), policy=again)
    world.start()
    world.run(40)
    first, second = [offer.retry for plan in world.plans for offer in plan.offers]
    assert (first, second) == (AGAIN_STEP * world.rollout.id, AGAIN_STEP * world.rollout.id + 1)


def test_who_comes_back_after_the_last_gate_waits_for_the_completion() -> None:
    devices = fleet(4)
    devices[0].is_online = False
    world = RolloutWorld(devices, policy=replace(WIDE, gate=GatePolicy(soak_s=100)))
    world.start()
    while world.rollout.stages[0].settled is None:
        world.tick()
    devices[0].is_online = True
    world.tick()
    assert outcome_of(world, 1) is Out.SILENT_BEFORE
    while state_of(world) is S.RUNNING:
        world.tick()
    world.tick()
    assert 1 in world.exposed()


def test_who_was_passed_over_is_left_alone_when_a_later_rollout_has_started() -> None:
    devices = fleet(4)
    devices[0].is_online = False
    world = RolloutWorld(devices, policy=WIDE)
    world.start()
    for _ in range(20):
        world.now += timedelta(seconds=10)
        for number, device in world.devices.items():
            device.tick(world.desired.get(number), world.now)
        plan = plan_round(replace(world.view(), is_superseded=True))
        world.store(plan)
    assert state_of(world) is S.COMPLETED
    assert world.exposed() == {2, 3, 4}


def test_what_someone_else_assigns_is_not_counted_as_a_failure() -> None:
    world = RolloutWorld(fleet(4), policy=replace(WIDE, gate=GatePolicy(soak_s=1_000)))
    world.start()
    for _ in range(10):
        world.tick()
    world.desired[2] = Desired(target=OLD)
    for _ in range(8):
        world.tick()
    assert world.outcomes() == {Out.CONFIRMED: 3, Out.REFUSED: 1}
    assert world.rows[2].progress.code == "superseded"
    assert state_of(world) is S.RUNNING


def test_a_stage_that_has_passed_is_watched_while_the_next_is_open() -> None:
    world = RolloutWorld(fleet(20), stages="50%,100%", policy=RolloutPolicy(in_flight_max=1))
    world.start()
    while world.rollout.stage == 0:
        world.tick()
    first = [number for number, row in world.rows.items() if row.stage == 0]
    for number in first[:3]:
        slot = world.devices[number].slot
        world.devices[number].slot = replace(slot, state="failed", code="probation-errors")
        world.devices[number].slot = replace(
            world.devices[number].slot, running_sha256=OLD_SHA, confirmed_sha256=OLD_SHA
        )
    world.tick()
    assert state_of(world) is S.HALTED
    assert world.rollout.stop_reason.startswith("Stage 1 of 2 (50%): 3 of 10 failed")


def test_other_words_for_the_same_failure_do_not_move_its_instant() -> None:
    world = RolloutWorld(fleet(1, fails_with="disk-full"), policy=WIDE)
    world.start()
    while outcome_of(world, 1) is not Out.FAILED:
        world.tick()
    failed_at = world.rows[1].progress.changed_at
    world.devices[1].slot = replace(world.devices[1].slot, detail="7 bytes free")
    world.tick()
    assert world.rows[1].progress.detail == "7 bytes free"
    assert world.rows[1].progress.changed_at == failed_at


def test_a_state_that_has_just_changed_acts_at_the_next_look_with_its_own_devices_in_view() -> None:
    world = RolloutWorld(fleet(6, fails_with="selftest-crash"), policy=WIDE)
    world.start()
    while state_of(world) is not S.HALTED:
        world.tick()
    partial = replace(world.view(), members=[])
    plan = plan_round(partial)
    assert plan.rollout.state is S.ROLLING_BACK
    assert plan.rollout.finished_at is None
