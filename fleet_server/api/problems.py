"""The one table from errors to HTTP statuses, as application/problem+json."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fleet_server.errors import FleetError, MisuseError, NotFoundError, UnreachableError

LOG = logging.getLogger(__name__)
BODY_BYTES_MAX = 1_048_576

_STATUS: tuple[tuple[type[FleetError], int], ...] = (
    (NotFoundError, 404),
    (MisuseError, 422),
    (UnreachableError, 503),
    (FleetError, 409),
)


def problem(status: int, detail: str, **extra: Any) -> JSONResponse:
    """Build one problem answer."""
    return JSONResponse(
        {"status": status, "detail": detail, **extra},
        status_code=status,
        media_type="application/problem+json",
    )


def install_problems(app: FastAPI) -> None:
    """Let every error leave the application in one shape, and no body be too large."""

    @app.exception_handler(FleetError)
    async def _fleet(_request: Request, error: FleetError) -> JSONResponse:
        return problem(next(s for kind, s in _STATUS if isinstance(error, kind)), str(error))

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def _validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            {"field": ".".join(str(p) for p in e["loc"]), "problem": e["msg"]}
            for e in error.errors()
        ]
        return problem(422, "the request does not fit its schema", faults=faults)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        LOG.error("defect at %s %s", request.method, request.url.path, exc_info=error)
        return problem(500, "internal error; the log of the API names it")


class BodyLimit:
    """Refuse bodies beyond BODY_BYTES_MAX before they are read, chunked ones included."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Count the body as it arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > BODY_BYTES_MAX:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_BYTES_MAX:
                raise HTTPException(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        answer = problem(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
        await answer(scope, receive, send)
