"""A candidate in shadow: what begins it, what ends it, and that it never answers before."""

from dataclasses import replace

import pytest

from edge_agent.contract.assignment import SlotAssignment
from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.messages import SlotReport
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.package import OnWithdrawn
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.core.agent_state import AgentState, state_from_json, state_to_json
from edge_agent.core.boot import BOOTS_MAX
from edge_agent.core.effects import (
    Activate,
    Collect,
    Deactivate,
    Fetch,
    StartShadow,
    StopShadow,
)
from edge_agent.core.events import (
    ActivationFailed,
    OperatorRollback,
    ServingLost,
    ShadowSeen,
    Stopped,
    Withdrawn,
)
from edge_agent.core.outlook import describe_next
from edge_agent.core.slot import Slot, report_slot
from tests.support.agent import a_release
from tests.support.slot_story import Story

POLICY = ShadowPolicy(duration_s=30, rows_min=100, timeout_s=600, share=0.5, cpu_share=0.1)
ONE, THREE = a_release(1), a_release(3)
TWO = replace(a_release(2), shadow=POLICY)


def in_shadow() -> Story:
    return Story().confirm(ONE).assign(TWO).fetch().verify().self_test()


def after_power_cut(story: Story) -> Slot:
    """What is on disk, read back."""
    state = state_to_json(AgentState(slots={"slot": story.slot}))
    return state_from_json(state).slots["slot"]


def test_a_candidate_is_compared_in_the_free_bank_before_it_may_answer() -> None:
    story = in_shadow()
    assert (story.slot.phase, story.kinds) == (Phase.SHADOWING, [StartShadow])
    package, confirmed = story.slot.banks.at(story.slot.candidate), story.slot.banks.a
    assert package is not None
    assert confirmed is not None
    assert story.effects == [StartShadow(story.slot.attempt, package, confirmed, POLICY)]
    assert (story.running, story.slot.asked, story.confirmed) == (ONE.sha256,) * 3


def test_enough_rows_for_long_enough_lead_to_the_probation_and_the_counts_stay() -> None:
    story = in_shadow().shadow(500)
    assert (story.slot.phase, story.kinds) == (Phase.SHADOWING, [])
    assert story.shadow(99, after_s=31).slot.phase is Phase.SHADOWING
    story.shadow(150, after_s=1, differs=3)
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [StopShadow, Activate])
    assert story.slot.asked == TWO.sha256
    found = report_slot(story.slot).shadow
    assert found is not None
    assert (found.state, found.rows, found.differs) == (ShadowState.OVER, 150, 3)
    assert found.note == "150 rows compared in 32 s"
    assert after_power_cut(story).shadow == found
    confirmed = report_slot(story.answer(TWO).observe().slot)
    assert (confirmed.state, confirmed.shadow) == (Phase.CONFIRMED, found)
    assert SlotReport.from_json(confirmed.to_json()) == confirmed


def test_too_few_rows_end_with_the_limit_of_the_phase() -> None:
    story = in_shadow().shadow(7)
    assert story.wait(599).slot.phase is Phase.SHADOWING
    assert story.wait(1).slot.phase is Phase.PROBATION
    assert story.slot.shadow is not None
    assert story.slot.shadow.note == "only 7 of 100 rows compared in 600 s"


def test_a_held_candidate_is_let_go_by_the_server_alone() -> None:
    held = replace(POLICY, is_held=True)
    assert ShadowPolicy.from_json(held.to_json()) == held
    assert "held" not in POLICY.to_json()
    story = Story().confirm(ONE).assign(replace(TWO, shadow=held)).fetch().verify().self_test()
    assert story.shadow(10_000, after_s=400).slot.phase is Phase.SHADOWING
    said = describe_next(story.slot, now=story.now)
    assert said.endswith("(0 s and 10000 rows so far) until the server has decided")
    story.assign(replace(TWO, shadow=None))
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [StopShadow, Activate])


def test_a_held_candidate_nobody_decides_on_is_given_up() -> None:
    held = replace(TWO, shadow=replace(POLICY, is_held=True))
    story = Story().confirm(ONE).assign(held).fetch().verify().self_test().shadow(10_000)
    assert story.wait(599).slot.phase is Phase.SHADOWING
    story.wait(1)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.SHADOW_UNDECIDED)
    assert story.kinds == [StopShadow, Collect]
    assert (story.running, story.confirmed) == (ONE.sha256, ONE.sha256)
    assert story.slot.detail == "held for 600 s, and the server has not decided"
    assert class_of(Code.SHADOW_UNDECIDED) is FailureClass.RETRYABLE


