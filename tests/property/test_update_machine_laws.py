"""The update machine against a world that does anything in any order, power cuts included.

The world completes what was asked for, late, twice or never; assigns at random; cuts the power
(only the durable part survives, through its JSON form). After every step the promises hold.
"""

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotReport, SlotState
from edge_agent.contract.package import OnWithdrawn
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.core.agent_state import AgentState, state_from_json, state_to_json
from edge_agent.core.effects import (
    Activate,
    Deactivate,
    Effect,
    Fetch,
    SelfTest,
    StartShadow,
    StopShadow,
    Verify,
)
from edge_agent.core.events import (
    ActivationFailed,
    Answering,
    Assigned,
    Booted,
    Event,
    Fetched,
    FetchFailed,
    FetchMoved,
    FetchStarted,
    LinkDown,
    LinkUp,
    Observed,
    OperatorRollback,
    Reapproved,
    SelfTested,
    ServingLost,
    ShadowSeen,
    Stopped,
    Ticked,
    Verified,
    VerifyFailed,
    Withdrawn,
)
from edge_agent.core.operator_rollback import find_rollback_problem
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import Package, Release
from edge_agent.core.slot import Slot, durable_part, find_needed_digests, report_slot
from edge_agent.core.update_machine import step
from edge_agent.core.withdrawal import find_held
from tests.support.agent import GOOD_STATS, a_release

