"""Importing this lets host names of ASCII do without the tables of Unicode.

Python encodes every host name with the codec ``idna``, which loads all of them (0.4 MB) even for
``127.0.0.1``. A name of other letters loads the codec as it is; so does decoding.
"""

import codecs
import importlib
import sys
from types import ModuleType
from typing import Any

_NAME = "encodings.idna"
_LABEL_BYTES_MAX = 63


def encode(name: str, errors: str = "strict") -> tuple[bytes, int]:
    """Encode a host name as the codec ``idna`` does.

    >>> encode("broker.local")
    (b'broker.local', 12)
    """
    *labels, last = name.split(".")
    is_plain = name.isascii() and len(last) <= _LABEL_BYTES_MAX
    if errors == "strict" and is_plain and all(0 < len(x) <= _LABEL_BYTES_MAX for x in labels):
        return name.encode("ascii"), len(name)
    encoded, length = _whole().encode(name, errors)
    return bytes(encoded), length


def _decode(data: Any, errors: str = "strict", /) -> tuple[str, int]:
    decoded, length = _whole().decode(data, errors)
    return str(decoded), length


def _whole() -> Any:
    """Return Python's own codec."""
    if sys.modules.get(_NAME) is _STAND:
        del sys.modules[_NAME]
    return importlib.import_module(_NAME).getregentry()


_STAND = ModuleType(_NAME)
_STAND.getregentry = lambda: codecs.CodecInfo(encode, _decode, name="idna")  # type: ignore[attr-defined]
sys.modules.setdefault(_NAME, _STAND)
