"""Devices of a workspace: adding, enrolling, assigning, signing assignments."""

import hashlib
from dataclasses import dataclass

from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.director import Director
from fleet_server.adapters.package_facts import PackageFitness, profile_loader
from fleet_server.bootstrap import Fleet
from fleet_server.errors import NotFoundError
from fleet_server.run_state import is_insecure
from fleet_server.services.add_device import DeviceDesk, Place
from fleet_server.services.assign_devices import Assigner
from fleet_server.services.enrol_device import EnrolmentDesk
from fleet_server.services.limit_attempts import AttemptLimit
from fleet_server.services.list_devices import DeviceReader
from fleet_server.services.sign_assignments import AssignmentDesk
from fleet_server.wiring.trust import build_operator, build_repository, user_name

PROFILES_DIR = "profiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What ``api.routes.enrol.enrol_router`` needs."""

    desk: EnrolmentDesk
    attempts: AttemptLimit
    ca_pem: bytes


def build_device_desk(
    fleet: Fleet, *, actor: str | None = None, is_operator: bool = True
) -> DeviceDesk:
    """Return what adds, labels and revokes devices; ``is_operator`` as in ``find_place``."""
    return DeviceDesk(
        ledgers=ledgers_of(fleet.engine),
        issuer=build_authority(fleet),
        load_profile=profile_loader(fleet.workspace.root / PROFILES_DIR),
        clock=fleet.clock,
        place=lambda: find_place(fleet, is_operator=is_operator),
        actor=actor or user_name(),
    )


def build_device_reader(fleet: Fleet) -> DeviceReader:
    """Return what lists and shows devices."""
    return DeviceReader(ledgers=ledgers_of(fleet.engine), clock=fleet.clock)


def build_enrolment(fleet: Fleet) -> Enrolment:
    """Return what answers devices that want to join."""
    authority = build_authority(fleet)
    desk = EnrolmentDesk(
        ledgers=ledgers_of(fleet.engine),
        issuer=authority,
        root=build_repository(fleet).find_root,
        place=lambda: find_place(fleet, is_operator=False),
        clock=fleet.clock,
    )
    attempts = AttemptLimit(clock=fleet.clock)
    return Enrolment(desk=desk, attempts=attempts, ca_pem=authority.ca_pem)


def build_assigner(fleet: Fleet) -> Assigner:
    """Return what checks wishes and stores them within the caller's transaction.

    The stores are ``DeviceRepository(session)`` and ``AssignmentRepository(session)``; see
    ``Assigner.set_desired``, ``set_desired_many`` and ``find_objection``.
    """
    load = profile_loader(fleet.workspace.root / PROFILES_DIR)
    return Assigner(build_repository(fleet), PackageFitness(fleet.objects, load), fleet.clock)


def build_assignment_desk(fleet: Fleet) -> AssignmentDesk:
    """Return what signs stale assignments: call ``sign_stale()`` until it returns 0."""
    return AssignmentDesk(
        ledgers=ledgers_of(fleet.engine),
        signer=Director(fleet.workspace.keys_dir),
        packages=build_repository(fleet),
        clock=fleet.clock,
        fleet=fleet.workspace.config.fleet,
    )


def build_authority(fleet: Fleet) -> CertificateAuthority:
    """Return the certificate authority."""
    return CertificateAuthority(fleet.workspace.keys_dir, fleet.clock)


def find_place(fleet: Fleet, *, is_operator: bool = True) -> Place:
    """Say where devices find this server and what they pin.

    The root is the operator's own copy where the operator asks: a server that was broken into
    cannot make new devices pin a root of its own. The API never looks into the operator's folder.
    """
    config = fleet.workspace.config
    try:
        root = build_operator(fleet).root_copy() if is_operator else None
    except NotFoundError:
        root = None
    root = root or build_repository(fleet).root()
    return Place(
        host=config.public_host,
        api_port=config.api_port,
        mqtt_host=config.mqtt_host,
        mqtt_port=config.broker_port,
        fleet=config.fleet,
        ca_sha256=build_authority(fleet).ca_sha256,
        root_sha256=hashlib.sha256(root).hexdigest(),
        is_plain=is_insecure(fleet.workspace.lock_file, fleet.workspace.run_file),
    )
