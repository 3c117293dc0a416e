"""How ``edge-convert`` speaks: results on stdout, words on stderr."""

import json
import sys
from collections.abc import Callable
from typing import Any


def say(words: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(make_plain(words) + "\n")


def print_result(
    result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]
) -> None:
    """Print a result as JSON, or the way ``show`` does."""
    if as_json:
        from converters.evidence import encode_evidence

        result = json.loads(encode_evidence(result))
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        show(result)


def make_plain(text: str) -> str:
    """Take out what a terminal would obey: files from outside name some of what is shown.

    >>> make_plain("a" + chr(27) + "[2J")
    'a?[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
