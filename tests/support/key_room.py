"""A workspace, its operator, more people with folders of their own, and one device's verifier."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, select

from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from fleet_server.adapters.database.tables import AuditRow
from fleet_server.adapters.director import Director
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.ports.keys import KeyAct, KeyChange
from fleet_server.services.approve_model import ApprovalDesk
from fleet_server.services.change_keys import KeyDesk, KeyOutcome
from fleet_server.wiring.keys import (
    build_key_desk,
    create_approver,
    list_roles,
    list_roots,
    pin_root,
    read_public_key,
)
from fleet_server.wiring.trust import build_approver, build_repository
from fleet_server.workspace import OPERATOR_VARIABLE
from tests.support.clock import FakeClock
from tests.support.target_bins import all_files

V1, V2 = "digits/1/camera.tar", "digits/2/camera.tar"


class KeyRoom:
    """A fleet on disk; ``ann`` has the workspace's operator folder, others have their own."""

    def __init__(self, directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self.clock, self._patch = directory, clock, monkeypatch
        self.fleet: Fleet = open_fleet(directory / "fleet", clock)
        self.repository = build_repository(self.fleet)
        self.pinned = self.repository.roots()[0]
        self.accepted, self._counter = AcceptedTrust(), 0

    # People -----------------------------------------------------------------------------------

    @contextmanager
    def as_person(self, name: str) -> Iterator[None]:
        """Work with a person's own folder."""
        if name == "ann":
            self._patch.delenv(OPERATOR_VARIABLE, raising=False)
        else:
            self._patch.setenv(OPERATOR_VARIABLE, str(self.folder(name)))
        try:
            yield
        finally:
            self._patch.delenv(OPERATOR_VARIABLE, raising=False)

    def folder(self, name: str) -> Path:
        return self.fleet.workspace.root / "operator" if name == "ann" else self.directory / name

    def desk(self, name: str = "ann") -> KeyDesk:
        return build_key_desk(self.fleet, actor=name)

    def approver(self, name: str = "ann") -> ApprovalDesk:
        return build_approver(self.fleet, actor=name)

    def change(self, act: KeyAct, role: str, name: str = "ann", **values: Any) -> KeyOutcome:
        with self.as_person(name):
            change = KeyChange(act=act, role=role, **values)
            return self.desk(name).change(change)

    def rotate(self, role: str, **values: Any) -> KeyOutcome:
        return self.change(KeyAct.ROTATE, role, **values)

    def add(self, name: str, role: str = "targets") -> str:
        """A person makes a key and a folder; ann lets the key count; return its id."""
        _, public = create_approver(self.folder(name), slot=2, module=None, ask=None)
        keyid, pem = read_public_key(public)
        self.change(KeyAct.ADD, role, public_pem=pem)
        with self.as_person(name):
            pin_root(self.fleet, list_roots(self.fleet)[0].sha256)
        return keyid

    def cosign_keys(self, name: str) -> KeyOutcome:
        with self.as_person(name):
            return self.desk(name).cosign()

    def need_two(self) -> str:
        """Let ann and bea approve together; return bea's key id."""
        keyid = self.add("bea")
        assert self.change(KeyAct.THRESHOLD, "targets", threshold=2).waiting
        assert not self.cosign_keys("bea").waiting
        return keyid

    # What is in force -------------------------------------------------------------------------

    def keyids(self, role: str) -> tuple[str, ...]:
        return next(one.keyids for one in list_roles(self.fleet) if one.name == role)

    def device_runs(self, target: str = V1, *, counter: int | None = None) -> VerifiedAssignment:
        """The real verifier of a device that has followed the fleet from its first root on."""
        self._counter = self._counter + 1 if counter is None else counter
        verified = self.verifier().evaluate(
            all_files(self.repository), self.order(target, self._counter), self.accepted
        )
        self.accepted = verified.accepted
        return verified

    def verifier(self) -> TufVerifier:
        return TufVerifier(
            directory=self.directory / "device",
            bootstrap_root=self.pinned,
            device_id="cam-1",
            fleet="fleet-1",
            profile="camera",
            clock=self.clock,
        )

    def order(self, target: str, counter: int, *, days: float = 7) -> bytes:
        now = self.clock.now()
        assignment = Assignment(
            fleet="fleet-1",
            device="cam-1",
            counter=counter,
            issued_at=now,
            expires_at=now + timedelta(days=days),
            slots={"digits": SlotAssignment(target=target)},
        )
        return Director(self.fleet.workspace.keys_dir).seal(assignment)

    def acts(self) -> list[str]:
        with Session(self.fleet.engine) as session:
            return [row.act for row in session.exec(select(AuditRow)).all()]
