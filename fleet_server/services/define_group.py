"""Define groups: names for label queries over the fleet. ``all`` exists without being defined."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from fleet_server.core.label_query import LabelQuery, QueryError, device_facts, parse_query
from fleet_server.core.targeting import Candidate
from fleet_server.errors import MisuseError, NotFoundError
from fleet_server.ports.clock import Clock
from fleet_server.ports.rollouts import Book, Books, Group, GroupStore

EVERYONE = "all"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
RESERVED = frozenset({EVERYONE, "rest"})


_EVERYONE = Group(name=EVERYONE, query=EVERYONE, created_at=datetime(2000, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group with the devices its query means now, by id."""

    group: Group
    devices: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDesk:
    """Defines and shows the groups of one fleet."""

    books: Books
    clock: Clock
    actor: str

    def define(self, name: str, query: str) -> GroupView:
        """Give a query a name, or a name another query.

        Raises:
            MisuseError: The name or the query is not one.
        """
        if not NAME.fullmatch(name) or name in RESERVED:
            raise MisuseError(
                f"group name {name[:80]!r}: use 1 to 63 of a-z, 0-9, '.', '_', '-', and neither"
                f" {' nor '.join(sorted(RESERVED))}"
            )
        read_query(query)
        now = self.clock.now()
        with self.books.writing() as book:
            before = book.groups.find(name)
            group = Group(name=name, query=query, created_at=before.created_at if before else now)
            book.groups.put(group)
            book.audit.append(
                at=now,
                actor=self.actor,
                act="group.set",
                subject=name,
                detail={"query": query, "was": before.query if before else ""},
            )
            return _view(book, group)

    def list_all(self) -> list[GroupView]:
        """Return every group with its devices, ``all`` first."""
        with self.books.reading() as book:
            candidates = book.fleet.list_candidates()
            groups = [_EVERYONE, *book.groups.list_all()]
            return [_match(group, candidates) for group in groups]

    def show(self, name: str) -> GroupView:
        """Return one group with its devices.

        Raises:
            NotFoundError: There is no such group; names those there are.
        """
        with self.books.reading() as book:
            return find_group(book, name)


def find_group(book: Book, name: str) -> GroupView:
    """Return a group with its devices.

    Raises:
        NotFoundError: There is no such group; names those there are.
    """
    group = _EVERYONE if name == EVERYONE else book.groups.find(name)
    if group is None:
        known = ", ".join(group.name for group in book.groups.list_all()[:20]) or "none but `all`"
        raise NotFoundError(
            f"no group {name!r}; there are: {known}. Define it:"
            f" edgefleet group set {name} 'profile=camera and site!=lab'"
        )
    return _view(book, group)


def find_query(groups: GroupStore, name: str) -> str | None:
    """Return a group's query; None when there is no such group."""
    if name == EVERYONE:
        return EVERYONE
    group = groups.find(name)
    return group.query if group else None


def read_query(text: str) -> LabelQuery:
    """Read a query a person wrote.

    Raises:
        MisuseError: It is not one; says where.
    """
    try:
        return parse_query(text)
    except QueryError as error:
        raise MisuseError(f"{error}; for example: profile=camera and site!=lab") from error


def is_in(query: LabelQuery, device: Candidate) -> bool:
    """Tell whether a query means a device."""
    return query.is_match(device_facts(device.id, device.profile, device.labels))


def _view(book: Book, group: Group) -> GroupView:
    return _match(group, book.fleet.list_candidates())


def _match(group: Group, candidates: list[Candidate]) -> GroupView:
    query = read_query(group.query)
    return GroupView(group=group, devices=tuple(c for c in candidates if is_in(query, c)))
