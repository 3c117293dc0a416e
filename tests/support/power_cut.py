"""What a power cut may leave of a directory: calls recorded at the seam, then every state of them.

The seam is the ``os`` of ``edge_agent.adapters.files``. The model promises as little as a file
system may:

* Bytes that were not synced are gone, whole, zeroed to their length, or torn at a block.
* Names that were not synced (made, renamed, linked, removed) are on disk or not, each on its own,
  whatever the order they were made in, and whether or not the bytes behind them are.
* A rename within a directory is one step; between directories each end is on its own.
* Syncing a file says nothing of its name, syncing a directory nothing of the bytes.

Left out: damage to what was synced, and a disk that lies about a sync.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters import files

BLOCK_BYTES = 4_096
SUBSET_OPS_MAX = 5
"""Of more unsynced names of one directory, each alone and each missing stand for all subsets."""
STATES_PER_CALL_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Named:
    """A directory's names changed: ``gone`` no longer, ``name`` now means ``node``."""

    directory: str
    name: str
    node: int | None
    gone: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes of a file changed; None for the data means its length alone."""

    node: int
    offset: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Synced:
    """A file's bytes are durable."""

    node: int


@dataclass(frozen=True, slots=True)
class NamesSynced:
    """A directory's names are durable."""

    directory: str


@dataclass(frozen=True, slots=True)
class Marked:
    """The scenario says something of this moment: from here on it is promised."""

    name: str
    value: Any
    calls: int


Step = Named | Written | Synced | NamesSynced | Marked
DIRECTORY = -1
"""As a node: the name is a directory; its path says which."""
Tree = frozenset[tuple[str, bytes | None]]
"""Relative path and content; None for a directory."""


@dataclass
class Recording:
    """The calls of one scenario, and what was on disk before.

    Attributes:
        root: Everything recorded lies below; names are relative to it.
        before: Node by name when it began; ``DIRECTORY`` for one.
        contents: Bytes of those nodes.
        steps: What was done, in order.
        calls: System calls that changed, or may have changed, the disk.
    """

    root: Path
    before: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    calls: int = 0

    def mark(self, name: str, value: Any) -> None:
        """Note that something is promised from this moment on."""
        self.steps.append(Marked(name, value, self.calls))


class RecordingOs:
    """Stands for ``os`` in the seam: does each call and writes it down."""

    def __init__(self, recording: Recording) -> None:
        self._r = recording
        self._open: dict[int, tuple[str, int]] = {}
        self._nodes = dict(recording.before)
        self._last = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        name = self._relative(path)
        is_new = not os.path.lexists(path)
        self._r.calls += 1
        handle = os.open(path, flags, mode)
        if flags & os.O_DIRECTORY:
            self._open[handle] = (name, DIRECTORY)
            return handle
        if is_new:
            self._name(name, self._new_node(name))
        self._open[handle] = (name, self._nodes[name])
        if flags & os.O_TRUNC and not is_new:
            self._r.steps.append(Written(self._nodes[name], 0, None))
        return handle

    def close(self, handle: int) -> None:
        self._open.pop(handle, None)
        os.close(handle)

    def write(self, handle: int, data: Any) -> int:
        offset = os.lseek(handle, 0, os.SEEK_CUR)
        self._r.calls += 1
        count = os.write(handle, data)
        self._r.steps.append(Written(self._open[handle][1], offset, bytes(data[:count])))
        return count

    def ftruncate(self, handle: int, size: int) -> None:
        self._r.calls += 1
        os.ftruncate(handle, size)
        self._r.steps.append(Written(self._open[handle][1], size, None))

    def is_directory(self, handle: int) -> bool:
        """Tell what an open handle is of."""
        return self._open[handle][1] == DIRECTORY

    def fsync(self, handle: int) -> None:
        self._r.calls += 1
        os.fsync(handle)
        name, node = self._open[handle]
        self._r.steps.append(NamesSynced(name) if node == DIRECTORY else Synced(node))

    def replace(self, source: Any, target: Any) -> None:
        self._r.calls += 1
        Path(source).replace(target)
        old, new = self._relative(source), self._relative(target)
        if self._nodes[old] == self._nodes.get(new):
            return  # POSIX: two names of one file stay as they are
        node = self._nodes.pop(old)
        self._nodes[new] = node
        if os.path.dirname(old) == os.path.dirname(new):  # noqa: PTH120
            self._name(new, node, gone=os.path.basename(old))  # noqa: PTH119
        else:
            self._name(new, node)
            self._name(old, None)

    def link(self, source: Any, target: Any) -> None:
        self._r.calls += 1
        os.link(source, target)
        node = self._nodes[self._relative(source)]
        self._nodes[self._relative(target)] = node
        self._name(self._relative(target), node)

    def unlink(self, path: Any) -> None:
        self._r.calls += 1
        Path(path).unlink()
        del self._nodes[self._relative(path)]
        self._name(self._relative(path), None)

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        self._r.calls += 1
        Path(path).mkdir(mode)
        self._nodes[self._relative(path)] = DIRECTORY
        self._name(self._relative(path), DIRECTORY)

    def _name(self, path: str, node: int | None, *, gone: str = "") -> None:
        directory, name = os.path.split(path)
        self._r.steps.append(Named(directory, name, node, gone))

    def _new_node(self, name: str) -> int:
        self._nodes[name] = node = 1 + max([self._last, *self._r.contents])
        self._last = node
        return node

    def _relative(self, path: Any) -> str:
        name = os.path.relpath(path, self._r.root)
        return "" if name == "." else name


