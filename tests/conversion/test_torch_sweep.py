"""PyTorch modules and programs are exact or refused, as the documentation says."""

from importlib.util import find_spec

import pytest

from tests.conversion.catalog import COMMAND, find_rows, write_rows
from tests.support.sweep_torch import TORCH, judge_torch, list_torch

pytestmark = [
    # Not imported here: every process of a test run collects this file.
    pytest.mark.skipif(find_spec("torch") is None, reason="needs torch"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_the_table_of_torch_modules_is_what_happens() -> None:
    outcomes = [judge_torch(case) for case in list_torch()]
    assert write_rows(outcomes) == find_rows(TORCH), f"run {COMMAND}"
