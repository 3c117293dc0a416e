"""What offering encoded packages needs: where they are kept, and what may be made from what."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge_agent.contract.transfer import PackageOffer


class Pair(NamedTuple):
    """A package, and the one it is encoded from; both by sha256, the base empty for none."""

    target: str
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEncoding:
    """What was found out about a pair.

    Attributes:
        pair: Package and base.
        offer: What to say; of identity when no encoding was smaller by the margin.
        way: How it was made: ``plain``, ``regrouped``; empty for identity.
        package_bytes: Size of the package.
        made_s: Seconds it took.
    """

    pair: Pair
    offer: PackageOffer
    way: str
    package_bytes: int
    made_s: float


class EncodingStore(Protocol):
    """Encodings by pair; called from several threads."""

    def find(self, pair: Pair) -> StoredEncoding | None:
        """Return what was found out, None when nobody has tried; never waits for a disk."""
        ...

    def check(self, pair: Pair) -> StoredEncoding | None:
        """Likewise, after hashing what an earlier life left; None when it is to be made; slow."""
        ...

    def put(self, encoding: StoredEncoding, data: bytes) -> None:
        """Keep an encoding and its bytes durably; the oldest give way beyond the bound."""
        ...

    def owner_of(self, sha256: str) -> str | None:
        """Return the package that an encoded blob belongs to; None for what is no such blob."""
        ...

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an encoded blob; raises NotFoundError."""
        ...

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; raises NotFoundError."""
        ...


class Lineage(Protocol):
    """Which packages are versions of each other."""

    def related(self, target: str, others: Collection[str]) -> frozenset[str]:
        """Return those of the same model and device profile as ``target``; raises FleetError."""
        ...
