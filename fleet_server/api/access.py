"""Who may call what: nothing without a token but four doors, and a role on every route.

The gate stands before everything else: a caller without a token learns nothing of paths, and the
body of their request is never read. Each route then names the role it needs with ``access``;
``check_access`` refuses to start an API with a route that names none.
"""

import logging
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.contract.join import CA_PATH, ENROL_PATH
from fleet_server.api.problems import problem, problem_of, problem_responses
from fleet_server.core.roles import Role
from fleet_server.errors import FleetError, UnknownCallerError
from fleet_server.services.issue_tokens import Caller, TokenDesk, check_role
from fleet_server.services.note_refusals import NOBODY, RefusalNotes

HEALTH_PATH, LOGIN_PATH = "/v1/health", "/v1/login"
OPEN = frozenset(
    {("GET", HEALTH_PATH), ("GET", CA_PATH), ("POST", ENROL_PATH), ("POST", LOGIN_PATH)}
)
"""What answers without a token; enrolment and login ask for secrets of their own."""
ROLE_KEY = "x-role"
SCHEME = "bearer"
LOG = logging.getLogger(__name__)


class TokenGate:
    """Let nobody through who shows no token that works, except to the open doors."""

    def __init__(self, app: ASGIApp, tokens: TokenDesk, refusals: RefusalNotes) -> None:
        self._app, self._tokens, self._refusals = app, tokens, refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the caller, then pass on."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            secret = _read_bearer(scope)
            caller = await run_in_threadpool(self._tokens.find_caller, secret)
        except UnknownCallerError as error:
            await problem_of(error)(scope, receive, send)
            await self._note(scope, 401)
            return
        except FleetError as error:
            await problem_of(error)(scope, receive, send)
            return
        except Exception as error:  # noqa: BLE001 - a door: the handlers stand behind this gate
            await problem(500, "internal error; the log of the API names it", cause=error)(
                scope, receive, send
            )
            return
        scope.setdefault("state", {})["caller"] = caller
        statuses: list[int] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await self._app(scope, receive, watched)
        if statuses == [403]:
            await self._note(scope, 403, caller.actor)

    async def _note(self, scope: Scope, status: int, actor: str = "") -> None:
        """Note a refusal after it was answered, so that timing says nothing of the log."""

        def note() -> None:
            try:
                self._refusals.note(
                    status=status,
                    actor=actor,
                    address=(scope.get("client") or ("",))[0],
                    method=scope["method"],
                    path=scope["path"],
                )
            except FleetError as error:
                LOG.warning("a refusal could not be noted: %s", error)

        await run_in_threadpool(note)


def get_caller(request: Request) -> Caller:
    """Return who asks; the gate has found them."""
    caller: Caller = request.state.caller
    return caller


CallerNow = Annotated[Caller, Depends(get_caller)]


def access(role: Role, *statuses: int) -> dict[str, Any]:
    """Give what a route says of who may call it and how it may fail.

    Args:
        role: The least role.
        statuses: Problems beyond 401, 403, 413, 422, 429 and 503, such as 404 and 409.
    """

    def check(caller: CallerNow) -> None:
        check_role(caller, role)

    return {
        "dependencies": [Depends(check)],
        "openapi_extra": {ROLE_KEY: str(role), "security": [{SCHEME: []}]},
        "responses": problem_responses(401, 403, 413, 422, 503, *statuses),
    }


def open_door(*statuses: int) -> dict[str, Any]:
    """Give what a route without a token says of itself."""
    return {
        "openapi_extra": {ROLE_KEY: NOBODY, "security": []},
        "responses": problem_responses(413, 422, 503, *statuses),
    }


def check_access(app: FastAPI) -> None:
    """Refuse an application with a route that names no role, or is open and not in OPEN.

    Raises:
        RuntimeError: Names the route; a defect of this program.
    """
    known = {str(role) for role in Role}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            role = operation.get(ROLE_KEY)
            is_open = (method.upper(), path) in OPEN
            if role not in ({NOBODY} if is_open else known):
                raise RuntimeError(f"{method.upper()} {path} names no role: use access(Role...)")


def _read_bearer(scope: Scope) -> str:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, secret = found[0].decode("latin-1").partition(" ") if found else ("", "", "")
    if len(found) != 1 or scheme.lower() != "bearer" or not secret:
        raise UnknownCallerError("send one header `Authorization: Bearer TOKEN`; POST /v1/login")
    return secret.strip()
