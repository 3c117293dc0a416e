"""What the approvers take back: what stops, what goes on, what is forgotten, what comes back."""

from dataclasses import replace
from typing import Any

import pytest

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.package import OnWithdrawn
from edge_agent.core.agent_state import AgentState, state_from_json, state_to_json
from edge_agent.core.effects import Activate, CancelFetch, Collect, Deactivate, Fetch
from edge_agent.core.events import (
    Answering,
    Assigned,
    Booted,
    Fetched,
    FetchStarted,
    Observed,
    Reapproved,
    SelfTested,
    Verified,
    Withdrawn,
)
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import Release
from edge_agent.core.slot import Slot, report_slot
from edge_agent.core.update_machine import step
from edge_agent.core.withdrawal import find_held
from tests.support.agent import GOOD_STATS, a_release

ONE, TWO, THREE = a_release(1), a_release(2), a_release(3)
KEPT = replace(ONE, on_withdrawn=OnWithdrawn.KEEP)


class Story:
    """One slot; events follow each other a second apart."""

    def __init__(self) -> None:
        self.slot, self.now = Slot(), 1_000.0
        self.effects: list[object] = []

    def tell(self, *events: object) -> "Story":
        for event in events:
            self.slot, effects = step(self.slot, event)  # type: ignore[arg-type] # any event
            self.effects = list(effects)
        return self

    def to(self, phase: Phase, release: Release) -> "Story":
        """Bring a release to a phase."""
        self.tell(Assigned(release, self.now))
        steps: dict[Phase, Any] = {
            Phase.FETCHING: lambda: FetchStarted(self.slot.attempt, self.now),
            Phase.VERIFYING: lambda: Fetched(self.slot.attempt, self.now),
            Phase.SELF_TESTING: lambda: Verified(self.slot.attempt, self.now),
            Phase.PROBATION: lambda: SelfTested(self.slot.attempt, None, "", self.now),
        }
        for reached, make in steps.items():
            if self.slot.phase is phase:
                break
            self.tell(make())
            assert self.slot.phase is reached
        return self

    def confirm(self, release: Release) -> "Story":
        self.to(Phase.PROBATION, release).answer(release)
        self.now += 61
        return self.tell(Observed(GOOD_STATS, 10.0, self.now))

    def answer(self, release: Release | None) -> "Story":
        target, sha256 = (release.target, release.sha256) if release else ("", None)
        return self.tell(Answering(target, sha256, self.now))

    def withdraw(self, *releases: Release) -> "Story":
        return self.tell(Withdrawn(frozenset(r.key for r in releases), self.now))

    @property
    def kinds(self) -> list[type]:
        return [type(effect) for effect in self.effects]

    @property
    def confirmed(self) -> str | None:
        package = self.slot.banks.confirmed_package
        return package.target if package else None


def test_a_first_candidate_that_was_superseded_stops_when_it_is_withdrawn() -> None:
    story = Story().to(Phase.PROBATION, ONE)
    story.tell(Answering(ONE.target, ONE.sha256, story.now), Assigned(TWO, story.now))
    story.tell(Withdrawn(frozenset({ONE.key}), story.now))
    assert [e.reason for e in story.effects if isinstance(e, Deactivate)] == [
        "model/1/camera.tar was withdrawn by the approvers and stopped; assign an approved version"
    ]
    assert (story.slot.asked, story.slot.phase) == (None, Phase.OFFERED)


def test_a_confirmed_package_that_is_withdrawn_stops_and_says_so() -> None:
    story = Story().confirm(ONE).withdraw(ONE)
    assert story.kinds == [Deactivate]
    assert "withdrawn" in story.effects[0].reason  # type: ignore[attr-defined]
    assert (story.confirmed, story.slot.banks.digests) == (None, frozenset())
    story.answer(None)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    assert story.kinds == [Collect]
    report = report_slot(story.slot)
    assert (report.running, report.confirmed, report.code) == (None, None, "withdrawn")
    assert story.slot.bad == ()
    assert class_of(Code.WITHDRAWN) is FailureClass.NOT_FOR_ME


def test_the_former_package_is_not_started_in_its_place() -> None:
    story = Story().confirm(ONE).confirm(TWO).withdraw(TWO)
    assert story.kinds == [Deactivate]
    story.answer(None).tell(Booted(story.now))
    assert Activate not in story.kinds
    assert ONE.sha256 in story.slot.banks.digests  # only as bytes: an assignment may want it
    story.confirm(ONE)
    assert story.confirmed == ONE.target


def test_after_a_start_a_stopped_slot_still_says_why() -> None:
    story = Story().confirm(ONE).withdraw(ONE).answer(None).tell(Booted(1.0))
    assert story.kinds == [Deactivate]
    assert ONE.target in story.effects[0].reason  # type: ignore[attr-defined]


def test_approved_and_assigned_again_it_is_installed_as_any_other() -> None:
    story = Story().confirm(ONE).withdraw(ONE).answer(None)
    story.tell(Assigned(ONE, story.now))
    assert (story.slot.phase, story.kinds, story.slot.code) == (Phase.OFFERED, [Fetch], None)
    assert story.confirm(ONE).confirmed == ONE.target


def test_assigned_again_before_it_has_stopped_it_begins_anew_as_well() -> None:
    story = Story().confirm(ONE).withdraw(ONE).tell(Assigned(ONE, 1_001.0))
    assert story.slot.phase is Phase.OFFERED
    assert Fetch in story.kinds


