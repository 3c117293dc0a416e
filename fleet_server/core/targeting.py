"""Find who of a group can be given a version, and why the others cannot. Pure.

Nothing is guessed: a capability that a device did not report never makes it unfit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from device_profiles.compatibility import DeviceCapabilities, PackageNeeds, find_misfits
from device_profiles.profile import DeviceProfile
from fleet_server.core.family_plan import FamilyPlan
from fleet_server.core.label_query import LabelQuery, device_facts


class Unfit(StrEnum):
    """Why a device of the group gets nothing; none of these counts against the release."""

    NEVER_ENROLLED = "never-enrolled"
    REVOKED = "revoked"
    NO_ARTIFACT = "no-artifact"
    NO_MEMBER = "no-member"
    MISFIT = "misfit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device as targeting sees it.

    Attributes:
        number: Of the database.
        id: Device id.
        profile: Profile id it was added with.
        labels: As the operator gave them.
        is_enrolled: Has a certificate.
        is_revoked: Its certificate was taken back.
        is_online: Connected when looked at.
        capabilities: As in its newest report; None before the first.
    """

    number: int
    id: str
    profile: str
    labels: Mapping[str, str] = field(default_factory=dict)
    is_enrolled: bool = True
    is_revoked: bool = False
    is_online: bool = True
    capabilities: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The version built for one profile.

    Attributes:
        profile: Profile id.
        target: Name it is signed under, ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package, hex.
        needs: What it asks of a device; None when unknown.
    """

    profile: str
    target: str
    sha256: str
    needs: PackageNeeds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPackages:
    """The packages of a family's members.

    Attributes:
        plan: Which member a device takes.
        packages: By model and version, then by profile.
        excluded: Members that were taken out of the rollout.
    """

    plan: FamilyPlan
    packages: Mapping[tuple[str, int], Mapping[str, Package]]
    excluded: frozenset[str] = frozenset()

    def find(self, device: Candidate) -> Package | None:
        """Give what a device takes; None when that is nothing."""
        member = self.plan.choose(device.labels, self.excluded)
        return None if member is None else self.packages.get(member.release, {}).get(device.profile)


Packages = Mapping[str, Package] | MemberPackages
"""A version's packages by profile, or those of a family's members."""


def find_package(packages: Packages, device: Candidate) -> Package | None:
    """Give the package that a device takes; None when there is none for it."""
    if isinstance(packages, MemberPackages):
        return packages.find(device)
    return packages.get(device.profile)


def find_offered(packages: Packages, device: Candidate, target: str) -> Package | None:
    """Give the package that a device was offered, whatever its labels say by now.

    Args:
        packages: Of the rollout.
        device: The device.
        target: Name of what it was offered; empty before, and in rows of earlier servers.
    """
    if not isinstance(packages, MemberPackages) or not target:
        return find_package(packages, device)
    model, version, _ = target.split("/")
    return packages.packages.get((model, int(version)), {}).get(device.profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A device of the group that gets nothing, with the reason and one sentence."""

    device: Candidate
    reason: Unfit
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """A group split into who can be given a version and who cannot, each in the order given."""

    fit: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]


def find_targets(
    devices: Iterable[Candidate],
    query: LabelQuery,
    packages: Packages,
    profiles: Mapping[str, DeviceProfile],
) -> Targets:
    """Split the devices that a query means.

    Args:
        devices: Every device of the fleet.
        query: The group.
        packages: The version's packages by profile id, or those of a family.
        profiles: Known profiles by id; a device of an unknown one is judged by package alone.
    """
    fit: list[Candidate] = []
    left_out: list[LeftOut] = []
    for device in devices:
        if not query.is_match(device_facts(device.id, device.profile, device.labels)):
            continue
        found = find_unfitness(device, packages, profiles)
        if found is None:
            fit.append(device)
        else:
            left_out.append(found)
    return Targets(fit=tuple(fit), left_out=tuple(left_out))


def find_unfitness(
    device: Candidate, packages: Packages, profiles: Mapping[str, DeviceProfile]
) -> LeftOut | None:
    """Say why one device cannot be given a version; None when it can.

    >>> find_unfitness(Candidate(number=1, id="c", profile="camera"), {}, {}).detail
    'no package was built for profile camera'
    """
    if device.is_revoked:
        return LeftOut(device=device, reason=Unfit.REVOKED, detail="its certificate is revoked")
    if not device.is_enrolled:
        return LeftOut(
            device=device, reason=Unfit.NEVER_ENROLLED, detail="it was added but never joined"
        )
    package = find_package(packages, device)
    if package is None:
        return _say_absent(device, packages)
    profile = profiles.get(device.profile)
    if profile is None or device.capabilities is None:
        return None
    capabilities = DeviceCapabilities.from_report(device.capabilities)
    misfits = find_misfits(package.needs, profile, capabilities)
    if not misfits:
        return None
    detail = "; ".join(str(misfit) for misfit in misfits)
    return LeftOut(device=device, reason=Unfit.MISFIT, detail=detail)


def _say_absent(device: Candidate, packages: Packages) -> LeftOut:
    """Say why there is no package for a device."""
    what = ""
    if isinstance(packages, MemberPackages):
        member = packages.plan.choose(device.labels, packages.excluded)
        if member is None:
            own = packages.plan.choose(device.labels)
            why = packages.plan.say_why_none(device.labels)
            if own is not None:
                why = f"{own.model} was taken out of the rollout, and there is no fallback"
            return LeftOut(device=device, reason=Unfit.NO_MEMBER, detail=why)
        what = f" of {member.model} {member.version}"
    detail = f"no package{what} was built for profile {device.profile}"
    return LeftOut(device=device, reason=Unfit.NO_ARTIFACT, detail=detail)
