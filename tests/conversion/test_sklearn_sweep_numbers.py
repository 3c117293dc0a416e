"""Every other estimator of scikit-learn is exact, repaired or refused, as documented."""

import pytest
from sklearn.utils import all_estimators

from converters.sources import list_notes
from tests.conversion.catalog import (
    COMMAND,
    PAGE,
    SOURCES_HEADING,
    find_rows,
    find_section,
    write_rows,
    write_sources,
)
from tests.support.sweep import judge
from tests.support.sweep_cases import GROUPS, NUMBERS, OTHERS, OUTLIERS, SEVERAL, STEPS, list_cases


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [NUMBERS, SEVERAL, OUTLIERS, GROUPS, STEPS, OTHERS])
def test_the_table_is_what_happens(kind: str) -> None:
    outcomes = [judge(case) for case in list_cases((kind,))]
    assert write_rows(outcomes) == find_rows(kind), f"run {COMMAND}"
    assert outcomes


def test_every_estimator_of_scikit_learn_has_a_row() -> None:
    assert {case.name for case in list_cases()} == {name for name, _ in all_estimators()}


def test_the_table_of_sources_is_what_they_say() -> None:
    section = find_section(PAGE.read_text(), SOURCES_HEADING)
    assert section == write_sources(list_notes()), f"run {COMMAND}"
