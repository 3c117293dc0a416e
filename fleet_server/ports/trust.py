"""What signing and approving need from the world.

The server holds online keys only. Whatever makes a package runnable passes through a person's key
(``ports/keys.py``); ``SignedPackages`` stores only what it can verify.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from edge_agent.contract.assignment import Assignment
from edge_agent.contract.package import TargetCustom


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTarget:
    """One package as the approvers sign it.

    Attributes:
        path: ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package, 64 hex digits.
        size_bytes: Of the package.
        custom: What is signed beside the hash.
    """

    path: str
    sha256: str
    size_bytes: int
    custom: TargetCustom


class SignedPackages(Protocol):
    """The signed metadata of the fleet; several processes may use it at once."""

    def approved(self) -> Mapping[str, SignedTarget]:
        """Return what the approvers' signatures allow now, by path."""
        ...

    def current_targets(self) -> Mapping[str, bytes]:
        """Return every target file now in force, by role; ``targets`` is always among them."""
        ...

    def store_targets(self, files: Mapping[str, bytes]) -> int:
        """Make changed target files current, by role, and return the version of ``targets``.

        Raises:
            RefusedError: Not signed by the approvers, or not the successor of what is stored.
        """
        ...

    def refresh_online(self) -> bool:
        """Sign snapshot and timestamp anew when due; tell whether anything changed."""
        ...

    def bundle(self) -> dict[str, bytes]:
        """Return the metadata files one device needs, by name."""
        ...


class AssignmentSigner(Protocol):
    """The director's key."""

    def seal(self, assignment: Assignment) -> bytes:
        """Sign an assignment and return its envelope."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A device's certificate.

    Attributes:
        pem: The certificate.
        serial: Hex, as the revocation list names it.
        expires_at: Aware UTC.
        key_sha256: Of its public key, DER form, hex.
    """

    pem: bytes
    serial: str
    expires_at: datetime
    key_sha256: str = ""


class CertificateIssuer(Protocol):
    """The fleet's certificate authority."""

    def issue_device(
        self, csr_pem: bytes, device_id: str, *, authority: str = ""
    ) -> IssuedCertificate:
        """Issue a client certificate; the name is ``device_id``, whatever the request says.

        Args:
            csr_pem: The request.
            device_id: The name.
            authority: sha256 of the authority that shall issue it, where one follows another.

        Raises:
            RefusedError: The request is malformed, not signed by its key, or of another kind of
                key.
        """
        ...

    def read_key(self, csr_pem: bytes) -> str:
        """Return the sha256 of the public key of a request, hex; raises as ``issue_device``."""
        ...

    def revoke(self, serials: Sequence[str]) -> None:
        """Add serials to the revocation list the broker reads."""
        ...

    @property
    def ca_pem(self) -> bytes:
        """Certificate of the authority."""
        ...
