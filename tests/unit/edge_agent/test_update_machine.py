"""The life of one slot: each row of the table, each deadline, each way back."""

from dataclasses import replace

import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core import fetching, moves, update_machine
from edge_agent.core.banks import Bank
from edge_agent.core.effects import (
    Activate,
    CancelFetch,
    Collect,
    Deactivate,
    Fetch,
    SelfTest,
    StartProbation,
    Verify,
)
from edge_agent.core.events import (
    ActivationFailed,
    Answering,
    Fetched,
    FetchFailed,
    FetchMoved,
    FetchStarted,
    LinkDown,
    LinkUp,
    SelfTested,
    ServingLost,
    Stopped,
    Verified,
    VerifyFailed,
)
from edge_agent.core.probation import ProbationStats
from edge_agent.core.slot import Slot, report_slot
from edge_agent.core.update_machine import step
from tests.support.agent import GOOD_STATS, a_release
from tests.support.slot_story import Story

ONE, TWO, THREE = a_release(1), a_release(2), a_release(3)


def test_a_release_goes_from_offer_to_confirmation() -> None:
    story = Story().assign(ONE)
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [Fetch])
    story.tell(FetchStarted(story.slot.attempt, story.now))
    assert (story.slot.phase, story.kinds) == (Phase.FETCHING, [])
    story.tell(Fetched(story.slot.attempt, story.now))
    assert (story.slot.phase, story.kinds) == (Phase.VERIFYING, [Verify])
    story.verify()
    assert (story.slot.phase, story.kinds) == (Phase.SELF_TESTING, [SelfTest])
    story.self_test()
    assert (story.slot.phase, story.kinds) == (Phase.PROBATION, [Activate])
    assert (story.running, story.confirmed) == (None, None)
    story.answer(ONE)
    assert (story.running, story.confirmed, story.kinds) == (ONE.sha256, None, [StartProbation])
    story.observe(after_s=59)
    assert story.slot.phase is Phase.PROBATION
    assert story.slot.rows == GOOD_STATS.rows
    story.observe(after_s=1)
    assert (story.slot.phase, story.kinds) == (Phase.CONFIRMED, [Collect])
    assert (story.running, story.confirmed) == (ONE.sha256, ONE.sha256)


def test_the_second_release_takes_the_other_bank_and_the_first_stays_until_confirmed() -> None:
    story = Story().confirm(ONE).to_probation(TWO)
    assert story.slot.candidate is Bank.B
    assert (story.running, story.confirmed) == (TWO.sha256, ONE.sha256)
    story.observe()
    assert story.confirmed == TWO.sha256
    assert story.slot.banks.a is not None
    assert story.slot.banks.a.is_proven


def test_a_failed_self_test_leaves_what_runs_and_is_remembered() -> None:
    story = Story().confirm(ONE).assign(TWO).fetch().verify().self_test(Code.SELFTEST_GOLDEN)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.SELFTEST_GOLDEN)
    assert (story.running, story.confirmed) == (ONE.sha256, ONE.sha256)
    assert story.kinds == [Collect]
    story.assign(replace(TWO, rollout=9))
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.KNOWN_BAD)
    assert Fetch not in story.kinds
    story.assign(replace(TWO, retry=1))
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [Fetch])
    story.fetch().verify().self_test().answer(TWO).observe()
    assert (story.confirmed, story.slot.bad) == (TWO.sha256, ())  # a later return may bring it back


def test_the_same_offer_again_does_not_change_the_reported_code() -> None:
    story = Story().confirm(ONE).assign(TWO).fetch().verify().self_test(Code.SELFTEST_GOLDEN)
    before = report_slot(story.slot)
    assert report_slot(story.assign(TWO).slot) == before
    assert story.kinds == []


def test_a_broken_limit_rolls_back_to_the_confirmed_package() -> None:
    story = Story().confirm(ONE).to_probation(TWO)
    story.observe(ProbationStats(requests=40, errors=20), after_s=1)
    assert story.slot.phase is Phase.ROLLING_BACK
    assert story.effects == [Activate(story.slot.banks.confirmed_package)]  # type: ignore[arg-type]
    assert story.slot.banks.find(TWO.sha256) is None
    story.answer(ONE)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.PROBATION_ERRORS)
    assert (story.running, story.confirmed) == (ONE.sha256, ONE.sha256)
    assert story.assign(replace(TWO, rollout=9)).slot.code is Code.KNOWN_BAD


def test_a_first_release_that_fails_leaves_nothing_answering() -> None:
    story = Story().to_probation(ONE).observe(replace(GOOD_STATS, non_finite_rows=1))
    assert (story.slot.phase, story.kinds) == (Phase.ROLLING_BACK, [Deactivate])
    story.answer(None)
    assert (story.slot.phase, story.running, story.confirmed) == (Phase.FAILED, None, None)


