"""What an operator sees of the devices: state, what truly runs, the newest refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, Ledgers, SlotRecord
from fleet_server.services.add_device import find_device

STATES = ("online", "offline", "never seen", "not joined", "revoked")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """One device for a person to read.

    Attributes:
        device: As the database knows it.
        state: One of STATES.
        since_at: Of the newest change of a slot, None when nothing ever ran.
        slots: What the slots run.
        refusal: Code and sentence of the newest refusal or failure, empty when there is none.
    """

    device: DeviceRecord
    state: str
    since_at: datetime | None
    slots: tuple[SlotRecord, ...]
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFilter:
    """Which devices to list; empty fields let all through."""

    profile: str = ""
    state: str = ""
    labels: Mapping[str, str] | None = None

    def lets_through(self, device: DeviceRecord) -> bool:
        """Tell whether a device is wanted."""
        return (
            self.profile in ("", device.profile)
            and self.state in ("", state_of(device))
            and all(device.labels.get(k) == v for k, v in (self.labels or {}).items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReader:
    """Reads devices for people."""

    ledgers: Ledgers
    clock: Clock

    def list(
        self, wanted: DeviceFilter, *, limit: int | None = None
    ) -> tuple[list[DeviceView], int]:
        """Return the first ``limit`` wanted devices by id, and how many there are."""
        with self.ledgers() as ledger:
            devices = [d for d in ledger.devices.list_all() if wanted.lets_through(d)]
            shown = devices[:limit]
            slots = ledger.devices.slots([device.number for device in shown])
        return [view_device(d, slots.get(d.number, [])) for d in shown], len(devices)

    def show(self, device_id: str) -> DeviceView:
        """Return one device; raises NotFoundError."""
        with self.ledgers() as ledger:
            device = find_device(ledger, device_id)
            return view_device(device, ledger.devices.slots([device.number]).get(device.number, []))


def view_device(device: DeviceRecord, slots: Sequence[SlotRecord]) -> DeviceView:
    """Put together what is shown of a device."""
    refused = [f"{slot.code} {slot.detail}".strip() for slot in slots if slot.code]
    whole = device.refusal.get("code", "")
    if whole:
        refused.insert(0, f"{whole} {device.refusal.get('detail', '')}".strip())
    return DeviceView(
        device=device,
        state=state_of(device),
        since_at=max((slot.changed_at for slot in slots), default=None),
        slots=tuple(slots),
        refusal=refused[0] if refused else "",
    )


def state_of(device: DeviceRecord) -> str:
    """Say how a device stands, one of STATES."""
    if device.revoked_at is not None:
        return "revoked"
    if device.enrolled_at is None:
        return "not joined"
    if device.is_online:
        return "online"
    return "offline" if device.last_seen_at is not None else "never seen"


def name_version(target: str) -> str:
    """Give ``digits@3`` for ``digits/3/camera.tar``, empty for no target.

    >>> name_version("digits/3/camera.tar")
    'digits@3'
    """
    model, _, rest = target.partition("/")
    return f"{model}@{rest.partition('/')[0]}" if rest else ""


def tell_age(at: datetime | None, now_at: datetime) -> str:
    """Say how long ago in one unit.

    >>> from datetime import UTC
    >>> tell_age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC))
    '3 d'
    """
    if at is None:
        return ""
    seconds = max((now_at - at).total_seconds(), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
