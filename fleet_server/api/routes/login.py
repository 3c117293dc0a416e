"""Logging in and out, and who one is."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from fleet_server.api.access import LOGIN_PATH, CallerNow, access, open_door
from fleet_server.api.params import Body, NewPassword
from fleet_server.api.shapes import IssuedPublic, Shape, show_issued
from fleet_server.core.roles import Role
from fleet_server.errors import ForbiddenError
from fleet_server.ports.people import TokenKind
from fleet_server.services.issue_tokens import Caller
from fleet_server.wiring.people import People

TypedPassword = Annotated[str, Field(max_length=1_024)]
"""As typed at a login: what cannot be right is answered like what is wrong."""


class LoginIn(Body):
    """Who wants in."""

    name: Annotated[str, Field(max_length=1_024)]
    password: TypedPassword


class CallerPublic(Shape):
    """Who shows the token of this request."""

    actor: str
    person: str
    role: Role
    token: str
    kind: TokenKind
    expires_at: datetime


class PasswordChange(Body):
    """One's own password."""

    old: TypedPassword
    new: NewPassword


def login_router(people: People) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["people"])

    @router.post(LOGIN_PATH, operation_id="login", **open_door(401, 429))
    def login(body: LoginIn, request: Request) -> IssuedPublic:
        """Log in for twelve hours; wrong passwords make the next try wait."""
        issued = people.logins.log_in(body.name, body.password, address=_address(request))
        return show_issued(issued.secret, issued.token)

    @router.post("/v1/logout", operation_id="logout", status_code=204, **access(Role.VIEWER, 409))
    def logout(caller: CallerNow) -> None:
        """End this login: its token stops working."""
        people.tokens.log_out(caller)

    @router.get("/v1/me", operation_id="get_me", **access(Role.VIEWER))
    def get_me(caller: CallerNow) -> CallerPublic:
        """Say who the token of this request stands for."""
        token = caller.token
        return CallerPublic(
            actor=caller.actor,
            person=caller.person,
            role=caller.role,
            token=token.id,
            kind=token.kind,
            expires_at=token.expires_at,
        )

    @router.put(
        "/v1/me/password",
        operation_id="set_my_password",
        status_code=204,
        **access(Role.VIEWER, 429),
    )
    def set_my_password(caller: CallerNow, body: PasswordChange, request: Request) -> None:
        """Change one's own password; every login ends, this one, too."""
        name = _own_name(caller)
        people.logins.check_own(name, body.old, address=_address(request))
        people.desk(caller.actor).set_password(name, body.new)

    return router


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _own_name(caller: Caller) -> str:
    if not caller.person:
        raise ForbiddenError(f"{caller.actor} is no person and has no password")
    return caller.person
