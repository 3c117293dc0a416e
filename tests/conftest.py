"""What holds for every test: processes that tests start may keep what Python compiled for them.

Hundreds of short processes load the same modules of ours; where the caller forbids bytecode each
would compile all of them anew.
"""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
