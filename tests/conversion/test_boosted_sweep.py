"""LightGBM and XGBoost models are exact, repaired or refused, as the documentation says."""

import pytest

from tests.conversion.catalog import COMMAND, find_rows, write_rows
from tests.support.sweep_boosted import BOOSTED, judge_boosted, list_boosted


@pytest.mark.timeout(600)
def test_the_table_of_boosted_trees_is_what_happens() -> None:
    outcomes = [judge_boosted(case) for case in list_boosted()]
    assert write_rows(outcomes) == find_rows(BOOSTED), f"run {COMMAND}"
