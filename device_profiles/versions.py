"""Compare dotted release numbers with ranges such as ``>=1.22,<2``.

Only final releases: a suffix such as ``rc1`` is ignored. Pure.
"""

import re

_RELEASE = re.compile(r"(\d{1,9}(?:\.\d{1,9}){0,5})")
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d{1,9}(?:\.\d{1,9}){0,5})")


def parse_release(text: str) -> tuple[int, ...]:
    """Read the leading release number, without trailing zeros.

    >>> parse_release("1.31.0rc2")
    (1, 31)

    Raises:
        ValueError: It does not start with a number.
    """
    found = _RELEASE.match(text.strip())
    if not found:
        raise ValueError(f"{text[:40]!r} is not a release number such as 1.22.0")
    numbers = [int(part) for part in found.group(1).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def parse_range(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Read a range: clauses joined by commas, all of which must hold.

    Raises:
        ValueError: A clause is not an operator and a release number.
    """
    clauses = []
    for part in text.split(","):
        found = _CLAUSE.fullmatch(part.strip())
        if not found:
            raise ValueError(f"{text[:80]!r} is not a version range such as >=1.22,<2")
        clauses.append((found.group(1), parse_release(found.group(2))))
    return tuple(clauses)


def is_release_in(text: str, wanted: str) -> bool:
    """Tell whether a release lies in a range.

    >>> is_release_in("1.31.1", ">=1.22,<2"), is_release_in("1.16.3", ">=1.22,<2")
    (True, False)
    """
    release = parse_release(text)
    return all(_holds(release, operator, bound) for operator, bound in parse_range(wanted))


def _holds(release: tuple[int, ...], operator: str, bound: tuple[int, ...]) -> bool:
    return {
        ">=": release >= bound,
        ">": release > bound,
        "<=": release <= bound,
        "<": release < bound,
        "==": release == bound,
        "!=": release != bound,
    }[operator]
