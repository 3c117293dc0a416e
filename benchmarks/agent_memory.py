"""Resident memory of a group of processes, shared pages counted once.

Anonymous pages are each process's own. Pages of files (libraries, mostly) are shared by every
process that maps the same part of the same file: of them the largest count in the group is taken.
So the figure neither counts a library twice nor depends, as ``Pss`` does, on what other programs of
the machine happen to map.
"""

from collections.abc import Iterable
from pathlib import Path

MEBI = 1_048_576
_KIBI = 1_024


def group_bytes(pids: Iterable[int]) -> int:
    """Return what a group of processes holds, bytes; one that has ended counts nothing."""
    own, shared = 0, dict[tuple[str, str], int]()
    for pid in pids:
        anonymous, files = read_maps(pid)
        own += anonymous
        for part, size in files.items():
            shared[part] = max(size, shared.get(part, 0))
    return own + sum(shared.values())


def read_maps(pid: int) -> tuple[int, dict[tuple[str, str], int]]:
    """Return anonymous bytes, and bytes of files by (file, offset)."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return 0, {}
    own, files, part, rss = 0, dict[tuple[str, str], int](), ("", ""), 0
    for line in lines:
        words = line.split()
        match words[0]:
            case "Rss:":
                rss = int(words[1]) * _KIBI
            case "Anonymous:":
                anonymous = int(words[1]) * _KIBI
                own += anonymous
                files[part] = files.get(part, 0) + rss - anonymous
            case word if "-" in word and not word.endswith(":"):
                part = (words[5] if len(words) > 5 else "", words[2])
    return own, files


def rss_bytes(pid: int) -> int:
    """Return the resident memory of one process, bytes."""
    own, files = read_maps(pid)
    return own + sum(files.values())


def descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(") ", 1)[1].split()
        except (OSError, IndexError):
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting.extend(children.get(found[-1], ()))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time these have used, seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / 100
