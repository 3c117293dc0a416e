"""Reading the fleet: models, devices, drift alarms. Each route needs the role viewer."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.api.auth import needs_role
from fleet_server.bootstrap import Fleet
from fleet_server.ports.registry import Model, Version
from fleet_server.services.list_devices import DeviceFilter, DeviceReader, DeviceView
from fleet_server.wiring.drift import build_drift_store
from fleet_server.wiring.training import build_browser

PAGE_MAX = 1_000


class ModelPublic(BaseModel):
    """A model."""

    name: str
    task: str
    problem: str
    champion: int
    versions: list[int]


class ArtifactPublic(BaseModel):
    """A package of a version."""

    profile: str
    target: str
    sha256: str
    size_bytes: int
    precision: str
    latency_ms_p95: float
    label_flips: float
    decision: str


class VersionPublic(BaseModel):
    """A version with its packages."""

    model: str
    version: int
    state: str
    created_at: datetime
    metrics: dict[str, Any]
    artifacts: list[ArtifactPublic]


class SlotPublic(BaseModel):
    """What a slot of a device runs."""

    slot: str
    state: str
    running: str
    desired: str
    code: str
    detail: str


class DevicePublic(BaseModel):
    """A device."""

    id: str
    profile: str
    state: str
    labels: dict[str, str]
    slots: list[SlotPublic]
    refusal: str
    last_seen_at: datetime | None


class DevicePage(BaseModel):
    """Devices by id, and how many there are."""

    devices: list[DevicePublic]
    total: int


class AlarmPublic(BaseModel):
    """A drift alarm."""

    id: int
    model: str
    level: str
    subject: str
    severity: str
    features: list[str]
    sentence: str
    opened_at: datetime | None
    closed_at: datetime | None


def reading_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(
        prefix="/v1", tags=["reading"], dependencies=[Depends(needs_role(fleet, "viewer"))]
    )

    @router.get("/models", operation_id="list_models")
    def list_models() -> list[ModelPublic]:
        """List models by name."""
        return [_model(m) for m in build_browser(fleet).list_models()]

    @router.get("/models/{model}/versions/{version}", operation_id="get_version")
    def get_version(model: str, version: int) -> VersionPublic:
        """Show one version with its packages."""
        return _version(build_browser(fleet).get_version(model, version))

    @router.get("/devices", operation_id="list_devices")
    def list_devices(
        profile: str = "",
        state: str = "",
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    ) -> DevicePage:
        """List devices by id."""
        views, total = _reader(fleet).list(DeviceFilter(profile=profile, state=state), limit=limit)
        return DevicePage(devices=[_device(v) for v in views], total=total)

    @router.get("/devices/{device_id}", operation_id="get_device")
    def get_device(device_id: str) -> DevicePublic:
        """Show one device."""
        return _device(_reader(fleet).show(device_id))

    @router.get("/drift/alarms", operation_id="list_alarms")
    def list_alarms() -> list[AlarmPublic]:
        """List drift alarms, newest first."""
        return [
            AlarmPublic.model_validate(alarm, from_attributes=True)
            for alarm in build_drift_store(fleet).list_alarms()
        ]

    return router


def _reader(fleet: Fleet) -> DeviceReader:
    return DeviceReader(ledgers=ledgers_of(fleet.engine), clock=fleet.clock)


def _model(model: Model) -> ModelPublic:
    return ModelPublic(
        name=model.name,
        task=str(model.task),
        problem=model.problem,
        champion=model.champion,
        versions=list(model.versions),
    )


def _version(version: Version) -> VersionPublic:
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


def _device(view: DeviceView) -> DevicePublic:
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
        last_seen_at=view.device.last_seen_at,
    )