@contextmanager
def recording(root: Path, seam: type[RecordingOs] | None = None) -> Iterator[Recording]:
    """Record what happens below ``root``; everything that is there already is durable."""
    recorded = Recording(root)
    by_inode: dict[int, int] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            recorded.before[name] = DIRECTORY
        else:
            # Two names of one file, as of the state before the last, are one node.
            node = by_inode.setdefault(path.stat().st_ino, len(by_inode))
            recorded.before[name], recorded.contents[node] = node, path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", (seam or RecordingOs)(recorded))
        yield recorded


@dataclass(frozen=True, slots=True)
class CrashState:
    """One thing a power cut may leave.

    Attributes:
        at: Steps that had been made.
        tree: What is on disk.
        marks: The last value of each mark by then.
        is_plain: Everything unsynced met the same fate; the rest are mixtures.
    """

    at: int
    tree: Tree
    marks: Mapping[str, Any]
    is_plain: bool


@dataclass
class _Content:
    """The bytes of a file: what is durable, and what was done since."""

    durable: bytes
    pending: list[Written] = field(default_factory=list)
    _variants: list[bytes] | None = None

    def variants(self) -> list[bytes]:
        """Gone, whole, zeroed, torn at the first and at a middle block; in this order."""
        if self._variants is None:
            self._variants = list(dict.fromkeys(self._find_variants()))
        return self._variants

    def add(self, step: Written) -> None:
        self.pending.append(step)
        self._variants = None

    def sync(self) -> None:
        self.durable, self.pending, self._variants = _apply(self.durable, self.pending), [], None

    def _find_variants(self) -> Iterator[bytes]:
        yield self.durable
        if not self.pending:
            return
        data = [step for step in self.pending if step.data]
        yield _apply(self.durable, self.pending)
        yield _apply(self.durable, [replace(s, data=bytes(len(s.data or b""))) for s in data])
        middle = sum(len(step.data or b"") for step in data) // 2 // BLOCK_BYTES * BLOCK_BYTES
        for cut in (0, BLOCK_BYTES, middle):
            yield _apply(self.durable, list(_torn(self.pending, cut)))
        if len(data) > 1:  # a later write is on disk, the first is not
            yield _apply(self.durable, [step for step in self.pending if step is not data[0]])


def _torn(steps: Sequence[Written], cut: int) -> Iterator[Written]:
    """Every length, and of the data the first ``cut`` bytes; what follows was never written."""
    for step in steps:
        if step.data is None:
            yield step
        elif cut > 0:
            yield replace(step, data=step.data[:cut])
            cut -= len(step.data)


def _apply(data: bytes, steps: Sequence[Written]) -> bytes:
    content = bytearray(data)
    for step in steps:
        size = step.offset + (len(step.data) if step.data is not None else 0)
        content.extend(bytes(max(0, size - len(content))))
        if step.data is None:
            del content[size:]
        else:
            content[step.offset : size] = step.data
    return bytes(content)


