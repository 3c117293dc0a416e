"""Give sampled rows of a model out as one file, with labels where they became known.

Who took how many is written down: raw values of devices leave the server here.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.samples import Exported, SampleBook, SampleFiles, SampleSum

WAITING_BYTES_MAX = 268_435_456
"""Read at once of what is in no file yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What to give out.

    Attributes:
        model: Model.
        out: The file, .csv or Parquet; must not be there.
        version: None for all.
        days: Rows that came within so many days; None for all.
    """

    model: str
    out: Path
    version: int | None = None
    days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDesk:
    """What people do with samples.

    Attributes:
        book: The ledger.
        files: Where they lie.
        clock: For the audit log.
        actor: Who asks.
    """

    book: SampleBook
    files: SampleFiles
    clock: Clock
    actor: str

    def add_up(self, model: str | None = None) -> list[SampleSum]:
        """Sum up by model and version; raises NotFoundError when a named model has none."""
        found = self.book.add_up(model)
        if model is not None and not found:
            raise NotFoundError(
                f"no sampled rows of {model}; devices send them when their settings say so"
                " (docs/telemetry.md)"
            )
        return found

    def export(self, wish: Export) -> Exported:
        """Write the file; tell what it holds.

        Raises:
            NotFoundError: No such rows.
            RefusedError: The file is there, answers do not fit together, or more rows wait for
                their files than are read at once.
            FleetError: A file is damaged, or this one cannot be written.
        """
        if wish.out.exists():
            raise RefusedError(f"{wish.out} is there already; name another file")
        now = self.clock.now()
        since_at = now - timedelta(days=wish.days) if wish.days is not None else None
        seen = self.book.look_at(wish.model, wish.version, since_at, bytes_max=WAITING_BYTES_MAX)
        if not seen.files and not seen.batches:
            raise NotFoundError(f"no sampled rows of {wish.model} to export; see samples ls")
        if not seen.is_whole:
            raise RefusedError(
                f"more sampled rows of {wish.model} wait for their files than one export reads"
                f" ({len(seen.batches)} batches or {WAITING_BYTES_MAX} bytes); the gateway files"
                " them every few minutes: try again then, or choose by --version or --days"
            )
        labels = self.book.list_labels(wish.model, wish.version)
        made = self.files.export(wish.out, seen.files, seen.batches, labels)
        self.book.note_export(
            wish.model, rows=made.rows, path=str(wish.out), actor=self.actor, at=now
        )
        return made
