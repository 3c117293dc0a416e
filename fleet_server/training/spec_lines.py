"""Find the line of every key of a TOML text: the standard reader tells values, not places.

The text must already have passed ``tomllib``; the scan relies on its syntax being right. Keys
inside an inline table are not listed: the table's own line is where to look.
"""

import re
import tomllib

KeyPath = tuple[str, ...]

_KEY_PART = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[A-Za-z0-9_-]+"
_KEY = re.compile(rf"(?:{_KEY_PART})(?:[ \t]*\.[ \t]*(?:{_KEY_PART}))*")
_PART = re.compile(_KEY_PART)
_TOKEN = re.compile(
    r"\"\"\"(?:[^\\]|\\.)*?\"\"\"\"{0,2}"  # a multi-line string may end in up to five quotes
    r"|'''.*?''''{0,2}"
    r"|\"(?:[^\"\\\n]|\\.)*\""
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[{]|[\]}]|\n|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)
_OPENING = re.compile(r"\[[\[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|\#[^\n]*)+")


def find_lines(text: str) -> dict[KeyPath, int]:
    r"""Give the line, counted from 1, on which each table and key first appears.

    >>> find_lines('[data]\nsource = "file:a.csv"\n')[("data", "source")]
    2
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    base: KeyPath
    position, counted, number = 0, 0, 1
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
            continue
        opening = _OPENING.match(text, position)
        key = _KEY.match(text, opening.end() if opening else position)
        if key is None:
            break
        number += text.count("\n", counted, key.start())
        counted = key.start()
        path = _parts(key.group())
        if opening:
            table, base = path, ()
            position = _end_of_line(text, key.end())
        else:
            base = table
            position = _end_of_value(text, key.end())
        for length in range(1, len(path) + 1):
            lines.setdefault(base + path[:length], number)
    return lines


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """Give the line of a key, or of the nearest table above it; 1 when nothing is known."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1


def _parts(key: str) -> KeyPath:
    parts = []
    for part in _PART.findall(key):
        plain = part if part[0] not in "\"'" else next(iter(tomllib.loads(f"{part} = 0")))
        parts.append(plain)
    return tuple(parts)


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, position: int) -> int:
    depth = 0
    while token := _TOKEN.match(text, position):
        position = token.end()
        match token.group():
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "\n" if depth == 0:
                return position
            case _:
                pass
    return len(text)
