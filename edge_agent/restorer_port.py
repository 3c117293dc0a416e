"""What turns an encoded package into the package, as the shell needs it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from edge_agent.contract.transfer import PackageOffer


class PackageRestorer(Protocol):
    """Turns an encoded package into the package. Worker-thread safe, slow."""

    @property
    def memory_bytes(self) -> int:
        """What restoring may need; 0: nothing is ever restored here."""

    def sizes(self, held: Sequence[str]) -> Mapping[str, int]:
        """Return the sizes of those packages that are on this device, in the order given."""

    def refusal(self, sha256: str) -> str:
        """Return why this package is to be fetched as it is; empty when it need not be."""

    def prepare(self, sha256: str, offer: PackageOffer, size_bytes: int) -> None:
        """Make room: forget pieces of other encodings of the package.

        Raises:
            NoRoomError: The disk has no room for both the encoding and the package.
        """

    def forget(self, sha256: str) -> None:
        """Forget pieces of all encodings of a package; raises StorageError."""

    def restore(self, sha256: str, offer: PackageOffer, size_bytes: int) -> None:
        """Put the package, hashed, into the blob store.

        Raises:
            RestoreError: It does not come out of these bytes, or not within bounds.
            StorageError: The disk refused.
        """

    def refuse(self, sha256: str, reason: str) -> None:
        """Forget all encodings of a package and remember that it is to be fetched as it is."""
