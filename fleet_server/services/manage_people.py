"""Add people, change what they may do, let them in again, take them out.

Who administers through the API cannot disable, demote or remove themselves: so an administrator
is left whatever they do. The command line, which needs the workspace's files, can do everything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleet_server.core.roles import Role
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.people import Passwords, PeopleBook, PeopleBooks, Person, TokenKind

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
RESERVED = frozenset({"api", "broker", "controller", "device", "gateway", "server", "service"})
"""Names under which parts of the server act."""
PASSWORD_CHARS = range(12, 257)
PEOPLE_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleDesk:
    """What an administrator does with people.

    Attributes:
        books: Opens transactions.
        passwords: Hashes.
        clock: Time of day.
        actor: Who acts, for the audit log.
        oneself: The person who acts, who may not lock themselves out; empty for nobody.
    """

    books: PeopleBooks
    passwords: Passwords
    clock: Clock
    actor: str
    oneself: str = ""

    def add(self, name: str, role: Role, password: str) -> Person:
        """Add a person.

        Raises:
            MisuseError: The name or the password is not one.
            RefusedError: There is a person of that name, or there are PEOPLE_MAX.
        """
        if not NAME.fullmatch(name) or name in RESERVED:
            raise MisuseError(
                f"name {name[:80]!r}: use 1 to 63 of a-z, 0-9, '.', '_' and '-', and none of"
                f" {', '.join(sorted(RESERVED))}"
            )
        encoded = self.passwords.hash(check_password(password))
        now = self.clock.now()
        person = Person(name=name, role=role, password_argon2=encoded, created_at=now)
        with self.books.writing() as book:
            if book.people.find(name) is not None:
                raise RefusedError(f"there is a person {name!r}; edgefleet user role {name} ROLE")
            if book.people.count() >= PEOPLE_MAX:
                raise RefusedError(f"there are {PEOPLE_MAX} people, the limit; remove some")
            book.people.put(person)
            self._record(book, "user.add", name, detail={"role": str(role)})
        return person

    def set_role(self, name: str, role: Role) -> Person:
        """Change what a person may do; their tokens follow at once.

        Raises:
            NotFoundError: No such person.
            RefusedError: It is the actor's own role.
        """
        self._refuse_self(name, "change their own role")
        with self.books.writing() as book:
            person = find_person(book, name)
            if person.role is not role:
                book.people.put(replace(person, role=role))
                detail = {"from": str(person.role), "to": str(role)}
                self._record(book, "user.role", name, detail=detail)
            return replace(person, role=role)

    def set_password(self, name: str, password: str) -> int:
        """Give a person another password; their logins end, a lock is lifted.

        Returns:
            How many tokens of theirs go on working.

        Raises:
            NotFoundError: No such person.
            MisuseError: Too short or too long.
        """
        with self.books.reading() as book:
            find_person(book, name)
        encoded = self.passwords.hash(check_password(password))
        with self.books.writing() as book:
            person = find_person(book, name)
            book.people.put(
                replace(person, password_argon2=encoded, login_failures=0, locked_until=None)
            )
            ended = self._revoke_all(book, name, TokenKind.SESSION)
            self._record(book, "user.passwd", name, detail={"sessions_ended": ended})
            return len(book.tokens.list_live(name, TokenKind.TOKEN, self.clock.now()))

    def disable(self, name: str, reason: str = "") -> Person:
        """Let a person do nothing until they are enabled; no token of theirs works meanwhile.

        Raises:
            NotFoundError: No such person.
            RefusedError: It is the actor.
        """
        self._refuse_self(name, "disable themselves")
        with self.books.writing() as book:
            person = find_person(book, name)
            if person.disabled_at is None:
                person = replace(person, disabled_at=self.clock.now())
                book.people.put(person)
                ended = self._revoke_all(book, name, TokenKind.SESSION)
                detail = {"sessions_ended": ended}
                self._record(book, "user.disable", name, reason=reason, detail=detail)
            return person

    def enable(self, name: str) -> Person:
        """Let a person in again and lift a lock of too many wrong passwords.

        Raises:
            NotFoundError: No such person.
        """
        with self.books.writing() as book:
            person = find_person(book, name)
            free = replace(person, disabled_at=None, login_failures=0, locked_until=None)
            if free != person:
                book.people.put(free)
                self._record(book, "user.enable", name)
            return free

    def remove(self, name: str, reason: str = "") -> None:
        """Remove a person; their tokens stop working for good.

        Raises:
            NotFoundError: No such person.
            RefusedError: It is the actor.
        """
        self._refuse_self(name, "remove themselves")
        with self.books.writing() as book:
            person = find_person(book, name)
            ended = sum(
                self._revoke_all(book, name, kind) for kind in (TokenKind.SESSION, TokenKind.TOKEN)
            )
            book.people.remove(name)
            detail = {"role": str(person.role), "tokens_revoked": ended}
            self._record(book, "user.rm", name, reason=reason, detail=detail)

    def _refuse_self(self, name: str, what: str) -> None:
        if name == self.oneself:
            raise RefusedError(f"{name} cannot {what}; ask another administrator")

    def _revoke_all(self, book: PeopleBook, name: str, kind: TokenKind) -> int:
        now = self.clock.now()
        live = book.tokens.list_live(name, kind, now)
        for token in live:
            book.tokens.revoke(token.id, now)
        return len(live)

    def _record(
        self,
        book: PeopleBook,
        act: str,
        name: str,
        *,
        reason: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        book.audit.append(
            at=self.clock.now(),
            actor=self.actor,
            act=act,
            subject=f"user/{name}",
            reason=reason,
            detail=detail,
        )


def find_person(book: PeopleBook, name: str) -> Person:
    """Return a person; raises NotFoundError."""
    person = book.people.find(name)
    if person is None:
        raise NotFoundError(f"no person {name[:80]!r}; edgefleet user ls names them")
    return person


def check_password(password: str) -> str:
    """Return a new password unchanged.

    Raises:
        MisuseError: Shorter than 12 or longer than 256 characters.
    """
    if len(password) not in PASSWORD_CHARS:
        raise MisuseError(
            f"the password has {len(password)} characters; take {PASSWORD_CHARS[0]} to"
            f" {PASSWORD_CHARS[-1]}, for example four random words"
        )
    return password
