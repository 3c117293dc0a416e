"""The two banks: the confirmed one is never written, and there is always a way back."""

from dataclasses import replace

import pytest

from edge_agent.contract.package import OnWithdrawn
from edge_agent.core.banks import (
    Bank,
    Banks,
    clear,
    confirm,
    lose_confirmed,
    place_candidate,
    rename_confirmed,
)
from edge_agent.core.release import Package
from tests.support.agent import a_release


def package(name: str, *, is_proven: bool = False) -> Package:
    return Package(target=f"m/{name}/p.tar", sha256=name * 64, is_proven=is_proven)


NINE = replace(a_release(9), target="m/9/p.tar", on_withdrawn=OnWithdrawn.KEEP)
ONE, TWO, THREE = package("1"), package("2"), package("3")


def test_the_first_candidate_goes_to_bank_a() -> None:
    banks, bank = place_candidate(Banks(), ONE, running=None)
    assert (bank, banks.a, banks.confirmed) == (Bank.A, ONE, None)


def test_a_candidate_never_takes_the_confirmed_bank() -> None:
    for confirmed in Bank:
        banks = confirm(Banks(a=ONE, b=TWO), confirmed)
        after, bank = place_candidate(banks, THREE, running=None)
        assert bank is confirmed.other
        assert after.confirmed_package == banks.confirmed_package


def test_without_a_confirmed_package_the_answering_one_is_spared() -> None:
    _, bank = place_candidate(Banks(a=ONE), TWO, running=ONE.sha256)
    assert bank is Bank.B


def test_a_candidate_already_in_a_bank_stays_there() -> None:
    banks = confirm(Banks(a=ONE, b=TWO), Bank.A)
    assert place_candidate(banks, TWO, running=None)[1] is Bank.B


def test_the_confirmed_package_cannot_be_a_candidate() -> None:
    with pytest.raises(ValueError, match="confirmed"):
        place_candidate(confirm(Banks(a=ONE), Bank.A), ONE, running=None)


def test_confirming_keeps_the_former_package_as_a_fallback() -> None:
    banks = confirm(confirm(Banks(a=ONE, b=TWO), Bank.A), Bank.B)
    assert banks.confirmed_package == package("2", is_proven=True)
    assert banks.a == package("1", is_proven=True)


def test_an_empty_bank_cannot_be_confirmed_and_the_confirmed_one_not_emptied() -> None:
    with pytest.raises(ValueError, match="empty"):
        confirm(Banks(), Bank.A)
    with pytest.raises(ValueError, match="confirmed"):
        clear(confirm(Banks(a=ONE), Bank.A), Bank.A)
    with pytest.raises(ValueError, match="empty"):
        Banks(confirmed=Bank.B)


def test_damaged_confirmed_bytes_fall_back_to_a_proven_package_only() -> None:
    proven = confirm(confirm(Banks(a=ONE, b=TWO), Bank.A), Bank.B)
    assert lose_confirmed(proven).confirmed_package == package("1", is_proven=True)
    unproven = confirm(Banks(a=ONE, b=TWO), Bank.A)
    assert lose_confirmed(unproven).confirmed is None
    assert lose_confirmed(unproven).b == TWO
    assert lose_confirmed(Banks(a=ONE)) == Banks(a=ONE)


def test_renaming_touches_only_the_name() -> None:
    banks = rename_confirmed(confirm(Banks(a=ONE), Bank.A), NINE)
    assert banks.a is not None
    assert (banks.a.target, banks.a.sha256) == ("m/9/p.tar", ONE.sha256)
    assert banks.a.on_withdrawn is OnWithdrawn.KEEP
    assert rename_confirmed(Banks(b=TWO), NINE) == Banks(b=TWO)


def test_digests_name_every_blob_that_must_stay() -> None:
    assert Banks(a=ONE, b=TWO).digests == {ONE.sha256, TWO.sha256}
    assert Banks().digests == frozenset()
