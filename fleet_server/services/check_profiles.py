"""Say what of a version fits which profile and device, why it does not, and how fast it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from device_profiles.profile import DeviceProfile
from fleet_server.core.profile_fit import (
    BuiltPackage,
    DeviceFit,
    ProfileFit,
    Reported,
    judge_device,
    judge_devices,
    judge_profiles,
)
from fleet_server.core.targeting import Candidate
from fleet_server.errors import FleetError, NotFoundError
from fleet_server.ports.devices import DeviceRecord, Ledgers
from fleet_server.ports.profiles import PackageReader, ReportedLatencies
from fleet_server.services.browse_models import BrowseModels
from fleet_server.services.list_devices import DeviceView

SHA_DIGITS = 16
"""Of a package's hash, as telemetry names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCheck:
    """What was found.

    Attributes:
        model: Its name.
        version: Its number.
        state: Of the version.
        profiles: Every known profile.
        devices: Every device that has joined.
        blind: Why what devices reported could not be read; empty when it could.
    """

    model: str
    version: int
    state: str
    profiles: tuple[ProfileFit, ...]
    devices: tuple[DeviceFit, ...]
    blind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckProfiles:
    """The use case; reads only."""

    browser: BrowseModels
    packages: PackageReader
    load_profiles: Callable[[], Mapping[str, DeviceProfile]]
    ledgers: Ledgers
    latencies: ReportedLatencies

    def check(self, model: str, number: int | None = None) -> VersionCheck:
        """Check one version, the newest when no number is given; raises NotFoundError."""
        version = self.browser.get_version(model, number)
        built = [self.packages.read(artifact) for artifact in version.artifacts]
        profiles = self.load_profiles()
        reported, blind = self._find_reported([package.sha256 for package in built])
        with self.ledgers() as ledger:
            records = ledger.devices.list_all()
        devices = judge_devices(built, profiles, [_candidate(one) for one in records], reported)
        return VersionCheck(
            model=version.model,
            version=version.number,
            state=version.state,
            profiles=tuple(judge_profiles(built, profiles, devices)),
            devices=tuple(devices),
            blind=blind,
        )

    def check_device(self, view: DeviceView) -> dict[str, DeviceFit]:
        """Judge what each slot of one device runs, or is to run; by slot."""
        profiles = self.load_profiles()
        profile = profiles.get(view.device.profile)
        found = {}
        for slot in view.slots:
            package = self._find_package(slot.running_target or slot.desired_target)
            if package is not None:
                reported, _ = self._find_reported([package.sha256])
                candidate = _candidate(view.device)
                found[slot.slot] = judge_device(candidate, package, profile, reported)
        return found

    def _find_package(self, target: str) -> BuiltPackage | None:
        model, _, rest = target.partition("/")
        number = rest.partition("/")[0]
        if not number.isdigit():
            return None
        try:
            version = self.browser.get_version(model, int(number))
        except NotFoundError:
            return None
        for artifact in version.artifacts:
            if artifact.target == target:
                return self.packages.read(artifact)
        return None

    def _find_reported(self, hashes: Sequence[str]) -> tuple[Reported, str]:
        try:
            return self.latencies.find({sha[:SHA_DIGITS]: sha for sha in hashes}), ""
        except FleetError as error:
            return {}, str(error)


def _candidate(device: DeviceRecord) -> Candidate:
    return Candidate(
        number=device.number,
        id=device.id,
        profile=device.profile,
        labels=device.labels,
        is_enrolled=device.enrolled_at is not None,
        is_revoked=device.revoked_at is not None,
        is_online=device.is_online,
        capabilities=device.capabilities,
    )
