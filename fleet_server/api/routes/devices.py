"""Devices: list, show, add, let join again, label, revoke.

Join strings made here pin the TUF root that the server holds; the command line on the operator's
machine pins the operator's own copy (docs/trust.md, "People").
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from edge_agent.contract.join import JoinTicket
from fleet_server.adapters.database.pages import FleetPages
from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import DEVICE_ID, After, Body, DeviceId, Limit
from fleet_server.api.shapes import DevicePublic, Shape, show_device
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.services.add_device import (
    LABEL_CHARS_MAX,
    LABELS_MAX,
    TTL_MAX,
    TTL_MIN,
    DeviceDesk,
    DeviceSpec,
)
from fleet_server.services.issue_tokens import Caller
from fleet_server.services.list_devices import DeviceReader
from fleet_server.wiring.devices import build_device_desk, build_device_reader

LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
LabelName = Annotated[str, Field(pattern=LABEL_NAME)]
LabelValue = Annotated[str, Field(max_length=LABEL_CHARS_MAX)]
Ttl = Annotated[
    int,
    Field(
        ge=int(TTL_MIN.total_seconds()),
        le=int(TTL_MAX.total_seconds()),
        description="Seconds the join string works.",
    ),
]
TTL_DEFAULT_S = 86_400
State = Literal["", "online", "offline", "never seen", "not joined", "revoked"]


class DevicePage(Shape):
    """Devices by id, and how many there are in all."""

    devices: list[DevicePublic]
    total: int
    next: str | None


class DeviceIn(Body):
    """A device to be added."""

    id: Annotated[str, Field(pattern=DEVICE_ID)]
    profile: Annotated[str, Field(pattern=DEVICE_ID)]
    labels: Annotated[
        dict[LabelName, LabelValue], Field(default_factory=dict, max_length=LABELS_MAX)
    ]
    ttl_s: Ttl = TTL_DEFAULT_S


class AgainIn(Body):
    """How long the new join string works."""

    ttl_s: Ttl = TTL_DEFAULT_S


class JoinPublic(Shape):
    """A join string; it is shown this once and works once."""

    device: str
    join: str
    expires_at: datetime


class LabelsIn(Body):
    """Labels to set; null removes one."""

    labels: Annotated[dict[LabelName, LabelValue | None], Field(max_length=LABELS_MAX)]


class RevokeIn(Body):
    """Why a device is shut out."""

    reason: Annotated[str, Field(max_length=400)] = ""


def devices_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1", tags=["devices"])

    @router.get("/devices", operation_id="list_devices", **access(Role.VIEWER))
    def list_devices(
        profile: Annotated[str, Query(pattern=rf"^$|{DEVICE_ID}")] = "",
        state: State = "",
        after: After = "",
        limit: Limit = 100,
    ) -> DevicePage:
        """List devices by id."""
        views, total = FleetPages(fleet.engine).devices(
            after=after, limit=limit, profile=profile, state=state
        )
        return DevicePage(
            devices=[show_device(view) for view in views],
            total=total,
            next=views[-1].device.id if len(views) == limit else None,
        )

    @router.get("/devices/{device_id}", operation_id="get_device", **access(Role.VIEWER, 404))
    def get_device(device_id: DeviceId) -> DevicePublic:
        """Show one device."""
        return show_device(_reader().show(device_id))

    @router.post(
        "/devices", operation_id="add_device", status_code=201, **access(Role.OPERATOR, 404, 409)
    )
    def add_device(caller: CallerNow, body: DeviceIn) -> JoinPublic:
        """Add a device and return its join string."""
        lasts = timedelta(seconds=body.ttl_s)
        spec = DeviceSpec(id=body.id, profile=body.profile, labels=body.labels)
        return _joined(_desk(caller).add(spec, ttl=lasts), lasts)

    @router.post(
        "/devices/{device_id}/add-again",
        operation_id="add_device_again",
        **access(Role.OPERATOR, 404, 409),
    )
    def add_again(caller: CallerNow, device_id: DeviceId, body: AgainIn) -> JoinPublic:
        """Give a device that exists a new join string."""
        lasts = timedelta(seconds=body.ttl_s)
        return _joined(_desk(caller).add_again(device_id, ttl=lasts), lasts)

    @router.patch(
        "/devices/{device_id}/labels",
        operation_id="label_device",
        **access(Role.OPERATOR, 404, 409),
    )
    def label_device(caller: CallerNow, device_id: DeviceId, body: LabelsIn) -> DevicePublic:
        """Set and remove labels; groups follow at once."""
        _desk(caller).label(device_id, body.labels)
        return show_device(_reader().show(device_id))

    @router.post(
        "/devices/{device_id}/revoke",
        operation_id="revoke_device",
        **access(Role.OPERATOR, 404, 409),
    )
    def revoke_device(caller: CallerNow, device_id: DeviceId, body: RevokeIn) -> DevicePublic:
        """Shut a device out; ``add-again`` lets it back in."""
        _desk(caller).revoke(device_id, body.reason)
        return show_device(_reader().show(device_id))

    def _reader() -> DeviceReader:
        return build_device_reader(fleet)

    def _desk(caller: Caller) -> DeviceDesk:
        return build_device_desk(fleet, actor=caller.actor, is_operator=False)

    def _joined(ticket: JoinTicket, lasts: timedelta) -> JoinPublic:
        return JoinPublic(
            device=ticket.device_id, join=ticket.encode(), expires_at=fleet.clock.now() + lasts
        )

    return router