class _Disk:
    """What is durable, and what was done since."""

    def __init__(self, recorded: Recording) -> None:
        self.contents = {n: _Content(data) for n, data in recorded.contents.items()}
        self.durable: dict[str, dict[str, int]] = {"": {}}
        self.pending: dict[str, list[Named]] = {}
        for name, node in recorded.before.items():
            directory, base = os.path.split(name)
            self.durable.setdefault(directory, {})[base] = node
            if node == DIRECTORY:
                self.durable.setdefault(name, {})

    def take(self, step: Step) -> None:
        match step:
            case Named(directory=directory):
                self.pending.setdefault(directory, []).append(step)
            case Written(node=node):
                self.contents.setdefault(node, _Content(b"")).add(step)
            case Synced(node=node):
                self.contents.setdefault(node, _Content(b"")).sync()
            case NamesSynced(directory=directory):
                names = self.durable.setdefault(directory, {})
                _rename(names, self.pending.pop(directory, []))

    def outcomes(self) -> Iterator[tuple[Tree, bool]]:
        """Every tree that may be found after a cut now, with whether it is a plain one."""
        directories = sorted(self.pending)
        choices = [_subsets(self.pending[directory]) for directory in directories]
        for chosen in itertools.islice(itertools.product(*choices), STATES_PER_CALL_MAX):
            tables = {name: dict(names) for name, names in self.durable.items()}
            for directory, steps in zip(directories, chosen, strict=True):
                _rename(tables.setdefault(directory, {}), steps)
            sizes = {len(c) for c in chosen if c}
            is_plain = not sizes or all(
                len(c) == len(self.pending[d]) for c, d in zip(chosen, directories, strict=True)
            )
            yield from self._with_contents(tables, is_plain)

    def _with_contents(
        self, tables: Mapping[str, Mapping[str, int]], is_plain: bool
    ) -> Iterator[tuple[Tree, bool]]:
        places = list(_walk(tables, ""))
        nodes = sorted({node for _, node in places if node != DIRECTORY})
        variants = [self.contents.setdefault(n, _Content(b"")).variants() for n in nodes]
        dirty = sum(len(found) > 1 for found in variants)
        for chosen in itertools.islice(itertools.product(*variants), STATES_PER_CALL_MAX):
            of = dict(zip(nodes, chosen, strict=True))
            tree = frozenset((name, of.get(node)) for name, node in places)
            yield tree, is_plain and dirty <= 1


def crash_states(recorded: Recording) -> Iterator[CrashState]:
    """Give every distinct state, and every distinct state again when a mark promises more."""
    disk, marks, promises = _Disk(recorded), dict[str, Any](), 0
    seen: set[tuple[Tree, int]] = set()
    for at in range(len(recorded.steps) + 1):
        step = recorded.steps[at - 1] if at else None
        if isinstance(step, Marked):
            marks, promises = {**marks, step.name: step.value}, promises + 1
        elif step is not None:
            disk.take(step)
        if at < len(recorded.steps) and isinstance(recorded.steps[at], Marked):
            continue  # the same trees are looked at with what is promised then
        for tree, is_plain in disk.outcomes():
            if (tree, promises) not in seen:
                seen.add((tree, promises))
                yield CrashState(at, tree, marks, is_plain)


def write_tree(tree: Tree, root: Path) -> None:
    """Make a state real in a directory that exists."""
    for name, content in sorted(tree, key=lambda entry: entry[0]):
        path = root / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)


def _rename(names: dict[str, int], steps: Sequence[Named]) -> None:
    for step in steps:
        names.pop(step.gone, None)
        if step.node is None:
            names.pop(step.name, None)
        else:
            names[step.name] = step.node


def _subsets(steps: Sequence[Named]) -> list[Sequence[Named]]:
    if len(steps) <= SUBSET_OPS_MAX:
        sizes = range(len(steps) + 1)
        return [c for size in sizes for c in itertools.combinations(steps, size)]
    found: list[Sequence[Named]] = [steps[:n] for n in range(len(steps) + 1)]
    found += [[step] for step in steps[1:]]
    found += [[*steps[:n], *steps[n + 1 :]] for n in range(len(steps) - 1)]
    return found


def _walk(tables: Mapping[str, Mapping[str, int]], directory: str) -> Iterator[tuple[str, int]]:
    for base, node in tables.get(directory, {}).items():
        name = f"{directory}/{base}" if directory else base
        yield name, node
        if node == DIRECTORY:
            yield from _walk(tables, name)
