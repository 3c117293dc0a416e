"""Note in the audit log who was refused at the API: without a token that works, or beyond a role.

Whoever is refused pays nothing, so rows are bounded: a burst, then so many an hour; what was left
out is counted in the next row. Nothing a caller sent is written but the method and the path's
beginning; a token never is.
"""

from dataclasses import dataclass

from fleet_server.ports.clock import Clock
from fleet_server.ports.people import PeopleBooks
from fleet_server.services.login_guard import RowBudget, find_network

PATH_CHARS_MAX = 120
NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalNotes:
    """Writes them; one per process, so that the bound holds.

    Attributes:
        books: Opens transactions.
        clock: Time of day.
        rows: How many rows may be written.
    """

    books: PeopleBooks
    clock: Clock
    rows: RowBudget

    def note(self, *, status: int, actor: str, address: str, method: str, path: str) -> None:
        """Append one row, unless too many were of late; raises FleetError.

        Args:
            status: 401 or 403.
            actor: Whom the token stands for; empty when nobody.
            address: Where the caller sits.
            method: As asked.
            path: As asked.
        """
        asked = "".join(c if c.isprintable() else "?" for c in f"{method[:8]} {path}")
        left_out = self.rows.take()
        if left_out is None:
            return
        detail: dict[str, object] = {"status": status, "address": find_network(address)}
        if left_out:
            detail["rows_left_out"] = left_out
        with self.books.writing() as book:
            book.audit.append(
                at=self.clock.now(),
                actor=actor or NOBODY,
                act="api.refused",
                subject=asked[:PATH_CHARS_MAX],
                detail=detail,
            )
