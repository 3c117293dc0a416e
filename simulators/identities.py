"""Identities of simulated devices: enrolled once with the workspace's own desk, kept beside it.

``WORKSPACE/simulated/identities.json`` holds certificates and keys, so that the next run is the
same fleet. Enrolment is the server's service; only the two HTTPS requests are left out.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.adapters.device_keys import make_request
from edge_agent.contract.join import EnrolGrant, JoinTicket
from edge_agent.ports import Identity
from fleet_server.bootstrap import Fleet
from fleet_server.errors import RefusedError
from fleet_server.services.add_device import DeviceDesk, DeviceSpec
from fleet_server.wiring.devices import (
    build_device_desk,
    build_enrolment,
    find_place,
)

DIRECTORY = "simulated"
FILE = "identities.json"
BATCH = 500
"""Devices enrolled in one transaction; the server's own writers wait no longer than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A simulated device to be."""

    device_id: str
    profile: str


def name_members(count: int, prefix: str, profiles: Sequence[str]) -> list[Member]:
    """Name devices and deal profiles out to them in turn.

    >>> [m.device_id for m in name_members(2, "sim", ["camera"])]
    ['sim-0001', 'sim-0002']
    """
    return [
        Member(device_id=f"{prefix}-{n + 1:04d}", profile=profiles[n % len(profiles)])
        for n in range(count)
    ]


def enrol_members(
    fleet: Fleet, members: Sequence[Member], labels: Mapping[str, str]
) -> list[Identity]:
    """Return an identity for each member; those of an earlier run are used again.

    Args:
        fleet: The opened workspace.
        members: Ids and profiles.
        labels: For devices that are new.

    Raises:
        RefusedError: An id belongs to a device of another kind or profile.
        FleetError: The workspace refuses.
    """
    directory = fleet.workspace.root / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    kept = _read(directory / FILE)
    missing = [member for member in members if member.device_id not in kept]
    for start in range(0, len(missing), BATCH):
        kept |= _enrol(fleet, missing[start : start + BATCH], labels)
        _write(directory / FILE, kept)
    return [_unpack(fleet, directory, member, kept[member.device_id]) for member in members]


def _enrol(
    fleet: Fleet, members: Sequence[Member], labels: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    desk = build_device_desk(fleet, actor="fleet-sim")
    with desk.ledgers() as ledger:
        found = ledger.devices.find_many([member.device_id for member in members])
    known = {device_id: record.profile for device_id, record in found.items()}
    new = [member for member in members if member.device_id not in known]
    specs = [DeviceSpec(id=m.device_id, profile=m.profile, labels=labels) for m in new]
    tickets = desk.add_many(specs) if specs else []
    tickets += [_join_again(desk, known, m) for m in members if m.device_id in known]
    keys = {ticket.device_id: ec.generate_private_key(ec.SECP256R1()) for ticket in tickets}
    grants = build_enrolment(fleet).desk.enrol_many(
        [(t.secret, make_request(keys[t.device_id], t.device_id)) for t in tickets],
        root_sha256=tickets[0].root_sha256,
    )
    return {grant.device_id: _pack(grant, keys[grant.device_id]) for grant in grants}


def _join_again(desk: DeviceDesk, known: Mapping[str, str], member: Member) -> JoinTicket:
    if known[member.device_id] != member.profile:
        raise RefusedError(
            f"device {member.device_id} exists with profile {known[member.device_id]},"
            f" not {member.profile}; choose another --prefix"
        )
    return desk.add_again(member.device_id)


def _pack(grant: EnrolGrant, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "profile": grant.profile,
        "certificate": grant.certificate,
        "key": pem.decode(),
        "ca": grant.ca,
        "root": grant.root,
    }


def _unpack(fleet: Fleet, directory: Path, member: Member, kept: Mapping[str, str]) -> Identity:
    """Write the PEM files that TLS reads, and name them."""
    if kept["profile"] != member.profile:
        raise RefusedError(
            f"device {member.device_id} was enrolled as {kept['profile']}, not"
            f" {member.profile}; choose another --prefix"
        )
    place = find_place(fleet)
    identity = Identity(
        device_id=member.device_id,
        profile=member.profile,
        fleet=place.fleet,
        host=place.mqtt_host,
        mqtt_port=place.mqtt_port,
        api_port=place.api_port,
        root=kept["root"].encode(),
        directory=directory / member.device_id,
        is_plain=place.is_plain,
    )
    identity.directory.mkdir(mode=0o700, exist_ok=True)
    identity.ca_path.write_text(kept["ca"])
    identity.certificate_path.write_text(kept["certificate"])
    identity.key_path.touch(mode=0o600)
    identity.key_path.write_text(kept["key"])
    return identity


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        value: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RefusedError(f"{path} is damaged: {error}; remove it and enrol anew") from error
    return dict(value)


def _write(path: Path, kept: Mapping[str, Mapping[str, str]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(kept))
    os.replace(temporary, path)  # noqa: PTH105 - as everywhere where a name must be a whole file
