"""Rollouts and groups of a workspace: planning, steering, running, reading."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from device_profiles.catalog import list_profiles, load_profile
from device_profiles.errors import ProfileError
from device_profiles.profile import DeviceProfile
from fleet_server.adapters.database.lease import DatabaseLease
from fleet_server.adapters.database.rollout_book import RolloutBooks
from fleet_server.adapters.package_facts import PackageFitness, profile_loader
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import Fleet
from fleet_server.ports.trust import SignedTarget
from fleet_server.run_state import read_heartbeat
from fleet_server.services.assign_devices import Assigner
from fleet_server.services.define_group import GroupDesk
from fleet_server.services.plan_rollout import RolloutPlanner
from fleet_server.services.read_rollouts import RolloutReader
from fleet_server.services.run_rollouts import RolloutRunner
from fleet_server.services.steer_rollout import RolloutDesk
from fleet_server.services.tell_moves import MoveTeller
from fleet_server.wiring.devices import PROFILES_DIR
from fleet_server.wiring.training import build_family_browser
from fleet_server.wiring.trust import user_name

LOG = logging.getLogger(__name__)
LEASE_NAME = "controller"
LEASE_S_MIN = 6.0
LEASE_PERIODS = 3


class ProfileFolder:
    """The ``ProfileSource``: shipped profiles and those of the workspace's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_all(self) -> Mapping[str, DeviceProfile]:
        """Return every profile that can be read; a file dropped in counts at once."""
        found: dict[str, DeviceProfile] = {}
        for profile_id in list_profiles(self._folder):
            try:
                found[profile_id] = load_profile(profile_id, self._folder)
            except ProfileError as error:
                LOG.warning("profile %s is left out: %s", profile_id, error)
        return found


class _ApprovalsOfNow(TufRepository):
    """Signed metadata whose approvals are looked up once: thousands of wishes ask for them."""

    _found: Mapping[str, SignedTarget] | None = None

    def approved(self) -> Mapping[str, SignedTarget]:
        """Return what the approvers' signatures allowed when first asked."""
        if self._found is None:
            self._found = super().approved()
        return self._found


def build_planner(fleet: Fleet, *, actor: str | None = None) -> RolloutPlanner:
    """Return what plans rollouts and stores drafts."""
    return RolloutPlanner(
        books=RolloutBooks(fleet.engine),
        make_assigner=_assigner_maker(fleet),
        profiles=build_profiles(fleet),
        clock=fleet.clock,
        actor=actor or user_name(),
        families=build_family_browser(fleet),
    )


def build_rollout_desk(fleet: Fleet, *, actor: str | None = None) -> RolloutDesk:
    """Return what starts, pauses, resumes, aborts and rolls back."""
    return RolloutDesk(
        books=RolloutBooks(fleet.engine), clock=fleet.clock, actor=actor or user_name()
    )


def build_group_desk(fleet: Fleet, *, actor: str | None = None) -> GroupDesk:
    """Return what defines and shows groups."""
    return GroupDesk(
        books=RolloutBooks(fleet.engine), clock=fleet.clock, actor=actor or user_name()
    )


def build_move_teller(fleet: Fleet) -> MoveTeller:
    """Return what says which member a device's labels mean: ``tell(device, labels)``."""
    return MoveTeller(books=RolloutBooks(fleet.engine))


def build_rollout_reader(fleet: Fleet) -> RolloutReader:
    """Return what lists, shows and explains rollouts."""
    return RolloutReader(
        books=RolloutBooks(fleet.engine), profiles=build_profiles(fleet), clock=fleet.clock
    )


def build_runner(fleet: Fleet, *, listening_since: datetime | None = None) -> RolloutRunner:
    """Return what looks at every rollout: ``run_rollouts_once(runner, fence)``."""
    return RolloutRunner(
        books=RolloutBooks(fleet.engine),
        make_assigner=_assigner_maker(fleet),
        profiles=build_profiles(fleet),
        clock=fleet.clock,
        listening_since=listening_since,
    )


def build_lease(fleet: Fleet) -> DatabaseLease:
    """Return the controller's lease for this process."""
    period_s = fleet.workspace.config.controller_period_s
    return DatabaseLease(
        fleet.engine,
        fleet.clock,
        name=LEASE_NAME,
        owner=f"{os.getpid()}-{secrets.token_hex(4)}",
        lasts_s=max(LEASE_S_MIN, LEASE_PERIODS * period_s),
    )


def find_controller_beat(fleet: Fleet) -> datetime | None:
    """Return when the controller last said that it is at work; None when it never did."""
    said = read_heartbeat(fleet.workspace.server_dir, LEASE_NAME).get("at")
    return datetime.fromisoformat(said) if isinstance(said, str) else None


def build_profiles(fleet: Fleet) -> ProfileFolder:
    """Return the device profiles, shipped and the fleet's own: ``load_all()``."""
    return ProfileFolder(fleet.workspace.root / PROFILES_DIR)


def _assigner_maker(fleet: Fleet) -> Callable[[], Assigner]:
    workspace = fleet.workspace
    fitness = PackageFitness(fleet.objects, profile_loader(workspace.root / PROFILES_DIR))

    def make() -> Assigner:
        approvals = _ApprovalsOfNow(workspace.tuf_dir, workspace.keys_dir, fleet.clock)
        return Assigner(approvals, fitness, fleet.clock)

    return make
