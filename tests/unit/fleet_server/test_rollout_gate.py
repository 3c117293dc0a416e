"""The gate: a table of cases under which each rule decides alone, then laws."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.core.rollout_gate import (
    Basis,
    Settled,
    StageCounts,
    StageJudgement,
    Verdict,
    accept_by_operator,
    judge_stage,
)
from fleet_server.core.rollout_limits import (
    FixedThreshold,
    GatePolicy,
    OnInconclusive,
    RolloutPolicy,
    SequentialTest,
)
from fleet_server.core.rollout_replay import replay_decision
from fleet_server.core.rollout_words import find_interval, say_share

NOW = datetime(2026, 1, 1, 14, 9, tzinfo=UTC)
POLICY = GatePolicy(soak_s=60)
FIXED = GatePolicy(test=FixedThreshold(failure_share_max=0.05, finished_min=20))
KINDNESS = {
    Verdict.HALT: 0,
    Verdict.INCONCLUSIVE: 1,
    Verdict.WAIT: 2,
    Verdict.WAIT_NO_DATA: 2,
    Verdict.ADVANCE: 3,
}


def judge(
    targeted: int,
    confirmed: int,
    failed: int,
    *,
    left_out: int = 0,
    in_flight: int = 0,
    policy: GatePolicy = POLICY,
    settled: Settled | None = None,
    at: datetime = NOW,
    alarms: tuple[str, ...] = (),
) -> StageJudgement:
    counts = StageCounts(
        targeted=targeted,
        confirmed=confirmed,
        failed=failed,
        left_out=left_out,
        in_flight=in_flight,
    )
    return judge_stage(counts, policy, settled, now=at, alarms=alarms)


@pytest.mark.parametrize(
    ("targeted", "confirmed", "failed", "left_out", "verdict", "words"),
    [
        pytest.param(6, 0, 0, 0, Verdict.WAIT_NO_DATA, "nothing to judge yet", id="no report"),
        pytest.param(6, 0, 0, 6, Verdict.WAIT_NO_DATA, "6 not for them", id="all refused"),
        pytest.param(100, 34, 0, 0, Verdict.WAIT, "66 still to finish", id="one good too few"),
        pytest.param(100, 35, 0, 0, Verdict.WAIT, "says below 10 %", id="evidence of good"),
        pytest.param(35, 35, 0, 0, Verdict.WAIT, "Soaking until 14:10:00", id="soak"),
        pytest.param(100, 3, 2, 0, Verdict.HALT, "evidence says too many", id="evidence of bad"),
        pytest.param(100, 4, 2, 0, Verdict.WAIT, "not decided yet", id="one good more"),
        pytest.param(2, 0, 2, 0, Verdict.HALT, "evidence says", id="two of two"),
        pytest.param(1, 0, 1, 0, Verdict.HALT, "every device", id="the only one"),
        pytest.param(3, 0, 1, 2, Verdict.HALT, "every device", id="the only one online"),
        pytest.param(1, 1, 0, 0, Verdict.WAIT, "too few to decide", id="small and good"),
        pytest.param(6, 5, 1, 0, Verdict.INCONCLUSIVE, "decides neither", id="one of six"),
        pytest.param(20, 18, 2, 0, Verdict.HALT, "finished stage failed", id="two of twenty"),
        pytest.param(21, 19, 2, 0, Verdict.INCONCLUSIVE, "neither", id="just below never above"),
        pytest.param(9, 5, 1, 3, Verdict.INCONCLUSIVE, "neither", id="left out is no evidence"),
        pytest.param(9, 5, 1, 2, Verdict.WAIT, "1 still to finish", id="one missing"),
    ],
)
def test_verdict(
    targeted: int, confirmed: int, failed: int, left_out: int, verdict: Verdict, words: str
) -> None:
    found = judge(targeted, confirmed, failed, left_out=left_out)
    assert found.verdict is verdict
    assert words in found.sentence


def test_a_stage_that_nobody_could_take_holds_only_the_first_stage_and_whoever_is_offline() -> None:
    refused = StageCounts(targeted=3, confirmed=0, failed=0, left_out=3)
    offline = replace(refused, offline=1)
    policy = GatePolicy()
    assert judge_stage(refused, policy, None, now=NOW).verdict is Verdict.WAIT_NO_DATA
    found = judge_stage(refused, policy, None, now=NOW, is_backed=True)
    assert found.verdict is Verdict.ADVANCE
    assert "nobody here could take it" in found.sentence
    held = judge_stage(offline, policy, None, now=NOW, is_backed=True)
    assert held.verdict is Verdict.WAIT_NO_DATA
    assert "0 offered, 1 offline, 2 not for them" in held.sentence


def test_advances_after_the_soak_and_only_without_open_alarms() -> None:
    settled = judge(40, 40, 0).settled
    assert settled is not None
    soaked = NOW + timedelta(seconds=60)
    early = judge(40, 40, 0, settled=settled, at=soaked - timedelta(seconds=1))
    assert early.verdict is Verdict.WAIT
    assert judge(40, 40, 0, settled=settled, at=soaked).verdict is Verdict.ADVANCE
    held = judge(40, 40, 0, settled=settled, at=soaked, alarms=("a", "b", "c", "d"))
    assert held.verdict is Verdict.WAIT
    assert "hold it: a, b, c and 1 more" in held.sentence


def test_advances_only_when_the_whole_stage_has_finished() -> None:
    settled = judge(100, 40, 0).settled
    later = NOW + timedelta(hours=1)
    assert judge(100, 99, 0, settled=settled, at=later).verdict is Verdict.WAIT
    assert judge(100, 99, 0, left_out=1, settled=settled, at=later).verdict is Verdict.ADVANCE


def test_says_what_was_decided_then_and_what_the_figure_is_now() -> None:
    settled = judge(2_000, 619, 2).settled
    found = judge(2_000, 1_919, 54, settled=settled)
    assert found.sentence.startswith(
        "Decided 14:09:00 on 621 devices: the evidence says below 10 %"
    )
    assert "Now 54 of 1,973 failed: 2.7 % (2.1 to 3.6 %)." in found.sentence


def test_a_device_that_turns_bad_after_the_decision_is_watched() -> None:
    settled = judge(50, 50, 0).settled
    two = judge(50, 48, 2, settled=settled)
    three = judge(50, 47, 3, settled=settled)
    assert two.verdict is Verdict.WAIT
    assert three.verdict is Verdict.HALT
    assert "passed at 14:09:00, but 3 of 3 failed since" in three.sentence


def test_a_small_stage_that_turns_bad_is_stopped_by_its_share() -> None:
    settled = judge(6, 6, 0).settled
    assert judge(6, 5, 1, settled=settled).verdict is Verdict.WAIT
    assert judge(6, 4, 2, settled=settled).verdict is Verdict.HALT


def test_the_watch_starts_anew_so_that_old_successes_do_not_hide_new_failures() -> None:
    settled: Settled | None = None
    for confirmed in range(0, 400, 10):
        settled = judge(1_000, confirmed, 0, settled=settled).settled
    assert settled is not None
    assert settled.finished == 40
    assert settled.watch_finished > 350
    assert judge(1_000, 362, 3, settled=settled).verdict is Verdict.HALT


def test_an_operator_can_let_an_inconclusive_stage_pass() -> None:
    counts = StageCounts(targeted=6, confirmed=5, failed=1)
    settled = accept_by_operator(counts, now=NOW)
    later = NOW + timedelta(seconds=60)
    found = judge_stage(counts, POLICY, settled, now=later)
    assert found.verdict is Verdict.ADVANCE
    assert "let pass by the operator" in found.sentence
    worse = StageCounts(targeted=6, confirmed=3, failed=3)
    assert judge_stage(worse, POLICY, settled, now=later).verdict is Verdict.HALT


@pytest.mark.parametrize(
    ("choice", "verdict", "words"),
    [
        (OnInconclusive.PAUSE, Verdict.INCONCLUSIVE, "decides neither"),
        (OnInconclusive.HALT, Verdict.HALT, "policy halts"),
        (OnInconclusive.ADVANCE, Verdict.ADVANCE, "policy lets it pass"),
    ],
)
def test_the_policy_says_what_an_inconclusive_stage_does(
    choice: OnInconclusive, verdict: Verdict, words: str
) -> None:
    found = judge(6, 5, 1, policy=GatePolicy(on_inconclusive=choice))
    assert found.verdict is verdict
    assert words in found.sentence


@pytest.mark.parametrize(
    ("targeted", "confirmed", "failed", "verdict"),
    [
        pytest.param(100, 0, 19, Verdict.WAIT, id="one device before it is looked at"),
        pytest.param(100, 0, 20, Verdict.HALT, id="looked at"),
        pytest.param(100, 19, 1, Verdict.WAIT, id="at the limit, not over"),
        pytest.param(100, 18, 2, Verdict.HALT, id="over the limit"),
        pytest.param(5, 4, 1, Verdict.HALT, id="a complete stage is looked at"),
        pytest.param(5, 5, 0, Verdict.ADVANCE, id="complete and within"),
        pytest.param(20, 19, 1, Verdict.ADVANCE, id="complete and at the limit"),
    ],
)
def test_fixed_threshold(targeted: int, confirmed: int, failed: int, verdict: Verdict) -> None:
    assert judge(targeted, confirmed, failed, policy=FIXED).verdict is verdict


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequentialTest(goal=0.1, never_above=0.1), "goal 10 % and never above 10 %"),
        (lambda: SequentialTest(goal=0), "goal 0 %"),
        (lambda: SequentialTest(never_above=1.0), "never above 100 %"),
        (lambda: SequentialTest(goal=float("nan")), "must hold"),
        (lambda: SequentialTest(alpha=0.5), "alpha"),
        (lambda: SequentialTest(beta=0), "beta"),
        (lambda: FixedThreshold(failure_share_max=1), "failure_share_max"),
        (lambda: FixedThreshold(failure_share_max=0.1, finished_min=0), "finished_min"),
        (lambda: GatePolicy(soak_s=-1), "soak_s"),
        (lambda: GatePolicy(soak_s=float("nan")), "soak_s"),
        (lambda: GatePolicy(failures_min=0), "failures_min"),
        (lambda: StageCounts(targeted=1, confirmed=1, failed=1), "fit the stage"),
        (lambda: StageCounts(targeted=1, confirmed=1, failed=0, in_flight=1), "fit the stage"),
        (lambda: StageCounts(targeted=1, confirmed=1, failed=0, offline=1), "fit the stage"),
    ],
)
def test_refuses_values_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("failed", "finished", "low", "high"),
    [(0, 6, 0.0, 0.390), (6, 6, 0.610, 1.0), (13, 281, 0.0272, 0.0776), (1, 1, 0.2065, 1.0)],
)
def test_interval_is_wilsons(failed: int, finished: int, low: float, high: float) -> None:
    assert find_interval(failed, finished) == pytest.approx((low, high), abs=5e-4)


def test_shares_read_well() -> None:
    assert [say_share(x) for x in (0, 0.02, 0.046, 1)] == ["0 %", "2 %", "4.6 %", "100 %"]


policies = st.builds(
    GatePolicy,
    test=st.one_of(
        st.builds(
            SequentialTest,
            goal=st.floats(0.001, 0.09),
            never_above=st.floats(0.1, 0.9),
            alpha=st.floats(0.001, 0.4),
            beta=st.floats(0.001, 0.4),
        ),
        st.builds(
            FixedThreshold,
            failure_share_max=st.floats(0, 0.99),
            finished_min=st.integers(1, 100),
        ),
    ),
    soak_s=st.floats(0, 1_000),
    failures_min=st.integers(1, 10),
    on_inconclusive=st.sampled_from(OnInconclusive),
    is_flight_holding=st.booleans(),
)


@st.composite
def stages(draw: st.DrawFn) -> StageCounts:
    confirmed, failed, left_out, waiting = (draw(st.integers(0, 200)) for _ in range(4))
    return StageCounts(
        targeted=confirmed + failed + left_out + waiting,
        confirmed=confirmed,
        failed=failed,
        left_out=left_out,
        in_flight=draw(st.integers(0, waiting)),
    )


@st.composite
def memories(draw: st.DrawFn) -> Settled | None:
    if draw(st.booleans()):
        return None
    finished, watched = draw(st.integers(1, 400)), draw(st.integers(0, 400))
    return Settled(
        at=NOW - timedelta(seconds=draw(st.integers(0, 2_000))),
        finished=finished,
        failed=draw(st.integers(0, finished)),
        basis=draw(st.sampled_from(Basis)),
        watch_finished=watched,
        watch_failed=draw(st.integers(0, watched)),
    )


@given(stages(), policies, memories(), st.booleans())
def test_one_more_failure_among_the_finished_never_makes_the_verdict_kinder(
    before: StageCounts, policy: GatePolicy, settled: Settled | None, has_alarm: bool
) -> None:
    if before.confirmed == 0:
        return
    alarms = ("x",) if has_alarm else ()
    after = replace(before, confirmed=before.confirmed - 1, failed=before.failed + 1)
    was = judge_stage(before, policy, settled, now=NOW, alarms=alarms)
    now = judge_stage(after, policy, settled, now=NOW, alarms=alarms)
    assert KINDNESS[now.verdict] <= KINDNESS[was.verdict]


@given(stages(), policies, memories())
def test_a_report_of_failure_that_leaves_others_to_wait_for_is_never_kinder(
    before: StageCounts, policy: GatePolicy, settled: Settled | None
) -> None:
    if before.waiting < 2:
        return
    after = replace(before, failed=before.failed + 1, in_flight=max(0, before.in_flight - 1))
    was = judge_stage(before, policy, settled, now=NOW)
    now = judge_stage(after, policy, settled, now=NOW)
    assert KINDNESS[now.verdict] <= KINDNESS[was.verdict]


@given(stages(), policies, memories())
def test_nothing_advances_while_a_device_is_waited_for_or_without_any_evidence(
    counts: StageCounts, policy: GatePolicy, settled: Settled | None
) -> None:
    found = judge_stage(counts, policy, settled, now=NOW)
    if counts.waiting or (settled is None and counts.finished == 0):
        assert found.verdict is not Verdict.ADVANCE


@given(stages(), policies, memories())
def test_a_verdict_is_the_same_when_replayed(
    counts: StageCounts, policy: GatePolicy, settled: Settled | None
) -> None:
    first = judge_stage(counts, policy, settled, now=NOW)
    assert judge_stage(counts, policy, settled, now=NOW) == first
    again = judge_stage(counts, policy, first.settled, now=NOW)
    assert again.verdict is first.verdict


def test_failures_that_come_first_are_weighed_with_who_is_in_flight() -> None:
    assert judge(100, 0, 3, in_flight=97).verdict is Verdict.WAIT
    assert judge(100, 0, 3, in_flight=0).verdict is Verdict.HALT
    before = replace(POLICY, is_flight_holding=False)
    assert judge(100, 0, 3, in_flight=97, policy=before).verdict is Verdict.HALT
    plain = judge(100, 15, 5, in_flight=80, policy=FIXED)
    assert plain.verdict is Verdict.WAIT, "5 of 100 are within the share of 5 %"
    passed = judge(200, 100, 0, in_flight=100)
    assert judge(200, 100, 4, in_flight=96, settled=passed.settled).verdict is Verdict.WAIT
    assert judge(200, 100, 40, in_flight=60, settled=passed.settled).verdict is Verdict.HALT


def test_a_verdict_of_a_rollout_that_was_planned_before_is_the_same_again() -> None:
    policy = RolloutPolicy(gate=replace(POLICY, is_flight_holding=False))
    stored = policy.to_json()
    del stored["gate"]["is_flight_holding"]
    assert RolloutPolicy.from_json(stored) == policy
    inputs = {
        "counts": {"targeted": 100, "confirmed": 0, "failed": 3, "in_flight": 97},
        "gate": stored["gate"],
        "settled": None,
        "is_backed": False,
        "alarms": [],
        "now": NOW.isoformat(),
    }
    then = replay_decision("halt", inputs)
    assert then is not None
    assert then.is_same
    now = replay_decision("halt", {**inputs, "gate": RolloutPolicy().to_json()["gate"]})
    assert now is not None
    assert now.verdict == "wait"
    assert "halts at" in now.workings[1]
