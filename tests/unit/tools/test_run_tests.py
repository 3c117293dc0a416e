"""The second try of a failed test of real processes: where it is given, and what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.run_tests import AGAIN_MAX, is_tried_again

RUNNER = Path(__file__).parents[3] / "tools" / "run_tests.py"
ONLY_XDIST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
"""The runner asks for one process; what other plugins load is not what is tried here."""


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("assert marker.exists() or marker.touch()", 0, "UNSTEADY"),
        ("assert not marker.touch() and False", 1, "Once more, alone"),
    ],
)
def test_one_that_fails_is_tried_once_more(tmp_path: Path, body: str, code: int, told: str) -> None:
    folder = tmp_path / "tests" / "e2e"
    folder.mkdir(parents=True)
    lines = [
        "import pathlib",
        "marker = pathlib.Path('marker')",
        f"def test_it():\n    {body}",
        "def test_other():\n    with open('other', 'a') as file:\n        file.write('x')",
    ]
    (folder / "test_it.py").write_text("\n".join(lines))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run(
        [sys.executable, RUNNER, "-q"],
        cwd=tmp_path,
        env={**os.environ, **ONLY_XDIST},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    assert ("UNSTEADY" in ended.stdout) == (code == 0)
    last = [line for line in ended.stdout.splitlines() if told in line][-1]
    assert last.endswith("tests/e2e/test_it.py::test_it")
    assert (tmp_path / "other").read_text() == "x", "what passed is not run again"


def test_no_second_try_for_many_or_for_tests_without_processes() -> None:
    steady = "tests/unit/core/test_a.py::test_b"
    late = [f"tests/e2e/test_a.py::test_{number}" for number in range(AGAIN_MAX + 1)]
    assert is_tried_again(late[:AGAIN_MAX])
    assert not is_tried_again(late)
    assert not is_tried_again([steady])
    assert not is_tried_again([late[0], steady])
    assert not is_tried_again([])
