"""One package on its way in: what is here, what is asked, what is fetched in its place.

State and the plain questions about it; who drives it is ``downloads.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.transfer import BASES_MAX, Encoding, PackageOffer
from edge_agent.core.offer_plan import MISSING_BYTES_MIN, Asking, missing_bytes, part_key
from edge_agent.core.release import Release
from edge_agent.core.transfer_plan import Transfer, encoded_budget_of
from edge_agent.errors import RestoreError, StorageError
from edge_agent.ports import PartialBlob
from edge_agent.restorer_port import PackageRestorer

PROBLEM_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """What it takes to fetch something smaller in place of a package.

    Attributes:
        restorer: Gives the package back.
        find_held: Returns the packages a slot holds, the likeliest base first.
    """

    restorer: PackageRestorer
    find_held: Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class PartOpened:
    """What of a package, or of an encoding of it, is here already, or why it cannot be begun.

    Attributes:
        number: Of the download.
        result: Of the package or encoding.
        held: Packages it may be restored from, and their sizes.
        refusal: Why it is to be fetched as it is; empty when it need not be.
    """

    number: int
    result: PartialBlob | StorageError | RestoreError
    held: Mapping[str, int] = field(default_factory=dict)
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class PartSaved:
    """Disk work is done: pieces are durable, or a package is restored; or why not."""

    number: int
    error: StorageError | RestoreError | None


@dataclass(slots=True)
class Download:
    """One package and the slots that wait for it, with the attempt of each.

    Attributes:
        own: What of the package itself is here; None before that was looked up.
        asking: The question how it can travel; None when it is not asked, or answered.
        offer: The encoding being fetched; None for the package itself.
        transfer: What is being fetched; None before it is known.
        spent_bytes: Received in vain so far.
        problem: Why an encoding was not used.
        is_busy: Disk work is under way, ``then`` goes on behind it.
    """

    number: int
    release: Release
    waiting: dict[str, int] = field(default_factory=dict)
    own: PartialBlob | None = None
    asking: Asking | None = None
    offer: PackageOffer | None = None
    transfer: Transfer | None = None
    is_list_saved: bool = False
    is_busy: bool = False
    then: Callable[[], None] | None = None
    spent_bytes: int = 0
    problem: str = ""

    @property
    def key(self) -> str:
        """Names the pieces on disk."""
        return part_key(self.release.sha256, self.offer)

    def begin_question(self, done: PartOpened, memory_bytes: int) -> None:
        """Ask how the package can travel, unless that is settled or not worth it."""
        own = self.own or PartialBlob()
        missing = missing_bytes(self.release.size_bytes, own.bitmap)
        if not memory_bytes or done.refusal or missing < MISSING_BYTES_MIN:
            return
        bases = [(h, size) for h, size in done.held.items() if h != self.release.sha256]
        self.asking = Asking(
            sha256=self.release.sha256,
            size_bytes=self.release.size_bytes,
            missing_bytes=missing,
            bases=dict(bases[:BASES_MAX]),
            memory_bytes=memory_bytes,
        )

    def begin_package(self) -> None:
        """Fetch the package itself, on what is left of the budget."""
        own = self.own or PartialBlob()
        self.offer, self.is_list_saved = None, own.hashes is not None
        self.transfer = Transfer(
            sha256=self.release.sha256,
            size_bytes=self.release.size_bytes,
            chunks=self.release.chunks,
            hashes=own.hashes,
            have=own.bitmap,
            received_bytes=self.spent_bytes,
        )

    def begin_encoding(self, offer: PackageOffer, found: PartialBlob) -> None:
        """Fetch an encoding on a part of the budget that leaves enough for the package."""
        self.is_list_saved = found.hashes is not None
        self.transfer = Transfer(
            sha256=offer.sha256,
            size_bytes=offer.size_bytes,
            chunks=offer.chunks,
            hashes=found.hashes,
            have=found.bitmap,
            budget_bytes=encoded_budget_of(self.release.size_bytes),
        )

    def give_up_encoding(self, why: str) -> None:
        """Note that an encoding was of no use; what it cost stays spent."""
        self.problem = why
        if self.transfer is not None:
            self.spent_bytes += self.transfer.received_bytes
        self.transfer = None

    def note(self) -> dict[str, Any]:
        """Say how the package came, for the report; empty before it is known."""
        if self.transfer is None:
            return {}
        said: dict[str, Any] = {
            "encoding": str(self.offer.encoding if self.offer is not None else Encoding.IDENTITY),
            "package_bytes": self.release.size_bytes,
            "received_bytes": self.transfer.received_bytes,
        }
        if self.offer is not None and self.offer.base:
            said["base"] = self.offer.base[:16]
        if self.problem:
            said["problem"] = self.problem[:PROBLEM_CHARS_MAX]
        return said
