"""Tokens of the API in the control database: by the sha256 of 256 random bits.

The secrets are random, so a plain hash is enough and a look-up costs microseconds; an index finds
the hash itself, so no comparison depends on what a caller sent beyond it.
"""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, update
from sqlmodel import Session, col, select

from fleet_server.adapters.database.tables import ApiTokenRow
from fleet_server.core.roles import Role
from fleet_server.ports.people import ApiToken, TokenKind

SERVICE_TOKEN_DAYS = 365
ID_CHARS = 12
PREFIX = "eft_"


def hash_token(token: str) -> str:
    """Return the form a token is stored in."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_secret() -> str:
    """Return a new token."""
    return f"{PREFIX}{secrets.token_urlsafe(32)}"


def make_token(session: Session, *, name: str, role: str, now: datetime) -> str:
    """Store a new service token and return it, which is shown once."""
    token = make_secret()
    secret_sha256 = hash_token(token)
    TokenRepository(session).add(
        ApiToken(
            id=secret_sha256[:ID_CHARS],
            secret_sha256=secret_sha256,
            kind=TokenKind.SERVICE,
            name=name,
            label="",
            role=Role(role),
            created_at=now,
            expires_at=now + timedelta(days=SERVICE_TOKEN_DAYS),
        )
    )
    return token


class TokenRepository:
    """The ``TokenStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, secret_sha256: str) -> ApiToken | None:
        """Return a token by the hash of its secret."""
        row = self._session.get(ApiTokenRow, secret_sha256)
        return _token(row) if row else None

    def find_by_id(self, token_id: str) -> ApiToken | None:
        """Return a token by its id."""
        query = select(ApiTokenRow).where(ApiTokenRow.id == token_id)
        row = self._session.exec(query).first()
        return _token(row) if row else None

    def list_page(self, *, name: str, after: str, limit: int) -> list[ApiToken]:
        """Return tokens by id, those behind ``after``; of everybody when ``name`` is empty."""
        query = select(ApiTokenRow).where(ApiTokenRow.id > after)
        if name:
            query = query.where(ApiTokenRow.name == name, ApiTokenRow.kind != TokenKind.SERVICE)
        rows = self._session.exec(query.order_by(col(ApiTokenRow.id)).limit(limit))
        return [_token(row) for row in rows]

    def list_live(self, name: str, kind: TokenKind, now: datetime) -> list[ApiToken]:
        """Return a person's tokens of a kind that work now, the oldest first."""
        query = select(ApiTokenRow).where(
            ApiTokenRow.name == name,
            ApiTokenRow.kind == str(kind),
            col(ApiTokenRow.revoked_at).is_(None),
            ApiTokenRow.expires_at > now,
        )
        rows = self._session.exec(query.order_by(col(ApiTokenRow.created_at), col(ApiTokenRow.id)))
        return [_token(row) for row in rows]

    def add(self, token: ApiToken) -> None:
        """Store a new token."""
        self._session.add(
            ApiTokenRow(
                secret_sha256=token.secret_sha256,
                id=token.id,
                kind=str(token.kind),
                name=token.name,
                label=token.label,
                role=str(token.role),
                created_at=token.created_at,
                expires_at=token.expires_at,
            )
        )
        self._session.flush()

    def revoke(self, token_id: str, at: datetime) -> None:
        """Take a token back; one that was taken back before keeps its instant."""
        self._session.execute(
            update(ApiTokenRow)
            .where(col(ApiTokenRow.id) == token_id, col(ApiTokenRow.revoked_at).is_(None))
            .values(revoked_at=at)
        )

    def touch(self, token_id: str, at: datetime) -> None:
        """Note that a token was used."""
        self._session.execute(
            update(ApiTokenRow).where(col(ApiTokenRow.id) == token_id).values(last_used_at=at)
        )

    def drop_dead(self, before: datetime) -> int:
        """Remove tokens that stopped working before an instant; return how many."""
        dead = select(ApiTokenRow.secret_sha256).where(
            or_(col(ApiTokenRow.expires_at) < before, col(ApiTokenRow.revoked_at) < before)
        )
        found = list(self._session.exec(dead))
        if found:
            self._session.execute(
                delete(ApiTokenRow).where(col(ApiTokenRow.secret_sha256).in_(dead))
            )
        return len(found)


def _token(row: ApiTokenRow) -> ApiToken:
    return ApiToken(
        id=row.id,
        secret_sha256=row.secret_sha256,
        kind=TokenKind(row.kind),
        name=row.name,
        label=row.label,
        role=Role(row.role),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
