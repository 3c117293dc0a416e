"""Read the audit log, check that it is whole, and remember its head in places outside it.

A head is moved on only from a log that still holds it: who cuts rows off cannot have the shorter
log remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from fleet_server.errors import RefusedError
from fleet_server.ports.audit import AuditHead, AuditReader, HeadKeeper

BREAKS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What a check found.

    Attributes:
        head: The newest row; None for an empty log.
        breaks: The first sentences on what is wrong, at most BREAKS_SHOWN.
        compared: Heads kept elsewhere that the log was held against.
    """

    head: AuditHead | None
    breaks: tuple[str, ...]
    compared: tuple[AuditHead, ...]

    @property
    def is_whole(self) -> bool:
        """Nothing is wrong."""
        return not self.breaks


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDesk:
    """Checks the log of one fleet against what ``keepers`` remember of it."""

    reader: AuditReader
    keepers: Sequence[HeadKeeper]

    def verify(self, *heads: AuditHead) -> AuditReport:
        """Read the whole log and hold it against every head, those given included."""
        compared, breaks = list(heads), []
        for keeper in self.keepers:
            try:
                head = keeper.load()
            except RefusedError as error:
                breaks.append(str(error))
            else:
                compared += [head] if head else []
        breaks += islice(self.reader.find_breaks(compared), BREAKS_SHOWN)
        return AuditReport(
            head=self.reader.find_head(),
            breaks=tuple(breaks[:BREAKS_SHOWN]),
            compared=tuple(compared),
        )

    def remember(self, head: AuditHead) -> list[str]:
        """Keep the head of a log that was found whole, wherever that can be written.

        Returns:
            The places that keep it now.
        """
        places = []
        for keeper in self.keepers:
            try:
                keeper.store(head)
            except OSError:  # the operator's folder may be elsewhere, or not ours to write
                continue
            places.append(keeper.place)
        return places


@dataclass(slots=True)
class HeadFollower:
    """Moves one keeper on while the log grows; cheap enough for every heartbeat.

    Attributes:
        reader: Of the log.
        keeper: Where the head is kept.
        alarm: What is wrong, empty while all is well; stays until a person looks.
    """

    reader: AuditReader
    keeper: HeadKeeper
    alarm: str = ""

    def follow(self) -> None:
        """Keep the newest head if the log still holds the one kept before."""
        try:
            kept = self.keeper.load()
        except RefusedError as error:
            self.alarm = str(error)
            return
        head = self.reader.find_head()
        if kept is not None and self.reader.find_hash(kept.rows) != kept.sha256:
            self.alarm = (
                f"the audit log does not hold row {kept.rows} any more as it was seen"
                " (`edgefleet audit verify`)"
            )
        else:
            self.alarm = ""
            if head is not None and head.sha256 != (kept.sha256 if kept else ""):
                self.keeper.store(head)


def parse_head(text: str) -> AuditHead:
    """Read ``ROWS:SHA256`` as ``audit verify`` prints it.

    Raises:
        RefusedError: It is not one.
    """
    rows, _, sha256 = text.strip().partition(":")
    is_hash = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    if not rows.isascii() or not rows.isdigit() or len(rows) > 12 or not is_hash:
        raise RefusedError(f"{text[:80]!r} is no head; `edgefleet audit verify` prints ROWS:SHA256")
    return AuditHead(rows=int(rows), sha256=sha256, place="the head you gave")
