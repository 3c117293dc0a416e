"""A log file that is rotated and bounded; loaded only where the settings ask for one."""

import logging
import logging.handlers
import sys
from pathlib import Path

FILE_MODE = 0o600


class LogFile(logging.handlers.RotatingFileHandler):
    """A file of at most ``bytes_max``, and ``files_kept`` older ones beside it."""

    def __init__(self, path: Path, *, bytes_max: int, files_kept: int) -> None:
        super().__init__(
            path, maxBytes=bytes_max, backupCount=files_kept, encoding="utf-8", delay=True
        )
        self._is_told = False

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the base names it
        """Say once that the file does not take what is logged; standard error still does."""
        if not self._is_told:
            self._is_told = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"{self.baseFilename} takes no more log lines: {error}\n")

    def doRollover(self) -> None:  # noqa: N802 - the base names it
        """Begin a new file; without older ones to keep, the one there is starts anew."""
        if self.backupCount > 0:
            super().doRollover()
            return
        if self.stream is not None:
            self.stream.close()
        self.stream = None
        Path(self.baseFilename).unlink(missing_ok=True)

    def _open(self):  # type: ignore[no-untyped-def] # the base's type is private
        stream = super()._open()
        Path(self.baseFilename).chmod(FILE_MODE)
        return stream
