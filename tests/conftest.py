"""What holds for every test: no example has a time limit, and compiled modules are kept.

Hundreds of short processes load the same modules of ours; where the caller forbids bytecode each
would compile all of them anew.
"""

import os
import sys

from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")
