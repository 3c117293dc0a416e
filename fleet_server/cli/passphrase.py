"""Ask the person at the terminal for the passphrase of a key."""

import sys
from collections.abc import Callable

import typer


def ask_passphrase() -> Callable[[str], str] | None:
    """Return what asks for a passphrase; None when nobody sits at a terminal."""
    if not sys.stdin.isatty():
        return None

    def ask(path: str) -> str:
        answer: str = typer.prompt(f"passphrase of {path}", hide_input=True, err=True)
        return answer

    return ask
