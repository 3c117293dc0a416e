"""Whatever devices and operators do, a rollout keeps its promises."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.core.rollout_limits import (
    AUTO_IN_FLIGHT,
    GatePolicy,
    OnHalt,
    OnInconclusive,
    RolloutPolicy,
)
from fleet_server.core.rollout_machine import (
    FINAL,
    TABLE,
    RolloutEvent,
    RolloutState,
)
from fleet_server.core.rollout_outcome import IN_FLIGHT, Outcome
from fleet_server.core.rollout_round import RoundPlan
from tests.support.rollouts import NEW, FakeDevice, RolloutWorld

OPERATOR = (
    RolloutEvent.PAUSE,
    RolloutEvent.RESUME,
    RolloutEvent.ABORT,
    RolloutEvent.ROLL_BACK,
)
CODES = ("", "", "", "selftest-golden", "fetch-timeout", "misfit")

policies = st.builds(
    RolloutPolicy,
    gate=st.builds(
        GatePolicy,
        soak_s=st.sampled_from([0.0, 30.0]),
        on_inconclusive=st.sampled_from(OnInconclusive),
    ),
    on_halt=st.sampled_from(OnHalt),
    in_flight_max=st.sampled_from([0, 1, 3, 100]),
    deadline_s=st.sampled_from([60.0, 600.0]),
    retry_delay_s=st.just(20.0),
)
devices = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from(CODES), st.sampled_from([False] * 5 + [True]), st.booleans()
    ),
    min_size=1,
    max_size=30,
)
actions = st.lists(
    st.one_of(
        st.just(("tick", 0)),
        st.tuples(st.just("flip"), st.integers(0, 29)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("act"), st.integers(0, len(OPERATOR) - 1)),
    ),
    max_size=60,
)


def make_world(
    behaviours: list[tuple[bool, str, bool, bool]], stages: str, policy: RolloutPolicy
) -> RolloutWorld:
    made = [
        FakeDevice(
            number=number, is_online=online, fails_with=code, is_dead_after_offer=dead, has_old=old
        )
        for number, (online, code, dead, old) in enumerate(behaviours, start=1)
    ]
    return RolloutWorld(made, stages=stages, policy=policy)


def check_offers(world: RolloutWorld, plan: RoundPlan, in_flight_before: int) -> None:
    """No device outside the open stages is offered anything, and never too many at once."""
    if not plan.offers:
        return
    assert plan.rollout.state in (RolloutState.RUNNING, RolloutState.COMPLETED)
    if plan.rollout.state is RolloutState.RUNNING:
        for offer in plan.offers:
            assert world.rows[offer.device.number].stage <= plan.rollout.stage
            assert offer.device.is_online
        now = sum(world.outcomes().get(o, 0) for o in IN_FLIGHT)
        rows = world.rows.values()
        settled = plan.rollout.stages[plan.rollout.stage].settled is not None
        proven = sum(
            row.progress.outcome is Outcome.CONFIRMED
            for row in rows
            if row.stage < plan.rollout.stage + settled
        )
        limit = plan.rollout.policy.in_flight_max or max(AUTO_IN_FLIGHT, proven)
        assert now <= max(in_flight_before, limit)


def check_rows(world: RolloutWorld, before: Mapping[int, int]) -> None:
    """Rows are never lost and a device moves to a later stage only."""
    for number, stage in before.items():
        assert world.rows[number].stage >= stage
    offered = {n for n, row in world.rows.items() if row.progress.offered_at is not None}
    assert offered == world.exposed()


@settings(max_examples=150, deadline=None)
@given(devices, st.sampled_from(["100%", "10%,100%", "1,5,50%,rest"]), policies, actions)
def test_promises_hold_at_every_look(
    behaviours: list[tuple[bool, str, bool, bool]],
    stages: str,
    policy: RolloutPolicy,
    todo: list[tuple[str, int]],
) -> None:
    world = make_world(behaviours, stages, policy)
    world.start()
    for what, which in todo:
        if what == "flip" and which + 1 in world.devices:
            device = world.devices[which + 1]
            device.is_online = not device.is_online
        elif what == "join":
            world.add(FakeDevice(number=1_000 + len(world.devices)))
        elif what == "act" and (world.rollout.state, OPERATOR[which]) in TABLE:
            world.steer(OPERATOR[which])
        stages_before = {number: row.stage for number, row in world.rows.items()}
        in_flight = sum(world.outcomes().get(o, 0) for o in IN_FLIGHT)
        plan = world.tick()
        check_offers(world, plan, in_flight)
        check_rows(world, stages_before)
        if world.rollout.state is not RolloutState.COMPLETED and not world.rollout.champion_before:
            assert world.champion == 1


@settings(max_examples=50, deadline=None)
@given(devices, st.sampled_from(["100%", "10%,100%"]), policies)
def test_every_rollout_ends_or_says_what_it_waits_for(
    behaviours: list[tuple[bool, str, bool, bool]], stages: str, policy: RolloutPolicy
) -> None:
    world = make_world(behaviours, stages, policy)
    world.start()
    world.run(260)
    state, sentence = world.rollout.state, world.rollout.sentence
    if state is RolloutState.PAUSED:
        assert world.rollout.is_undecided
    elif state is RolloutState.RUNNING:
        assert "nothing to judge yet" in sentence
        assert world.outcomes().get(Outcome.PENDING, 0) == 0 or world.rollout.stage == 0
    else:
        assert state in FINAL or (state is RolloutState.HALTED and policy.on_halt is OnHalt.STAY)


@settings(max_examples=60, deadline=None)
@given(devices, policies, st.integers(0, 25), st.sampled_from(OPERATOR[2:]))
def test_what_an_operator_stops_reaches_nobody_else(
    behaviours: list[tuple[bool, str, bool, bool]],
    policy: RolloutPolicy,
    ticks: int,
    event: RolloutEvent,
) -> None:
    world = make_world(behaviours, "10%,100%", policy)
    world.start()
    for _ in range(ticks):
        world.tick()
    if (world.rollout.state, event) not in TABLE or world.champion != 1:
        return
    exposed = world.exposed()
    world.steer(event)
    for device in world.devices.values():
        device.is_online = True
    for _ in range(90):
        world.tick()
    assert world.exposed() == exposed
    still = {
        number
        for number, device in world.devices.items()
        if device.slot.running_target == NEW and device.has_old and not device.is_dead_after_offer
    }
    if event is RolloutEvent.ROLL_BACK and world.rollout.returning_stage is None:
        assert still == set()
