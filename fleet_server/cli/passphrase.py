"""Ask the person at the terminal for the passphrase of a key or the PIN of a token."""

import sys
from collections.abc import Callable

import typer


def ask_passphrase() -> Callable[[str], str] | None:
    """Return what asks for a passphrase or PIN; None when nobody sits at a terminal."""
    if not sys.stdin.isatty():
        return None

    def ask(what: str) -> str:
        answer: str = typer.prompt(what, hide_input=True, default="", show_default=False, err=True)
        return answer

    return ask
