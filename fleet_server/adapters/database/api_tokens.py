"""API tokens: 256 random bits, stored as their sha256, with a role and an expiry."""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlmodel import Session

from fleet_server.adapters.database.tables import ApiTokenRow

ROLES = ("viewer", "operator", "approver", "admin")
TOKEN_DAYS = 365


def hash_token(token: str) -> str:
    """Return the form a token is stored in."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token(session: Session, *, name: str, role: str, now: datetime) -> str:
    """Store a new token's hash and return the token, which is shown once."""
    token = f"eft_{secrets.token_urlsafe(32)}"
    secret_sha256 = hash_token(token)
    session.add(
        ApiTokenRow(
            secret_sha256=secret_sha256,
            id=secret_sha256[:12],
            kind="service",
            name=name,
            role=role,
            created_at=now,
            expires_at=now + timedelta(days=TOKEN_DAYS),
        )
    )
    return token


def find_token(session: Session, token: str, now: datetime) -> tuple[str, str] | None:
    """Return name and role of a token that is valid now, None otherwise."""
    row = session.get(ApiTokenRow, hash_token(token))
    if row is None or row.revoked_at is not None or row.expires_at <= now:
        return None
    return row.name, row.role
