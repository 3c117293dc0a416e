"""The audit log as it is read: pages, and a check of the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One act.

    Attributes:
        id: Its number, 1 and up without a gap.
        at: When.
        actor: Who: a person, ``service:NAME``, a device, or a part of the server.
        act: What, such as ``device.revoke``.
        object: To what.
        reason: As the actor gave it.
        detail: JSON text.
        sha256: Over this row and the hash of the one before.
    """

    id: int
    at: datetime
    actor: str
    act: str
    object: str
    reason: str
    detail: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The newest row somebody has seen: nothing up to it may change or go away.

    Attributes:
        rows: Number of the row, so as many rows there must be.
        sha256: Of that row.
        place: Who keeps it, for people.
    """

    rows: int
    sha256: str
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which rows to list; empty fields let all through.

    Attributes:
        actor: Exactly this actor.
        act: Exactly this act, or a whole family with a dot at the end, such as ``device.``.
        since: Not before it.
    """

    actor: str = ""
    act: str = ""
    since: datetime | None = None


class AuditReader(Protocol):
    """Reads the log of one fleet."""

    def list_page(self, wanted: AuditFilter, *, before: int, limit: int) -> list[AuditRecord]:
        """Return rows, the newest below number ``before`` first."""
        ...

    def find_head(self) -> AuditHead | None:
        """Return the newest row; None for an empty log."""
        ...

    def find_hash(self, row: int) -> str | None:
        """Return the hash a row carries; None when there is no such row."""
        ...

    def find_breaks(self, heads: Sequence[AuditHead]) -> Iterator[str]:
        """Read the whole log, row by row, and yield a sentence for everything that is wrong."""
        ...


class HeadKeeper(Protocol):
    """A place outside the database where a head is kept."""

    @property
    def place(self) -> str:
        """Name of the place for people."""
        ...

    def load(self) -> AuditHead | None:
        """Return the head kept there; None when there is none; raises FleetError."""
        ...

    def store(self, head: AuditHead) -> None:
        """Keep another head."""
        ...
