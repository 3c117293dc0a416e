"""Keep a long-lived process of the agent small: give memory back, and load no library for nothing.

What is here changes nothing a program can see but its size. Figures are in docs/adr/0024.
"""

import contextlib
import gc
import importlib
import sys
from types import ModuleType
from typing import Any

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
MAPPED_BYTES_MIN = 1_048_576
"""Larger blocks are the system's again as soon as they are freed. Left alone, glibc raises this to
32 MiB once such a block was freed, and what a large request took for a moment looks like a leak."""


class _Deferred(ModuleType):
    """Stands where a module will be, and becomes it at the first look inside."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def defer(name: str) -> None:
    """Let a module be loaded when it is used, not when it is imported.

    One that is loaded already stays; ``from MODULE import NAME`` loads it.
    """
    if name in sys.modules:
        return
    parent, _, last = name.rpartition(".")
    module = sys.modules[name] = _Deferred(name)
    if parent:
        setattr(importlib.import_module(parent), last, module)


def limit_arenas() -> None:
    """Let all threads to come share one heap.

    Each thread that allocates would get one of its own and keep what it once needed. Python's
    threads hold one lock while they allocate anyway. Large blocks lie outside of it.
    """
    import ctypes  # a third of a megabyte, which numpy loads all the same

    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)


def give_back() -> None:
    """Return to the system what was freed; takes some milliseconds.

    For the end of a start or of loading a model: work that allocated much and is over.
    """
    import ctypes

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
