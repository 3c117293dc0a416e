"""PyTorch modules and programs are exact or refused, as the documentation says."""

import pytest

from tests.conversion.catalog import COMMAND, find_rows, write_rows
from tests.support.sweep_torch import TORCH, judge_torch, list_torch

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_the_table_of_torch_modules_is_what_happens() -> None:
    outcomes = [judge_torch(case) for case in list_torch()]
    assert write_rows(outcomes) == find_rows(TORCH), f"run {COMMAND}"
