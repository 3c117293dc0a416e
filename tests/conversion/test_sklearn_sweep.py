"""Every classifier of scikit-learn is exact, repaired or refused, as the documentation says."""

import pytest

from tests.conversion.catalog import COMMAND, find_rows, write_rows
from tests.support.sweep import judge
from tests.support.sweep_cases import CLASSES, LABELS, PAIR, list_cases


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [CLASSES, PAIR])
def test_the_table_of_classifiers_is_what_happens(kind: str) -> None:
    outcomes = [judge(case) for case in list_cases((kind,))]
    assert write_rows(outcomes) == find_rows(kind), f"run {COMMAND}"
    assert len(outcomes) >= 40


def test_the_table_of_several_labels_is_what_happens() -> None:
    outcomes = [judge(case) for case in list_cases((LABELS,))]
    assert write_rows(outcomes) == find_rows(LABELS), f"run {COMMAND}"
    assert {one.name: one.verdict for one in outcomes}.items() >= {
        *{"MultiOutputClassifier": "exact", "ClassifierChain": "exact"}.items()
    }
