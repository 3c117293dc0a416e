"""Say which profiles and devices a version fits, why the others not, and how fast it may be. Pure.

A latency is told with where it comes from: reported by the device that runs it, else estimated
from the machine that built the package, else known for that machine only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from device_profiles.calibration import Calibration, estimate_latency, find_work
from device_profiles.compatibility import DeviceCapabilities, Misfit, PackageNeeds, find_misfits
from device_profiles.profile import DeviceProfile
from fleet_server.core.targeting import Candidate


class LatencySource(StrEnum):
    """Where a latency comes from, the most believable first."""

    REPORTED = "reported"
    """Counted by the device while it served."""
    ESTIMATE = "estimate"
    """Scaled from the building machine by the reference graphs of both."""
    ELSEWHERE = "elsewhere"
    """Measured on the building machine; says little of the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A 95th percentile in milliseconds, with the range it lies in.

    Attributes:
        ms: The likely figure.
        low_ms: Lower end; the same as ``ms`` where it is a measurement.
        high_ms: Upper end.
        source: Where from.
        requests: Counted, where it was reported.
    """

    ms: float
    low_ms: float
    high_ms: float
    source: LatencySource
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPackage:
    """A package of a version.

    Attributes:
        profile: What it was built for.
        target: The path it is signed under.
        sha256: Of the package, hex.
        needs: What it asks of a device; None when its evidence cannot be read.
        problem: Why that cannot be read; empty when it can.
        latency_ms_p95: On the machine that built it.
        model_bytes: Of the graph.
        calibration: Of the machine that built it; None from older builders.
    """

    profile: str
    target: str
    sha256: str
    needs: PackageNeeds | None
    problem: str = ""
    latency_ms_p95: float = 0.0
    model_bytes: int = 0
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFit:
    """What one profile says to a version.

    Attributes:
        profile: Its id.
        target: The package built for it; empty when none was.
        misfits: What stands against that package, or, without one, against the one that
            comes nearest.
        others: Profiles whose package would fit, when none was built for this one.
        latency: Of the package on such a device; None without a package.
        devices: Of this profile that can be given something.
        unfit: Of those, the ones that cannot run the package.
        warning: Why the latency is likely too long; empty when it is not.
    """

    profile: str
    target: str
    misfits: tuple[Misfit, ...]
    others: tuple[str, ...]
    latency: Latency | None
    devices: int
    unfit: int
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """What one device says to the package of its profile.

    Attributes:
        device: Its id.
        profile: Its profile.
        target: The package of that profile; empty when there is none.
        misfits: What stands against it.
        latency: On this device.
        problem: Why there is no verdict; empty when there is one.
        warning: Why the latency is likely too long; empty when it is not.
    """

    device: str
    profile: str
    target: str
    misfits: tuple[Misfit, ...]
    latency: Latency | None
    problem: str = ""
    warning: str = ""


Reported = Mapping[tuple[int, str], Latency]
"""By number of the device and sha256 of the package."""


def judge_profiles(
    packages: Sequence[BuiltPackage],
    profiles: Mapping[str, DeviceProfile],
    devices: Sequence[DeviceFit],
) -> list[ProfileFit]:
    """Judge every profile.

    Args:
        packages: Of the version.
        profiles: All that are known, by id.
        devices: As ``judge_devices`` gave them.
    """
    built = {package.profile: package for package in packages}
    return [
        _judge_profile(profile, built.get(profile_id), packages, devices)
        for profile_id, profile in sorted(profiles.items())
    ]


def judge_devices(
    packages: Sequence[BuiltPackage],
    profiles: Mapping[str, DeviceProfile],
    devices: Sequence[Candidate],
    reported: Reported,
) -> list[DeviceFit]:
    """Judge every device that has joined, by the package of its profile."""
    built = {package.profile: package for package in packages}
    return [
        judge_device(device, built.get(device.profile), profiles.get(device.profile), reported)
        for device in devices
        if device.is_enrolled and not device.is_revoked
    ]


def judge_device(
    device: Candidate,
    package: BuiltPackage | None,
    profile: DeviceProfile | None,
    reported: Reported,
) -> DeviceFit:
    """Judge one device; without a package or profile there is no verdict but a problem."""
    problem = ""
    if package is None:
        problem = f"no package was built for profile {device.profile}"
    elif profile is None:
        problem = f"profile {device.profile} is not known here"
    elif package.needs is None:
        problem = package.problem
    if package is None or profile is None or package.needs is None:
        return DeviceFit(
            device=device.id,
            profile=device.profile,
            target=package.target if package else "",
            misfits=(),
            latency=None,
            problem=problem,
        )
    found = DeviceCapabilities.from_report(device.capabilities or {})
    latency = reported.get((device.number, package.sha256)) or find_latency(
        package, found.calibration or profile.calibration
    )
    return DeviceFit(
        device=device.id,
        profile=device.profile,
        target=package.target,
        misfits=tuple(find_misfits(package.needs, profile, found)),
        latency=latency,
        warning=find_warning(latency, profile),
    )


def find_latency(package: BuiltPackage, there: Calibration | None) -> Latency | None:
    """Estimate a package's latency on a machine; where that cannot be, say what was measured."""
    measured = package.latency_ms_p95
    if not measured > 0:
        return None
    if package.calibration is not None and there is not None and package.needs is not None:
        work = find_work(package.needs.operators, model_bytes=package.model_bytes)
        found = estimate_latency(measured, work, package.calibration, there)
        if found is not None:
            return Latency(
                ms=found.ms,
                low_ms=found.low_ms,
                high_ms=found.high_ms,
                source=LatencySource.ESTIMATE,
            )
    return Latency(ms=measured, low_ms=measured, high_ms=measured, source=LatencySource.ELSEWHERE)