def test_a_candidate_that_cannot_be_loaded_rolls_back() -> None:
    story = Story().confirm(ONE).assign(TWO).fetch().verify().self_test()
    story.tell(ActivationFailed(TWO.sha256, Code.DISK_ERROR, "EIO", story.now))
    assert (story.slot.phase, story.slot.code) == (Phase.ROLLING_BACK, Code.SELFTEST_LOAD)
    assert story.answer(ONE).slot.phase is Phase.FAILED


def test_a_newer_assignment_supersedes_a_fetch_and_stale_completions_are_ignored() -> None:
    story = Story().confirm(ONE).assign(TWO)
    old = story.slot.attempt
    story.tell(FetchStarted(old, story.now)).assign(THREE)
    assert story.kinds == [CancelFetch, Fetch]
    before = story.slot
    for event in (
        Fetched(old, story.now),
        FetchFailed(old, Code.DISK_FULL, "", story.now, 0.5),
        SelfTested(old, None, "", story.now),
    ):
        assert story.tell(event).slot == before
    assert story.fetch().slot.wanted == THREE


def test_a_newer_assignment_in_probation_returns_to_the_confirmed_package_meanwhile() -> None:
    story = Story().confirm(ONE).to_probation(TWO).assign(THREE)
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [Activate, Fetch])
    assert story.slot.asked == ONE.sha256
    assert story.slot.code is None
    assert story.answer(ONE).running == ONE.sha256


def test_without_a_confirmed_package_the_superseded_candidate_answers_on() -> None:
    story = Story().to_probation(ONE).assign(TWO)
    assert story.kinds == [Fetch]
    assert story.running == ONE.sha256
    story.fetch().verify().self_test()
    assert story.slot.banks.find(ONE.sha256) is Bank.A
    assert story.slot.candidate is Bank.B


def test_assigning_the_confirmed_package_ends_a_probation_without_blame() -> None:
    story = Story().confirm(ONE).to_probation(TWO).assign(replace(ONE, rollout=8))
    assert (story.slot.phase, story.kinds) == (Phase.ROLLING_BACK, [Activate])
    story.answer(ONE)
    assert (story.slot.phase, story.slot.code, story.slot.bad) == (Phase.CONFIRMED, None, ())
    assert report_slot(story.slot).rollout == 8


def test_assigning_the_confirmed_package_during_a_fetch_needs_nothing() -> None:
    story = Story().confirm(ONE).assign(TWO).assign(ONE)
    assert (story.slot.phase, story.kinds) == (Phase.CONFIRMED, [CancelFetch, Collect])


def test_the_same_package_with_another_name_is_not_installed_again() -> None:
    renamed = replace(ONE, target="model/7/camera.tar")
    story = Story().confirm(ONE).assign(renamed)
    assert (story.slot.phase, story.kinds) == (Phase.CONFIRMED, [])
    assert report_slot(story.slot).confirmed.target == renamed.target  # type: ignore[union-attr]


def test_a_retryable_failure_waits_with_back_off_and_tries_again() -> None:
    story = Story().assign(ONE)
    story.tell(FetchFailed(story.slot.attempt, Code.DISK_FULL, "no room", story.now, 0.5))
    assert (story.slot.phase, story.slot.code) == (Phase.OFFERED, Code.DISK_FULL)
    wait_s = 0.5 * moves.RETRY_BASE_S * 2
    assert story.slot.due_at == story.now + wait_s
    assert story.wait(wait_s - 0.1).kinds == []
    assert story.wait(0.1).kinds == [Fetch]
    assert story.fetch().verify().slot.code is None


def test_retries_end_and_a_reconnect_begins_another_round() -> None:
    story = Story().assign(ONE)
    for _ in range(moves.TRIES_MAX):
        story.tell(FetchFailed(story.slot.attempt, Code.FETCH_TIMEOUT, "", story.now, 0.5))
        story.wait(10_000)
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.FETCH_TIMEOUT)
    assert story.slot.bad == ()
    story.tell(LinkUp(story.now))
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [Fetch])


def test_a_reconnect_does_not_try_a_broken_package_again() -> None:
    story = Story().assign(ONE).fetch().verify().self_test(Code.SELFTEST_LOAD)
    assert story.tell(LinkUp(story.now)).slot.phase is Phase.FAILED


def test_bytes_read_back_wrong_are_fetched_once_more() -> None:
    story = Story().assign(ONE).fetch()
    story.tell(VerifyFailed(story.slot.attempt, Code.BLOB_HASH, "", story.now, 0.5))
    assert story.slot.phase is Phase.OFFERED
    story.wait(100).fetch()
    story.tell(VerifyFailed(story.slot.attempt, Code.BLOB_HASH, "", story.now, 0.5))
    assert (story.slot.phase, len(story.slot.bad)) == (Phase.FAILED, 1)


