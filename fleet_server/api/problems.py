"""The one table from errors to HTTP statuses, as application/problem+json (RFC 9457).

``detail`` is one sentence with the next step; nothing of a defect leaves but that there was one.
"""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from fleet_server.errors import (
    FleetError,
    ForbiddenError,
    MisuseError,
    NotFoundError,
    OverloadedError,
    ThrottledError,
    UnknownCallerError,
    UnreachableError,
)

LOG = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
FAULTS_MAX = 20
BUSY_RETRY_S = 1.0

_STATUS: tuple[tuple[type[FleetError], int], ...] = (
    (UnknownCallerError, 401),
    (ForbiddenError, 403),
    (ThrottledError, 429),
    (NotFoundError, 404),
    (MisuseError, 422),
    (UnreachableError, 503),
    (FleetError, 409),
)

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "One sentence with the next step."},
        "faults": {
            "type": "array",
            "maxItems": FAULTS_MAX,
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "retry_after_s": {"type": "number", "description": "As the header Retry-After."},
    },
}


def problem(
    status: int, detail: str, *, cause: BaseException | None = None, **extra: Any
) -> JSONResponse:
    """Build one problem answer; a ``cause`` is a defect and goes to the log."""
    if cause is not None:
        LOG.error("defect: %s", detail, exc_info=cause)
    headers = {}
    if "retry_after_s" in extra:
        headers["Retry-After"] = str(math.ceil(extra["retry_after_s"]))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="edgefleet"'
    return JSONResponse(
        {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra},
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def problem_of(error: FleetError) -> JSONResponse:
    """Build the answer for an error of the product."""
    status = next(s for kind, s in _STATUS if isinstance(error, kind))
    if isinstance(error, ThrottledError | OverloadedError):
        return problem(status, str(error), retry_after_s=error.retry_after_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return problem(status, str(error), retry_after_s=BUSY_RETRY_S)
    return problem(status, str(error))


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say in the OpenAPI document how a route may fail."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(statuses)
    }


def install_problems(app: FastAPI) -> None:
    """Let every error leave the application in one shape."""

    @app.exception_handler(FleetError)
    async def _fleet(_request: Request, error: FleetError) -> JSONResponse:
        return problem_of(error)

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeoutError)
    async def _busy(_request: Request, error: Exception) -> JSONResponse:
        LOG.warning("the control database does not answer: %s", error)
        sentence = "the control database is busy or away; try again in a second"
        return problem(503, sentence, retry_after_s=BUSY_RETRY_S)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return problem(404, f"there is no {request.url.path[:200]}; GET /v1/openapi.json")
        if error.status_code == HTTPStatus.BAD_REQUEST:  # the framework's word for bytes of no text
            return problem(422, "the body is not JSON in UTF-8 (GET /v1/openapi.json)")
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def _validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            {"field": ".".join(str(p) for p in e["loc"])[:200], "problem": str(e["msg"])[:400]}
            for e in error.errors()[:FAULTS_MAX]
        ]
        first = f"{faults[0]['field']}: {faults[0]['problem']}" if faults else "see the schema"
        sentence = f"the request does not fit its schema: {first} (GET /v1/openapi.json)"
        return problem(422, sentence, faults=faults)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        LOG.error("defect at %s %s", request.method, request.url.path, exc_info=error)
        return problem(500, "internal error; the log of the API names it")
