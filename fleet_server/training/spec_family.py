"""Read ``[family]``: one spec, and a model of its own for every value of a column.

The name of the model has the columns in braces: ``departure-{route}`` with ``partition = "route"``
gives the models ``departure-7`` and ``departure-12a``.
"""

import re
from collections.abc import Mapping

from fleet_server.errors import RefusedError
from fleet_server.training.spec import DataSection, FamilySection
from fleet_server.training.spec_problems import Section, show

PARTITION_COLUMNS_MAX = 4
ROWS_MIN_DEFAULT = 50
ROWS_MIN_LOW = 10
FAIL_SHARE_DEFAULT = 0.01
MEMBERS_MAX = 30_000
NAME_CHARS_MAX = 63
POOLED, NO_FALLBACK = "pooled", "none"
"""A model from the rows of all members for devices that have none; its name says so."""
_HOLE = re.compile(r"\{([^{}]*)\}")
_STRANGE = re.compile(r"[^a-z0-9]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def names_family(name: str) -> bool:
    """Tell whether a model name stands for many.

    >>> names_family("departure-{route}"), names_family("digits")
    (True, False)
    """
    return "{" in name or "}" in name


def read_family(root: Section, name: str, data: DataSection) -> FamilySection | None:
    """Read the section; None where the spec is of one model."""
    if "family" not in root and not names_family(name):
        return None
    family = root.section("family", kind="family")
    columns = _read_partition(family)
    for column in columns:
        if column in data.target_columns or column in data.table_columns:
            what = "data.target" if column in data.target_columns else "a feature"
            family.add(
                "partition",
                f"{show(column)} is also {what}; within a member it is always the same",
            )
    holes = _HOLE.findall(name)
    if sorted(holes) != sorted(columns):
        named = ", ".join("{" + column + "}" for column in columns) or "the column in braces"
        root.section("model").add(
            "name",
            f"{show(name)} names a family: it must hold {named}, each column of"
            " family.partition once",
        )
    elif not _NAME.fullmatch(_HOLE.sub("x", name)):
        root.section("model").add("name", f"{show(name)} must match {_NAME.pattern} once filled")
    fail_share = family.number("fail_max", low=0, high=1, unit=" (a share of the members)")
    return FamilySection(
        partition=columns,
        rows_min=family.integer("rows_min", ROWS_MIN_DEFAULT, low=ROWS_MIN_LOW, high=10**9),
        fail_share_max=FAIL_SHARE_DEFAULT if fail_share is None else fail_share,
        has_fallback=_read_fallback(family),
    )


def _read_fallback(family: Section) -> bool:
    value = family.values.get("fallback", NO_FALLBACK)
    if value not in (POOLED, NO_FALLBACK):
        family.add("fallback", f'must be "{POOLED}" or "{NO_FALLBACK}", got {show(value)}')
    return bool(value == POOLED)


def _read_partition(family: Section) -> tuple[str, ...]:
    value = family.values.get("partition")
    columns = [value] if isinstance(value, str) else value
    if not isinstance(columns, list) or not columns:
        family.add("partition", 'missing; name the column, as in partition = "route"')
        return ()
    if len(columns) > PARTITION_COLUMNS_MAX:
        family.add("partition", f"names {len(columns)} columns, at most {PARTITION_COLUMNS_MAX}")
        return ()
    if not all(isinstance(column, str) and column for column in columns):
        family.add("partition", f"must be names of columns, got {show(value)}")
        return ()
    if len(set(columns)) != len(columns):
        family.add("partition", f"names a column twice: {show(value)}")
        return ()
    return tuple(columns)


def name_fallback(pattern: str) -> str:
    """Give the model name of the member trained from the rows of all.

    >>> name_fallback("departure-{route}")
    'departure-pooled'
    """
    return _HOLE.sub(POOLED, pattern)


def list_columns(pattern: str) -> tuple[str, ...]:
    """Name the partition columns, in the order of the pattern.

    >>> list_columns("departure-{route}-{stop}")
    ('route', 'stop')
    """
    return tuple(_HOLE.findall(pattern))


def name_slot(pattern: str) -> str:
    """Give the slot that every member of a family runs in.

    A device changes its member, and what asks it for predictions notices nothing.

    >>> name_slot("departure-{route}"), name_slot("{site}-wear-{machine}"), name_slot("{route}")
    ('departure', 'wear', 'route')
    """
    bare = re.sub("-+", "-", _HOLE.sub("", pattern)).strip("-")
    return bare or "-".join(list_columns(pattern))


def name_member(pattern: str, values: Mapping[str, str]) -> str:
    """Give a member's model name.

    Args:
        pattern: ``model.name`` of the spec.
        values: The member's value by partition column.

    Raises:
        RefusedError: No name can be made of the values.

    >>> name_member("departure-{route}", {"route": "12 A"})
    'departure-12-a'
    """
    name = _HOLE.sub(lambda hole: _STRANGE.sub("-", values[hole.group(1)].lower()), pattern)
    name = name.strip("-")
    if not _NAME.fullmatch(name):
        told = ", ".join(f"{column} {value[:60]!r}" for column, value in values.items())
        raise RefusedError(
            f"{told} makes no model name: {name[:80]!r} must have 1 to {NAME_CHARS_MAX} of"
            " a-z, 0-9 and -"
        )
    return name
