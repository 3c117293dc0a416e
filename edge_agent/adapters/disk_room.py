"""How much a disk has left; without ``shutil``, which loads every compressor there is."""

import os
from pathlib import Path


def find_free_bytes(path: Path) -> int:
    """Return the bytes an ordinary user may still write where ``path`` lies; raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