def test_time_counts_from_the_first_comparison_not_from_the_loading() -> None:
    story = in_shadow().shadow(state=ShadowState.LOADING)
    story.shadow(200, after_s=100)
    assert story.slot.phase is Phase.SHADOWING
    assert story.shadow(200, after_s=30).slot.phase is Phase.PROBATION


def test_a_first_install_is_not_shadowed_and_says_so() -> None:
    story = Story().assign(TWO).fetch().verify().self_test()
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [Activate])
    found = report_slot(story.slot)
    assert found.shadow is not None
    assert found.shadow.state is ShadowState.SKIPPED
    assert "nothing is confirmed" in found.shadow.note
    assert "not shadowed" in found.detail


def test_models_that_cannot_be_compared_go_on_to_the_probation_with_a_word() -> None:
    story = in_shadow().shadow(state=ShadowState.SKIPPED, note="the inputs differ")
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [StopShadow, Activate])
    found = story.slot.shadow
    assert found is not None
    assert (found.state, found.note) == (ShadowState.SKIPPED, "the inputs differ")


@pytest.mark.parametrize("code", [Code.SHADOW_CRASH, Code.SHADOW_HANG, Code.SHADOW_MEMORY])
def test_a_shadow_that_breaks_has_failed_and_hurt_nobody(code: Code) -> None:
    story = in_shadow().shadow(12, code=code, detail="died of SIGSEGV")
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, code)
    assert story.kinds == [StopShadow, Collect]
    assert (story.running, story.confirmed, story.slot.asked) == (ONE.sha256,) * 3
    assert story.slot.banks.find(TWO.sha256) is None
    assert class_of(code) is FailureClass.BROKEN_HERE
    assert story.slot.shadow is not None
    assert (story.slot.shadow.rows, story.slot.shadow.note) == (12, "died of SIGSEGV")
    assert story.assign(replace(TWO, rollout=9)).slot.code is Code.KNOWN_BAD


def test_a_disk_that_fails_the_shadow_is_not_held_against_the_package() -> None:
    story = in_shadow().shadow(code=Code.DISK_ERROR)
    assert (story.slot.phase, story.slot.bad) == (Phase.FAILED, ())
    assert Fetch in story.assign(TWO).kinds


def test_a_boot_begins_anew_and_the_third_unclean_one_ends_it() -> None:
    story = in_shadow().shadow(80)
    for life in range(1, BOOTS_MAX):
        story.slot = after_power_cut(story)
        story.boot()
        assert (story.slot.phase, story.slot.boots) == (Phase.SHADOWING, life)
        assert story.kinds == [Activate, StartShadow]
        assert (story.slot.asked, story.slot.rows) == (ONE.sha256, 0)
    story.slot = after_power_cut(story)
    story.boot()
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.SHADOW_CRASH)
    assert story.slot.asked == ONE.sha256
    assert story.slot.banks.find(TWO.sha256) is None


def test_stops_in_good_order_cost_no_life() -> None:
    story = in_shadow()
    for _ in range(2 * BOOTS_MAX):
        story.tell(Stopped())
        story.slot = after_power_cut(story)
        story.boot()
    assert (story.slot.phase, story.slot.boots) == (Phase.SHADOWING, 0)


def test_what_serves_may_end_and_the_comparing_begins_anew_within_its_limit() -> None:
    story = in_shadow().shadow(80)
    due_at = story.slot.due_at
    story.tell(ServingLost(Code.PROBATION_CRASH, "", story.now))
    assert (story.slot.phase, story.running, story.slot.rows) == (Phase.SHADOWING, None, 0)
    assert (story.slot.due_at, story.slot.boots) == (due_at, 0)
    story.answer(ONE).shadow(100).shadow(100, after_s=30)
    assert story.slot.phase is Phase.PROBATION


def test_a_newer_assignment_supersedes_and_a_late_count_changes_nothing() -> None:
    story = in_shadow()
    report = ShadowReport(sha256=TWO.sha256, state=ShadowState.COMPARING, rows=9)
    late = ShadowSeen(story.slot.attempt, report, Code.SHADOW_CRASH, "", story.now)
    story.assign(THREE)
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [StopShadow, Fetch])
    before = story.slot
    assert story.tell(late).slot == before


def test_the_same_assignment_changes_nothing_and_other_limits_begin_anew() -> None:
    story = in_shadow().shadow(60)
    assert story.assign(TWO).kinds == []
    assert story.slot.rows == 60
    story.assign(replace(TWO, shadow=replace(POLICY, rows_min=5)))
    assert (story.slot.phase, story.kinds) == (Phase.SHADOWING, [StopShadow, StartShadow])
    assert story.slot.rows == 0
    story.assign(replace(TWO, shadow=None))
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [StopShadow, Activate])


