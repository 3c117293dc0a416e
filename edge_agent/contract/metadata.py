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
APPROVED_ROLE = "approved"
"""Delegation of ``targets`` that spreads the packages over hash bins."""
ROLE_FIELD = "x-role"
"""In files that approvers sign where hash bins are: the role's own name. All bins are signed by
the same keys, so that without it one could stand in the place of another."""
_BIN_NAME = re.compile(r"\d{1,9}\.(packages-[0-9a-f]{1,4})\.json\Z")
_ROLES = r"root|targets|snapshot|timestamp|approved|packages-[0-9a-f]{1,4}"
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MEMBER = rb"\s*+" + _TEXT + rb"\s*+:\s*+" + _TEXT + rb"\s*+"
_FORM = re.compile(
    rb"\s*+\{(?:" + _MEMBER + rb"(?:,|(?=\}))){0,%d}+\s*+\}\s*+" % FILES_MAX, re.DOTALL
)
"""An object of texts. Looked at before it is parsed: lists and objects take a parser thirty bytes
for each byte, and eight kilobytes inflate to eight megabytes of them."""
_FORM_FROM_BYTES = 262_144
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


def decode_bundle(
    payload: bytes, *, inflated_bytes_max: int = BUNDLE_INFLATED_BYTES_MAX
) -> dict[str, bytes]:
    """Decompress metadata files; a decompression bomb stops at the bound.

    Args:
        payload: Of the message.
        inflated_bytes_max: The bound, 1 and up.

    Raises:
        ContractError: Too large, not zlib, not JSON, or a name that is no metadata file.
    """
    if len(payload) > BUNDLE_BYTES_MAX:
        raise TooLargeError("compressed metadata bundle", len(payload), BUNDLE_BYTES_MAX)
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(payload, max(1, inflated_bytes_max))
    except zlib.error as error:
        raise MalformedError(f"metadata bundle is not zlib: {error}") from error
    if inflate.unconsumed_tail or (not inflate.eof and len(plain) >= inflated_bytes_max):
        raise TooLargeError("metadata bundle", inflated_bytes_max + 1, inflated_bytes_max)
    if not inflate.eof or inflate.unused_data:
        raise MalformedError("metadata bundle is cut short, or has something behind its end")
    if len(plain) > _FORM_FROM_BYTES and _FORM.fullmatch(plain) is None:
        raise MalformedError(f"metadata bundle must be an object of at most {FILES_MAX} files")
    try:
        files = json.loads(plain.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"metadata bundle is not JSON: {error}") from error
    if not isinstance(files, dict) or len(files) > FILES_MAX:
        raise MalformedError(f"metadata bundle must be an object of at most {FILES_MAX} files")
    for name, text in files.items():
        if not _NAME.match(name) or not isinstance(text, str):
            raise MalformedError(f"metadata bundle: {name[:80]!r} is not a metadata file")
    try:
        return {name: text.encode() for name, text in files.items()}
    except UnicodeEncodeError as error:
        raise MalformedError(f"metadata bundle holds half a character: {error}") from error


def is_bin_file(name: str) -> bool:
    """Tell whether a metadata file is that of a hash bin.

    >>> is_bin_file("3.packages-1f.json"), is_bin_file("3.approved.json")
    (True, False)
    """
    return _BIN_NAME.match(name) is not None


def decode_bin(
    role: str, payload: bytes, *, inflated_bytes_max: int = BUNDLE_INFLATED_BYTES_MAX
) -> dict[str, bytes]:
    """Decompress the message of one hash bin: one file, of that role.

    Raises:
        ContractError: Too large, not zlib, not JSON, or not the one file.
    """
    files = decode_bundle(payload, inflated_bytes_max=inflated_bytes_max)
    found = [_BIN_NAME.match(name) for name in files]
    if [match[1] if match else "" for match in found] != [role]:
        detail = f"message of {role} must hold one file of that role, not {sorted(files)}"
        raise MalformedError(detail[:400])
    return files