PATIENCE_S = 100_000.0
STATS = [GOOD_STATS, ProbationStats(), ProbationStats(requests=50, errors=40, rows=10)]
SHADOW = ShadowPolicy(duration_s=30, rows_min=20, timeout_s=300)
TRIALS = (SlotState.SHADOWING, SlotState.PROBATION)
RETRYABLE = [Code.FETCH_TIMEOUT, Code.DISK_FULL, Code.DISK_ERROR]


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.slot, self.now = Slot(), 0.0
        self.asked: list[Effect] = []
        self.sound: set[str] = set()
        """Digests that passed verification and self-test on this device."""
        self.verified: set[str] = set()
        self.damaged: set[str] = set()
        self.withdrawn: set[str] = set()
        """Paths the approvers do not sign now; the odd packages are signed to be kept."""
        self.was_confirmed = False
        self.is_operator_asking = False
        self.shadowed = ""
        """sha256 of what is being compared, by the effects carried out; empty when nothing is."""

    def tell(self, event: Event) -> None:
        before = self.slot
        self.slot, effects = step(self.slot, event)
        for effect in effects:
            if isinstance(effect, Activate):
                assert effect.package.sha256 in self.sound, "an untested package would answer"
                self._check_may_answer(effect.package)
            if isinstance(effect, Deactivate):
                assert self.slot.banks.confirmed is None, "a confirmed package is switched off"
            if isinstance(effect, StartShadow):
                self._check_may_be_shadowed(effect)
            if isinstance(effect, StopShadow):
                self.shadowed = ""
            self.asked.append(effect)
        self._check_confirmed_never_lost(before)

    def _check_may_be_shadowed(self, effect: StartShadow) -> None:
        sha256, confirmed = effect.package.sha256, self.slot.banks.confirmed_package
        assert sha256 in self.sound, "an untested package would be compared"
        assert not self.shadowed, "two are compared at once"
        assert confirmed is not None, "there is nothing to compare with"
        assert confirmed.sha256 != sha256
        assert self.slot.asked != sha256, "what answers nothing was asked to answer"
        self.shadowed = sha256

    def _check_confirmed_never_lost(self, before: Slot) -> None:
        old, new = before.banks.confirmed_package, self.slot.banks.confirmed_package
        if new is not None:
            assert new.sha256 in self.sound
        if old is not None and new is None:
            is_stopped = old.target in self.withdrawn and old.on_withdrawn is OnWithdrawn.STOP
            assert is_stopped or old.sha256 in self.damaged, "a confirmed package was lost"
        if old is not None and new is not None and old.sha256 != new.sha256:
            is_asked = self.is_operator_asking or before.code is Code.OPERATOR_ROLLBACK
            is_ended = before.phase is SlotState.PROBATION or old.sha256 in self.damaged
            assert before.phase is not SlotState.SHADOWING or old.sha256 in self.damaged
            assert is_ended or is_asked, "a confirmed package was left unasked"

    def _check_may_answer(self, package: Package) -> None:
        if package.target in self.withdrawn:
            assert package.on_withdrawn is OnWithdrawn.KEEP, "a withdrawn package would answer"
            assert package == self.slot.banks.confirmed_package, "kept without being confirmed"

    def take(self, kind: type, data: st.DataObject) -> Any:
        return data.draw(st.sampled_from([e for e in self.asked if isinstance(e, kind)]))

    def has(self, kind: type) -> bool:
        return any(isinstance(effect, kind) for effect in self.asked)

    @initialize()
    def begin(self) -> None:
        self.tell(Booted(self.now))

    @rule(number=st.integers(1, 4), retry=st.integers(0, 1), is_shadowed=st.booleans())
    def assign(self, number: int, retry: int, is_shadowed: bool) -> None:
        release = self.release(number, retry)
        if is_shadowed:
            release = replace(release, shadow=SHADOW)
        if release.target not in self.withdrawn:  # the verifier refuses it otherwise
            self.tell(Assigned(release, self.now))

    @rule(number=st.integers(1, 4))
    def install(self, number: int) -> None:
        """All goes well at once: chance alone seldom gets to two confirmed packages."""
        release = self.release(number, 0)
        if release.target in self.withdrawn:
            return
        self.tell(Assigned(release, self.now))
        if self.slot.phase is not SlotState.OFFERED:
            return
        self.tell(FetchStarted(self.slot.attempt, self.now))
        self.tell(Fetched(self.slot.attempt, self.now))
        self.verified.add(release.sha256)
        self.tell(Verified(self.slot.attempt, self.now))
        self.sound.add(release.sha256)
        self.tell(SelfTested(self.slot.attempt, None, "", self.now))
        self.tell(Answering(release.target, release.sha256, self.now))
        self.now += 61
        self.tell(Observed(GOOD_STATS, 10.0, self.now))
        assert report_slot(self.slot).state is SlotState.CONFIRMED

    @rule(number=st.integers(1, 4))
    def bring_into_shadow(self, number: int) -> None:
        """All goes well at once, up to the comparing."""
        release = replace(self.release(number, 0), shadow=SHADOW)
        if release.target in self.withdrawn:
            return
        self.tell(Assigned(release, self.now))
        if self.slot.phase is not SlotState.OFFERED:
            return
        self.tell(Fetched(self.slot.attempt, self.now))
        self.verified.add(release.sha256)
        self.tell(Verified(self.slot.attempt, self.now))
        self.sound.add(release.sha256)
        self.tell(SelfTested(self.slot.attempt, None, "", self.now))
        is_possible = self.slot.banks.confirmed is not None
        assert self.slot.phase is (SlotState.SHADOWING if is_possible else SlotState.PROBATION)

    def release(self, number: int, rollout: int) -> Release:
        policy = OnWithdrawn.KEEP if number % 2 else OnWithdrawn.STOP
        return replace(a_release(number, rollout=rollout), on_withdrawn=policy)

    @rule(number=st.integers(1, 4))
    def approvers_withdraw(self, number: int) -> None:
        self.withdrawn.add(a_release(number).target)
        self.hear_of_metadata()

    @rule(number=st.integers(1, 4))
    def approvers_sign_again(self, number: int) -> None:
        self.withdrawn.discard(a_release(number).target)
        self.hear_of_metadata()

    def hear_of_metadata(self) -> None:
        """As the agent does: every judgement asks about all that is held."""
        held = find_held(self.slot)
        gone = frozenset(key for key in held if key.target in self.withdrawn)
        if gone:
            self.tell(Withdrawn(gone, self.now))
        if held - gone:
            self.tell(Reapproved(held - gone))
        confirmed = self.slot.banks.confirmed_package
        gone_bytes = {key.sha256 for key in gone}
        if self.slot.asked in gone_bytes:
            assert confirmed is not None, "what was withdrawn is still asked to answer"
            assert self.slot.asked == confirmed.sha256
            assert confirmed.is_withdrawn
        for package in (self.slot.banks.a, self.slot.banks.b):
            if package is not None and package.target in self.withdrawn:
                assert package == confirmed, "a bank keeps what was withdrawn"
                assert package.is_withdrawn
                assert package.on_withdrawn is OnWithdrawn.KEEP

    @rule()
    def operator_goes_back(self) -> None:
        is_possible = not find_rollback_problem(self.slot)
        before, self.is_operator_asking = self.slot, True
        self.tell(OperatorRollback(self.now))
        self.is_operator_asking = False
        if not is_possible:
            assert self.slot == before
            return
        if before.phase is SlotState.SHADOWING:
            assert (self.slot.phase, self.slot.asked) == (SlotState.FAILED, before.asked)
            return
        assert self.slot.phase is SlotState.ROLLING_BACK
        assert self.slot.asked in self.sound

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0, 1_000.0]), jitter=st.floats(0, 0.99))
    def time_passes(self, seconds: float, jitter: float) -> None:
        self.now += seconds
        self.tell(Ticked(self.now, jitter))

    @rule(is_up=st.booleans())
    def link_changes(self, is_up: bool) -> None:
        self.tell(LinkUp(self.now) if is_up else LinkDown())

    @precondition(lambda self: self.has(Fetch))
    @rule(data=st.data(), outcome=st.sampled_from(["start", "move", "done", "fail"]))
    def fetching(self, data: st.DataObject, outcome: str) -> None:
        fetch = self.take(Fetch, data)
        attempt = fetch.attempt
        match outcome:
            case "start":
                self.tell(FetchStarted(attempt, self.now))
            case "move":
                self.tell(FetchMoved(attempt, self.now))
            case "done":
                self.tell(Fetched(attempt, self.now))
            case _:
                code = data.draw(st.sampled_from(RETRYABLE))
                self.tell(FetchFailed(attempt, code, "", self.now, 0.5))

    @precondition(lambda self: self.has(Verify))
    @rule(data=st.data(), is_ok=st.booleans())
    def verifying(self, data: st.DataObject, is_ok: bool) -> None:
        verify = self.take(Verify, data)
        if is_ok:
            self.verified.add(verify.release.sha256)
            self.tell(Verified(verify.attempt, self.now))
        else:
            code = data.draw(st.sampled_from([Code.BLOB_HASH, Code.PACKAGE_FORMAT, *RETRYABLE]))
            self.tell(VerifyFailed(verify.attempt, code, "", self.now, 0.5))

    @precondition(lambda self: self.has(SelfTest))
    @rule(data=st.data(), is_ok=st.booleans())
    def self_testing(self, data: st.DataObject, is_ok: bool) -> None:
        test = self.take(SelfTest, data)
        assert test.release.sha256 in self.verified, "an unverified package would be tested"
        if is_ok:
            self.sound.add(test.release.sha256)
        code = None if is_ok else Code.SELFTEST_GOLDEN
        self.tell(SelfTested(test.attempt, code, "", self.now))

    @precondition(lambda self: self.has(Activate))
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "load", "damaged"]))
    def activating(self, data: st.DataObject, outcome: str) -> None:
        package = self.take(Activate, data).package
        if outcome == "ok":
            self.tell(Answering(package.target, package.sha256, self.now))
            return
        code = Code.BLOB_HASH if outcome == "damaged" else Code.DISK_ERROR
        if outcome == "damaged":
            self.damaged.add(package.sha256)
        self.tell(ActivationFailed(package.sha256, code, "", self.now))
        self.damaged.discard(package.sha256)

    @precondition(lambda self: self.has(Deactivate))
    @rule()
    def deactivating(self) -> None:
        self.tell(Answering("", None, self.now))

    @rule(stats=st.sampled_from(STATS))
    def observe(self, stats: ProbationStats) -> None:
        self.tell(Observed(stats, 10.0, self.now))

    @precondition(lambda self: self.has(StartShadow))
    @rule(
        data=st.data(),
        rows=st.sampled_from([0, 7, 40]),
        state=st.sampled_from([ShadowState.LOADING, ShadowState.COMPARING, ShadowState.SKIPPED]),
        code=st.sampled_from([None, None, None, Code.SHADOW_CRASH, Code.DISK_ERROR]),
    )
    def shadow_is_seen(
        self, data: st.DataObject, rows: int, state: ShadowState, code: Code | None
    ) -> None:
        begun, before = self.take(StartShadow, data), self.slot
        report = ShadowReport(sha256=begun.package.sha256, state=state, rows=rows)
        self.tell(ShadowSeen(begun.attempt, report, code, "", self.now))
        if begun.attempt != before.attempt:
            assert self.slot == before, "a count of what is over changed something"
        elif code is not None:
            assert (self.slot.phase, self.slot.code) == (SlotState.FAILED, code)
            assert self.slot.banks.confirmed == before.banks.confirmed

    @rule(code=st.sampled_from([Code.PROBATION_CRASH, Code.PROBATION_MEMORY]))
    def what_serves_is_lost(self, code: Code) -> None:
        phase, due_at = self.slot.phase, self.slot.due_at
        was_in_probation = self.slot.phase is SlotState.PROBATION
        self.tell(ServingLost(code, "", self.now))
        assert self.slot.running is None
        if was_in_probation:
            assert self.slot.phase is SlotState.ROLLING_BACK
            assert self.slot.code is code
        if phase is SlotState.SHADOWING:
            assert (self.slot.phase, self.slot.due_at) == (phase, due_at)

    @rule(is_clean=st.booleans())
    def power_cut(self, is_clean: bool) -> None:
        if is_clean:
            self.tell(Stopped())
        state = state_to_json(AgentState(slots={"slot": self.slot}))
        back = state_from_json(state).slots["slot"]
        assert durable_part(back) == durable_part(self.slot)
        self.slot, self.asked, self.now, self.shadowed = back, [], 0.0, ""
        self.tell(Booted(self.now))

    @invariant()
    def a_phase_ends_by_itself(self) -> None:
        phase, waiting = self.slot.phase, self.slot.due_at is not None
        if phase in (
            SlotState.VERIFYING,
            SlotState.SELF_TESTING,
            SlotState.SHADOWING,
            SlotState.ROLLING_BACK,
        ):
            assert waiting
        if phase is SlotState.PROBATION:
            assert waiting or self.slot.since_at is not None
        if phase is SlotState.OFFERED:
            is_asked = any(
                isinstance(e, Fetch) and e.attempt == self.slot.attempt for e in self.asked
            )
            assert waiting or is_asked

    @invariant()
    def a_candidate_is_on_trial_and_never_the_confirmed_bank(self) -> None:
        slot = self.slot
        assert (slot.candidate is not None) == (slot.phase in TRIALS)
        if slot.candidate is not None:
            assert slot.candidate is not slot.banks.confirmed
            assert slot.banks.at(slot.candidate) is not None

    @invariant()
    def what_is_compared_is_the_candidate_in_shadow(self) -> None:
        candidate = self.slot.banks.at(self.slot.candidate)
        if self.slot.phase is SlotState.SHADOWING:
            assert candidate is not None
            assert self.shadowed == candidate.sha256
            assert self.slot.asked != candidate.sha256
        else:
            assert not self.shadowed, "a shadow outlives its phase"

    @invariant()
    def needed_bytes_are_named(self) -> None:
        needed = find_needed_digests(self.slot)
        assert self.slot.banks.digests <= needed
        busy = (SlotState.FETCHING, SlotState.VERIFYING, SlotState.SELF_TESTING)
        if self.slot.phase in busy and self.slot.wanted is not None:
            assert self.slot.wanted.sha256 in needed

    @invariant()
    def the_report_can_be_sent(self) -> None:
        report = report_slot(self.slot)
        assert SlotReport.from_json(report.to_json()) == report
        if report.state is SlotState.FAILED:
            assert report.code is not None


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestUpdateMachine = World.TestCase