def test_a_package_that_is_none_fails_at_once() -> None:
    story = Story().assign(ONE).fetch()
    story.tell(VerifyFailed(story.slot.attempt, Code.PACKAGE_FORMAT, "", story.now, 0.5))
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.PACKAGE_FORMAT)


def test_a_fetch_stalls_only_while_connected() -> None:
    story = Story().assign(ONE)
    story.tell(FetchStarted(story.slot.attempt, story.now)).tell(LinkDown())
    assert story.wait(10 * fetching.FETCH_STALL_S).slot.phase is Phase.FETCHING
    story.tell(LinkUp(story.now))
    story.wait(fetching.FETCH_STALL_S - 1)
    story.tell(FetchMoved(story.slot.attempt, story.now))
    assert story.wait(fetching.FETCH_STALL_S - 1).slot.phase is Phase.FETCHING
    story.wait(1)
    assert (story.slot.phase, story.slot.code) == (Phase.OFFERED, Code.FETCH_TIMEOUT)
    assert story.kinds == [CancelFetch]


@pytest.mark.parametrize(
    ("until", "limit_s", "phase", "code"),
    [
        ("verifying", moves.VERIFY_S, Phase.OFFERED, Code.DISK_ERROR),
        ("self_testing", moves.SELF_TEST_S, Phase.FAILED, Code.SELFTEST_TIMEOUT),
        ("probation", moves.ACTIVATE_S, Phase.ROLLING_BACK, Code.SELFTEST_LOAD),
    ],
)
def test_every_phase_has_a_deadline(until: str, limit_s: float, phase: Phase, code: Code) -> None:
    story = Story().confirm(ONE).assign(TWO).fetch()
    if until != "verifying":
        story.verify()
    if until == "probation":
        story.self_test()
    assert story.wait(limit_s - 1).slot.phase == until
    story.wait(1)
    assert (story.slot.phase, story.slot.code) == (phase, code)


def test_a_roll_back_that_hangs_is_asked_for_again() -> None:
    story = Story().confirm(ONE).to_probation(TWO).observe(replace(GOOD_STATS, errors=100))
    assert story.wait(moves.ACTIVATE_S).kinds == [Activate]
    assert story.slot.due_at is not None


def test_a_boot_in_probation_gives_the_candidate_another_life_but_not_a_fourth() -> None:
    story = Story().confirm(ONE).to_probation(TWO)
    for life in (1, 2):
        story.boot()
        assert (story.slot.boots, story.kinds) == (life, [Activate])
        assert story.slot.asked == TWO.sha256
        assert story.running is None
    story.boot()
    assert (story.slot.phase, story.slot.code) == (Phase.ROLLING_BACK, Code.PROBATION_BOOTS)
    assert story.slot.asked == ONE.sha256


def test_a_boot_restarts_the_probation_time() -> None:
    story = Story().to_probation(ONE).observe(after_s=59)
    story.boot().answer(ONE)
    assert story.observe(after_s=59).slot.phase is Phase.PROBATION
    assert story.observe(after_s=1).slot.phase is Phase.CONFIRMED


def test_a_stop_in_good_order_is_no_failed_boot() -> None:
    story = Story().confirm(ONE).to_probation(TWO)
    for _ in range(5):
        story.tell(Stopped()).boot()
        assert (story.slot.boots, story.slot.phase) == (0, Phase.PROBATION)


def test_three_lives_ended_by_the_self_test_end_it() -> None:
    story = Story().confirm(ONE).assign(TWO).fetch().verify()
    for _ in range(2):
        assert story.boot().kinds == [Activate, SelfTest]
    story.boot()
    assert (story.slot.phase, story.slot.code) == (Phase.FAILED, Code.SELFTEST_CRASH)
    assert story.kinds == [Activate, Collect]


@pytest.mark.parametrize(
    ("steps", "phase", "kinds"),
    [
        (("assign",), Phase.OFFERED, [Activate, Fetch]),
        (("assign", "start"), Phase.OFFERED, [Activate, Fetch]),
        (("assign", "fetch"), Phase.VERIFYING, [Activate, Verify]),
        ((), Phase.CONFIRMED, [Activate]),
    ],
    ids=["offered", "fetching", "verifying", "confirmed"],
)
def test_a_boot_activates_the_confirmed_package_and_goes_on(
    steps: tuple[str, ...], phase: Phase, kinds: list[type]
) -> None:
    story = Story().confirm(ONE)
    for name in steps:
        if name == "assign":
            story.assign(TWO)
        elif name == "start":
            story.tell(FetchStarted(story.slot.attempt, story.now))
        else:
            story.fetch()
    story.boot()
    assert (story.slot.phase, story.kinds, story.slot.asked) == (phase, kinds, ONE.sha256)


