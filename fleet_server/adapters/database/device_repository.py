"""Devices and join tokens in the control database."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, update
from sqlmodel import Session, col, select

from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import Reported
from fleet_server.adapters.database.tables import (
    AssignmentRow,
    DeviceRow,
    JoinTokenRow,
    SlotRow,
)
from fleet_server.ports.certificates import WantedCut
from fleet_server.ports.devices import DeviceRecord, JoinToken, NewDevice, SlotRecord

IDS_PER_QUERY = 500


class DeviceRepository:
    """The ``DeviceStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, device_id: str) -> DeviceRecord | None:
        """Return a device, None when there is none of that id."""
        return self.find_many([device_id]).get(device_id)

    def get(self, number: int) -> DeviceRecord:
        """Return the device of a number that exists."""
        return _record(self._session.get_one(DeviceRow, number))

    def find_many(self, device_ids: Sequence[str]) -> dict[str, DeviceRecord]:
        """Return the devices there are among these ids."""
        found: dict[str, DeviceRecord] = {}
        for start in range(0, len(device_ids), IDS_PER_QUERY):
            ids = device_ids[start : start + IDS_PER_QUERY]
            rows = self._session.exec(select(DeviceRow).where(col(DeviceRow.id).in_(ids)))
            found.update({row.id: _record(row) for row in rows})
        return found

    def list_all(self) -> list[DeviceRecord]:
        """Return every device by id."""
        rows = self._session.exec(select(DeviceRow).order_by(col(DeviceRow.id)))
        return [_record(row) for row in rows]

    def add_many(self, devices: Sequence[NewDevice], *, at: datetime, until: datetime) -> None:
        """Add devices that do not exist, each with a join token that holds ``until``."""
        if not devices:
            return
        self._session.execute(
            insert(DeviceRow),
            [
                {
                    "id": device.id,
                    "profile": device.profile,
                    "labels": json.dumps(dict(device.labels), sort_keys=True),
                    "created_at": at,
                }
                for device in devices
            ],
        )
        numbers: dict[str, int] = {}
        ids = [device.id for device in devices]
        for start in range(0, len(ids), IDS_PER_QUERY):
            part = ids[start : start + IDS_PER_QUERY]
            query = select(DeviceRow.id, DeviceRow.number).where(col(DeviceRow.id).in_(part))
            numbers.update({name: number or 0 for name, number in self._session.exec(query)})
        self._session.execute(
            insert(JoinTokenRow),
            [
                {
                    "secret_sha256": device.secret_sha256,
                    "device": numbers[device.id],
                    "created_at": at,
                    "expires_at": until,
                }
                for device in devices
            ],
        )

    def replace_token(
        self, number: int, secret_sha256: str, *, at: datetime, until: datetime
    ) -> None:
        """Give a device a new join token; unused older ones stop working."""
        self._expire_tokens(number, at)
        self._session.add(
            JoinTokenRow(
                secret_sha256=secret_sha256, device=number, created_at=at, expires_at=until
            )
        )

    def find_token(self, secret_sha256: str) -> JoinToken | None:
        """Return a join token."""
        row = self._session.get(JoinTokenRow, secret_sha256)
        if row is None:
            return None
        return JoinToken(
            device=row.device,
            created_at=row.created_at,
            expires_at=row.expires_at,
            used_at=row.used_at,
        )

    def mark_enrolled(
        self, number: int, secret_sha256: str, *, serial: str, expires_at: datetime, at: datetime
    ) -> None:
        """Note a device's certificate and that its token is used.

        Signs of a copy are forgotten, and its assignment will be sent once more.
        """
        device = self._session.get_one(DeviceRow, number)
        device.enrolled_at, device.revoked_at = at, None
        device.cloned_at, device.clone_evidence, device.boots = None, "", ""
        device.certificate_serial, device.certificate_expires_at = serial, expires_at
        self._session.get_one(JoinTokenRow, secret_sha256).used_at = at
        self._send_again(number)

    def set_certificate(self, number: int, serial: str, *, expires_at: datetime) -> None:
        """Note which certificate of a device is the newest."""
        device = self._session.get_one(DeviceRow, number)
        device.certificate_serial, device.certificate_expires_at = serial, expires_at

    def mark_cloned(self, number: int, evidence: str, *, at: datetime) -> bool:
        """Note that an identity seems to be in use twice; False when that was known."""
        device = self._session.get_one(DeviceRow, number)
        if device.cloned_at is not None:
            return False
        device.cloned_at, device.clone_evidence = at, evidence
        return True

    def want_cut(self, number: int, *, at: datetime) -> None:
        """Ask for the end of a device's open session."""
        self._session.get_one(DeviceRow, number).cut_wanted_at = at

    def list_cuts(self, limit: int) -> list[WantedCut]:
        """Return whose sessions must end, oldest wish first."""
        rows = self._session.exec(
            select(DeviceRow)
            .where(col(DeviceRow.cut_wanted_at).is_not(None))
            .order_by(col(DeviceRow.cut_wanted_at))
            .limit(limit)
        )
        return [
            WantedCut(
                device=row.number or 0,
                device_id=row.id,
                wanted_at=row.cut_wanted_at,
                is_revoked=row.revoked_at is not None,
            )
            for row in rows
            if row.cut_wanted_at is not None
        ]

    def finish_cut(self, cut: WantedCut) -> bool:
        """Note that a session was ended; False when it must be ended once more.

        When the device joined anew meanwhile, the assignment that was cleared is sent again.
        """
        row = self._session.get_one(DeviceRow, cut.device)
        if cut.is_revoked and row.revoked_at is None:
            self._send_again(cut.device)
        if row.cut_wanted_at != cut.wanted_at:
            return row.cut_wanted_at is None
        row.cut_wanted_at = None
        if cut.is_revoked:
            row.is_online = False
        return True

    def set_labels(self, number: int, labels: Mapping[str, str], *, at: datetime) -> None:
        """Replace a device's labels."""
        device = self._session.get_one(DeviceRow, number)
        device.labels = json.dumps(dict(labels), sort_keys=True)
        device.labelled_at = at

    def mark_revoked(self, number: int, *, at: datetime) -> None:
        """Note that a device may no longer take part; its join tokens stop working."""
        self._session.get_one(DeviceRow, number).revoked_at = at
        self._expire_tokens(number, at)

    def slots(self, numbers: Sequence[int]) -> dict[int, list[SlotRecord]]:
        """Return what the slots of these devices run."""
        found: dict[int, list[SlotRecord]] = {}
        for start in range(0, len(numbers), IDS_PER_QUERY):
            part = numbers[start : start + IDS_PER_QUERY]
            query = select(SlotRow).where(col(SlotRow.device).in_(part))
            for row in self._session.exec(query.order_by(col(SlotRow.slot))):
                found.setdefault(row.device, []).append(_slot(row))
        return found

    def _send_again(self, number: int) -> None:
        """Let the next assignment be signed and sent even though nothing in it changed."""
        self._session.execute(
            update(AssignmentRow).where(col(AssignmentRow.device) == number).values(is_stale=True)
        )

    def _expire_tokens(self, number: int, at: datetime) -> None:
        self._session.execute(
            update(JoinTokenRow)
            .where(
                col(JoinTokenRow.device) == number,
                col(JoinTokenRow.used_at).is_(None),
                col(JoinTokenRow.expires_at) > at,
            )
            .values(expires_at=at)
        )


