"""Which certificate authorities devices may trust: named in ``targets``, carried beside them.

``targets`` lists the sha256 of their certificates (``x-authorities``, newest first), so only
approvers decide; the certificates come on ``meta/authorities``, PEM behind PEM, and are believed
by their hash alone. A fleet that never replaced its authority lists none.
"""

import base64
import binascii
import hashlib
import re
from typing import Any

from edge_agent.contract.errors import MalformedError, TooLargeError

AUTHORITIES_FIELD = "x-authorities"
"""In ``targets``: sha256 of the DER form of each authority's certificate, newest first."""
AUTHORITIES_MAX = 4
AUTHORITIES_BYTES_MAX = 16_384
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----\s*"
)


def read_authorities(value: Any) -> tuple[str, ...]:
    """Read the list of ``targets``; empty when there is none.

    Raises:
        MalformedError: Not 1 to AUTHORITIES_MAX different hashes.

    >>> read_authorities(None)
    ()
    """
    if value is None:
        return ()
    is_list = isinstance(value, list) and 1 <= len(value) <= AUTHORITIES_MAX
    if (
        not is_list
        or not all(isinstance(one, str) and _SHA256.match(one) for one in value)
        or len(set(value)) != len(value)
    ):
        raise MalformedError(
            f"targets: {AUTHORITIES_FIELD} must be 1 to {AUTHORITIES_MAX} different sha256"
        )
    return tuple(value)


def split_bundle(payload: bytes) -> dict[str, bytes]:
    """Take certificates that stand behind each other apart; return each as PEM by its sha256.

    Raises:
        ContractError: Too large, too many, or something that is no certificate in PEM.
    """
    if len(payload) > AUTHORITIES_BYTES_MAX:
        raise TooLargeError("authorities", len(payload), AUTHORITIES_BYTES_MAX)
    found: dict[str, bytes] = {}
    rest = payload.lstrip()
    while rest:
        match = _PEM.match(rest)
        if match is None:
            raise MalformedError("authorities: not certificates in PEM, one behind the other")
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error as error:
            raise MalformedError(f"authorities: a certificate is no base64: {error}") from error
        found[hashlib.sha256(der).hexdigest()] = _pem_of(der)
        rest = rest[match.end() :]
    if len(found) > AUTHORITIES_MAX:
        raise MalformedError(f"authorities: {len(found)}, the limit is {AUTHORITIES_MAX}")
    return found


def _pem_of(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])
