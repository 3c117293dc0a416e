"""A real workspace whose keys, files and database may be in an attacker's hands.

``plant`` 1, 2 and 3 are approved, 2 also for another profile; 99 is registered and approved by
nobody. Packages are real and small; that of 3 takes several chunks.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from sqlmodel import col, select

from edge_agent.contract.assignment import (
    PAYLOAD_TYPE,
    Assignment,
    ProbationPolicy,
    SlotAssignment,
    target_path,
)
from edge_agent.contract.package import EVIDENCE, SCHEMA, unpack_members
from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import ArtifactRow, AuditRow
from fleet_server.adapters.director import Director
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.services.approve_model import ApprovalDesk
from fleet_server.wiring.trust import build_approver
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.agent import ChunkServer
from tests.support.attack_clock import WallClock
from tests.support.serving import build_classifier
from tests.support.target_bins import all_files
from tests.support.trust import TrustServer
from tests.support.trust_fleet import register

FLEET, DEVICE, PROFILE, OTHER = "fleet-1", "cam-1", "camera", "iot-gateway"
MODEL = "plant"
V1, V2, V3 = (target_path(MODEL, number, PROFILE) for number in (1, 2, 3))
OTHER_PROFILE = target_path(MODEL, 2, OTHER)
UNSIGNED = target_path(MODEL, 99, PROFILE)
TARGETS = (V1, V2, V3, OTHER_PROFILE, UNSIGNED)
QUICK = ProbationPolicy(duration_s=0.5, rows_min=0, output_shift_max=1)
_FILLER = {V3: 300_000}


@cache
def package(path: str) -> bytes:
    """The package of a target path, built once a process."""
    evidence = {
        "precision": "fp32",
        "graph": {"ir": 8, "opset": 17, "opset_ml": 0},
        "of": path,
        "filler": "x" * _FILLER.get(path, 0),
    }
    seed = int(path.split("/")[1])
    built = build_classifier(
        seed=seed, edit=lambda members: {**members, EVIDENCE: json.dumps(evidence).encode()}
    )
    return built.blob


class AttackedServer(TrustServer):
    """The server's side of one fleet."""

    def __init__(self, fleet: Fleet, clock: WallClock) -> None:
        workspace = fleet.workspace
        repository = TufRepository(workspace.tuf_dir, workspace.keys_dir, clock)
        super().__init__(
            repository,
            tuf_dir=workspace.tuf_dir,
            keys_dir=workspace.keys_dir,
            operator_dir=workspace.operator_dir,
            fleet=workspace.config.fleet,
            clock=clock,
        )
        self.opened, self.workspace = fleet, workspace
        self.clock: WallClock = clock

    @classmethod
    def create(cls, directory: Path, clock: WallClock) -> "AttackedServer":
        """Make the workspace and register every package."""
        made = init_workspace(directory, Config(fleet=FLEET), clock=clock)
        server = cls(open_fleet(made.workspace, clock), clock)
        for number in (1, 2, 3, 99):
            server.register(number, [PROFILE, OTHER] if number == 2 else [PROFILE])
        return server

    def register(self, number: int, profiles: list[str]) -> None:
        """Register a version as training does."""
        blobs = {profile: package(target_path(MODEL, number, profile)) for profile in profiles}
        register(self.opened, MODEL, number, profiles, packages=blobs)
        with write_session(self.opened.engine) as session:
            rows = session.exec(select(ArtifactRow).where(ArtifactRow.version == number)).all()
            for row in rows:
                blob = blobs[row.profile]
                row.schema_sha256 = ChunkServer(unpack_members(blob)[SCHEMA]).sha256
                row.chunks_sha256 = ChunkServer(blob).chunks

    def refresh(self) -> dict[str, bytes]:
        """Sign anew what is due; return every file a device may need, hash bins included."""
        self.repository.refresh_online()
        return all_files(self.repository)

    def order(
        self,
        target: str,
        counter: int,
        *,
        slot: str = MODEL,
        device: str = DEVICE,
        fleet: str = FLEET,
        days: float = 7,
        issued_at: datetime | None = None,
        signer: CryptoSigner | None = None,
    ) -> bytes:
        """Sign an assignment of one slot, whatever it says, with the director's key or another."""
        issued_at = issued_at or self.clock.now()
        assignment = Assignment(
            fleet=fleet,
            device=device,
            counter=counter,
            issued_at=issued_at,
            expires_at=issued_at + timedelta(days=days),
            slots={slot: SlotAssignment(target=target, probation=QUICK)},
        )
        if signer is None:
            return Director(self.keys_dir).seal(assignment)
        envelope = Envelope(assignment.encode(), PAYLOAD_TYPE, {})
        envelope.sign(signer)
        return json.dumps(envelope.to_dict()).encode()

    @property
    def approver(self) -> ApprovalDesk:
        """What ``edgefleet model approve`` and ``reject`` call."""
        return build_approver(self.opened, actor="ann")

    def audit_rows(self) -> list[AuditRow]:
        """Read the audit chain, oldest first; it must be whole."""
        with read_session(self.opened.engine) as session:
            rows = list(session.exec(select(AuditRow).order_by(col(AuditRow.id))).all())
        assert list(find_breaks(iter(rows))) == []
        return rows

    @contextmanager
    def database(self) -> Iterator[Any]:
        """A write session, as whoever owns the server's disk has one."""
        with write_session(self.opened.engine) as session:
            yield session
