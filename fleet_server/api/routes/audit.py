"""The audit log: who did what, and whether the log is whole. For administrators."""

import json
from datetime import datetime
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Query

from fleet_server.api.access import access
from fleet_server.api.params import NUMBER_MAX, Before, Limit
from fleet_server.api.shapes import Shape
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.errors import OverloadedError
from fleet_server.ports.audit import AuditFilter, AuditRecord
from fleet_server.wiring.audit import build_audit_desk

CHARS_MAX = 128
RETRY_AFTER_S = 10.0


class AuditPublic(Shape):
    """One act."""

    id: int
    at: datetime
    actor: str
    act: str
    object: str
    reason: str
    detail: dict[str, Any]
    sha256: str


class AuditPage(Shape):
    """Acts, newest first."""

    rows: list[AuditPublic]
    next: int | None


class CheckPublic(Shape):
    """What a check of the whole log found; ``head`` is worth keeping elsewhere."""

    is_whole: bool
    breaks: list[str]
    rows: int
    head: str


def audit_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/audit", tags=["audit"])
    one_check = Lock()

    @router.get("", operation_id="list_audit", **access(Role.ADMIN))
    def list_audit(
        actor: Annotated[str, Query(max_length=CHARS_MAX)] = "",
        act: Annotated[str, Query(max_length=CHARS_MAX, description="`device.` for all.")] = "",
        since: datetime | None = None,
        before: Before = NUMBER_MAX,
        limit: Limit = 100,
    ) -> AuditPage:
        """List acts, newest first."""
        desk = build_audit_desk(fleet, is_operator=False)
        wanted = AuditFilter(actor=actor, act=act, since=since)
        found = desk.reader.list_page(wanted, before=before, limit=limit)
        return AuditPage(
            rows=[_record(record) for record in found],
            next=found[-1].id if len(found) == limit and found[-1].id > 1 else None,
        )

    @router.get("/verify", operation_id="verify_audit", **access(Role.ADMIN))
    def verify_audit() -> CheckPublic:
        """Read the whole log and say whether it is whole; one check at a time."""
        if not one_check.acquire(blocking=False):
            sentence = f"the audit log is being checked; try again in {RETRY_AFTER_S:g} s"
            raise OverloadedError(sentence, retry_after_s=RETRY_AFTER_S)
        try:
            report = build_audit_desk(fleet, is_operator=False).verify()
        finally:
            one_check.release()
        head = report.head
        return CheckPublic(
            is_whole=report.is_whole,
            breaks=list(report.breaks),
            rows=head.rows if head else 0,
            head=f"{head.rows}:{head.sha256}" if head else "",
        )

    return router


def _record(record: AuditRecord) -> AuditPublic:
    return AuditPublic(
        id=record.id,
        at=record.at,
        actor=record.actor,
        act=record.act,
        object=record.object,
        reason=record.reason,
        detail=json.loads(record.detail),
        sha256=record.sha256,
    )
