"""Importing this before numpy loads numpy without what only readers of its documentation use.

numpy asks ``inspect`` for signatures of functions written in C and to tidy their docstrings, and
keeps the docstrings of its types in modules of their own: a megabyte in a process that only
computes. ``help(numpy.dot)`` is shorter there; nothing else differs, and a numpy that has no such
modules is loaded as it is. Where numpy is loaded already this does nothing.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

_DOCSTRINGS = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars")


class _Inspect(ModuleType):
    """What numpy's modules see as ``inspect``, also later; all but two functions are real."""

    @staticmethod
    def cleandoc(text: str) -> str:
        """Leave a docstring as it is written."""
        return text

    @staticmethod
    def signature(_function: object) -> None:
        """Tell no signature: ``inspect`` says so itself of many a function written in C."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("inspect"), name)


def _load() -> None:
    stands = {name: ModuleType(name) for name in _DOCSTRINGS} | {"inspect": _Inspect("inspect")}
    found = {name: sys.modules.pop(name) for name in stands if name in sys.modules}
    sys.modules.update(stands)
    try:
        importlib.import_module("numpy")
    finally:
        for name in stands:
            del sys.modules[name]
        sys.modules.update(found)


if "numpy" not in sys.modules:
    _load()
