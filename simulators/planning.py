"""Turn what was typed into a plan: every mistake is told before anything connects."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_profiles.catalog import load_profile
from device_profiles.errors import ProfileError
from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.topics import check_device_id
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.errors import MisuseError, NotFoundError, UnreachableError
from fleet_server.wiring.training import profiles_dir
from fleet_server.workspace import open_workspace
from simulators.faults import Faults
from simulators.field_data import Drift, FieldData
from simulators.identities import enrol_members, name_members
from simulators.load import LoadPlan

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What was asked for, as it was typed."""

    workspace: Path | None
    devices: int
    profiles: Sequence[str]
    prefix: str
    labels: Sequence[str]
    rows: Path | None
    rate: float
    window_s: float | None
    drift: str | None
    drift_at_s: float | None
    drift_when: Path | None
    drift_profiles: Sequence[str]
    fail_rate: float
    disconnect_rate: float
    duration_s: float | None
    seed: int


def plan_load(request: LoadRequest, say: Callable[[str], None]) -> LoadPlan:
    """Check everything, reach the broker, enrol the devices.

    Raises:
        FleetError: With the culprit and the next step; nothing was enrolled then, or all were.
    """
    fleet = open_fleet(open_workspace(request.workspace))
    try:
        return _plan(fleet, request, say)
    finally:
        fleet.engine.dispose()


def _plan(fleet: Fleet, request: LoadRequest, say: Callable[[str], None]) -> LoadPlan:
    drift = Drift.parse(request.drift) if request.drift else None
    has_time = request.drift_at_s is not None or request.drift_when is not None
    if (drift is None) == has_time:
        raise MisuseError("--drift goes with --drift-at or --drift-when, and they with it")
    if not request.profiles:
        raise MisuseError("--profiles names no device profile")
    profiles = {name: _load_profile(fleet, name) for name in request.profiles}
    unused = sorted(set(request.drift_profiles) - set(profiles))
    if unused:
        raise MisuseError(f"--drift-profile {unused[0]!r} is not one of --profiles")
    FieldData(request.rows, drift)
    labels = {"kind": "simulated", **dict(_parse_label(text) for text in request.labels)}
    _reach_broker(fleet)
    members = name_members(request.devices, request.prefix, request.profiles)
    try:
        check_device_id(members[-1].device_id)
    except MalformedError as error:
        raise MisuseError(f"--prefix {request.prefix!r}: {error}") from error
    say(f"enrolling {len(members)} devices that have not joined yet, if any")
    return LoadPlan(
        identities=enrol_members(fleet, members, labels),
        profiles=profiles,
        rows_path=request.rows,
        rows_per_s=request.rate,
        window_s=request.window_s,
        drift=drift,
        drift_at_s=request.drift_at_s,
        drift_when=request.drift_when,
        drift_profiles=frozenset(request.drift_profiles),
        faults=Faults(
            seed=request.seed,
            fail_rate=request.fail_rate,
            disconnects_per_hour=request.disconnect_rate,
        ),
        duration_s=request.duration_s,
    )


def _load_profile(fleet: Fleet, name: str) -> DeviceProfile:
    try:
        return load_profile(name, profiles_dir(fleet.workspace))
    except ProfileError as error:
        raise NotFoundError(str(error)) from error


def _parse_label(text: str) -> tuple[str, str]:
    key, is_pair, value = text.partition("=")
    if not is_pair or not key:
        raise MisuseError(f"--label {text[:80]!r} must be KEY=VALUE")
    return key, value


def _reach_broker(fleet: Fleet) -> None:
    config = fleet.workspace.config
    address = (config.public_host, config.broker_port)
    try:
        with socket.create_connection(address, CONNECT_TIMEOUT_S):
            return
    except OSError as error:
        raise UnreachableError(
            f"the broker at {config.public_host}:{config.broker_port} does not answer: {error};"
            " start the server with: edgefleet up"
        ) from error
