"""Drift alarms: list and acknowledge."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from fleet_server.adapters.database.pages import FleetPages
from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import MODEL, NUMBER_MAX, Before, Limit, Number, Reason
from fleet_server.api.shapes import Shape
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.wiring.drift import build_drift_desk


class AlarmPublic(Shape):
    """A drift alarm."""

    id: int
    model: str
    level: str
    subject: str
    severity: str
    features: list[str]
    sentence: str
    opened_at: datetime | None
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_reason: str


class AlarmPage(Shape):
    """Alarms, newest first."""

    alarms: list[AlarmPublic]
    next: int | None


def drift_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/drift", tags=["drift"])

    @router.get("/alarms", operation_id="list_alarms", **access(Role.VIEWER))
    def list_alarms(
        *,
        model: Annotated[str, Query(pattern=rf"^$|{MODEL}")] = "",
        is_closed_shown: Annotated[bool, Query(alias="closed")] = False,
        before: Before = NUMBER_MAX,
        limit: Limit = 100,
    ) -> AlarmPage:
        """List drift alarms, newest first; closed ones with ``closed=true``."""
        found = FleetPages(fleet.engine).alarms(
            before=before, limit=limit, model=model, is_closed_shown=is_closed_shown
        )
        return AlarmPage(
            alarms=[AlarmPublic.model_validate(a, from_attributes=True) for a in found],
            next=found[-1].id if len(found) == limit and found[-1].id > 1 else None,
        )

    @router.post("/alarms/{alarm}/ack", operation_id="ack_alarm", **access(Role.OPERATOR, 404, 409))
    def ack_alarm(caller: CallerNow, alarm: Number, body: Reason) -> AlarmPublic:
        """Note that somebody looks after an alarm."""
        found = build_drift_desk(fleet).acknowledge(alarm, reason=body.reason, actor=caller.actor)
        return AlarmPublic.model_validate(found, from_attributes=True)

    return router
