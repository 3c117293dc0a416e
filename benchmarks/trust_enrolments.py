"""Enrolments a second: secret to certificate, each in its own committed transaction."""

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.adapters.device_keys import make_request
from fleet_server.adapters.system_clock import SystemClock
from fleet_server.bootstrap import open_fleet
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_authority, build_device_desk, build_enrolment
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config

DEVICES = 200


def measure(folder: Path, rounds: int) -> tuple[float, float]:
    """Return enrolments a second and certificates signed a second, the best of the rounds."""
    clock = SystemClock()
    fleet = open_fleet(init_workspace(folder, Config(), clock=clock).workspace, clock)
    desk, authority = build_device_desk(fleet, actor="bench"), build_authority(fleet)
    enrolment = build_enrolment(fleet).desk
    rates, floors = [], []
    for turn in range(rounds):
        names = [f"bench-{turn}-{n}" for n in range(DEVICES)]
        tickets = desk.add_many([DeviceSpec(id=n, profile="camera", labels={}) for n in names])
        requests = [make_request(ec.generate_private_key(ec.SECP256R1()), name) for name in names]
        began = time.perf_counter()
        for ticket, request in zip(tickets, requests, strict=True):
            enrolment.enrol(ticket.secret, request)
        rates.append(DEVICES / (time.perf_counter() - began))
        began = time.perf_counter()
        for name, request in zip(names, requests, strict=True):
            authority.issue_device(request, name)
        floors.append(DEVICES / (time.perf_counter() - began))
    fleet.engine.dispose()
    return max(rates), max(floors)
