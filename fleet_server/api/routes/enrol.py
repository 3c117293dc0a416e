"""Enrolment of devices: the CA's certificate for who has its hash, a certificate for a secret.

Both routes are open: whoever calls has no identity yet. A request is read up to its bound and no
further.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.join import (
    CA_PATH,
    ENROL_PATH,
    REQUEST_BYTES_MAX,
    EnrolGrant,
    EnrolRequest,
)
from fleet_server.api.access import open_door
from fleet_server.api.problems import problem
from fleet_server.errors import RefusedError, ThrottledError
from fleet_server.services.enrol_device import JoinRefusedError
from fleet_server.wiring.devices import Enrolment

REQUEST_SCHEMA = {
    "title": "EnrolRequest",
    "type": "object",
    "required": ["v", "secret", "csr", "root"],
    "properties": {
        "v": {"type": "integer"},
        "secret": {"type": "string"},
        "csr": {"type": "string"},
        "root": {"type": "string"},
    },
}


def enrol_router(enrolment: Enrolment) -> APIRouter:
    """Build the routes (``wiring.devices.build_enrolment`` gives the argument)."""
    router = APIRouter(tags=["enrolment"])

    @router.get(
        CA_PATH,
        operation_id="get_ca",
        response_class=Response,
        **_speaks(open_door(), "application/x-pem-file", {"type": "string"}),
    )
    def get_ca() -> Response:
        """Return the certificate of the fleet's CA, PEM; compare it with the join string."""
        return Response(enrolment.ca_pem, media_type="application/x-pem-file")

    @router.post(
        ENROL_PATH,
        operation_id="enrol",
        response_class=Response,
        **_asks(
            _speaks(open_door(403, 429), "application/json", {"type": "object"}), REQUEST_SCHEMA
        ),
    )
    async def enrol(request: Request) -> Response:
        """Issue a certificate for ``{"v", "secret", "csr", "root"}``; the secret works once."""
        source = request.client.host if request.client is not None else "unknown"
        try:
            enrolment.attempts.admit(source)
        except ThrottledError as error:
            await run_in_threadpool(enrolment.desk.tell_throttled, error)
            raise
        try:
            body = EnrolRequest.decode(await _read_bounded(request))
        except TooLargeError as error:
            return problem(413, str(error))
        except ContractError as error:
            return problem(422, str(error))

        def answer() -> EnrolGrant:
            return enrolment.desk.enrol(
                body.secret, body.csr.encode(), root_sha256=body.root_sha256
            )

        try:
            grant = await run_in_threadpool(answer)
        except JoinRefusedError as error:
            return problem(403, str(error))
        except RefusedError as error:
            return problem(422, str(error))
        enrolment.attempts.forgive(source)
        return Response(grant.encode(), media_type="application/json")

    return router


def _speaks(route: dict[str, Any], media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Say in the OpenAPI document what a route answers."""
    done = {"description": "Done", "content": {media_type: {"schema": schema}}}
    return {**route, "responses": {**route["responses"], 200: done}}


def _asks(route: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Say in the OpenAPI document what a route reads by itself."""
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**route, "openapi_extra": {**route["openapi_extra"], "requestBody": body}}


async def _read_bounded(request: Request) -> bytes:
    """Read a body of at most REQUEST_BYTES_MAX; raises TooLargeError."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > REQUEST_BYTES_MAX:
            raise TooLargeError("enrolment", len(body), REQUEST_BYTES_MAX)
    return bytes(body)
