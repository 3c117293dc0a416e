"""A workspace with broker and gateway, real packages, and real agents as processes."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.adapters.device_keys import make_request
from edge_agent.adapters.identity_store import identity_directory, save_identity
from edge_agent.contract.assignment import ProbationPolicy, target_path
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.contract.shadow import ShadowPolicy
from edge_agent.local_status import find_status
from edge_agent.ports import Identity
from fleet_server.adapters.database.assignment_repository import AssignmentRepository
from fleet_server.adapters.database.device_repository import DeviceRepository
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import ArtifactRow, ModelRow, SlotRow, VersionRow
from fleet_server.bootstrap import Fleet
from fleet_server.ports.devices import Wish
from fleet_server.services.add_device import DeviceSpec
from fleet_server.services.inspect_packages import hash_chunks
from fleet_server.wiring.devices import (
    build_assigner,
    build_assignment_desk,
    build_device_desk,
    build_enrolment,
)
from fleet_server.wiring.trust import build_approver
from tests.support.gateway import WorkspaceLab

QUICK = ProbationPolicy(duration_s=0.5, rows_min=0, output_shift_max=1)
"""Any mix of answers will do: tests ask the same row again and again."""
PROFILE = "onprem-server"


def release(
    fleet: Fleet, model: str, version: int, blob: bytes, *, is_approved: bool = True
) -> str:
    """Register a package as training does and, by default, approve it; return its target."""
    now, path = fleet.clock.now(), target_path(model, version, PROFILE)
    with write_session(fleet.engine) as session:
        if session.get(ModelRow, model) is None:
            session.add(ModelRow(name=model, task="classification", created_at=now))
            session.flush()
        session.add(VersionRow(model=model, number=version, created_at=now))
        session.add(
            ArtifactRow(
                model=model,
                version=version,
                profile=PROFILE,
                target=path,
                sha256=fleet.objects.put(blob),
                size_bytes=len(blob),
                precision="fp32",
                schema_sha256=hashlib.sha256(unpack_members(blob)[SCHEMA]).hexdigest(),
                chunks_sha256=hash_chunks(blob),
                reference_hash="0" * 16,
                latency_ms_p95=1.0,
                label_flips=0.0,
                max_abs_error=0.0,
                created_at=now,
            )
        )
    if is_approved:
        build_approver(fleet, actor="tester").approve(model, version)
    return path


def wish(
    fleet: Fleet,
    device_id: str,
    target: str,
    *,
    slot: str = "",
    probation: ProbationPolicy = QUICK,
    shadow: ShadowPolicy | None = None,
) -> None:
    """Let a device run a target, signed as the controller does; the gateway sends it."""
    with write_session(fleet.engine) as session:
        build_assigner(fleet).set_desired(
            DeviceRepository(session),
            AssignmentRepository(session),
            Wish(
                device=device_id,
                slot=slot or target.split("/", maxsplit=1)[0],
                target=target,
                probation=probation,
                shadow=shadow,
            ),
        )
    while build_assignment_desk(fleet).sign_stale():
        continue


class AgentLab(WorkspaceLab):
    """Started: broker and gateway run."""

    def __init__(self, root: Path, **config: Any) -> None:
        super().__init__(root, **config)
        self.agents: list[subprocess.Popen[bytes]] = []
        self.broker.start()
        self.start_gateway()
        self.wait_until_ready()

    def release(self, model: str, version: int, blob: bytes, *, is_approved: bool = True) -> str:
        """Register a package as training does and, by default, approve it; return its target."""
        return release(self.fleet, model, version, blob, is_approved=is_approved)

    def join(self, device_id: str) -> Path:
        """Add and enrol a device; return its agent's directory."""
        desk = build_device_desk(self.fleet, actor="tester")
        ticket = desk.add(DeviceSpec(id=device_id, profile=PROFILE, labels={}))
        key = ec.generate_private_key(ec.SECP256R1())
        request = make_request(key, device_id)
        grant = build_enrolment(self.fleet).desk.enrol(ticket.secret, request)
        directory = self.workspace.root / "agents" / device_id
        identity = Identity(
            device_id=grant.device_id,
            profile=grant.profile,
            fleet=grant.fleet,
            host=grant.mqtt_host,
            mqtt_port=grant.mqtt_port,
            api_port=ticket.api_port,
            root=grant.root.encode(),
            directory=identity_directory(directory),
        )
        save_identity(
            identity,
            ca_pem=grant.ca.encode(),
            certificate_pem=grant.certificate.encode(),
            key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        return directory

    def run_agent(self, directory: Path, *options: str) -> subprocess.Popen[bytes]:
        """Start a real agent; its words go to ``agent.log``."""
        with (directory / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [
                    *(sys.executable, "-m", "edge_agent", "run", "--dir", str(directory)),
                    *("--http-port", "0", "--window-s", "1", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.agents.append(agent)
        return agent

    def wish(
        self,
        device_id: str,
        target: str,
        *,
        slot: str = "",
        probation: ProbationPolicy = QUICK,
        shadow: ShadowPolicy | None = None,
    ) -> None:
        """Let a device run a target, signed as the controller does; the gateway sends it."""
        wish(self.fleet, device_id, target, slot=slot, probation=probation, shadow=shadow)

    def wait_for_slot(
        self, device_id: str, state: str, target: str, *, timeout_s: float = 60.0
    ) -> SlotRow:
        """Wait until the server knows that the newest attempt of a slot came to a state."""

        def is_there() -> bool:
            row = self.slot_rows(device_id).get(target.split("/", maxsplit=1)[0])
            return row is not None and row.state == state and row.desired_target == target

        try:
            self.wait(is_there, timeout_s=timeout_s)
        except AssertionError as error:
            rows = {k: v.model_dump() for k, v in self.slot_rows(device_id).items()}
            log = self.workspace.root / "agents" / device_id / "agent.log"
            raise AssertionError(f"{rows}\n{log.read_text()[-3_000:]}\n{error}") from error
        return self.slot_rows(device_id)[target.split("/", maxsplit=1)[0]]

    def status(self, directory: Path) -> dict[str, Any]:
        """What ``edge-agent status --json`` prints."""
        return find_status(directory)

    def stop(self) -> None:
        """End agents, gateway and broker."""
        for agent in self.agents:
            if agent.poll() is None:
                agent.send_signal(signal.SIGTERM)
        for agent in self.agents:
            agent.wait(10)
        super().stop()
