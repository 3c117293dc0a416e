"""Writes answers as JSON lines or as a CSV file, and tells a terminal how far it has come.

Invariant: a CSV file of that name is whole or not there; it takes its name at the end.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from edge_agent.errors import InputError

PROGRESS_ROWS = 256


def write_lines(answers: Iterable[Mapping[str, Any]], out: TextIO) -> int:
    """Write one JSON object a line, each at once; return how many bear an ``error``."""
    faults = 0
    for answer in answers:
        faults += "error" in answer
        out.write(f"{json.dumps(answer)}\n")
        out.flush()
    return faults


def write_csv(answers: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write a table with a header; return how many rows bear an ``error``.

    Lists become columns ``name_0`` and up, several targets ``value_TARGET``, several labels
    ``class_LABEL``, ``label_LABEL`` and ``probabilities_LABEL_CLASS``. The header is that of the
    first answer without a fault.

    Raises:
        InputError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    faults = 0
    waiting: list[dict[str, Any]] = []
    writer: csv.DictWriter[str] | None = None
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            for answer in answers:
                faults += "error" in answer
                row = dict(_flatten(answer))
                if writer is None and "error" in answer:
                    waiting.append(row)
                    continue
                if writer is None:
                    writer = _start(file, row, waiting)
                writer.writerow(row)
            if writer is None:
                _start(file, waiting[0] if waiting else {"row": 0}, waiting)
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return faults


def show_progress(answers: Iterable[Mapping[str, Any]], out: TextIO) -> Iterator[Mapping[str, Any]]:
    """Pass answers on, telling every PROGRESS_ROWS of them how many there were."""
    count = 0
    for count, answer in enumerate(answers, 1):
        if count % PROGRESS_ROWS == 0:
            out.write(f"\r{count} rows answered")
            out.flush()
        yield answer
    if count >= PROGRESS_ROWS:
        out.write(f"\r{count} rows answered\n")


def _start(
    file: TextIO, row: Mapping[str, Any], waiting: Iterable[Mapping[str, Any]]
) -> "csv.DictWriter[str]":
    names = list(row) + (["error"] if "file" in row and "error" not in row else [])
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(waiting)
    return writer


def _flatten(answer: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in answer.items():
        if isinstance(value, list):
            yield from ((f"{name}_{n}", cell) for n, cell in enumerate(value))
        elif isinstance(value, dict):
            yield from _flatten({f"{name}_{inner}": cell for inner, cell in value.items()})
        else:
            yield name, value
