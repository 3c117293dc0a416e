"""People and their tokens, as the use cases see them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from fleet_server.core.roles import Role
from fleet_server.ports.devices import AuditTrail


class TokenKind(StrEnum):
    """What a token stands for."""

    SERVICE = "service"
    """No person: made with the workspace, for its owner's first steps."""
    TOKEN = "token"  # noqa: S105 - the name of a kind
    """Made for a program that acts for a person."""
    SESSION = "session"
    """Made by a login."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who may use the API.

    Attributes:
        name: Of a-z, 0-9, '.', '_' and '-'.
        role: What they may do.
        password_argon2: Argon2id in its encoded form.
        created_at: When they were added.
        disabled_at: Since when they may do nothing; None when they may.
        last_login_at: Newest right password.
        login_failures: Wrong passwords since then.
        locked_until: No password is looked at before; None when none is refused.
    """

    name: str
    role: Role
    password_argon2: str
    created_at: datetime
    disabled_at: datetime | None = None
    last_login_at: datetime | None = None
    login_failures: int = 0
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A bearer token without its secret.

    Attributes:
        id: First 12 hex digits of the secret's sha256.
        secret_sha256: Of the whole token, 64 hex digits.
        kind: What it stands for.
        name: The person's name, or the service's.
        label: Given by who made it.
        role: The most it may do; never more than its person may today.
        created_at: When it was made.
        expires_at: First instant at which it does not work.
        revoked_at: When it was taken back; None when it was not.
        last_used_at: Coarse; None when it never was.
    """

    id: str
    secret_sha256: str
    kind: TokenKind
    name: str
    label: str
    role: Role
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Tell whether it works at an instant."""
        return self.revoked_at is None and now < self.expires_at


class PersonStore(Protocol):
    """People, within one transaction."""

    def find(self, name: str) -> Person | None:
        """Return a person."""
        ...

    def list_page(self, *, after: str, limit: int) -> list[Person]:
        """Return people by name, those behind ``after``."""
        ...

    def count(self) -> int:
        """Count the people."""
        ...

    def put(self, person: Person) -> None:
        """Store a person, new or changed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a person that exists."""
        ...


class TokenStore(Protocol):
    """Tokens, within one transaction."""

    def find(self, secret_sha256: str) -> ApiToken | None:
        """Return a token by the hash of its secret."""
        ...

    def find_by_id(self, token_id: str) -> ApiToken | None:
        """Return a token by its id."""
        ...

    def list_page(self, *, name: str, after: str, limit: int) -> list[ApiToken]:
        """Return tokens by id, those behind ``after``; of everybody when ``name`` is empty."""
        ...

    def list_live(self, name: str, kind: TokenKind, now: datetime) -> list[ApiToken]:
        """Return a person's tokens of a kind that work now, the oldest first."""
        ...

    def add(self, token: ApiToken) -> None:
        """Store a new token."""
        ...

    def revoke(self, token_id: str, at: datetime) -> None:
        """Take a token back."""
        ...

    def touch(self, token_id: str, at: datetime) -> None:
        """Note that a token was used."""
        ...

    def drop_dead(self, before: datetime) -> int:
        """Remove tokens that stopped working before an instant; return how many."""
        ...


class PeopleBook(Protocol):
    """One transaction."""

    @property
    def people(self) -> PersonStore:
        """People."""
        ...

    @property
    def tokens(self) -> TokenStore:
        """Tokens."""
        ...

    @property
    def audit(self) -> AuditTrail:
        """The audit log."""
        ...


class PeopleBooks(Protocol):
    """Opens transactions."""

    def reading(self) -> AbstractContextManager[PeopleBook]:
        """Open one that sees one state and writes nothing."""
        ...

    def writing(self) -> AbstractContextManager[PeopleBook]:
        """Open one that commits at its end, or rolls back when an error leaves it."""
        ...


class Passwords(Protocol):
    """Hashes passwords, a bounded number at once."""

    def hash(self, password: str) -> str:
        """Return a password's encoded hash.

        Raises:
            OverloadedError: Too many hashes are under way.
        """
        ...

    def is_match(self, encoded: str | None, password: str) -> bool:
        """Tell whether a password is the one; takes the same time for None. Raises as ``hash``."""
        ...

    def is_dated(self, encoded: str) -> bool:
        """Tell whether a hash was made with other parameters than today's."""
        ...


SecretMaker = Callable[[], str]
"""Gives a new token: 256 random bits, printable."""
