"""What holds for every test: examples without a time limit, and compiled modules are kept.

Examples of property tests are the same in every run, so that a failure is the change's own. Who
looks for new ones asks for it: ``make check ARGS='--hypothesis-profile search'``.

Hundreds of short processes load the same modules of ours; where the caller forbids bytecode each
would compile all of them anew.
"""

import os
import sys

from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")
