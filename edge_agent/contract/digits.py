"""Read hexadecimal digits of messages: hashes of packages, boot ids. Everything else is refused."""

import re

from edge_agent.contract.errors import MalformedError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_BOOT = re.compile(r"[0-9a-f]{16}")


def check_sha256(text: str, *, what: str) -> str:
    """Return 64 lowercase hex digits unchanged; raises MalformedError otherwise."""
    if not _SHA256.match(text):
        raise MalformedError(f"{what}: {text[:80]!r} is not a sha256 of 64 hex digits")
    return text


def decode_boot(text: str, *, what: str) -> int:
    """Read a boot id: 16 hex digits, at most 63 bits (it is a signed integer in databases)."""
    boot = int(text, 16) if _BOOT.fullmatch(text) else 2**63
    if boot >= 2**63:
        raise MalformedError(f"{what}: boot must be 16 hex digits below 2**63, got {text[:40]!r}")
    return boot
