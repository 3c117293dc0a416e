"""Importing this loads asyncio for sockets alone: no TLS, no child processes, streams or queues.

asyncio loads all it has, with OpenSSL where Python has it, and does without where Python has none;
a server of plain HTTP uses a third. What is left out is left out until asyncio is loaded:
whoever imports such a part later gets it whole, ``asyncio.run`` excepted, which needs the loop of
``unix_events``; a ``Runner`` with a loop of ``selector_events`` needs none of it.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAMES = ("queues", "sslproto", "staggered", "streams", "subprocess", "taskgroups", "threads")
_LEFT_OUT = frozenset(f"asyncio.{name}" for name in (*_NAMES, "unix_events"))


class _Nothing:
    """Finds and loads the parts that are left out: modules with nothing in them."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _LEFT_OUT else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let Python make it."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__all__"] = ()


def _load() -> None:
    finder = _Nothing()
    processes = ModuleType("subprocess")
    processes.__dict__.update(PIPE=-1, STDOUT=-2, DEVNULL=-3)  # defaults of parameters
    stands = {"ssl": None, "subprocess": processes}
    found = {name: sys.modules.pop(name) for name in stands if name in sys.modules}
    sys.modules.update(stands)  # type: ignore[arg-type]  # None: as if it were not installed
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("asyncio.selector_events")
    finally:
        sys.meta_path.remove(finder)
        for name in stands:
            del sys.modules[name]
        sys.modules.update(found)
    for name in _LEFT_OUT & sys.modules.keys():
        del sys.modules[name]
        delattr(sys.modules["asyncio"], name.rpartition(".")[2])


if "asyncio" not in sys.modules:
    _load()
