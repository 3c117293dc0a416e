"""A person on the device goes back: to what, what of the rest goes on, and when it is refused."""

from dataclasses import replace
from typing import Any

import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core.effects import Activate, CancelFetch, Fetch
from edge_agent.core.events import (
    ActivationFailed,
    Answering,
    Assigned,
    Booted,
    Fetched,
    FetchStarted,
    Observed,
    OperatorRollback,
    SelfTested,
    Verified,
    Withdrawn,
)
from edge_agent.core.operator_rollback import find_rollback_problem
from edge_agent.core.release import Release
from edge_agent.core.slot import Slot
from edge_agent.core.update_machine import step
from tests.support.agent import GOOD_STATS, a_release

ONE, TWO, THREE = a_release(1), a_release(2), a_release(3)
NOW = 1_000.0


def tell(slot: Slot, *events: Any) -> tuple[Slot, list[Any]]:
    effects: list[Any] = []
    for event in events:
        slot, effects = step(slot, event)
    return slot, effects


def fetching(slot: Slot, release: Release) -> Slot:
    slot, _ = tell(slot, Assigned(release, NOW))
    return tell(slot, FetchStarted(slot.attempt, NOW))[0]


def candidate_of(slot: Slot, release: Release, *, code: Code | None = None) -> Slot:
    slot = fetching(slot, release)
    slot, _ = tell(slot, Fetched(slot.attempt, NOW))
    slot, _ = tell(slot, Verified(slot.attempt, NOW))
    return tell(slot, SelfTested(slot.attempt, code, "", NOW))[0]


def confirmed(slot: Slot, release: Release) -> Slot:
    slot, _ = tell(candidate_of(slot, release), Answering(release.target, release.sha256, NOW))
    return tell(slot, Observed(GOOD_STATS, 10.0, NOW + 61))[0]


@pytest.fixture
def both() -> Slot:
    return confirmed(confirmed(Slot(), ONE), TWO)


def answers(slot: Slot, release: Release) -> Slot:
    return tell(slot, Answering(release.target, release.sha256, NOW))[0]


def test_the_former_package_is_asked_and_what_was_left_stays_away(both: Slot) -> None:
    slot, effects = tell(both, OperatorRollback(NOW))
    assert slot.phase is Phase.ROLLING_BACK
    assert [e.package.sha256 for e in effects if isinstance(e, Activate)] == [ONE.sha256]
    slot = answers(slot, ONE)
    assert (slot.phase, slot.code) == (Phase.FAILED, Code.OPERATOR_ROLLBACK)
    assert slot.banks.confirmed_package is not None
    assert slot.banks.confirmed_package.sha256 == ONE.sha256
    assert f"from {TWO.target} to {ONE.target}" in slot.detail
    again, effects = tell(slot, Assigned(replace(TWO, rollout=9), NOW))
    assert again.code is Code.KNOWN_BAD
    assert not [e for e in effects if isinstance(e, Fetch)]
    retried, effects = tell(slot, Assigned(replace(TWO, retry=1), NOW))
    assert retried.phase is Phase.OFFERED


def test_a_probation_ends_and_the_confirmed_package_answers(both: Slot) -> None:
    slot = answers(candidate_of(both, THREE), THREE)
    slot, effects = tell(slot, OperatorRollback(NOW))
    assert [e.package.sha256 for e in effects if isinstance(e, Activate)] == [TWO.sha256]
    slot = answers(slot, TWO)
    assert (slot.phase, slot.code) == (Phase.FAILED, Code.OPERATOR_ROLLBACK)
    assert slot.candidate is None


def test_an_update_under_way_goes_on_after_the_switch(both: Slot) -> None:
    slot, effects = tell(fetching(both, THREE), OperatorRollback(NOW))
    assert isinstance(effects[0], CancelFetch)
    slot, effects = tell(slot, Answering(ONE.target, ONE.sha256, NOW))
    assert slot.phase is Phase.OFFERED
    assert [e.release.sha256 for e in effects if isinstance(e, Fetch)] == [THREE.sha256]
    slot = confirmed(slot, THREE)
    assert slot.phase is Phase.CONFIRMED


def test_an_update_withdrawn_meanwhile_does_not_go_on(both: Slot) -> None:
    slot, _ = tell(fetching(both, THREE), OperatorRollback(NOW))
    slot, _ = tell(slot, Withdrawn(frozenset({THREE.key}), NOW))
    slot, effects = tell(slot, Answering(ONE.target, ONE.sha256, NOW))
    assert (slot.phase, slot.code) == (Phase.FAILED, Code.WITHDRAWN)
    assert not [e for e in effects if isinstance(e, Fetch)]


@pytest.mark.parametrize("code", [Code.SELFTEST_LOAD, Code.BLOB_HASH], ids=str)
def test_what_does_not_load_is_no_way_back(both: Slot, code: Code) -> None:
    slot, _ = tell(both, OperatorRollback(NOW))
    slot, effects = tell(slot, ActivationFailed(ONE.sha256, code, "no", NOW))
    assert [e.package.sha256 for e in effects if isinstance(e, Activate)] == [TWO.sha256]
    slot = answers(slot, TWO)
    assert (slot.phase, slot.code) == (Phase.CONFIRMED, None)
    assert slot.detail == (
        f"an operator's rollback to {ONE.target} failed ({code}); it goes on with {TWO.target}"
    )
    assert (ONE.sha256 in slot.banks.digests) == (code is Code.SELFTEST_LOAD)
    assert tell(slot, Assigned(TWO, NOW))[0].phase is Phase.CONFIRMED


def test_a_power_cut_in_the_switch_ends_the_same_way(both: Slot) -> None:
    slot, _ = tell(both, OperatorRollback(NOW))
    slot, effects = tell(slot, Booted(0.0))
    assert [e.package.sha256 for e in effects if isinstance(e, Activate)] == [ONE.sha256]
    assert answers(slot, ONE).code is Code.OPERATOR_ROLLBACK
    slot, effects = tell(slot, ActivationFailed(ONE.sha256, Code.SELFTEST_LOAD, "no", NOW))
    assert [e.package.sha256 for e in effects if isinstance(e, Activate)] == [TWO.sha256]


def test_it_is_refused_with_the_next_step(both: Slot) -> None:
    first = confirmed(Slot(), ONE)
    switching, _ = tell(both, OperatorRollback(NOW))
    withdrawn, _ = tell(both, Withdrawn(frozenset({ONE.key}), NOW))
    cases = {
        "nothing was ever confirmed": fetching(Slot(), ONE),
        f"no version confirmed before {ONE.target}": first,
        f"no version confirmed before {TWO.target}": withdrawn,
        f"{TWO.target} failed here before": answers(switching, ONE),
        "rolling back already": switching,
    }
    for words, slot in cases.items():
        assert words in find_rollback_problem(slot), words
        assert tell(slot, OperatorRollback(NOW)) == (slot, [])


def test_a_self_test_that_failed_leaves_the_way_back(both: Slot) -> None:
    slot, _ = tell(candidate_of(both, THREE, code=Code.SELFTEST_GOLDEN), OperatorRollback(NOW))
    slot = answers(slot, ONE)
    assert (slot.phase, slot.code) == (Phase.FAILED, Code.OPERATOR_ROLLBACK)
