"""Reads the agent's own log file, the rotated ones before it included, and follows it."""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TextIO

from edge_agent.errors import AgentError
from edge_agent.settings import AgentSettings

LINES_MAX = 100_000
POLL_S = 0.3
_PIECE = 65_536


def find_log(directory: Path, settings: AgentSettings) -> Path:
    """Return where the log file is; raises AgentError when the settings ask for none."""
    if not settings.log_file:
        raise AgentError(
            f'no log_file is set, so the log goes to standard error; put log_file = "agent.log"'
            f" into {directory / 'agent.toml'} and restart the agent, or, under systemd, read"
            " journalctl -u edge-agent"
        )
    return directory / settings.log_file


def read_last(path: Path, lines: int, *, files_kept: int) -> list[str]:
    """Return the last lines, oldest first, from the file and as many older ones as needed."""
    kept: list[str] = []
    for n in range(files_kept + 1):
        older = path if n == 0 else path.with_name(f"{path.name}.{n}")
        if len(kept) >= lines:
            break
        try:
            with older.open(encoding="utf-8", errors="replace") as file:
                kept = [*deque(_lines(file), lines - len(kept)), *kept]
        except FileNotFoundError:
            break
    return kept


def follow(path: Path, stop: Event) -> Iterator[str]:
    """Yield lines as they are written from this call on, over rotations, until ``stop`` is set."""
    file = _open(path)
    if file is not None:
        file.seek(0, 2)
    return _follow(path, file, stop)


def _follow(path: Path, file: TextIO | None, stop: Event) -> Iterator[str]:
    rest = ""
    try:
        while True:
            piece = file.read(_PIECE) if file is not None else ""
            if piece:
                *whole, rest = (rest + piece).split("\n")
                yield from whole
                continue
            if file is None or _is_replaced(path, file):
                if file is not None:
                    *whole, rest = (rest + file.read()).split("\n")
                    yield from whole
                    file.close()
                file = _open(path)
                if file is not None:
                    continue
            if stop.wait(POLL_S):
                return
    finally:
        if file is not None:
            file.close()


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_PIECE):
        yield line.rstrip("\n")


def _open(path: Path) -> TextIO | None:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_replaced(path: Path, file: TextIO) -> bool:
    """Tell whether the name means another file by now; what is left of this one was read."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
