"""Look at this device for ``edge-agent doctor``: system, libraries, disk, rights, memory.

Nothing here needs an identity, and nothing is imported that the look is about: numpy and
onnxruntime are tried in a child process, because a build for another processor kills who loads it.
"""

import contextlib
import os
import platform
import shutil
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_agent.adapters.capability_probe import find_ram_bytes
from edge_agent.adapters.child_process import ChildEnd, run_child, say_status
from edge_agent.adapters.files import remove_file, write_durable
from edge_agent.core.checkup import (
    SUPPORTED,
    Check,
    Level,
    Platform,
    judge_disk,
    judge_memory,
    judge_platform,
)
from edge_agent.errors import StorageError

IMPORT_TIMEOUT_S = 60.0
OUTPUT_BYTES_MAX = 4_096
TRIALS: Mapping[str, str] = {
    "libraries": (
        "import cryptography.x509, paho.mqtt, securesystemslib, tuf;"
        "print('cryptography', cryptography.__version__)"
    ),
    "numpy": "import numpy; numpy.ones((8, 8)) @ numpy.ones((8, 8)); print(numpy.__version__)",
    "runtime": (
        "import numpy, onnxruntime; from edge_agent.adapters.tiny_model import tiny_model;"
        "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1;"
        "session = onnxruntime.InferenceSession(tiny_model(ir=7, opset=13), options,"
        " providers=['CPUExecutionProvider']); session.run(None, {'x': numpy.ones(1, 'f4')});"
        "print('onnxruntime', onnxruntime.__version__)"
    ),
}
"""What is tried, each in a process of its own; it prints what it found."""
PROBE_FILE = "doctor.tmp"
_READ_MAX = 65_536


def check_platform() -> list[Check]:
    """Judge Python, machine, C library and processor."""
    libc, libc_version = platform.libc_ver()
    return judge_platform(
        Platform(
            python=(sys.version_info.major, sys.version_info.minor),
            implementation=platform.python_implementation(),
            machine=platform.machine(),
            bits=64 if sys.maxsize > 2**32 else 32,
            libc=libc,
            libc_version=libc_version,
            flags=_read_flags(Path("/proc/cpuinfo")),
        )
    )


def check_libraries(
    trials: Mapping[str, str] = TRIALS, *, timeout_s: float = IMPORT_TIMEOUT_S
) -> Iterator[Check]:
    """Try each library in a child process; one that kills the child is named with its signal."""
    for name, program in trials.items():
        command = (sys.executable, "-X", "utf8", "-c", program)
        end = run_child(command, timeout_s=timeout_s, output_bytes_max=OUTPUT_BYTES_MAX)
        if end.status == 0:
            found = end.output.decode(errors="replace").strip()[:80]
            yield Check(name=name, level=Level.OK, detail=f"{found} runs here")
        else:
            yield _judge_death(name, end, timeout_s)


def check_directory(directory: Path) -> Iterator[Check]:
    """Look at room, rights and owners of the agent's directory, or of where it will be made."""
    try:
        there = next(p for p in (directory, *directory.parents) if p.exists())
    except OSError as error:
        detail = f"{directory} cannot be looked at: {error.strerror}"
        step = "use the agent's account, or choose another --dir"
        yield Check(name="directory", level=Level.BAD, detail=detail, next_step=step)
        return
    yield _check_room(there)
    if there != directory:
        is_ok = os.access(there, os.W_OK | os.X_OK)
        detail = f"{directory} is not there yet and can {'' if is_ok else 'not '}be made in {there}"
        step = "" if is_ok else "choose another --dir, or make it for the agent's account"
        level = Level.OK if is_ok else Level.BAD
        yield Check(name="directory", level=level, detail=detail, next_step=step)
        return
    yield _check_writable(directory)
    yield _check_rights(directory)


def check_memory(profile_bytes: int | None) -> Check:
    """Judge the memory by what the profile says, or by what a small model needs."""
    return judge_memory(
        total_bytes=find_ram_bytes(),
        free_bytes=_read_available(Path("/proc/meminfo")),
        profile_bytes=profile_bytes,
    )


def _judge_death(name: str, end: ChildEnd, timeout_s: float) -> Check:
    step = "install it anew: pip install --force-reinstall 'edgefleet[agent]'"
    if end.status is None:
        detail = f"did not come up in {timeout_s:.0f} s; is the device this slow, or its disk?"
    elif end.status == -signal.SIGILL:
        detail = "illegal instruction: this build is for another processor than this one"
        step = f"pin a release that runs here; {SUPPORTED}"
    elif end.status < 0:
        detail = f"the process that loaded it {say_status(end.status)}"
        step = f"try another release; {SUPPORTED}"
    else:
        detail = end.last_words
    return Check(name=name, level=Level.BAD, detail=detail, next_step=step)


def _check_room(there: Path) -> Check:
    facts = os.statvfs(there)
    inodes = facts.f_favail if facts.f_files else None  # some file systems count none
    return judge_disk(str(there), free_bytes=shutil.disk_usage(there).free, free_inodes=inodes)


def _check_writable(directory: Path) -> Check:
    path = directory / PROBE_FILE
    try:
        write_durable(path, b"x" * 4_096)
        remove_file(path)
    except StorageError as error:
        step = "is it mounted read-only, full, or another account's? use the agent's account"
        return Check(name="directory", level=Level.BAD, detail=error.detail, next_step=step)
    return Check(name="directory", level=Level.OK, detail=f"{directory} can be written")


def _check_rights(directory: Path) -> Check:
    problems = list(_find_rights_problems(directory))
    if problems:
        detail, step = problems[0]
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        return Check(name="rights", level=Level.BAD, detail=detail + more, next_step=step)
    return Check(name="rights", level=Level.OK, detail="keys are private, all is one account's")


def _find_rights_problems(directory: Path) -> Iterator[tuple[str, str]]:
    owner = directory.stat().st_uid
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield f"others may write into {directory}", f"chmod 700 {directory}"
    for path in sorted([*directory.glob("*"), *directory.glob("identity/*")]):
        with contextlib.suppress(FileNotFoundError):  # an agent that runs removes some
            facts = path.lstat()
            if facts.st_uid != owner:
                yield (
                    f"{path} belongs to account {facts.st_uid}, the directory to {owner}",
                    f"chown -R {owner} {directory}, and run edge-agent as that account",
                )
            if path.suffix == ".key" and facts.st_mode & 0o077:
                yield f"others may read the key {path}", f"chmod 600 {path}"


def _read_flags(path: Path) -> frozenset[str]:
    with contextlib.suppress(OSError), path.open() as file:
        for line in file.read(_READ_MAX).splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def _read_available(path: Path) -> int | None:
    with contextlib.suppress(OSError), path.open() as file:
        for line in file.read(_READ_MAX).splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable" and value.split()[:1]:
                return int(value.split()[0]) * 1_024
    return None
