"""The tree keeps its shape: sizes, light packages, no addresses where none belong."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("device_profiles", "edge_agent", "converters", "fleet_server", "simulators")
LINES_MAX = 400
ADDRESS = re.compile(
    r"https?://(?!127\.0\.0\.1|localhost|\{|json-schema\.org|www\.w3\.org/2000/svg)[\w.-]+"
)


def python_files() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_small_enough_to_be_read_at_once(path: Path) -> None:
    if "migrations/versions" in path.as_posix():
        return
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize(
    "path",
    [p for p in python_files() if p.name == "__init__.py"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_package_imports_nothing_when_it_is_imported(path: Path) -> None:
    if path.parent.name == "cli":
        return  # the root of the command line mounts its nouns
    imports = [
        line for line in path.read_text().splitlines() if line.startswith(("import", "from"))
    ]
    loads_the_runtime = path.parent.name in ("edge_agent", "converters")
    assert imports == (["import os"] if loads_the_runtime else []), "os: to keep the runtime quiet"


@pytest.mark.parametrize("name", ["agent.txt", "server.txt", "dev.txt"])
def test_pinned_lists_carry_versions_and_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert pinned
    assert all("==" in line for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)


def test_the_code_names_no_outside_address() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in python_files()
        for match in ADDRESS.finditer(path.read_text())
    ]
    assert found == []


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_every_tracked_script_that_is_run_is_executable() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-s", ".ci/run", "tools/setup_system.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(line.startswith("100755") for line in listed.splitlines())
