"""The REST API: parse, call one service, present.

From the outside in: security headers, the body's bound, the gate that finds the caller, the role
of the route. Nothing here signs: approving needs a key that the server does not have.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import text

from edge_agent import __version__
from fleet_server.adapters.database.engine import read_session
from fleet_server.api.access import (
    HEALTH_PATH,
    SCHEME,
    TokenGate,
    access,
    check_access,
    open_door,
)
from fleet_server.api.limits import BodyLimit, SecurityHeaders
from fleet_server.api.problems import PROBLEM_SCHEMA, install_problems
from fleet_server.api.routes.audit import audit_router
from fleet_server.api.routes.devices import devices_router
from fleet_server.api.routes.drift import drift_router
from fleet_server.api.routes.enrol import enrol_router
from fleet_server.api.routes.fits import fits_router
from fleet_server.api.routes.groups import groups_router
from fleet_server.api.routes.login import login_router
from fleet_server.api.routes.models import models_router
from fleet_server.api.routes.rollouts import rollouts_router
from fleet_server.api.routes.tokens import tokens_router
from fleet_server.api.routes.users import users_router
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.wiring.devices import build_enrolment
from fleet_server.wiring.people import People, build_people

DOCUMENT_PATH = "/v1/openapi.json"


class Health(BaseModel):
    """That the API answers."""

    status: str
    fleet: str


def create_app(fleet: Fleet, *, people: People | None = None) -> FastAPI:
    """Build the application over one opened workspace.

    Args:
        fleet: The workspace.
        people: Who lets people in; None builds it.
    """
    people = people or build_people(fleet)
    app = FastAPI(
        title="edgefleet",
        version=__version__,
        description="The API of one fleet; docs/api.md tells how to use it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    install_problems(app)

    @app.get(HEALTH_PATH, operation_id="health", tags=["health"], **open_door())
    def health() -> Health:
        """Tell that the API answers and reads its database."""
        with read_session(fleet.engine) as session:
            session.connection().execute(text("SELECT 1"))
        return Health(status="ok", fleet=fleet.workspace.config.fleet)

    @app.get(DOCUMENT_PATH, operation_id="openapi", tags=["health"], **access(Role.VIEWER))
    def openapi() -> dict[str, Any]:
        """Return this document."""
        return app.openapi()

    for router in (
        enrol_router(build_enrolment(fleet)),
        login_router(people),
        tokens_router(people),
        users_router(people),
        models_router(fleet),
        fits_router(fleet),
        devices_router(fleet),
        groups_router(fleet),
        rollouts_router(fleet),
        drift_router(fleet),
        audit_router(fleet),
    ):
        app.include_router(router)
    _complete(app.openapi())
    check_access(app)
    app.add_middleware(TokenGate, tokens=people.tokens, refusals=people.refusals)
    app.add_middleware(BodyLimit)
    app.add_middleware(SecurityHeaders)
    return app


def _complete(document: dict[str, Any]) -> None:
    """Put into the OpenAPI document what routes refer to: problems and the bearer token."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}
