"""Guard of the one private attribute of python-tuf that the verifier sets."""

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import ExpiredMetadataError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater

from edge_agent.adapters.tuf_metadata import ReceivedFiles, set_reference_time
from tests.support.trust import NOW, TrustWorld

ROOT = Path(__file__).parents[3]


def test_python_tuf_still_takes_the_time_from_us(tmp_path: Path) -> None:
    world = TrustWorld(tmp_path)
    files = world.refresh()
    expires = Metadata[Root].from_bytes(world.pinned_root).signed.expires
    for now_at, is_expired in ((NOW, False), (expires + timedelta(seconds=1), True)):
        updater = Updater(
            metadata_dir=str(tmp_path),
            metadata_base_url="memory:",
            fetcher=ReceivedFiles(files),
            bootstrap=world.pinned_root,
        )
        before = updater._trusted_set.reference_time
        assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
        set_reference_time(updater, now_at)
        if is_expired:
            with pytest.raises(ExpiredMetadataError, match="root"):
                updater.refresh()
        else:
            updater.refresh()


def test_nothing_else_reaches_into_python_tuf() -> None:
    """Private names may change in any release; of modules that use tuf, one function has one."""
    found = {
        (path.name, name)
        for path in _sources_that_use_tuf()
        for name in _foreign_private_names(path.read_text())
    }
    assert found == {("tuf_metadata.py", "_trusted_set")}
    source = (ROOT / "edge_agent" / "adapters" / "tuf_metadata.py").read_text()
    assert source.count("_trusted_set") == 1


def test_the_guard_finds_what_it_is_for() -> None:
    source = "import tuf\nfrom tuf.ngclient._internal import x\nupdater._dir\nself._mine\n"
    assert _foreign_private_names(source) == {"tuf.ngclient._internal", "_dir"}


def _sources_that_use_tuf() -> list[Path]:
    return [
        path
        for package in ("edge_agent", "fleet_server", "simulators", "converters")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(?:from|import) tuf\b", path.read_text(), re.MULTILINE)
    ]


def _foreign_private_names(source: str) -> set[str]:
    """Private attributes of anything but ``self`` and the module's own, and private modules."""
    tree = ast.parse(source)
    own = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tuf"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found |= {node.module for name in names if _is_private(name)}
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
