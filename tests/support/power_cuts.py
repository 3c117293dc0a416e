"""The process ends between two effects on names; what was written has no name yet."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EFFECTS = ("replace", "rename", "unlink", "link")


class PowerCut(BaseException):
    """The process ends here."""


@contextmanager
def cut_after(effects: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the process before the next effect on names: what was written has no name yet."""
    count = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if not Path(arguments[0]).exists():  # removing what is not there has no effect
                return real(*arguments, **options)
            if count == effects:
                raise PowerCut
            count += 1
            return real(*arguments, **options)

        return counted

    with patch.context() as inner:
        inner.setattr(os, "fsync", lambda _: None)  # the order of effects counts here, not time
        for name in EFFECTS:
            inner.setattr(os, name, wrap(getattr(os, name)))
        yield
