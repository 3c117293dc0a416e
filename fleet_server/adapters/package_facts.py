"""What packages need and how fast they were, read from their own evidence."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from device_profiles.calibration import Calibration
from device_profiles.catalog import load_profile
from device_profiles.compatibility import DeviceCapabilities, Misfit, PackageNeeds, find_misfits
from device_profiles.errors import ProfileError, UnknownProfileError
from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import parse_object
from edge_agent.contract.package import EVIDENCE, unpack_members
from fleet_server.core.profile_fit import BuiltPackage
from fleet_server.errors import FleetError, MisuseError, NotFoundError
from fleet_server.ports.devices import DeviceRecord, PackageStore
from fleet_server.ports.registry import Artifact
from fleet_server.ports.trust import SignedTarget

EVIDENCE_BYTES_MAX = 8_388_608
PACKAGES_REMEMBERED = 256


class PackageFitness:
    """The ``Fitness`` over the object store; each package is opened once."""

    def __init__(self, objects: PackageStore, load: Callable[[str], DeviceProfile]) -> None:
        self._objects, self._load = objects, lru_cache(maxsize=PACKAGES_REMEMBERED)(load)
        self._needs = lru_cache(maxsize=PACKAGES_REMEMBERED)(self._read_needs)

    def find_misfits(self, target: SignedTarget, device: DeviceRecord) -> list[Misfit]:
        """Return every reason why the package cannot run there; empty when it can."""
        try:
            needs = self._needs(target.sha256)
        except (ContractError, ValueError, FleetError) as error:
            return [Misfit(field="package", need="readable evidence", have=str(error)[:400])]
        return find_misfits(
            needs,
            self._load(device.profile),
            DeviceCapabilities.from_report(device.capabilities),
        )

    def _read_needs(self, sha256: str) -> PackageNeeds:
        evidence, size = _read_evidence(self._objects, sha256)
        return PackageNeeds.from_evidence(evidence, package_bytes=size)


class PackageEvidence:
    """The ``PackageReader`` over the object store; each package is opened once."""

    def __init__(self, objects: PackageStore) -> None:
        self._objects = objects
        self.read = lru_cache(maxsize=PACKAGES_REMEMBERED)(self._read)

    def _read(self, artifact: Artifact) -> BuiltPackage:
        package = artifact.package
        known = BuiltPackage(
            profile=package.profile,
            target=artifact.target,
            sha256=package.sha256,
            needs=None,
            latency_ms_p95=package.latency_ms_p95,
        )
        try:
            evidence, size = _read_evidence(self._objects, package.sha256)
            needs = PackageNeeds.from_evidence(evidence, package_bytes=size)
        except (ContractError, ValueError, FleetError) as error:
            return replace(known, problem=str(error)[:400])
        graph, machine = evidence["graph"], evidence.get("measured_with")
        model_bytes = graph.get("bytes", 0)
        said = machine.get("calibration") if isinstance(machine, Mapping) else None
        return replace(
            known,
            needs=needs,
            model_bytes=model_bytes if isinstance(model_bytes, int) else 0,
            calibration=Calibration.from_report(said),
        )


def _read_evidence(objects: PackageStore, sha256: str) -> tuple[dict[str, Any], int]:
    """Read a package's evidence and its size.

    Raises:
        ContractError: Not a package, or not JSON.
        FleetError: Not in the store.
    """
    blob = objects.read(sha256)
    what = f"evidence of package {sha256[:12]}"
    content = unpack_members(blob)[EVIDENCE]
    return parse_object(content, what=what, limit_bytes=EVIDENCE_BYTES_MAX), len(blob)


def profile_loader(directory: Path) -> Callable[[str], DeviceProfile]:
    """Give what loads a shipped profile or one of this directory, in the server's errors."""

    def load(profile_id: str) -> DeviceProfile:
        try:
            return load_profile(profile_id, directory)
        except UnknownProfileError as error:
            raise NotFoundError(str(error)) from error
        except ProfileError as error:
            raise MisuseError(str(error)) from error

    return load
