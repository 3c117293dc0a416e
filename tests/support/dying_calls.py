"""Die at the n-th file-system call: the calls are those of ``edge_agent/adapters/files.py``."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "link")


class Killed(BaseException):
    """The process is gone; nothing of it may clean up."""


class Killer:
    """Counts the calls and dies at one of them: before it, behind it, or half-way in a write."""

    def __init__(self, at: int | None, *, after: bool = False) -> None:
        self.at, self.after, self.count = at, after, 0

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def killing(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count != self.at:
                return call(*arguments, **options)
            if self.after:
                with suppress(OSError):
                    call(*arguments, **options)
            elif name == "write":
                call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            raise Killed

        return killing


@contextmanager
def killing(killer: Killer) -> Iterator[None]:
    """Let a killer see every call."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, killer.wrap(name, getattr(os, name)))
        yield
