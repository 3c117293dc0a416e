"""Payloads that no honest sender makes."""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from tuf.api.serialization.json import JSONSerializer

COMPACT = JSONSerializer(compact=True)


def edited(envelope: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """Change a JSON object in place."""
    value = json.loads(envelope)
    edit(value)
    return json.dumps(value).encode()


def bundle_of(files: Mapping[str, Any]) -> bytes:
    """Compress a metadata message without the checks of an honest sender."""
    return zlib.compress(json.dumps(files).encode(), 9)


def zeros_bomb(size_bytes: int) -> bytes:
    """Compress so many blanks; a thousandth of them is left."""
    squeeze = zlib.compressobj(9)
    piece = b" " * 1_000_000
    packed = [squeeze.compress(piece) for _ in range(size_bytes // len(piece))]
    return b"".join([*packed, squeeze.flush()])
