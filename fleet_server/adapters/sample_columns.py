"""The columns of an export of sampled rows: those of all files and batches side by side.

A feature may come in more than one kind: hashed by one device and as it is by another, or of
another type in another version. Each kind is a column of its own: the commonest one that is not
hashed has the feature's name, the others say their kind behind it, as in ``door (hash)``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from fleet_server.errors import RefusedError

HASHED = "hash"
PREDICTED, LABEL = "_predicted", "_label"
"""Followed by _ and the name of a target or label where an answer has several."""


class _Kind(NamedTuple):
    """A column as it came: its name, whether its values are hashes, and its type in words."""

    name: str
    is_hashed: bool
    type: str

    @property
    def apart(self) -> str:
        """Name beside a column of the feature's own name."""
        return f"{self.name} ({HASHED if self.is_hashed else self.type})"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedColumns:
    """Where each kind of column goes.

    Attributes:
        schema: Of the export.
        names: Name of each kind in it.
    """

    schema: pa.Schema
    names: Mapping[_Kind, str]

    @classmethod
    def of(cls, schemas: Sequence[pa.Schema]) -> "JoinedColumns":
        """Put all columns side by side, ours first, with labels for all that is answered.

        Raises:
            RefusedError: Answers are of two kinds, or a name would be taken twice.
        """
        kinds: Counter[_Kind] = Counter()
        types: dict[_Kind, pa.DataType] = {}
        for schema in schemas:
            for field in schema:
                kind = _kind_of(field)
                kinds[kind] += 1
                types[kind] = field.type
        names = _name_kinds(kinds)
        fields = {names[kind]: types[kind] for kind in kinds}
        own = [(name, found) for name, found in fields.items() if name.startswith("_")]
        rest = [(name, found) for name, found in fields.items() if not name.startswith("_")]
        labels = [
            (LABEL + name.removeprefix(PREDICTED), found)
            for name, found in own
            if name.startswith(PREDICTED)
        ]
        return cls(schema=pa.schema([*own, *labels, *rest]), names=names)

    @property
    def labels(self) -> dict[str, pa.DataType]:
        """Types of the columns of labels, by the part of an answer each is of; "" of the only."""
        own = [(field.name, field.type) for field in self.schema if field.name.startswith(LABEL)]
        return {name.removeprefix(LABEL)[1:]: found for name, found in own}

    def fit(self, table: pa.Table) -> pa.Table:
        """Bring a table's columns to their places, with nothing where it has none."""
        there = {
            self.names.get(_kind_of(field), field.name): table.column(place)
            for place, field in enumerate(table.schema)
        }
        columns = [
            there[field.name] if field.name in there else pa.nulls(table.num_rows, field.type)
            for field in self.schema
        ]
        return pa.table(columns, schema=self.schema)

    def list_apart(self, schema: pa.Schema) -> list[str]:
        """List the columns of a table that have not got their feature's name."""
        kinds = [_kind_of(field) for field in schema]
        return [self.names[kind] for kind in kinds if self.names[kind] != kind.name]


def _kind_of(field: pa.Field) -> _Kind:
    told = (field.metadata or {}).get(b"redaction", b"")
    return _Kind(field.name, told == HASHED.encode(), str(field.type))


def _name_kinds(kinds: Counter[_Kind]) -> dict[_Kind, str]:
    by_name: dict[str, list[_Kind]] = {}
    for kind in sorted(kinds, key=lambda kind: (kind.is_hashed, -kinds[kind], kind.type)):
        by_name.setdefault(kind.name, []).append(kind)
    names: dict[_Kind, str] = {}
    for kind in kinds:
        same = by_name[kind.name]
        if kind.name.startswith("_") and len(same) > 1:
            types = " and ".join(each.type for each in same)
            raise RefusedError(
                f"column {kind.name} is {types}: versions that answer in other ways share no"
                " export; choose one by --version"
            )
        names[kind] = kind.name if kind == same[0] else kind.apart
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise RefusedError(
            f"two features would be column {twice[0]!r}: one is called so, one is redacted"
            " otherwise by some devices; choose by --version or --days"
        )
    return names