def find_warning(latency: Latency | None, profile: DeviceProfile) -> str:
    """Say that a latency is likely above the profile's limit; empty when even its low end is not.

    What was measured on another machine warns of nothing.
    """
    limit = profile.latency_ms_p95_max
    if latency is None or latency.source is LatencySource.ELSEWHERE or latency.low_ms <= limit:
        return ""
    return (
        f"latency_ms_p95_max: allows {limit:g}, {latency.source} {latency.low_ms:.3g} to"
        f" {latency.high_ms:.3g}: the self-test is likely to refuse it"
    )


def _judge_profile(
    profile: DeviceProfile,
    package: BuiltPackage | None,
    packages: Sequence[BuiltPackage],
    devices: Sequence[DeviceFit],
) -> ProfileFit:
    own = [device for device in devices if device.profile == profile.id]
    misfits, others = _compare(profile, package, packages)
    latency = _of_profile(profile, package, own) if package else None
    return ProfileFit(
        profile=profile.id,
        target=package.target if package else "",
        misfits=misfits,
        others=others,
        latency=latency,
        devices=len(own),
        unfit=sum(1 for device in own if device.misfits or device.problem),
        warning=find_warning(latency, profile),
    )


def _compare(
    profile: DeviceProfile, package: BuiltPackage | None, packages: Sequence[BuiltPackage]
) -> tuple[tuple[Misfit, ...], tuple[str, ...]]:
    if package is not None:
        if package.needs is None:
            have = package.problem
            return (Misfit(field="package", need="readable evidence", have=have),), ()
        return tuple(find_misfits(package.needs, profile)), ()
    found = {
        other.profile: tuple(find_misfits(other.needs, profile))
        for other in packages
        if other.needs is not None
    }
    fitting = tuple(sorted(name for name, misfits in found.items() if not misfits))
    nearest = min(found.values(), key=len, default=())
    return (() if fitting else nearest), fitting


def _of_profile(
    profile: DeviceProfile, package: BuiltPackage, devices: Sequence[DeviceFit]
) -> Latency | None:
    """Sum up what devices report, else what is estimated for them, else for the profile."""
    known = [device.latency for device in devices if device.latency is not None]
    for source in (LatencySource.REPORTED, LatencySource.ESTIMATE):
        of_source = [latency for latency in known if latency.source is source]
        if of_source:
            ordered = sorted(latency.ms for latency in of_source)
            return Latency(
                ms=ordered[len(ordered) // 2],
                low_ms=min(latency.low_ms for latency in of_source),
                high_ms=max(latency.high_ms for latency in of_source),
                source=source,
                requests=sum(latency.requests for latency in of_source),
            )
    return find_latency(package, profile.calibration)
