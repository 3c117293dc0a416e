"""A live fleet for attackers who hold a device's identity: real broker, gateway and agent process.

``cam-1`` runs ``plant`` 1. Each attack gets a device of its own that has joined, and a plain MQTT
client with its certificate. The broker drops what its rules forbid without a word.
"""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from edge_agent.adapters.identity_store import load_identity
from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import AuditRow
from tests.support.agent_fleet import AgentLab
from tests.support.attack_server import package
from tests.support.gateway import Client, Identity
from tests.support.identity import Reloader

VICTIM = "cam-1"
ROW = [0.1, 0.2, 0.3, 0.4]


class LiveFleet:
    """Broker, gateway, and the victim's agent."""

    def __init__(self, root: Path) -> None:
        self.lab = AgentLab(root)
        self._reloader = Reloader(self.lab)
        self.count = 0
        self.attacker = ""
        self._clients: list[Client] = []
        self.home = self.lab.join(VICTIM)
        self.lab.run_agent(self.home)
        self.target = self.lab.release("plant", 1, package("plant/1/onprem-server.tar"))
        self.lab.wish(VICTIM, self.target)
        self.lab.wait_for_slot(VICTIM, "confirmed", self.target)

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._reloader.stop()
        self.lab.stop()

    # The attacker -------------------------------------------------------------------------------

    def new_device(self) -> tuple[str, Path]:
        """Let a device of the attacker's join; return its name and directory."""
        self.count += 1
        name = f"thief-{self.count}"
        return name, self.lab.join(name)

    def client(self, directory: Path, client_id: str) -> Client:
        """Return a client with the identity in a directory; not connected."""
        identity = load_identity(directory)
        paths = Identity(identity.certificate_path, identity.key_path)
        client = Client(client_id, paths, identity.ca_path, clean=True)
        self._clients.append(client)
        return client

    def connected(self) -> tuple[str, Client]:
        """Return a new device's name and its connected client."""
        name, directory = self.new_device()
        client = self.client(directory, name)
        assert self.is_let_in(client)
        return name, client

    def is_let_in(self, client: Client, port: int = 0) -> bool:
        """Tell whether a client gets a session."""
        try:
            client.connect(port or self.lab.port)
        except OSError:  # TLS 1.2 says it at once, 1.3 at the first read
            return False
        return any("Success" in reason for reason, _ in client.connects)

    # What can be seen ---------------------------------------------------------------------------

    def ask(self) -> dict[str, Any]:
        """Ask the victim's agent as its application does."""
        process = self.lab.status(self.home)["process"]
        connection = http.client.HTTPConnection("127.0.0.1", process["http_port"], timeout=10)
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": ROW}
        try:
            connection.request("POST", "/v2/models/plant/infer", json.dumps({"inputs": [tensor]}))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return {"model_version": answer["model_version"], "outputs": answer["outputs"]}

    def victim(self) -> dict[str, Any]:
        """What the server knows of the victim, without what its own reports move."""
        row = self.lab.device_row(VICTIM)
        slot = self.lab.slot_rows(VICTIM)["plant"]
        known = ("id", "is_online", "boot", "cloned_at", "revoked_at", "certificate_serial")
        return {name: getattr(row, name) for name in known} | {
            "running": slot.running_target,
            "state": slot.state,
            "code": slot.code,
        }

    def acts(self, subject: str) -> list[str]:
        """What the audit log, which must be whole, says of somebody."""
        with read_session(self.lab.fleet.engine) as session:
            rows = list(session.exec(select(AuditRow).order_by(col(AuditRow.id))))
        assert list(find_breaks(iter(rows))) == []
        return [row.act for row in rows if row.object == subject]

    def settle(self) -> None:
        """Wait until whatever was sent has been dealt with: a message of ours comes through."""
        server = self.lab.server("probe")
        topic = device_topic(VICTIM, Channel.ACK)
        server.subscribe(topic)
        server.publish(topic, b"probe")
        assert server.wait(lambda: any(m.payload == b"probe" for m in server.received))
        server.close()

    def wait(self, is_true: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
        """Wait until something is true."""
        self.lab.wait(is_true, timeout_s=timeout_s)

    @staticmethod
    def pause(seconds: float) -> None:
        """Give something that must not happen the time to happen."""
        time.sleep(seconds)
