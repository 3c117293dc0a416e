"""Which files of a watched folder are new and whole, from one look at it to the next.

A file is whole when two looks in a row find it unchanged: a camera writes while we look. The same
name with another size or time is a new file, because cameras write one name again and again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FRAMES_PER_LOOK_MAX = 32
"""More wait only when the agent is slower than the camera; then the newest count."""

Look = Mapping[str, tuple[int, int]]
"""What a look found: file name to time of change in ns and size in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderWatch:
    """What is known after a look.

    Attributes:
        seen: As the last look found it.
        taken: Files taken up already, as they were then.
    """

    seen: Look = field(default_factory=dict)
    taken: Look = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """What a look brought.

    Attributes:
        names: New whole files, oldest first.
        dropped: How many older ones are left out.
        watch: For the next look.
    """

    names: tuple[str, ...]
    dropped: int
    watch: FolderWatch


def begin_watch(look: Look, *, is_taking_existing: bool) -> FolderWatch:
    """Start from a first look; what is there already counts as taken unless asked for."""
    return FolderWatch(seen=look, taken={} if is_taking_existing else look)


def find_fresh(watch: FolderWatch, look: Look) -> Fresh:
    """Compare a look with what is known.

    >>> watch = begin_watch({"a.png": (1, 10)}, is_taking_existing=False)
    >>> first = find_fresh(watch, {"a.png": (1, 10), "b.png": (2, 5)})
    >>> second = find_fresh(first.watch, {"a.png": (1, 10), "b.png": (2, 5)})
    >>> first.names, second.names
    ((), ('b.png',))
    """
    fresh = [
        name
        for name, state in look.items()
        if state[1] and watch.seen.get(name) == state and watch.taken.get(name) != state
    ]
    fresh.sort(key=lambda name: (look[name][0], name))
    names = tuple(fresh[-FRAMES_PER_LOOK_MAX:])
    # What left the folder is forgotten, so that nothing here grows beyond it.
    taken = {name: state for name, state in watch.taken.items() if name in look}
    taken |= {name: look[name] for name in fresh}
    return Fresh(
        names=names,
        dropped=len(fresh) - len(names),
        watch=FolderWatch(seen=dict(look), taken=taken),
    )
