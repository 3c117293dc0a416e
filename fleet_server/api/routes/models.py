"""Models, versions and device profiles: reading. Approving is signing, and nothing here signs."""

from typing import Any

from fastapi import APIRouter

from device_profiles.profile import DeviceProfile
from fleet_server.adapters.database.pages import FleetPages
from fleet_server.api.access import access
from fleet_server.api.params import (
    NUMBER_MAX,
    After,
    Before,
    Limit,
    ModelName,
    Number,
    ProfileId,
)
from fleet_server.api.shapes import (
    ModelPublic,
    Shape,
    VersionPublic,
    show_model,
    show_version,
)
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.errors import NotFoundError
from fleet_server.wiring.rollouts import build_profiles
from fleet_server.wiring.training import build_browser


class ModelPage(Shape):
    """Models by name."""

    models: list[ModelPublic]
    next: str | None


class VersionEntry(Shape):
    """A version in a list."""

    version: int
    state: str


class VersionPage(Shape):
    """Versions, newest first."""

    versions: list[VersionEntry]
    next: int | None


class ProfilePublic(Shape):
    """A device profile; ``values`` has every key as its file does."""

    id: str
    description: str
    values: dict[str, Any]


class ProfilePage(Shape):
    """Profiles by id."""

    profiles: list[ProfilePublic]
    next: str | None


def models_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get("/models", operation_id="list_models", **access(Role.VIEWER))
    def list_models(after: After = "", limit: Limit = 100) -> ModelPage:
        """List models by name."""
        found = FleetPages(fleet.engine).models(after=after, limit=limit)
        return ModelPage(
            models=[show_model(model) for model in found],
            next=found[-1].name if len(found) == limit else None,
        )

    @router.get("/models/{model}", operation_id="get_model", **access(Role.VIEWER, 404))
    def get_model(model: ModelName) -> ModelPublic:
        """Show one model."""
        return show_model(build_browser(fleet).get_model(model))

    @router.get(
        "/models/{model}/versions", operation_id="list_versions", **access(Role.VIEWER, 404)
    )
    def list_versions(
        model: ModelName, before: Before = NUMBER_MAX, limit: Limit = 100
    ) -> VersionPage:
        """List a model's versions, newest first."""
        build_browser(fleet).get_model(model)
        found = FleetPages(fleet.engine).versions(model, before=before, limit=limit)
        return VersionPage(
            versions=[VersionEntry(version=number, state=state) for number, state in found],
            next=found[-1][0] if len(found) == limit and found[-1][0] > 1 else None,
        )

    @router.get(
        "/models/{model}/versions/{version}",
        operation_id="get_version",
        **access(Role.VIEWER, 404),
    )
    def get_version(model: ModelName, version: Number) -> VersionPublic:
        """Show one version with its packages."""
        return show_version(build_browser(fleet).get_version(model, version))

    @router.get("/profiles", operation_id="list_profiles", **access(Role.VIEWER))
    def list_profiles(after: After = "", limit: Limit = 100) -> ProfilePage:
        """List device profiles by id, shipped ones and the fleet's own."""
        known = build_profiles(fleet).load_all()
        ids = sorted(name for name in known if name > after)[:limit]
        return ProfilePage(
            profiles=[_profile(known[name]) for name in ids],
            next=ids[-1] if len(ids) == limit else None,
        )

    @router.get("/profiles/{profile}", operation_id="get_profile", **access(Role.VIEWER, 404))
    def get_profile(profile: ProfileId) -> ProfilePublic:
        """Show one device profile."""
        known = build_profiles(fleet).load_all()
        if profile not in known:
            raise NotFoundError(
                f"no profile {profile!r}; there are: {', '.join(sorted(known)[:20])}"
            )
        return _profile(known[profile])

    return router


def _profile(profile: DeviceProfile) -> ProfilePublic:
    return ProfilePublic(id=profile.id, description=profile.description, values=profile.to_table())
