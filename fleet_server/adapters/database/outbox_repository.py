"""Assignments on their way to the broker, and which packages they let a device fetch.

``published_counter`` is what the broker has acknowledged; it never goes back, and it moves only
to a counter whose envelope was sent.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Engine, bindparam, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from edge_agent.contract.assignment import Assignment
from edge_agent.contract.errors import ContractError
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    DesiredRow,
    DeviceRow,
)
from fleet_server.errors import UnreachableError
from fleet_server.ports.gateway import Envelope


class SqlAssignmentOutbox:
    """The ``AssignmentOutbox`` over the control database; revoked devices get nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load_unpublished(self, limit: int) -> list[Envelope]:
        """Return assignments whose counter is ahead of the published one."""
        return self._load(limit, col(AssignmentRow.counter) > col(AssignmentRow.published_counter))

    def load_published(self, after_device: int, limit: int) -> list[Envelope]:
        """Return assignments the broker had, by device number."""
        return self._load(
            limit,
            col(AssignmentRow.published_counter) > 0,
            col(AssignmentRow.device) > after_device,
        )

    def mark_published(self, envelopes: Sequence[Envelope]) -> None:
        """Note what the broker has acknowledged."""
        if not envelopes:
            return
        with _translated(), write_session(self._engine) as session:
            session.connection().execute(
                update(AssignmentRow)
                .where(
                    col(AssignmentRow.device) == bindparam("number"),
                    col(AssignmentRow.published_counter) < bindparam("sent"),
                )
                .values(published_counter=bindparam("sent")),
                [{"number": e.device, "sent": e.counter} for e in envelopes],
            )

    def published_mark(self) -> str:
        """Return a text that changes with every envelope marked published; empty before one."""
        with _translated(), read_session(self._engine) as session:
            count, total = (
                session.connection()
                .execute(
                    select(
                        func.count(), func.coalesce(func.sum(AssignmentRow.published_counter), 0)
                    )
                    .select_from(AssignmentRow)
                    .where(col(AssignmentRow.published_counter) > 0)
                )
                .one()
            )
        return f"{count}:{total}" if count else ""

    def _load(self, limit: int, *conditions: ColumnElement[bool]) -> list[Envelope]:
        statement = (
            select(
                col(AssignmentRow.device),
                col(DeviceRow.id),
                col(AssignmentRow.counter),
                col(AssignmentRow.envelope),
            )
            .join(DeviceRow, col(DeviceRow.number) == col(AssignmentRow.device))
            .where(
                *conditions,
                col(AssignmentRow.envelope) != "",
                col(DeviceRow.revoked_at).is_(None),
            )
            .order_by(col(AssignmentRow.device))
            .limit(limit)
        )
        with _translated(), read_session(self._engine) as session:
            found = session.connection().execute(statement).all()
        return [
            Envelope(device, name, counter, text.encode()) for device, name, counter, text in found
        ]


class SqlTransferRights:
    """The ``TransferRights``: what is desired now, and what the newest assignment still names."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def allowed_packages(self, device_id: str) -> frozenset[str]:
        """Return the sha256 of the packages that a device's targets name."""
        with _translated(), read_session(self._engine) as session:
            connection = session.connection()
            number = connection.execute(
                select(col(DeviceRow.number)).where(
                    col(DeviceRow.id) == device_id, col(DeviceRow.revoked_at).is_(None)
                )
            ).scalar_one_or_none()
            if number is None:
                return frozenset()
            desired = connection.execute(
                select(col(DesiredRow.target)).where(col(DesiredRow.device) == number)
            ).scalars()
            envelope = connection.execute(
                select(col(AssignmentRow.envelope)).where(col(AssignmentRow.device) == number)
            ).scalar_one_or_none()
            targets = {*desired, *_targets_of(envelope or "")}
            packages = connection.execute(
                select(col(ArtifactRow.sha256)).where(col(ArtifactRow.target).in_(targets))
            ).scalars()
            return frozenset(packages)


def _targets_of(envelope: str) -> set[str]:
    """Return the targets an envelope names; our own signer made it, so it is not verified."""
    if not envelope:
        return set()
    try:
        document: dict[str, Any] = json.loads(envelope)
        assignment = Assignment.decode(base64.b64decode(document["payload"]))
    except (ValueError, KeyError, TypeError, ContractError):
        return set()
    return {slot.target for slot in assignment.slots.values()}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise UnreachableError(f"control database: {error}") from error
