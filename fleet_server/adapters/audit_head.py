"""A file that remembers the newest row of the audit log, outside the database.

A hash chain shows what was edited or taken out of its middle; that its newest rows were cut off,
or that all of it was written anew, shows only against a head kept elsewhere.
"""

import json
from pathlib import Path

from fleet_server.durable_files import write_durable
from fleet_server.errors import RefusedError
from fleet_server.ports.audit import AuditHead

FILE_NAME = "audit-head.json"
FILE_BYTES_MAX = 4_096


class HeadFile:
    """The ``HeadKeeper`` in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        """Path of the file."""
        return str(self._path)

    def load(self) -> AuditHead | None:
        """Return what the file says.

        Raises:
            RefusedError: It says nothing readable: a damaged memory is no reason to trust.
        """
        try:
            data = self._path.read_bytes()[:FILE_BYTES_MAX]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RefusedError(f"cannot read {self._path}: {error.strerror}") from error
        try:
            value = json.loads(data)
            return AuditHead(rows=int(value["rows"]), sha256=str(value["sha256"]), place=self.place)
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"{self._path} is not what edgefleet wrote; compare the log with another copy of"
                " its head (`edgefleet audit verify --head ROWS:SHA256`), then remove the file"
            ) from error

    def store(self, head: AuditHead) -> None:
        """Keep another head, durably."""
        value = {"rows": head.rows, "sha256": head.sha256}
        write_durable(self._path, json.dumps(value).encode(), mode=0o644)
