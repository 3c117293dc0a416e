"""Make tokens for programs, find who a token stands for, take tokens back.

A token is shown once; the database keeps its sha256. It never may more than its person may at
the moment of use, so demoting or disabling somebody reaches every token at once.
"""

import hashlib
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fleet_server.core.roles import Role, find_lesser
from fleet_server.errors import (
    ForbiddenError,
    MisuseError,
    NotFoundError,
    RefusedError,
    UnknownCallerError,
    UnreachableError,
)
from fleet_server.ports.clock import Clock
from fleet_server.ports.people import (
    ApiToken,
    PeopleBook,
    PeopleBooks,
    Person,
    SecretMaker,
    TokenKind,
)
from fleet_server.services.manage_people import find_person

LOG = logging.getLogger(__name__)
TOKEN_CHARS_MAX = 128
TOKEN_DAYS = range(1, 1_096)
TOKEN_DAYS_DEFAULT = 90
SESSION_LASTS = timedelta(hours=12)
LABEL_CHARS_MAX = 80
LIVE_MAX = 50
"""Tokens of one kind that work at once for one person."""
DEAD_KEPT = timedelta(days=90)
TOUCH_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new token: its secret, shown once, and what is stored of it."""

    secret: str = field(repr=False)
    token: ApiToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is asking.

    Attributes:
        actor: For the audit log: the person's name, or ``service:NAME``.
        role: What they may do now.
        token: What they showed.
    """

    actor: str
    role: Role
    token: ApiToken

    @property
    def person(self) -> str:
        """The person's name; empty for a service."""
        return "" if self.token.kind is TokenKind.SERVICE else self.token.name


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDesk:
    """Makes, checks and revokes the tokens of one fleet."""

    books: PeopleBooks
    clock: Clock
    make_secret: SecretMaker

    def issue(
        self,
        name: str,
        *,
        actor: str,
        days: int = TOKEN_DAYS_DEFAULT,
        label: str = "",
        role: Role | None = None,
    ) -> Issued:
        """Make a token for a program that acts for a person.

        Args:
            name: The person.
            actor: Who makes it, for the audit log.
            days: How long it works, 1 to 1095.
            label: What it is for, at most 80 printable characters.
            role: The most it may do; None takes the person's role.

        Raises:
            NotFoundError: No such person.
            MisuseError: ``days`` or ``label`` is out of bounds.
            RefusedError: The person is disabled, has less than ``role``, or has LIVE_MAX tokens.
        """
        if days not in TOKEN_DAYS:
            raise MisuseError(f"a token works for 1 to {TOKEN_DAYS[-1]} days, not {days}")
        if len(label) > LABEL_CHARS_MAX or not label.isprintable():
            raise MisuseError(f"label: at most {LABEL_CHARS_MAX} printable characters")
        with self.books.writing() as book:
            person = find_person(book, name)
            _refuse_disabled(person)
            wanted = role or person.role
            if not person.role.reaches(wanted):
                raise RefusedError(f"{name} is {person.role}; a token of theirs cannot be {wanted}")
            now = self.clock.now()
            if len(book.tokens.list_live(name, TokenKind.TOKEN, now)) >= LIVE_MAX:
                raise RefusedError(
                    f"{name} has {LIVE_MAX} tokens that work; revoke one:"
                    f" edgefleet user tokens {name}, then edgefleet user revoke-token ID"
                )
            issued = self._add(
                book, person, TokenKind.TOKEN, wanted, until=now + timedelta(days=days), label=label
            )
            book.audit.append(
                at=now,
                actor=actor,
                act="token.made",
                subject=f"token/{issued.token.id}",
                detail={"for": name, "role": str(wanted), "days": days, "label": label},
            )
        return issued

    def open_session(self, book: PeopleBook, person: Person) -> Issued:
        """Make the token of a login within its transaction; the oldest login gives way."""
        now = self.clock.now()
        book.tokens.drop_dead(now - DEAD_KEPT)
        live = book.tokens.list_live(person.name, TokenKind.SESSION, now)
        for token in live[: max(0, len(live) - LIVE_MAX + 1)]:
            book.tokens.revoke(token.id, now)
        return self._add(book, person, TokenKind.SESSION, person.role, until=now + SESSION_LASTS)

    def find_caller(self, secret: str) -> Caller:
        """Say who shows a token; notes its use at most once a minute.

        Raises:
            UnknownCallerError: Unknown, expired or revoked, or its person may do nothing. The
                sentence does not tell which.
        """
        unknown = UnknownCallerError(
            "the token is unknown, expired or revoked; log in again (POST /v1/login)"
        )
        if len(secret) > TOKEN_CHARS_MAX:
            raise unknown
        now = self.clock.now()
        with self.books.reading() as book:
            token = book.tokens.find(hashlib.sha256(secret.encode()).hexdigest())
            if token is None or not token.is_live(now):
                raise unknown
            person = None if token.kind is TokenKind.SERVICE else book.people.find(token.name)
        if token.kind is TokenKind.SERVICE:
            caller = Caller(actor=f"service:{token.name}", role=token.role, token=token)
        elif person is None or person.disabled_at is not None:
            raise unknown
        else:
            role = find_lesser(token.role, person.role)
            caller = Caller(actor=person.name, role=role, token=token)
        self._touch(token, now)
        return caller

    def log_out(self, caller: Caller) -> None:
        """End the caller's login; a token that was not made by a login stays.

        Raises:
            RefusedError: It is no login.
        """
        token = caller.token
        if token.kind is not TokenKind.SESSION:
            raise RefusedError(
                f"token {token.id} was not made by a login; DELETE /v1/tokens/{token.id} revokes it"
            )
        with self.books.writing() as book:
            book.tokens.revoke(token.id, self.clock.now())

    def revoke(self, token_id: str, *, actor: str, owner: str | None = None) -> None:
        """Take a token back.

        Args:
            token_id: Its id.
            actor: Who does, for the audit log.
            owner: Only a token of this person; None for anybody's.

        Raises:
            NotFoundError: No such token, or not one of ``owner``.
        """
        with self.books.writing() as book:
            token = book.tokens.find_by_id(token_id)
            is_own = token is not None and token.kind is not TokenKind.SERVICE
            if token is None or (owner is not None and not (is_own and token.name == owner)):
                raise NotFoundError(f"no token {token_id[:40]!r}; edgefleet user tokens names them")
            if token.revoked_at is not None:
                return
            now = self.clock.now()
            book.tokens.revoke(token.id, now)
            book.audit.append(
                at=now,
                actor=actor,
                act="token.revoked",
                subject=f"token/{token.id}",
                detail={"of": token.name, "kind": str(token.kind), "label": token.label},
            )

    def _add(
        self,
        book: PeopleBook,
        person: Person,
        kind: TokenKind,
        role: Role,
        *,
        until: datetime,
        label: str = "",
    ) -> Issued:
        secret = self.make_secret()
        secret_sha256 = hashlib.sha256(secret.encode()).hexdigest()
        token = ApiToken(
            id=secret_sha256[:12],
            secret_sha256=secret_sha256,
            kind=kind,
            name=person.name,
            label=label,
            role=role,
            created_at=self.clock.now(),
            expires_at=until,
        )
        book.tokens.add(token)
        return Issued(secret=secret, token=token)

    def _touch(self, token: ApiToken, now: datetime) -> None:
        if token.last_used_at is not None and now - token.last_used_at < TOUCH_EVERY:
            return
        try:
            with self.books.writing() as book:
                book.tokens.touch(token.id, now)
        except UnreachableError as error:  # a busy database must not refuse a good token
            LOG.warning("the use of token %s was not noted: %s", token.id, error)


def check_role(caller: Caller, needed: Role) -> None:
    """Refuse a caller whose role does not reach.

    Raises:
        ForbiddenError: It does not; names both roles.
    """
    if not caller.role.reaches(needed):
        raise ForbiddenError(
            f"this needs the role {needed}; {caller.actor} has {caller.role} with this token"
        )


def _refuse_disabled(person: Person) -> None:
    if person.disabled_at is not None:
        raise RefusedError(f"{person.name} is disabled; edgefleet user enable {person.name}")
