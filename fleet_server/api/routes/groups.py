"""Groups: names for label queries."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from fleet_server.adapters.database.pages import FleetPages
from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import After, Body, GroupName, Limit
from fleet_server.api.shapes import Shape
from fleet_server.bootstrap import Fleet
from fleet_server.core.label_query import QUERY_CHARS_MAX
from fleet_server.core.roles import Role
from fleet_server.services.define_group import GroupView
from fleet_server.wiring.rollouts import build_group_desk


class GroupPublic(Shape):
    """A group."""

    name: str
    query: str
    created_at: datetime


class GroupPage(Shape):
    """Groups by name, without ``all``, which always exists."""

    groups: list[GroupPublic]
    next: str | None


class GroupDevices(Shape):
    """A group with its devices now: how many, and a page of their ids."""

    name: str
    query: str
    count: int
    devices: list[str]
    next: str | None


class QueryIn(Body):
    """Which devices are meant, such as ``profile=camera and site!=lab``."""

    query: Annotated[str, Field(min_length=1, max_length=QUERY_CHARS_MAX)]


def groups_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1", tags=["groups"])

    @router.get("/groups", operation_id="list_groups", **access(Role.VIEWER))
    def list_groups(after: After = "", limit: Limit = 100) -> GroupPage:
        """List groups by name."""
        found = FleetPages(fleet.engine).groups(after=after, limit=limit)
        return GroupPage(
            groups=[GroupPublic.model_validate(g, from_attributes=True) for g in found],
            next=found[-1].name if len(found) == limit else None,
        )

    @router.get("/groups/{group}", operation_id="get_group", **access(Role.VIEWER, 404))
    def get_group(group: GroupName, after: After = "", limit: Limit = 100) -> GroupDevices:
        """Show a group's query and its devices by id."""
        return _show(build_group_desk(fleet).show(group), after, limit)

    @router.put("/groups/{group}", operation_id="set_group", **access(Role.OPERATOR, 409))
    def set_group(caller: CallerNow, group: GroupName, body: QueryIn) -> GroupDevices:
        """Give a query a name, or a name another query."""
        view = build_group_desk(fleet, actor=caller.actor).define(group, body.query)
        return _show(view, "", 100)

    return router


def _show(view: GroupView, after: str, limit: int) -> GroupDevices:
    ids = sorted(device.id for device in view.devices if device.id > after)[:limit]
    return GroupDevices(
        name=view.group.name,
        query=view.group.query,
        count=len(view.devices),
        devices=ids,
        next=ids[-1] if len(ids) == limit else None,
    )
