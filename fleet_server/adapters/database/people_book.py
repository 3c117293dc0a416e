"""People in the control database, and one transaction over them, their tokens and the log."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, func, select

from fleet_server.adapters.database.api_tokens import TokenRepository
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.ledger import AuditTrail
from fleet_server.adapters.database.tables import PersonRow
from fleet_server.core.roles import Role
from fleet_server.errors import UnreachableError
from fleet_server.ports.people import PeopleBook, Person


class PersonRepository:
    """The ``PersonStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> Person | None:
        """Return a person."""
        row = self._session.get(PersonRow, name)
        return _person(row) if row else None

    def list_page(self, *, after: str, limit: int) -> list[Person]:
        """Return people by name, those behind ``after``."""
        query = select(PersonRow).where(PersonRow.name > after)
        rows = self._session.exec(query.order_by(col(PersonRow.name)).limit(limit))
        return [_person(row) for row in rows]

    def count(self) -> int:
        """Count the people."""
        return self._session.exec(select(func.count()).select_from(PersonRow)).one()

    def put(self, person: Person) -> None:
        """Store a person, new or changed."""
        row = self._session.get(PersonRow, person.name) or PersonRow(
            name=person.name, role="", password_argon2="", created_at=person.created_at
        )
        row.role, row.password_argon2 = str(person.role), person.password_argon2
        row.disabled_at, row.last_login_at = person.disabled_at, person.last_login_at
        row.login_failures, row.locked_until = person.login_failures, person.locked_until
        self._session.add(row)
        self._session.flush()

    def remove(self, name: str) -> None:
        """Remove a person that exists."""
        self._session.delete(self._session.get_one(PersonRow, name))
        self._session.flush()


class DatabasePeopleBook:
    """The ``PeopleBook`` over one session."""

    def __init__(self, session: Session) -> None:
        self.people = PersonRepository(session)
        self.tokens = TokenRepository(session)
        self.audit = AuditTrail(session)


class DatabasePeopleBooks:
    """The ``PeopleBooks`` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def reading(self) -> Iterator[PeopleBook]:
        """Open one that sees one state and writes nothing."""
        with _translated(), read_session(self._engine) as session:
            yield DatabasePeopleBook(session)

    @contextmanager
    def writing(self) -> Iterator[PeopleBook]:
        """Open one that commits at its end."""
        with _translated(), write_session(self._engine) as session:
            yield DatabasePeopleBook(session)


@contextmanager
def _translated() -> Iterator[None]:
    """Say that the database is away or busy in the product's own error."""
    try:
        yield
    except OperationalError as error:
        raise UnreachableError(f"control database: {error.orig}") from error


def _person(row: PersonRow) -> Person:
    return Person(
        name=row.name,
        role=Role(row.role),
        password_argon2=row.password_argon2,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        last_login_at=row.last_login_at,
        login_failures=row.login_failures,
        locked_until=row.locked_until,
    )
