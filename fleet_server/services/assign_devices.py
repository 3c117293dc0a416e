"""Decide what a slot of a device shall run, unless trust or fitness stands against it.

Nothing unfit or unsigned is ever wished for: the device would refuse it, but the operator should
hear it here, with device, field, need and have. Signing comes later (``sign_assignments``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import (
    AssignmentStore,
    DeviceRecord,
    DeviceStore,
    Fitness,
    Wish,
)
from fleet_server.ports.trust import SignedPackages


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why a device may not be given a target.

    Attributes:
        device: Device id.
        target: What was wished for.
        field: What stands against it: ``device``, ``approval``, ``profile``, ``slot``, or a key
            of the device profile.
        need: What the target needs.
        have: What there is.
    """

    device: str
    target: str
    field: str
    need: str
    have: str

    def __str__(self) -> str:
        return (
            f"{self.target} cannot run on {self.device}: {self.field}: needs {self.need},"
            f" has {self.have}"
        )


class Assigner:
    """Checks wishes and stores those that nothing stands against.

    The stores belong to the caller's transaction, so that a rollout's step and its wishes happen
    together.
    """

    def __init__(self, packages: SignedPackages, fitness: Fitness, clock: Clock) -> None:
        self._packages, self._fitness, self._clock = packages, fitness, clock

    def find_objection(self, wish: Wish, device: DeviceRecord | None) -> Objection | None:
        """Return the first thing that stands against a wish."""
        if device is None or device.revoked_at is not None:
            have = "no device of that id" if device is None else "a revoked one"
            return _object(wish, "device", "a device of the fleet", have)
        target = self._packages.approved().get(wish.target)
        if target is None:
            return _object(wish, "approval", "an approver's signature (model approve)", "none")
        if target.custom.profile != device.profile:
            return _object(wish, "profile", target.custom.profile, device.profile)
        if target.custom.slot not in ("", wish.slot):
            return _object(wish, "slot", target.custom.slot, wish.slot)
        misfits = self._fitness.find_misfits(target, device)
        if misfits:
            return _object(wish, misfits[0].field, misfits[0].need, misfits[0].have)
        return None

    def set_desired(self, devices: DeviceStore, assignments: AssignmentStore, wish: Wish) -> bool:
        """Let a slot run a target; tell whether that is a change.

        Raises:
            NotFoundError: No such device.
            RefusedError: Revoked, not approved, of another profile or slot, or unfit; the
                sentence names device, field, need and have.
        """
        device = devices.find(wish.device)
        objection = self.find_objection(wish, device)
        if device is None:
            raise NotFoundError(f"no device {wish.device!r}; edgefleet device ls names them")
        if objection is not None:
            raise RefusedError(str(objection))
        return assignments.put_desired([(device.number, wish)], at=self._clock.now()) > 0

    def set_desired_many(
        self, devices: DeviceStore, assignments: AssignmentStore, wishes: Sequence[Wish]
    ) -> list[Objection]:
        """Store every wish nothing stands against; return what stands against the others."""
        known = devices.find_many([wish.device for wish in wishes])
        objections, granted = [], []
        for wish in wishes:
            device = known.get(wish.device)
            objection = self.find_objection(wish, device)
            if objection is not None:
                objections.append(objection)
            elif device is not None:
                granted.append((device.number, wish))
        assignments.put_desired(granted, at=self._clock.now())
        return objections

    def clear_desired(
        self, devices: DeviceStore, assignments: AssignmentStore, device_id: str, slot: str
    ) -> bool:
        """Leave a slot as it is from now on; tell whether it was assigned.

        Raises:
            NotFoundError: No such device.
        """
        device = devices.find(device_id)
        if device is None:
            raise NotFoundError(f"no device {device_id!r}; edgefleet device ls names them")
        return assignments.clear_desired(device.number, slot)


def _object(wish: Wish, field: str, need: str, have: str) -> Objection:
    return Objection(device=wish.device, target=wish.target, field=field, need=need, have=have)