def test_a_boot_during_a_roll_back_finishes_it() -> None:
    story = Story().confirm(ONE).to_probation(TWO).observe(replace(GOOD_STATS, errors=100))
    story.boot()
    assert (story.slot.phase, story.kinds) == (Phase.ROLLING_BACK, [Activate])
    assert story.answer(ONE).slot.phase is Phase.FAILED
    first = Story().to_probation(ONE).observe(replace(GOOD_STATS, errors=100)).boot()
    assert first.kinds == [Deactivate]
    assert first.answer(None).slot.phase is Phase.FAILED


def test_an_empty_slot_boots_into_nothing() -> None:
    assert Story().boot().kinds == []


def test_a_confirmed_package_that_cannot_be_loaded_is_asked_for_again_and_kept() -> None:
    story = Story().confirm(ONE).boot()
    story.tell(ActivationFailed(ONE.sha256, Code.DISK_ERROR, "EIO", story.now))
    assert (story.confirmed, story.running) == (ONE.sha256, None)
    assert story.wait(update_machine.REASK_S - 1).kinds == []
    assert story.wait(1).kinds == [Activate]
    assert story.answer(ONE).running == ONE.sha256


def test_damaged_confirmed_bytes_fall_back_to_the_former_package_and_are_fetched_again() -> None:
    story = Story().confirm(ONE).confirm(TWO).boot()
    story.tell(ActivationFailed(TWO.sha256, Code.BLOB_HASH, "flipped", story.now))
    assert story.confirmed == ONE.sha256
    assert (story.slot.phase, story.kinds) == (Phase.OFFERED, [Activate, Fetch])
    assert story.answer(ONE).running == ONE.sha256
    story.fetch().verify().self_test().answer(TWO).observe()
    assert story.confirmed == TWO.sha256


def test_damaged_confirmed_bytes_without_a_fallback_are_fetched_again() -> None:
    story = Story().confirm(ONE).boot()
    story.tell(ActivationFailed(ONE.sha256, Code.BLOB_HASH, "flipped", story.now))
    assert (story.confirmed, story.kinds) == (None, [Deactivate, Fetch])
    assert story.slot.phase is Phase.OFFERED


def test_damaged_confirmed_bytes_do_not_disturb_a_candidate() -> None:
    story = Story().confirm(ONE).assign(TWO).fetch().verify().boot().self_test()
    story.tell(ActivationFailed(ONE.sha256, Code.BLOB_HASH, "flipped", story.now))
    assert (story.slot.phase, story.confirmed, story.kinds) == (Phase.PROBATION, None, [])
    assert story.answer(TWO).observe().confirmed == TWO.sha256


def test_damaged_confirmed_bytes_end_a_roll_back_with_nothing() -> None:
    story = Story().confirm(ONE).to_probation(TWO).observe(replace(GOOD_STATS, errors=100))
    story.tell(ActivationFailed(ONE.sha256, Code.BLOB_HASH, "flipped", story.now))
    assert (story.slot.phase, story.kinds) == (Phase.ROLLING_BACK, [Deactivate])
    assert story.answer(None).slot.phase is Phase.FAILED


def test_an_event_that_cannot_happen_is_loud() -> None:
    with pytest.raises(LookupError, match="Verified cannot happen in phase empty"):
        step(Slot(), Verified(0, 0.0))


def test_the_report_tells_running_confirmed_and_wanted_apart() -> None:
    report = report_slot(Story().confirm(ONE).to_probation(replace(TWO, rollout=4)).slot)
    assert report.running is not None
    assert report.confirmed is not None
    assert report.desired is not None
    assert report.running.sha256 == report.desired.sha256 == TWO.sha256
    assert report.confirmed.sha256 == ONE.sha256
    assert (report.bank, report.rollout, report.state) == ("b", 4, Phase.PROBATION)


def test_a_candidate_whose_process_dies_is_rolled_back_and_remembered() -> None:
    story = Story().confirm(ONE)
    story.to_probation(TWO)
    story.tell(ServingLost(Code.PROBATION_CRASH, "it died of SIGSEGV", story.now))
    assert (story.slot.phase, story.slot.code) == (Phase.ROLLING_BACK, Code.PROBATION_CRASH)
    assert story.slot.running is None
    assert story.slot.asked == ONE.sha256
    assert [bad.sha256 for bad in story.slot.bad] == [TWO.sha256]


def test_a_confirmed_package_whose_process_dies_stays_and_runs_again_when_it_is_back() -> None:
    story = Story().confirm(ONE)
    before = story.slot
    story.tell(ServingLost(Code.PROBATION_MEMORY, "900 MiB", story.now))
    assert (story.slot.phase, story.slot.running) == (Phase.CONFIRMED, None)
    story.tell(Answering(ONE.target, ONE.sha256, story.now))
    assert story.slot == before
