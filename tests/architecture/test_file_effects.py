"""Every file effect of the agent is one of ``adapters/files.py``; the exceptions have a reason.

What power-cut tests do not see they cannot prove, so nothing else may change the disk.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEAM = "edge_agent/adapters/files.py"
EXCEPTIONS = {
    ("edge_agent/adapters/outbox.py", "sqlite3.connect"): "SQLite keeps its own file",
    ("edge_agent/adapters/tuf_metadata.py", ".mkdir"): "python-tuf's own folder: verified when"
    " it is read, fetched again when it does not pass",
    ("edge_agent/adapters/tuf_metadata.py", ".unlink"): "the same folder",
    ("edge_agent/adapters/log_file.py", "logging.handlers"): "no log need survive",
    ("edge_agent/adapters/log_file.py", ".unlink"): "no log need survive",
    ("edge_agent/adapters/log_file.py", ".chmod"): "no log need survive",
    ("edge_agent/adapters/control_socket.py", "os.chmod"): "a socket, made anew at each start",
    ("edge_agent/answer_output.py", ".open"): "a table a person asked for",
    ("edge_agent/answer_output.py", ".replace"): "a table a person asked for",
    ("edge_agent/answer_output.py", ".unlink"): "a table a person asked for",
    ("edge_agent/local_camera.py", ".unlink"): "a camera's frames, in a folder that is not ours",
    ("edge_agent/local_status.py", "sqlite3.connect"): "opened to be read",
}
OS_CALLS = {
    *("write", "writev", "pwrite", "pwritev", "truncate", "ftruncate", "rename", "renames"),
    *("replace", "unlink", "remove", "removedirs", "rmdir", "mkdir", "makedirs", "link", "symlink"),
    *("fsync", "fdatasync", "sync", "mknod", "mkfifo", "chmod", "fchmod", "chown", "fchown"),
    *("utime", "posix_fallocate", "sendfile", "copy_file_range", "splice", "setxattr"),
}
PATH_CALLS = {
    *("write_text", "write_bytes", "unlink", "mkdir", "rmdir", "touch", "rename", "chmod"),
    *("symlink_to", "hardlink_to", "tofile", "savetxt", "copy_into", "move_into"),
}
MODULES = {
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree", "chown"},
    "sqlite3": {"connect"},
    "logging": {"FileHandler"},
}
WHOLE_MODULES = {"tempfile", "logging.handlers", "dbm", "shelve"}
READ_FLAGS = {"O_PATH", "O_RDONLY", "O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"}


def python_files() -> list[Path]:
    return sorted((ROOT / "edge_agent").rglob("*.py"))


def find_effects(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name in WHOLE_MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from _of_names(node)
        elif isinstance(node, ast.Call):
            effect = _of_call(node)
            if effect:
                yield node.lineno, effect


def _of_names(node: ast.ImportFrom) -> Iterator[tuple[int, str]]:
    module = str(node.module)
    banned = MODULES.get(module, OS_CALLS | {"open"} if module == "os" else set())
    for alias in node.names:
        name = f"{module}.{alias.name}"
        if module in WHOLE_MODULES or alias.name in banned or name in WHOLE_MODULES:
            yield node.lineno, name


def _of_call(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Name):
        return "open" if function.id == "open" and _writes(call, at=1) else ""
    if not isinstance(function, ast.Attribute):
        return ""
    owner, name = ast.unparse(function.value), function.attr
    if owner == "os":
        return _of_os(call, name)
    # ``str.replace`` takes two arguments, ``datetime.replace`` names them.
    is_renamed = name == "replace" and len(call.args) == 1 and not call.keywords
    # Others of that name take no mode for writing, or a file that was opened elsewhere.
    is_opened = name == "open" and _writes(call, at=0)
    if name in PATH_CALLS or is_renamed or is_opened:
        return f".{name}"
    return f"{owner}.{name}" if name in MODULES.get(owner, ()) else ""


def _of_os(call: ast.Call, name: str) -> str:
    flags = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
    is_writing = not {flag for flag in flags if flag.startswith("O_")} <= READ_FLAGS
    return f"os.{name}" if name in OS_CALLS or (name == "open" and is_writing) else ""


def _writes(call: ast.Call, *, at: int) -> bool:
    modes = [k.value for k in call.keywords if k.arg == "mode"] or call.args[at : at + 1]
    if not modes or any(k.arg == "fileobj" for k in call.keywords):
        return False
    mode = modes[0]
    if isinstance(mode, ast.Constant):
        return isinstance(mode.value, str) and bool(set(mode.value) & set("wax+"))
    return at == 1  # a mode that is worked out: of ``open`` it counts as writing


def test_nothing_beside_the_seam_changes_the_disk() -> None:
    found, used = [], set()
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        if name == SEAM:
            continue
        for line, effect in find_effects(ast.parse(path.read_text())):
            if (name, effect) in EXCEPTIONS:
                used.add((name, effect))
            else:
                found.append(f"{name}:{line}: {effect} belongs into {SEAM}")
    assert found == []
    assert used == set(EXCEPTIONS), "an exception is not needed any more"


def test_the_seam_changes_the_disk_through_os_alone() -> None:
    allowed = {"tempfile", ".write_text"}  # a scratch file and /proc, which no power cut concerns
    effects = {effect for _, effect in find_effects(ast.parse((ROOT / SEAM).read_text()))}
    assert {e for e in effects if not e.startswith("os.")} == allowed


@pytest.mark.parametrize(
    "code",
    [
        *("open(p, 'w')", "open(p, mode='ab')", "open(p, how)", "p.open('wb')", "p.open('r+b')"),
        *("p.write_text('x')", "p.unlink()", "p.rename(q)", "p.replace(q)", "p.mkdir()"),
        *("os.open(p, os.O_WRONLY | os.O_CREAT)", "os.replace(p, q)", "os.fsync(f)"),
        *("os.ftruncate(f, 0)", "shutil.rmtree(p)", "import tempfile", "from os import unlink"),
        *("from shutil import copy", "sqlite3.connect(p)", "logging.FileHandler(p)"),
        *("from logging.handlers import RotatingFileHandler", "import logging.handlers"),
    ],
)
def test_the_search_finds_an_effect(code: str) -> None:
    assert list(find_effects(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        *("open(p)", "open(p, 'rb')", "p.open('rb')", "store.open(sha256, size)", "p.read_bytes()"),
        *("'a'.replace('b', 'c')", "now.replace(tzinfo=None)", "replace(slot, boots=0)"),
        *(
            "os.open(p, os.O_RDONLY | os.O_CLOEXEC)",
            "shutil.disk_usage(p)",
            "os.access(p, os.R_OK)",
        ),
    ],
)
def test_reading_is_no_effect(code: str) -> None:
    assert not list(find_effects(ast.parse(code)))
