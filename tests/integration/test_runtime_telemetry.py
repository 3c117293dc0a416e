"""The runtime's own telemetry is off wherever we load it: no id on disk, nobody to send to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SENDING = ("CI", "ORT_", "TF_BUILD", "GITHUB_", "PYTEST")
"""Variables that decide about it, or by which the runtime believes to be tested."""


def load(home: Path, program: str, **environment: str) -> list[str]:
    """Run a program that loads the runtime; return what it left at home."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SENDING)}
    subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, **environment, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")},
        check=True,
        timeout=60,
    )
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "program",
    [
        "import edge_agent.adapters.calibration_child",
        "import converters.runtime",
        "import edge_agent.adapters.onnx_model_runner, onnxruntime",
    ],
)
def test_loading_the_runtime_by_way_of_us_leaves_no_trace(tmp_path: Path, program: str) -> None:
    assert load(tmp_path / "home", program) == []


def test_loaded_by_itself_it_leaves_one_which_is_why_we_ask(tmp_path: Path) -> None:
    assert any("deviceid" in name for name in load(tmp_path / "home", "import onnxruntime"))


def test_who_has_decided_otherwise_is_not_overruled(tmp_path: Path) -> None:
    program = "import converters.runtime"
    assert load(tmp_path / "home", program, ORT_DISABLE_TELEMETRY="0") != []
