"""How values of the fleet look in answers; several routes share these."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from fleet_server.core.roles import Role
from fleet_server.ports.people import ApiToken
from fleet_server.ports.registry import Model, Version
from fleet_server.services.list_devices import DeviceView

VERSIONS_SHOWN_MAX = 100


class Shape(BaseModel):
    """What an answer carries."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class IssuedPublic(Shape):
    """A new token; it is shown this once."""

    token: str
    id: str
    role: Role
    expires_at: datetime


class ModelPublic(Shape):
    """A model; ``versions`` are its newest numbers, at most VERSIONS_SHOWN_MAX, ascending."""

    name: str
    task: str
    problem: str
    champion: int
    versions: list[int]
    versions_total: int


class ArtifactPublic(Shape):
    """A package of a version."""

    profile: str
    target: str
    sha256: str
    size_bytes: int
    precision: str
    latency_ms_p95: float
    label_flips: float
    decision: str


class VersionPublic(Shape):
    """A version with its packages."""

    model: str
    version: int
    state: str
    created_at: datetime
    metrics: dict[str, Any]
    artifacts: list[ArtifactPublic]


class SlotPublic(Shape):
    """What a slot of a device runs."""

    slot: str
    state: str
    running: str
    desired: str
    code: str
    detail: str


class DevicePublic(Shape):
    """A device."""

    id: str
    profile: str
    state: str
    labels: dict[str, str]
    slots: list[SlotPublic]
    refusal: str
    in_use_twice: str
    last_seen_at: datetime | None


def show_model(model: Model) -> ModelPublic:
    """Give the answer's form."""
    numbers = list(model.versions)
    return ModelPublic(
        name=model.name,
        task=str(model.task),
        problem=model.problem,
        champion=model.champion,
        versions=numbers[-VERSIONS_SHOWN_MAX:],
        versions_total=len(numbers),
    )


def show_version(version: Version) -> VersionPublic:
    """Give the answer's form."""
    return VersionPublic(
        model=version.model,
        version=version.number,
        state=str(version.state),
        created_at=version.created_at,
        metrics=dict(version.metrics),
        artifacts=[
            ArtifactPublic(
                target=a.target,
                **{n: getattr(a.package, n) for n in ArtifactPublic.model_fields if n != "target"},
            )
            for a in version.artifacts
        ],
    )


def show_device(view: DeviceView) -> DevicePublic:
    """Give the answer's form."""
    return DevicePublic(
        id=view.device.id,
        profile=view.device.profile,
        state=view.state,
        labels=dict(view.device.labels),
        slots=[
            SlotPublic(
                slot=s.slot,
                state=s.state,
                running=s.running_target,
                desired=s.desired_target,
                code=s.code,
                detail=s.detail,
            )
            for s in view.slots
        ],
        refusal=view.refusal,
        in_use_twice=view.device.clone_evidence,
        last_seen_at=view.device.last_seen_at,
    )


def show_issued(secret: str, token: ApiToken) -> IssuedPublic:
    """Give the answer's form."""
    return IssuedPublic(token=secret, id=token.id, role=token.role, expires_at=token.expires_at)
