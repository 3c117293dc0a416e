"""The REST API: parse, call one service, present. HTTPS only (``workers/api.py``)."""

from fastapi import FastAPI
from sqlalchemy import text

from edge_agent import __version__
from fleet_server.adapters.database.engine import read_session
from fleet_server.api.problems import BodyLimit, install_problems
from fleet_server.api.routes.enrol import enrol_router
from fleet_server.api.routes.reading import reading_router
from fleet_server.bootstrap import Fleet
from fleet_server.wiring.devices import build_enrolment


def create_app(fleet: Fleet) -> FastAPI:
    """Build the application over one opened workspace."""
    app = FastAPI(
        title="edgefleet",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    install_problems(app)
    app.add_middleware(BodyLimit)

    @app.get("/v1/health", operation_id="health", tags=["health"])
    def health() -> dict[str, str]:
        """Tell that the API answers and reads its database."""
        with read_session(fleet.engine) as session:
            session.connection().execute(text("SELECT 1"))
        return {"status": "ok", "fleet": fleet.workspace.config.fleet}

    app.include_router(enrol_router(build_enrolment(fleet)))
    app.include_router(reading_router(fleet))
    return app
