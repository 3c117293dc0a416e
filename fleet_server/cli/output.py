"""How every command speaks: data to stdout, words to stderr, errors to exit codes."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.errors import FleetError, MisuseError, UnreachableError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_REFUSED, EXIT_MISUSE, EXIT_UNREACHABLE = 1, 2, 3

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("-w", "--workspace", help="Workspace folder.", envvar="EDGEFLEET_WORKSPACE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def data_console() -> "Console":
    """Console on stdout, for what was asked."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def word_console() -> "Console":
    """Console on stderr, for what is said beside it."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Say one sentence to the person, on stderr."""
    word_console().print(text, markup=False)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def make_plain(text: str) -> str:
    """Take out what a terminal would obey: devices and strangers write some of what is shown.

    >>> make_plain("moved" + chr(27) + "[2J")
    'moved?[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; cells may carry rich markup when they are ``Text``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(make_plain(str(c))) for c in row))
    data_console().print(table)


def exit_code_of(error: FleetError) -> int:
    """Give the exit code of an error: misuse 2, unreachable 3, everything else 1."""
    if isinstance(error, MisuseError):
        return EXIT_MISUSE
    return EXIT_UNREACHABLE if isinstance(error, UnreachableError) else EXIT_REFUSED


@contextmanager
def fleet_errors() -> Iterator[None]:
    """Turn errors of the product into one sentence and the exit code of the table.

    Misuse is 2, unreachable 3, everything else that is refused 1. Anything that is not an error
    of the product is a defect and keeps its traceback.
    """
    try:
        yield
    except FleetError as error:
        word_console().print(f"error: {error}", markup=False, style="red")
        raise typer.Exit(exit_code_of(error)) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_REFUSED) from None
