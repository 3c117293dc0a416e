"""Device outcomes: what each report means, and when silence does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_outcome import (
    GRACE_S,
    Outcome,
    Progress,
    Refusal,
    SlotFacts,
    Standpoint,
    Weight,
    find_retry_at,
    judge_outcome,
    weigh_outcome,
)

OFFERED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
OURS, THEIRS = "a" * 64, "b" * 64
POLICY = RolloutPolicy(deadline_s=600)
KNOWN = Progress(outcome=Outcome.OFFERED, offered_at=OFFERED_AT, changed_at=OFFERED_AT, tries=1)
OLD = SlotFacts(
    state="confirmed",
    running_sha256=THEIRS,
    confirmed_sha256=THEIRS,
    running_target="m/1/camera.tar",
)


def standpoint(after_s: float) -> Standpoint:
    return Standpoint(rollout=7, policy=POLICY, now=OFFERED_AT + timedelta(seconds=after_s))


def judge(
    slot: SlotFacts = OLD,
    known: Progress = KNOWN,
    refusal: Refusal | None = None,
    after_s: float = 10,
) -> tuple[Outcome, str]:
    found = judge_outcome(
        known,
        slot,
        refusal,
        standpoint(after_s),
        sha256=OURS,
    )
    return found.outcome, found.code


def said(**change: Any) -> SlotFacts:
    """A report that names this rollout."""
    return replace(OLD, rollout=7, **change)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("offered", Outcome.OFFERED),
        ("fetching", Outcome.FETCHING),
        ("verifying", Outcome.TESTING),
        ("self_testing", Outcome.TESTING),
        ("shadowing", Outcome.SHADOW),
        ("probation", Outcome.PROBATION),
        ("rolling_back", Outcome.PROBATION),
        ("confirmed", Outcome.OFFERED),
        ("empty", Outcome.OFFERED),
    ],
)
def test_progress_is_read_from_reports_that_name_the_rollout(state: str, outcome: Outcome) -> None:
    assert judge(said(state=state)) == (outcome, "")
    assert judge(replace(OLD, state=state)) == (Outcome.OFFERED, "")


def test_every_slot_state_is_read() -> None:
    for state in SlotState:
        judge(said(state=str(state)))


def test_a_failure_counts_only_when_it_names_the_rollout() -> None:
    failed: dict[str, Any] = {"state": "failed", "code": "selftest-golden"}
    assert judge(said(**failed)) == (Outcome.FAILED, "selftest-golden")
    assert judge(replace(OLD, rollout=6, **failed)) == (Outcome.OFFERED, "")


@pytest.mark.parametrize("code", Code)
def test_every_code_fails_or_refuses_as_its_class_says(code: Code) -> None:
    outcome, named = judge(said(state="failed", code=str(code)))
    is_refused = class_of(code) is FailureClass.NOT_FOR_ME
    assert (outcome, named) == (Outcome.REFUSED if is_refused else Outcome.FAILED, str(code))


def test_a_code_this_server_does_not_know_counts_against_the_release() -> None:
    assert judge(said(state="failed", code="from-the-future")) == (
        Outcome.FAILED,
        "from-the-future",
    )
    assert judge(said(state="failed")) == (Outcome.FAILED, "unknown")
    assert weigh_outcome(Outcome.FAILED, "from-the-future", 1, 3) is Weight.FAILED


def test_a_code_beside_progress_is_only_why_it_waits() -> None:
    assert judge(said(state="offered", code="fetch-timeout")) == (Outcome.OFFERED, "")


def test_the_running_digest_wins_whoever_asked_for_it() -> None:
    mine = SlotFacts(state="confirmed", running_sha256=OURS, confirmed_sha256=OURS, rollout=5)
    assert judge(mine) == (Outcome.CONFIRMED, "")
    answering = replace(mine, confirmed_sha256=THEIRS, state="probation", rollout=7)
    assert judge(answering) == (Outcome.PROBATION, "")


def test_a_success_whose_bytes_no_longer_run_is_taken_back() -> None:
    confirmed = replace(KNOWN, outcome=Outcome.CONFIRMED)
    assert judge(known=confirmed) == (Outcome.FAILED, "reverted")
    assert judge(said(state="failed", code="operator-rollback"), confirmed) == (
        Outcome.FAILED,
        "operator-rollback",
    )
    reverted = replace(KNOWN, outcome=Outcome.FAILED, code="reverted")
    assert judge(known=reverted, after_s=10_000) == (Outcome.FAILED, "reverted")


def test_a_device_that_has_just_started_has_not_reverted() -> None:
    confirmed = replace(KNOWN, outcome=Outcome.CONFIRMED)
    starting = SlotFacts(state="confirmed", confirmed_sha256=OURS, rollout=7)
    assert judge(starting, confirmed) == (Outcome.CONFIRMED, "")
    assert judge(replace(starting, running_sha256=THEIRS), confirmed)[0] is Outcome.FAILED


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (Outcome.FETCHING, (Outcome.REFUSED, "superseded")),
        (Outcome.CONFIRMED, (Outcome.REFUSED, "superseded")),
        (Outcome.FAILED, (Outcome.FAILED, "")),
        (Outcome.SILENT_AFTER, (Outcome.SILENT_AFTER, "")),
    ],
)
def test_what_others_gave_the_slot_is_not_the_releases_failure(
    known: Outcome, found: tuple[Outcome, str]
) -> None:
    reading = judge_outcome(
        replace(KNOWN, outcome=known),
        OLD,
        None,
        standpoint(0),
        sha256=OURS,
        is_held=False,
    )
    assert (reading.outcome, reading.code) == found


@pytest.mark.parametrize(
    ("outcome", "slot", "age_s", "found"),
    [
        pytest.param(Outcome.OFFERED, OLD, 599, Outcome.OFFERED, id="in time"),
        pytest.param(Outcome.OFFERED, OLD, 600, Outcome.SILENT_AFTER, id="never heard again"),
        pytest.param(
            Outcome.FETCHING, said(state="fetching"), 600, Outcome.SILENT_AFTER, id="stuck"
        ),
        pytest.param(
            Outcome.TESTING, said(state="probation"), 9_999, Outcome.PROBATION, id="just entered"
        ),
        pytest.param(
            Outcome.PROBATION, said(state="probation"), 4_199, Outcome.PROBATION, id="has its time"
        ),
        pytest.param(
            Outcome.PROBATION, said(state="probation"), 4_200, Outcome.SILENT_AFTER, id="too long"
        ),
        pytest.param(
            Outcome.SILENT_AFTER,
            said(state="failed", code="misfit"),
            9_999,
            Outcome.REFUSED,
            id="heard again",
        ),
    ],
)
def test_silence(outcome: Outcome, slot: SlotFacts, age_s: float, found: Outcome) -> None:
    assert judge(slot, replace(KNOWN, outcome=outcome), after_s=age_s)[0] is found


def test_silence_counts_only_while_the_server_listened() -> None:
    def judge_at(after_s: float) -> Outcome:
        return judge_outcome(
            KNOWN,
            OLD,
            None,
            replace(standpoint(after_s), listening_since=OFFERED_AT + timedelta(hours=8)),
            sha256=OURS,
        ).outcome

    assert judge_at(8 * 3_600 + 599) is Outcome.OFFERED
    assert judge_at(8 * 3_600 + 600) is Outcome.SILENT_AFTER


@pytest.mark.parametrize(
    "known",
    [
        Progress(outcome=Outcome.PENDING, changed_at=OFFERED_AT),
        Progress(outcome=Outcome.SILENT_BEFORE, changed_at=OFFERED_AT),
        replace(KNOWN, outcome=Outcome.SILENT_BEFORE),
        replace(KNOWN, outcome=Outcome.WITHDRAWN),
        replace(KNOWN, outcome=Outcome.REFUSED, code="misfit"),
        replace(KNOWN, outcome=Outcome.SILENT_AFTER),
    ],
    ids=lambda known: str(known.outcome),
)
def test_time_alone_changes_nothing_else(known: Progress) -> None:
    assert judge(known=known, after_s=1e6) == (known.outcome, known.code)


def test_a_refusal_of_the_whole_assignment_is_a_refusal_once_it_is_about_the_offer() -> None:
    late = Refusal(code="wrong-fleet", detail="", at=OFFERED_AT + timedelta(seconds=GRACE_S))
    assert judge(refusal=late) == (Outcome.REFUSED, "wrong-fleet")
    early = replace(late, at=OFFERED_AT + timedelta(seconds=GRACE_S - 1))
    assert judge(refusal=early) == (Outcome.OFFERED, "")
    assert judge(replace(OLD, has_newest=True), refusal=late) == (Outcome.OFFERED, "")
    assert judge(said(state="fetching"), refusal=late) == (Outcome.FETCHING, "")


def test_a_second_try_does_not_count_the_failure_of_the_first() -> None:
    second = replace(KNOWN, tries=2)
    stale = said(state="failed", code="fetch-timeout", changed_at=OFFERED_AT - timedelta(seconds=1))
    assert judge(stale, second) == (Outcome.OFFERED, "")
    assert judge(replace(stale, changed_at=OFFERED_AT), second)[0] is Outcome.FAILED
    assert judge(replace(stale, has_newest=True), second)[0] is Outcome.FAILED


@pytest.mark.parametrize(
    ("outcome", "code", "tries", "weight"),
    [
        (Outcome.PENDING, "", 0, Weight.WAITING),
        (Outcome.SILENT_BEFORE, "", 0, Weight.LEFT_OUT),
        (Outcome.OFFERED, "", 1, Weight.IN_FLIGHT),
        (Outcome.PROBATION, "", 1, Weight.IN_FLIGHT),
        (Outcome.CONFIRMED, "", 1, Weight.CONFIRMED),
        (Outcome.FAILED, "selftest-golden", 1, Weight.FAILED),
        (Outcome.FAILED, "reverted", 1, Weight.FAILED),
        (Outcome.FAILED, "disk-full", 2, Weight.WAITING),
        (Outcome.FAILED, "disk-full", 3, Weight.LEFT_OUT),
        (Outcome.REFUSED, "misfit", 1, Weight.LEFT_OUT),
        (Outcome.SILENT_AFTER, "silent", 1, Weight.FAILED),
        (Outcome.WITHDRAWN, "", 1, Weight.LEFT_OUT),
        (Outcome.RETURNED, "", 1, Weight.LEFT_OUT),
    ],
)
def test_weight(outcome: Outcome, code: str, tries: int, weight: Weight) -> None:
    assert weigh_outcome(outcome, code, tries, 3) is weight


@pytest.mark.parametrize(
    ("outcome", "code", "tries", "after_s"),
    [
        (Outcome.FAILED, "disk-full", 1, 60),
        (Outcome.FAILED, "disk-full", 2, 120),
        (Outcome.FAILED, "disk-full", 3, None),
        (Outcome.FAILED, "selftest-golden", 1, None),
        (Outcome.REFUSED, "misfit", 1, None),
        (Outcome.SILENT_AFTER, "silent", 1, None),
        (Outcome.OFFERED, "", 1, None),
    ],
)
def test_only_what_a_retry_can_help_is_tried_again(
    outcome: Outcome, code: str, tries: int, after_s: float | None
) -> None:
    known = replace(KNOWN, outcome=outcome, code=code, tries=tries)
    wanted = None if after_s is None else OFFERED_AT + timedelta(seconds=after_s)
    assert find_retry_at(known, POLICY) == wanted


@pytest.mark.parametrize(("age_s", "found"), [(899, Outcome.SHADOW), (900, Outcome.SILENT_AFTER)])
def test_a_device_that_compares_has_the_time_for_it(age_s: int, found: Outcome) -> None:
    here = standpoint(age_s)
    shadowed = replace(here, policy=replace(here.policy, shadow=ShadowPolicy(timeout_s=300)))
    known = replace(KNOWN, outcome=Outcome.TESTING)
    reading = judge_outcome(known, said(state="shadowing"), None, shadowed, sha256=OURS)
    assert reading.outcome is found
