"""Give sampled rows of a model out as one file, with labels where they became known.

Who took how many is written down: raw values of devices leave the server here.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.samples import SampleBook, SampleFiles, SampleSum

WAITING_BYTES_MAX = 1_073_741_824


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What to give out.

    Attributes:
        model: Model.
        out: The file; must not be there.
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

    def export(self, wish: Export) -> int:
        """Write the file; return its rows.

        Raises:
            NotFoundError: No such rows.
            RefusedError: The file is there, or columns do not fit together.
            FleetError: A file is damaged, or this one cannot be written.
        """
        if wish.out.exists():
            raise RefusedError(f"{wish.out} is there already; name another file")
        now = self.clock.now()
        since_at = now - timedelta(days=wish.days) if wish.days is not None else None
        files, waiting = self.book.look_at(wish.model, bytes_max=WAITING_BYTES_MAX)
        batches = [
            batch
            for batch in waiting
            if wish.version in (None, batch.version)
            and (since_at is None or batch.received_at >= since_at)
        ]
        files = [
            file
            for file in files
            if wish.version in (None, file.version)
            and (since_at is None or file.last_at >= since_at)
        ]
        if not files and not batches:
            raise NotFoundError(f"no sampled rows of {wish.model} to export; see samples ls")
        labels = self.book.list_labels(wish.model, wish.version)
        rows = self.files.export(wish.out, files, batches, labels)
        self.book.note_export(wish.model, rows=rows, path=str(wish.out), actor=self.actor, at=now)
        return rows