def _record(row: DeviceRow) -> DeviceRecord:
    assert row.number is not None  # noqa: S101 - the primary key of a stored row
    reported = _reported(row.reported)
    return DeviceRecord(
        number=row.number,
        id=row.id,
        profile=row.profile,
        created_at=row.created_at,
        labels=json.loads(row.labels),
        enrolled_at=row.enrolled_at,
        revoked_at=row.revoked_at,
        certificate_serial=row.certificate_serial,
        certificate_expires_at=row.certificate_expires_at,
        is_online=row.is_online,
        last_seen_at=row.last_seen_at,
        capabilities=reported.capabilities if reported else {},
        refusal=(reported.refusal or {}) if reported else {},
        agent=reported.agent if reported else "",
        certificate=reported.certificate if reported else {},
        serving=_serving(reported) if reported else {},
        transfers=_transfers(reported) if reported else {},
        cloned_at=row.cloned_at,
        clone_evidence=row.clone_evidence,
        cut_wanted_at=row.cut_wanted_at,
    )


def _reported(text: str) -> Reported | None:
    """Read what a device last said; None when it said nothing readable."""
    if not text:
        return None
    try:
        return Reported.decode(text.encode())
    except ContractError:
        return None


def _transfers(reported: Reported) -> dict[str, dict[str, str | int | bool]]:
    """Read how packages came to a device; what is not as agents write it is left out."""
    kinds: dict[str, type] = {
        "encoding": str,
        "base": str,
        "package_bytes": int,
        "received_bytes": int,
        "problem": str,
    }
    read = {n: _known(s.extra.get("transfer"), kinds) for n, s in reported.slots.items()}
    return {name: said for name, said in read.items() if said}


def _serving(reported: Reported) -> dict[str, str | int | bool]:
    """Read where models answer on a device; what is not as agents write it is left out."""
    kinds: dict[str, type] = {
        "place": str,
        "is_up": bool,
        "restarts": int,
        "failures": int,
        "fault": str,
    }
    return _known(reported.extra.get("serving"), kinds)


def _known(said: Any, kinds: Mapping[str, type]) -> dict[str, str | int | bool]:
    if not isinstance(said, dict):
        return {}
    return {n: said[n] for n, kind in kinds.items() if n in said and type(said[n]) is kind}


def _slot(row: SlotRow) -> SlotRecord:
    return SlotRecord(
        slot=row.slot,
        state=row.state,
        running_target=row.running_target,
        desired_target=row.desired_target,
        code=row.code,
        detail=row.detail,
        changed_at=row.changed_at,
    )
