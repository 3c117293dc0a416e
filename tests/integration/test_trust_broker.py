"""The authority's certificates and revocation list on a real mosquitto."""

import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

from edge_agent.adapters.enrolment import enrol
from edge_agent.ports import Identity
from fleet_server.bootstrap import open_fleet
from fleet_server.free_ports import find_free_ports
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_authority, build_device_desk
from fleet_server.wiring.workspace import broker_of, init_workspace
from fleet_server.workspace import Config
from tests.support.clock import FakeClock
from tests.support.trust_fleet import enrol_server

CONNECT = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02xy"
ACCEPTED = b"\x20\x02\x00\x00"


def is_let_in(identity: Identity) -> bool:
    context = ssl.create_default_context(cafile=str(identity.ca_path))
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    try:
        with (
            socket.create_connection((identity.host, identity.mqtt_port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=identity.host) as connection,
        ):
            connection.sendall(CONNECT)
            return connection.recv(4) == ACCEPTED
    except (ssl.SSLError, ConnectionError):
        return False


def becomes(identity: Identity, *, let_in: bool) -> bool:
    """The broker reads the list anew a moment after it is told."""
    for _ in range(250):
        if is_let_in(identity) is let_in:
            return True
        Event().wait(0.02)
    return False


def test_an_enrolled_device_is_let_in_until_it_is_revoked(tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    broker_port, server_port = find_free_ports(2)
    config = Config(broker_port=broker_port, server_port=server_port)
    workspace = init_workspace(tmp_path / "fleet", config, clock=clock).workspace
    fleet = open_fleet(workspace, clock)
    desk = build_device_desk(fleet)
    specs = [DeviceSpec(id=f"cam-{n}", profile="camera", labels={}) for n in (1, 2)]
    with enrol_server(fleet) as server:
        first, second = (
            enrol(replace(ticket, api_port=server.port).encode(), tmp_path / ticket.device_id)
            for ticket in desk.add_many(specs)
        )
    broker = broker_of(workspace, clock)
    broker.start()
    try:
        assert is_let_in(first)
        desk.revoke("cam-1", "stolen")
        broker.reload()
        assert becomes(first, let_in=False)
        assert is_let_in(second)

        clock.advance(-40 * 86_400)  # the list runs out: nobody is let in any more ...
        build_authority(fleet).revoke([])
        broker.reload()
        assert becomes(second, let_in=False)
        clock.advance(timedelta(days=40).total_seconds())
        assert build_authority(fleet).refresh_crl()  # ... which is why it is written anew daily
        broker.reload()
        assert becomes(second, let_in=True)
    finally:
        broker.stop()
        fleet.engine.dispose()
