"""What of a version fits which profile and device, why not, and how fast: reading."""

from collections.abc import Sequence

from fastapi import APIRouter

from device_profiles.compatibility import Misfit
from fleet_server.api.access import access
from fleet_server.api.params import After, Limit, ModelName, Number
from fleet_server.api.shapes import Shape
from fleet_server.bootstrap import Fleet
from fleet_server.core.profile_fit import DeviceFit, Latency, LatencySource, ProfileFit
from fleet_server.core.roles import Role
from fleet_server.wiring.profiles import build_profile_check


class MisfitPublic(Shape):
    """One reason against: what is needed, what there is."""

    field: str
    need: str
    have: str


class LatencyPublic(Shape):
    """A 95th percentile with the range it lies in and where it comes from."""

    p95_ms: float
    low_ms: float
    high_ms: float
    source: LatencySource
    requests: int


class ProfileFitPublic(Shape):
    """What one profile says; ``fits_package_of`` names others whose package would do."""

    profile: str
    target: str | None
    fits: bool
    misfits: list[MisfitPublic]
    fits_package_of: list[str]
    latency: LatencyPublic | None
    warning: str | None
    devices: int
    devices_unfit: int


class DeviceFitPublic(Shape):
    """What one device says to the package of its profile."""

    device: str
    profile: str
    target: str | None
    fits: bool
    misfits: list[MisfitPublic]
    problem: str | None
    latency: LatencyPublic | None
    warning: str | None


class VersionFit(Shape):
    """What was found; ``blind`` says why devices' own figures could not be read."""

    model: str
    version: int
    state: str
    profiles: list[ProfileFitPublic]
    devices: list[DeviceFitPublic]
    next: str | None
    blind: str | None


def fits_router(fleet: Fleet) -> APIRouter:
    """Build the route."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get(
        "/models/{model}/versions/{version}/fit",
        operation_id="check_version",
        **access(Role.VIEWER, 404),
    )
    def check_version(
        model: ModelName, version: Number, after: After = "", limit: Limit = 100
    ) -> VersionFit:
        """Say which profiles and devices a version fits, why not, how fast; devices by id."""
        found = build_profile_check(fleet).check(model, version)
        later = sorted(
            (one for one in found.devices if one.device > after), key=lambda one: one.device
        )
        page = later[:limit]
        return VersionFit(
            model=found.model,
            version=found.version,
            state=found.state,
            profiles=[_show_profile(fit) for fit in found.profiles],
            devices=[_show_device(fit) for fit in page],
            next=page[-1].device if len(later) > limit else None,
            blind=found.blind or None,
        )

    return router


def _show_profile(fit: ProfileFit) -> ProfileFitPublic:
    return ProfileFitPublic(
        profile=fit.profile,
        target=fit.target or None,
        fits=bool(fit.target) and not fit.misfits,
        misfits=_show_misfits(fit.misfits),
        fits_package_of=list(fit.others),
        latency=_show_latency(fit.latency),
        warning=fit.warning or None,
        devices=fit.devices,
        devices_unfit=fit.unfit,
    )


def _show_device(fit: DeviceFit) -> DeviceFitPublic:
    return DeviceFitPublic(
        device=fit.device,
        profile=fit.profile,
        target=fit.target or None,
        fits=not fit.misfits and not fit.problem,
        misfits=_show_misfits(fit.misfits),
        problem=fit.problem or None,
        latency=_show_latency(fit.latency),
        warning=fit.warning or None,
    )


def _show_misfits(misfits: Sequence[Misfit]) -> list[MisfitPublic]:
    return [MisfitPublic(field=one.field, need=one.need, have=one.have) for one in misfits]


def _show_latency(latency: Latency | None) -> LatencyPublic | None:
    if latency is None:
        return None
    return LatencyPublic(
        p95_ms=latency.ms,
        low_ms=latency.low_ms,
        high_ms=latency.high_ms,
        source=latency.source,
        requests=latency.requests,
    )
