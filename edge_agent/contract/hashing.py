"""sha256 without OpenSSL where that is no loss: a process that hashes little loads half a MB less.

Python's own is half as fast, a tenth where the processor has instructions for it. So what is large
is hashed by OpenSSL, which is small beside it, and so is all where Python is built without its own.
"""

import importlib
from typing import Any

SMALL_BYTES_MAX = 4_194_304
_OPENSSL = "hashlib"
_OWN = ("_sha2", "_sha256")
"""Of Python 3.12 and later, of 3.11."""


def sha256_of(data: bytes) -> bytes:
    """Return the sha256 of bytes, 32 bytes.

    >>> sha256_of(b"").hex()[:16]
    'e3b0c44298fc1c14'
    """
    home = _own() if len(data) <= SMALL_BYTES_MAX else importlib.import_module(_OPENSSL)
    digest: bytes = home.sha256(data).digest()
    return digest


def _own() -> Any:
    for name in _OWN:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(_OPENSSL)
