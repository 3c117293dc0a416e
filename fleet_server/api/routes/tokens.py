"""Tokens for programs: one's own, and for administrators a look at everybody's.

Nobody makes a token for somebody else here, an administrator neither: it would act in their name.
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import TOKEN_ID, Body, Limit, TokenId
from fleet_server.api.shapes import IssuedPublic, Shape, show_issued
from fleet_server.core.roles import Role
from fleet_server.errors import ForbiddenError, RefusedError
from fleet_server.ports.people import ApiToken, TokenKind
from fleet_server.services.issue_tokens import LABEL_CHARS_MAX, TOKEN_DAYS, TOKEN_DAYS_DEFAULT
from fleet_server.wiring.people import People


class TokenIn(Body):
    """A token for a program that acts for the caller."""

    days: Annotated[int, Field(ge=TOKEN_DAYS[0], le=TOKEN_DAYS[-1])] = TOKEN_DAYS_DEFAULT
    label: Annotated[str, Field(max_length=LABEL_CHARS_MAX)] = ""
    role: Role | None = None


class TokenPublic(Shape):
    """A token without its secret."""

    id: str
    kind: TokenKind
    name: str
    label: str
    role: Role
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


class TokenPage(Shape):
    """Tokens by id."""

    tokens: list[TokenPublic]
    next: str | None


def tokens_router(people: People) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/tokens", tags=["people"])

    @router.get("", operation_id="list_tokens", **access(Role.VIEWER))
    def list_tokens(
        caller: CallerNow,
        *,
        after: Annotated[str, Query(pattern=rf"^$|{TOKEN_ID}")] = "",
        limit: Limit = 100,
        is_all: Annotated[bool, Query(alias="all", description="Of everybody; admin.")] = False,
    ) -> TokenPage:
        """List one's own tokens by id; an administrator may list everybody's."""
        if is_all and not caller.role.reaches(Role.ADMIN):
            raise ForbiddenError(f"all=true needs the role admin; {caller.actor} has {caller.role}")
        with people.books.reading() as book:
            name = "" if is_all else caller.person
            found = (
                book.tokens.list_page(name=name, after=after, limit=limit)
                if name or is_all
                else [caller.token]
            )
        return TokenPage(
            tokens=[_token(token) for token in found],
            next=found[-1].id if len(found) == limit else None,
        )

    @router.post("", operation_id="make_token", status_code=201, **access(Role.VIEWER, 409))
    def make_token(caller: CallerNow, body: TokenIn) -> IssuedPublic:
        """Make a token for a program; only a login may, so that no token begets others."""
        if caller.token.kind is not TokenKind.SESSION:
            raise RefusedError("only a login makes tokens: POST /v1/login, then ask with its token")
        issued = people.tokens.issue(
            caller.person,
            actor=caller.actor,
            days=body.days,
            label=body.label,
            role=body.role or caller.role,
        )
        return show_issued(issued.secret, issued.token)

    @router.delete(
        "/{token_id}",
        operation_id="revoke_token",
        status_code=204,
        **access(Role.VIEWER, 404),
    )
    def revoke_token(caller: CallerNow, token_id: TokenId) -> None:
        """Take a token back: one's own, or as an administrator anybody's."""
        owner = None if caller.role.reaches(Role.ADMIN) else (caller.person or "service")
        people.tokens.revoke(token_id, actor=caller.actor, owner=owner)

    return router


def _token(token: ApiToken) -> TokenPublic:
    return TokenPublic.model_validate(token, from_attributes=True)
