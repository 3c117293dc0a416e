"""The package: a plain tar of five members, hashed and signed as one blob.

Tar has grown sparse files, links, long names and sizes in many notations; a package has none of
them, so it is read here and not by a general reader, which unfolds a sparse member of a kilobyte
to a terabyte. Reading is from bytes whose sha256 was just checked. Golden tolerances are relative
to ``1 + |expected|`` (``docs/conversion.md``).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge_agent.contract.digits import check_sha256
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields

MODEL = "model.onnx"
SCHEMA = "schema.json"
GOLDEN = "golden.npz"
REFERENCE = "reference.json"
EVIDENCE = "evidence.json"
MEMBERS = (MODEL, SCHEMA, GOLDEN, REFERENCE, EVIDENCE)
PACKAGE_BYTES_MAX = 1_073_741_824
_BLOCK = 512
_END = bytes(_BLOCK)
_PLAIN_FILE = b"0"
GOLDEN_ROWS_MAX = 32
GOLDEN_INPUT = "input"
"""Array of golden.npz: float32 [rows, width], shipped, never recomputed."""
GOLDEN_OUTPUT_PREFIX = "output:"
"""Arrays of golden.npz: one expected output a tensor name."""
GOLDEN_TOLERANCE_PREFIX = "tolerance:"
"""Scalars of golden.npz: one tolerance a floating-point tensor name."""


def pack_members(members: Mapping[str, bytes]) -> bytes:
    """Build the tar; the same members always give the same bytes.

    Raises:
        MalformedError: A member is missing or not one of the five.
    """
    if set(members) != set(MEMBERS):
        raise MalformedError(f"a package has exactly {MEMBERS}, got {sorted(members)}")
    import tarfile  # not on devices, which only read

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(members[name]), 0o644
            tar.addfile(info, io.BytesIO(members[name]))
    return buffer.getvalue()


def unpack_members(blob: bytes) -> dict[str, bytes]:
    """Read the members from memory; nothing is ever extracted to a path.

    Raises:
        TooLargeError: Larger than any package may be.
        MalformedError: Not a tar of exactly the five regular members.
    """
    return {name: blob[start:end] for name, (start, end) in find_members(blob).items()}


def find_members(blob: bytes) -> dict[str, tuple[int, int]]:
    """Give for each member where its bytes begin and end in the package.

    Raises:
        TooLargeError: Larger than any package may be.
        MalformedError: Not a tar of exactly the five regular members.
    """
    if len(blob) > PACKAGE_BYTES_MAX:
        raise TooLargeError("package", len(blob), PACKAGE_BYTES_MAX)
    members: dict[str, tuple[int, int]] = {}
    at = 0
    while at < len(blob) and blob[at : at + _BLOCK] != _END:
        name, size = _read_header(blob[at : at + _BLOCK])
        at += _BLOCK
        if name not in MEMBERS or name in members:
            raise MalformedError(f"package: unexpected member {name[:80]!r}")
        if size > len(blob) - at:
            raise MalformedError(
                f"package: {name} has {size} bytes where {len(blob) - at} are left"
            )
        members[name] = at, at + size
        at += -(-size // _BLOCK) * _BLOCK
    missing = [name for name in MEMBERS if name not in members]
    if missing:
        raise MalformedError(f"package lacks {', '.join(missing)}")
    return members


class OnWithdrawn(StrEnum):
    """What a device does with a package it runs when the approvers withdraw it."""

    STOP = "stop"
    KEEP = "keep"


def _read_header(block: bytes) -> tuple[str, int]:
    """Read name and size of a plain member; raises MalformedError for any other."""
    if len(block) != _BLOCK or block[257:262] != b"ustar":
        raise MalformedError("package is not a tar of plain files")
    checksum = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    if _read_octal(block[148:156]) != checksum:
        raise MalformedError("package is not a tar: a header does not add up")
    name = block[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    if block[156:157] != _PLAIN_FILE or block[345:500].strip(b"\0"):
        raise MalformedError(f"package: unexpected member {name[:80]!r}, not a plain file")
    return name, _read_octal(block[124:136])


def _read_octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not digits or digits.strip(b"01234567"):
        raise MalformedError(f"package is not a tar: {field!r:.40} is not an octal number")
    return int(digits, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCustom:
    """``custom`` of the package's TUF target: what the approvers sign beside the hash.

    Attributes:
        model: Model name.
        version: Version number, 1 and up.
        profile: Device profile id it was built for.
        slot: Slot it may run in; empty means any.
        schema: sha256 of schema.json.
        chunks: sha256 over the concatenated sha256 of the 64 KiB chunks.
        on_withdrawn: What devices that run it do when it is withdrawn.
    """

    model: str
    version: int
    profile: str
    slot: str
    schema: str
    chunks: str
    on_withdrawn: OnWithdrawn = OnWithdrawn.STOP

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form; what is signed by default is not written, so bytes stay as before."""
        kept = {"on_withdrawn": str(self.on_withdrawn)}
        return {
            "model": self.model,
            "version": self.version,
            "profile": self.profile,
            "slot": self.slot,
            "schema": self.schema,
            "chunks": self.chunks,
        } | (kept if self.on_withdrawn is not OnWithdrawn.STOP else {})

    @classmethod
    def from_json(cls, value: Any) -> "TargetCustom":
        """Read the JSON form; raises MalformedError."""
        what = "target custom"
        fields = Fields(value, what=what)
        on_withdrawn = fields.text("on_withdrawn", str(OnWithdrawn.STOP), chars_max=16)
        if on_withdrawn not in list(OnWithdrawn):
            raise MalformedError(f"{what}: on_withdrawn is {on_withdrawn!r}, not stop or keep")
        return cls(
            model=fields.text("model", chars_max=128),
            version=fields.integer("version", low=1),
            profile=fields.text("profile", chars_max=64),
            slot=fields.text("slot", "", chars_max=64),
            schema=check_sha256(fields.text("schema", chars_max=64), what=what),
            chunks=check_sha256(fields.text("chunks", chars_max=64), what=what),
            on_withdrawn=OnWithdrawn(on_withdrawn),
        )