def test_a_package_signed_to_be_kept_keeps_running_and_is_reported() -> None:
    story = Story().confirm(KEPT).withdraw(KEPT)
    assert story.effects == []
    assert (story.slot.phase, story.confirmed) == (Phase.CONFIRMED, ONE.target)
    report = report_slot(story.slot)
    assert report.code is None
    assert "was withdrawn" in report.detail
    assert story.tell(Booted(1.0)).kinds == [Activate]
    story.tell(Reapproved(find_held(story.slot)))
    assert "withdrawn" not in report_slot(story.slot).detail


def test_a_kept_package_is_forgotten_once_another_is_confirmed() -> None:
    story = Story().confirm(KEPT).withdraw(KEPT).confirm(TWO)
    assert story.slot.banks.digests == {TWO.sha256}


def test_a_failed_update_returns_to_a_kept_package() -> None:
    story = Story().confirm(KEPT).withdraw(KEPT).to(Phase.PROBATION, TWO).answer(TWO)
    errors = ProbationStats(requests=100, errors=50, rows=100)
    story.tell(Observed(errors, 10.0, story.now)).answer(KEPT)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.PROBATION_ERRORS)
    assert "was withdrawn" in report_slot(story.slot).detail


@pytest.mark.parametrize("policy", list(OnWithdrawn))
def test_a_candidate_is_rolled_back_whatever_was_signed(policy: OnWithdrawn) -> None:
    two = replace(TWO, on_withdrawn=policy)
    story = Story().confirm(ONE).to(Phase.PROBATION, two).answer(two).withdraw(two)
    assert (story.slot.phase, story.slot.candidate) == (Phase.ROLLING_BACK, None)
    assert [type(e) for e in story.effects] == [Activate]
    story.answer(ONE)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    assert (story.confirmed, story.slot.bad) == (ONE.target, ())
    assert TWO.sha256 not in story.slot.banks.digests


def test_candidate_and_confirmed_withdrawn_together_leave_nothing() -> None:
    story = Story().confirm(ONE).to(Phase.PROBATION, TWO).answer(TWO).withdraw(ONE, TWO)
    assert story.kinds == [Deactivate]
    story.answer(None)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    assert story.slot.banks.digests == frozenset()


def test_the_confirmed_one_withdrawn_under_a_candidate_leaves_the_candidate() -> None:
    story = Story().confirm(ONE).to(Phase.PROBATION, TWO)
    story.withdraw(ONE)
    assert story.kinds == [Deactivate, Activate, Collect]  # it still answered for the candidate
    story.answer(None).answer(TWO)
    assert story.slot.phase is Phase.PROBATION
    story.now += 61
    story.tell(Observed(GOOD_STATS, 10.0, story.now))
    assert story.confirmed == TWO.target


@pytest.mark.parametrize(
    "phase", [Phase.OFFERED, Phase.FETCHING, Phase.VERIFYING, Phase.SELF_TESTING]
)
def test_what_is_on_its_way_in_ends(phase: Phase) -> None:
    story = Story().confirm(ONE).to(phase, TWO).withdraw(TWO)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    is_fetching = phase in (Phase.OFFERED, Phase.FETCHING)
    assert (CancelFetch in story.kinds) == is_fetching
    assert Deactivate not in story.kinds
    assert (story.confirmed, story.slot.bad) == (ONE.target, ())


@pytest.mark.parametrize(
    "phase", [Phase.OFFERED, Phase.FETCHING, Phase.VERIFYING, Phase.SELF_TESTING]
)
def test_the_confirmed_one_withdrawn_under_an_update_stops_and_the_update_goes_on(
    phase: Phase,
) -> None:
    story = Story().confirm(ONE).to(phase, TWO).withdraw(ONE)
    assert (story.slot.phase, story.slot.code) == (phase, None)
    assert Deactivate in story.kinds
    assert ONE.target in story.slot.detail


def test_a_failure_of_another_release_stays_the_code_when_the_confirmed_one_goes() -> None:
    story = Story().confirm(ONE).to(Phase.SELF_TESTING, TWO)
    story.tell(SelfTested(story.slot.attempt, Code.SELFTEST_GOLDEN, "row 3", story.now))
    story.withdraw(ONE)
    assert story.kinds == [Deactivate]
    story.answer(None)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.SELFTEST_GOLDEN)
    assert ONE.target in story.slot.detail


def test_hearing_it_again_changes_nothing() -> None:
    for release in (ONE, KEPT):
        story = Story().confirm(release).withdraw(release).answer(None)
        before = story.slot
        assert story.withdraw(release).slot == before
        assert story.effects == []


def test_the_policy_outlives_a_start_and_old_states_mean_stop() -> None:
    value = state_to_json(AgentState(slots={"slot": Story().confirm(KEPT).slot}))
    assert state_from_json(value).slots["slot"].banks.a == Story().confirm(KEPT).slot.banks.a
    slot = value["slots"]["slot"]
    for fields in (slot["a"], slot["wanted"]):
        fields.pop("on_withdrawn")
    slot["a"].pop("is_withdrawn")
    old = state_from_json(value).slots["slot"]
    assert old.banks.a is not None
    assert old.banks.a.on_withdrawn is OnWithdrawn.STOP
    assert old.wanted == ONE
