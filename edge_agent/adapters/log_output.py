"""Where the agent's log goes: standard error, and on request a bounded, rotated file.

A line is bounded in length and holds no control characters, because part of it may come from a
server or a model; as JSON (``log_format = "json"``) one line is one record. Logs need not survive a
power cut, so they do not pass ``files.py``; a disk that refuses them is told once on standard
error and stops nothing.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.adapters.files import make_directory
from edge_agent.settings import AgentSettings

LINE_CHARS_MAX = 4_000
TRACE_CHARS_MAX = 16_000
"""Of the stack of an unexpected error; its end says most, so its beginning goes."""


def start_logging(
    settings: AgentSettings, directory: Path, logger: logging.Logger | None = None
) -> None:
    """Give a logger the handlers the settings ask for, unless it has some.

    Args:
        settings: Level, format and file.
        directory: The agent's directory.
        logger: Whose handlers; None for the root of all.

    Raises:
        StorageError: The agent's directory cannot be made.
    """
    logger = logger or logging.getLogger()
    if logger.handlers:
        return
    formatter = JsonFormatter() if settings.log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if settings.log_file:
        from edge_agent.adapters.log_file import LogFile

        make_directory(directory)
        handlers.append(
            LogFile(
                directory / settings.log_file,
                bytes_max=settings.log_bytes_max,
                files_kept=settings.log_files_kept,
            )
        )
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())


class TextFormatter(logging.Formatter):
    """Time, level, logger and words; a stack follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        words = _clean(record.getMessage(), LINE_CHARS_MAX)
        line = f"{_instant(record)} {record.levelname} {record.name}: {words}"
        trace = self._trace(record)
        return f"{line}\n{trace}" if trace else line

    def _trace(self, record: logging.LogRecord) -> str:
        if record.exc_info is None or record.exc_info[0] is None:
            return ""
        return _clean(self.formatException(record.exc_info), TRACE_CHARS_MAX, is_end=True)


class JsonFormatter(TextFormatter):
    """One JSON object a line: ``at``, ``level``, ``logger``, ``message``, and ``trace`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        row = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage(), LINE_CHARS_MAX),
        }
        trace = self._trace(record)
        return json.dumps({**row, "trace": trace} if trace else row, ensure_ascii=False)


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(text: str, chars_max: int, *, is_end: bool = False) -> str:
    """Bound a text and take out what could command a terminal or forge a line."""
    if len(text) > chars_max:
        left = len(text) - chars_max
        text = f"[{left} left out] {text[left:]}" if is_end else f"{text[:chars_max]} [{left} more]"
    kept = "\n" if is_end else ""
    return "".join(c if c.isprintable() or c in kept else "?" for c in text)
