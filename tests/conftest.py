"""What holds for every test: examples without a time limit, and compiled modules are kept.

Examples of property tests are the same in every run, so that a failure is the change's own. Who
looks for new ones asks for it: ``make check ARGS='--hypothesis-profile search'``.

Hundreds of short processes load the same modules of ours; where the caller forbids bytecode each
would compile all of them anew. Commands that tests call in their own process are made of their
functions once, not at each call: there are seventy, and a call asks for one. What collecting has
loaded stays to the end, so the garbage collector need not look through it again and again.
"""

import gc
import os
import sys
from functools import cache

from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
    testing = sys.modules.get("typer.testing")
    if testing is not None:
        testing._get_command = cache(testing._get_command)  # type: ignore[attr-defined]
