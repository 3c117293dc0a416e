"""Take a table apart into the rows of each member of a family. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet_server.errors import RefusedError
from fleet_server.ports.training import NumberColumn, RawTable, WordColumn
from fleet_server.training.spec import Spec
from fleet_server.training.spec_family import MEMBERS_MAX, name_fallback, name_member

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionPackages:
    """The version in service under a member's name.

    Attributes:
        number: Its version.
        packages: sha256 by profile id.
    """

    number: int
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member's rows.

    Attributes:
        name: Its model name.
        values: By partition column.
        table: Its rows.
        key: Digest of its rows: the same rows in the same order give the same key.
        is_fallback: Whether it has the rows of all and is for devices without a member.
        champion: What is in service under its name.
    """

    name: str
    values: Mapping[str, str]
    table: RawTable
    key: str
    is_fallback: bool = False
    champion: ChampionPackages | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What a table came apart into.

    Attributes:
        members: By name.
        too_small: Names of members with fewer rows than the spec asks for, with their rows.
        rows_without: Rows with a missing value in a partition column.
    """

    members: tuple[Member, ...]
    too_small: Mapping[str, int]
    rows_without: int


def split_members(spec: Spec, table: RawTable, *, source: str) -> Partition:
    """Give each member its rows, in the order of the table.

    Raises:
        RefusedError: No member, too many, or two whose values make one name.
    """
    family = spec.family
    if family is None:
        raise RefusedError(f"{spec.model.name} is no family")
    columns = [table.words[column] for column in family.partition]
    codes = np.stack([column.codes for column in columns], axis=1)
    is_named = (codes >= 0).all(axis=1)
    rows = np.flatnonzero(is_named)
    groups, owner = np.unique(codes[rows], axis=0, return_inverse=True)
    if not 1 <= len(groups) <= MEMBERS_MAX:
        named = ", ".join(family.partition)
        raise RefusedError(
            f"{source}: {named} has {len(groups):,} different values, a family has 1 to"
            f" {MEMBERS_MAX:,} members"
        )
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(groups) + 1))
    members: dict[str, Member] = {}
    too_small: dict[str, int] = {}
    for number, group in enumerate(groups):
        values = {
            name: column.words[code]
            for name, column, code in zip(family.partition, columns, group, strict=True)
        }
        name = name_member(spec.model.name, values)
        if family.has_fallback and name == name_fallback(spec.model.name):
            raise RefusedError(
                f"{source}: {dict(values)} makes the name {name!r}, which is the fallback's;"
                " rename it in the table"
            )
        if name in members or name in too_small:
            raise RefusedError(
                f"{source}: two values of {', '.join(family.partition)} make the name {name!r},"
                f" {dict(values)} is one; rename one of them in the table"
            )
        own = rows[order[starts[number] : starts[number + 1]]]
        if len(own) < family.rows_min:
            too_small[name] = len(own)
            continue
        part = _take(table, own, leave_out=family.partition)
        members[name] = Member(name=name, values=values, table=part, key=_digest(part))
    found = [members[name] for name in sorted(members)]
    if family.has_fallback:
        found.append(_make_fallback(spec.model.name, table, family.partition))
    return Partition(
        members=tuple(found),
        too_small=too_small,
        rows_without=int(np.sum(~is_named)),
    )


def _make_fallback(pattern: str, table: RawTable, partition: Sequence[str]) -> Member:
    """Give the member that has every row, those of no member too."""
    whole = _take(table, np.arange(table.rows), leave_out=partition)
    return Member(
        name=name_fallback(pattern), values={}, table=whole, key=_digest(whole), is_fallback=True
    )


def _take(table: RawTable, rows: Places, *, leave_out: Sequence[str]) -> RawTable:
    numbers = {name: _take_numbers(column, rows) for name, column in table.numbers.items()}
    words = {
        name: _take_words(column, rows)
        for name, column in table.words.items()
        if name not in leave_out
    }
    return RawTable(rows=len(rows), numbers=numbers, words=words)


def _take_numbers(column: NumberColumn, rows: Places) -> NumberColumn:
    if not len(column.unreadable):
        return NumberColumn(values=column.values[rows], unreadable=column.unreadable)
    mine = np.flatnonzero(np.isin(rows, column.unreadable))
    return NumberColumn(
        values=column.values[rows],
        unreadable=mine,
        first_unreadable=column.first_unreadable if len(mine) else "",
    )


def _take_words(column: WordColumn, rows: Places) -> WordColumn:
    """Take rows; words that none of them has are left out."""
    codes = column.codes[rows]
    used = np.unique(codes[codes >= 0])
    renamed = np.full(len(column.words) + 1, -1, np.int64)
    renamed[used] = np.arange(len(used))
    return WordColumn(codes=renamed[codes], words=tuple(column.words[code] for code in used))


def _digest(table: RawTable) -> str:
    digest = hashlib.sha256(str(table.rows).encode())
    for name, numbers in sorted(table.numbers.items()):
        digest.update(name.encode() + b"\0" + numbers.values.tobytes())
    for name, words in sorted(table.words.items()):
        digest.update(name.encode() + b"\0" + "\0".join(words.words).encode())
        digest.update(words.codes.tobytes())
    return digest.hexdigest()
