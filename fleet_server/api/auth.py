"""Who is asking: bearer tokens and the role each route needs."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from fleet_server.adapters.database.api_tokens import ROLES, find_token
from fleet_server.adapters.database.engine import read_session
from fleet_server.bootstrap import Fleet

_BEARER = HTTPBearer(auto_error=False)


def needs_role(fleet: Fleet, role: str) -> Callable[..., str]:
    """Build a dependency that lets through tokens of ``role`` or more."""
    needed = ROLES.index(role)

    def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> str:
        """Return the token's name."""
        if credentials is None:
            raise HTTPException(401, "send `Authorization: Bearer TOKEN`")
        with read_session(fleet.engine) as session:
            found = find_token(session, credentials.credentials, fleet.clock.now())
        if found is None:
            raise HTTPException(401, "the token is unknown, expired or revoked")
        name, held = found
        if ROLES.index(held) < needed:
            raise HTTPException(403, f"this needs role {role}; the token has {held}")
        return name

    return check
