"""``meta/current``: the TUF metadata files one device needs, in one compressed message.

The same encoding carries one hash bin on ``meta/packages-XX``.
"""

import json
import re
import zlib
from collections.abc import Mapping

from edge_agent.contract.errors import MalformedError, TooLargeError

BUNDLE_BYTES_MAX = 262_144
BUNDLE_INFLATED_BYTES_MAX = 8_388_608
FILES_MAX = 320
_ROLES = r"root|targets|snapshot|timestamp|approved|packages-[0-9a-f]{1,4}"
_NAME = re.compile(rf"(?:\d{{1,9}}\.)?(?:{_ROLES})\.json\Z")


def encode_bundle(files: Mapping[str, bytes]) -> bytes:
    """Compress metadata files by name.

    Raises:
        TooLargeError: Compressed or plain beyond its bound.
    """
    plain = json.dumps({name: data.decode() for name, data in sorted(files.items())}).encode()
    if len(plain) > BUNDLE_INFLATED_BYTES_MAX:
        raise TooLargeError("metadata bundle", len(plain), BUNDLE_INFLATED_BYTES_MAX)
    packed = zlib.compress(plain, 9)
    if len(packed) > BUNDLE_BYTES_MAX:
        raise TooLargeError("compressed metadata bundle", len(packed), BUNDLE_BYTES_MAX)
    return packed


def decode_bundle(payload: bytes) -> dict[str, bytes]:
    """Decompress metadata files; a decompression bomb stops at the bound.

    Raises:
        ContractError: Too large, not zlib, not JSON, or a name that is no metadata file.
    """
    if len(payload) > BUNDLE_BYTES_MAX:
        raise TooLargeError("compressed metadata bundle", len(payload), BUNDLE_BYTES_MAX)
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(payload, BUNDLE_INFLATED_BYTES_MAX)
    except zlib.error as error:
        raise MalformedError(f"metadata bundle is not zlib: {error}") from error
    if inflate.unconsumed_tail:
        raise TooLargeError(
            "metadata bundle", BUNDLE_INFLATED_BYTES_MAX + 1, BUNDLE_INFLATED_BYTES_MAX
        )
    try:
        files = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"metadata bundle is not JSON: {error}") from error
    if not isinstance(files, dict) or len(files) > FILES_MAX:
        raise MalformedError(f"metadata bundle must be an object of at most {FILES_MAX} files")
    for name, text in files.items():
        if not _NAME.match(name) or not isinstance(text, str):
            raise MalformedError(f"metadata bundle: {name[:80]!r} is not a metadata file")
    return {name: text.encode() for name, text in files.items()}