def test_an_operator_ends_it_and_what_answers_goes_on() -> None:
    story = in_shadow().tell(OperatorRollback(1_000.0))
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.OPERATOR_ROLLBACK)
    assert story.kinds == [StopShadow, Collect]
    assert (story.running, story.confirmed) == (ONE.sha256, ONE.sha256)
    assert story.assign(replace(TWO, rollout=4)).slot.code is Code.KNOWN_BAD


def test_a_withdrawn_candidate_is_let_go_and_the_confirmed_package_goes_on() -> None:
    story = in_shadow()
    story.tell(Withdrawn(frozenset({TWO.key}), story.now))
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    assert story.kinds == [StopShadow, Collect]
    assert (story.running, story.slot.bad) == (ONE.sha256, ())


def test_a_withdrawn_confirmed_package_stops_and_the_candidate_answers_on_probation() -> None:
    story = in_shadow()
    story.tell(Withdrawn(frozenset({ONE.key}), story.now))
    assert story.slot.phase is Phase.PROBATION
    assert story.kinds == [Deactivate, StopShadow, Activate, Collect]
    assert (story.confirmed, story.slot.asked) == (None, TWO.sha256)


def test_both_withdrawn_leave_nothing_answering() -> None:
    story = in_shadow()
    story.tell(Withdrawn(frozenset({ONE.key, TWO.key}), story.now))
    assert (story.slot.phase, story.slot.code) == (Phase.ROLLING_BACK, Code.WITHDRAWN)
    assert Deactivate in story.kinds
    assert not story.slot.banks.digests
    assert story.answer(None).slot.phase is Phase.FAILED


def test_a_confirmed_package_that_is_kept_is_compared_on() -> None:
    kept = replace(ONE, on_withdrawn=OnWithdrawn.KEEP)
    story = Story().confirm(kept).assign(TWO).fetch().verify().self_test()
    story.tell(Withdrawn(frozenset({kept.key}), story.now))
    assert (story.slot.phase, story.confirmed) == (Phase.SHADOWING, ONE.sha256)


def test_damaged_bytes_of_the_confirmed_package_bring_the_candidate_on() -> None:
    story = in_shadow()
    story.tell(ActivationFailed(ONE.sha256, Code.BLOB_HASH, "", story.now))
    assert story.slot.phase is Phase.PROBATION
    assert story.kinds == [Deactivate, StopShadow, Activate]


def test_a_confirmed_package_that_does_not_load_is_asked_for_again() -> None:
    story = in_shadow()
    story.tell(ActivationFailed(ONE.sha256, Code.DISK_ERROR, "", story.now))
    assert (story.slot.phase, story.slot.reask_at) == (Phase.SHADOWING, story.now + 30)


def test_people_are_told_what_is_compared_and_what_follows() -> None:
    story = in_shadow().shadow(40)
    said = describe_next(story.slot, now=story.now + 10)
    assert said == (
        "compares model/2/camera.tar with model/1/camera.tar on real requests without letting it"
        " answer (10 s and 40 rows so far, 30 s and 100 rows needed, 600 s at most), then lets it"
        " answer on probation"
    )


def test_the_policy_travels_only_when_it_is_asked_for() -> None:
    plain = SlotAssignment(target=TWO.target)
    assert "shadow" not in plain.to_json()
    asked = SlotAssignment(target=TWO.target, shadow=POLICY)
    assert SlotAssignment.from_json(asked.to_json()) == asked
    with pytest.raises(MalformedError, match="share"):
        SlotAssignment.from_json({**plain.to_json(), "shadow": {"share": 1.5}})


def test_counts_of_devices_are_added() -> None:
    one = ShadowReport(sha256="a", rows=3, differs=1, difference=(1, 2, 0, 0, 0, 0, 0, 0))
    two = ShadowReport(sha256="a", rows=4, cpu_ms=7, difference=(0, 1, 0, 0, 0, 0, 0, 3))
    both = one.added(two)
    assert (both.rows, both.differs, both.cpu_ms) == (7, 1, 7)
    assert both.difference == (1, 3, 0, 0, 0, 0, 0, 3)


@pytest.mark.parametrize(
    "change", [{"rows": -1}, {"difference": [1]}, {"latency": "x"}, {"state": "odd"}, {"rows": 1e9}]
)
def test_counts_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    value = {**ShadowReport(sha256="a").to_json(), **change}
    with pytest.raises(MalformedError):
        ShadowReport.from_json(value)


def test_a_state_file_from_before_there_was_shadowing_is_read() -> None:
    state = state_to_json(AgentState(slots={"slot": Story().confirm(ONE).slot}))
    del state["slots"]["slot"]["shadow"]
    del state["slots"]["slot"]["wanted"]["shadow"]
    slot = state_from_json(state).slots["slot"]
    assert (slot.shadow, slot.phase) == (None, Phase.CONFIRMED)
