"""Narrow a profile to one device: what holds for both. Pure.

A profile says what every device of a kind can do; one device may do more, which is not used, or
less in what can be allowed for (memory, room, cores, formats, providers), which becomes the limit.
What cannot be allowed for (another architecture, an older libc, a runtime outside the range) is a
misfit. What the device did not say is left as the profile has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from device_profiles.capabilities import DeviceCapabilities
from device_profiles.compatibility import COPIES_ON_DISK, Misfit, find_misfits
from device_profiles.profile import Arch, DeviceProfile, Precision
from device_profiles.providers import CPU

RUNTIME_RAM_SHARE = 0.5
"""Of a device's memory a model's process may use so much; system and agent need the rest."""
RAM_BYTES_MIN, PACKAGE_BYTES_MIN = 1_048_576, 1_024
"""What a profile may say at least; a device with less is a misfit."""
ALLOWED_FOR = frozenset({"rss_bytes_max", "intra_op_threads", "int8_full_range"})
"""Misfits of a device with its profile that narrowing takes away."""
CAPABILITY_NAMES = frozenset(
    {"arch", "libc", "python", "onnxruntime", "ir_max", "opset_max", "opset_ml_max", "ram_bytes"}
    | {"disk_free_bytes", "cores", "providers", "cpu_flags", "runtime_fault", "calibration"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """A profile as one device can keep it.

    Attributes:
        profile: With the tighter limits.
        changes: What was and what is now, in words, by key of the profile.
        misfits: What no limit can allow for; a package is not to be built for this device.
    """

    profile: DeviceProfile
    changes: Mapping[str, tuple[str, str]]
    misfits: tuple[Misfit, ...]


def narrow_profile(profile: DeviceProfile, device: DeviceCapabilities) -> Narrowed:
    """Narrow a profile to what a device said of itself.

    >>> from device_profiles.catalog import load_profile
    >>> narrowed = narrow_profile(load_profile("camera"), DeviceCapabilities(opset_max=15))
    >>> narrowed.profile.opset_max, dict(narrowed.changes)
    (15, {'opset_max': ('18', '15')})
    """
    misfits = [m for m in find_misfits(None, profile, device) if m.field not in ALLOWED_FOR]
    values: dict[str, Any] = {
        "ir_max": _least(profile.ir_max, device.ir_max),
        "opset_max": _least(profile.opset_max, device.opset_max),
        "opset_ml_max": _least(profile.opset_ml_max, device.opset_ml_max),
        "cores": _least(profile.cores, device.cores),
        "precisions": _precisions(profile, device),
        "providers": _providers(profile, device),
        "int8_full_range": profile.int8_full_range and device.has_dot_products is not False,
        "calibration": device.calibration or profile.calibration,
    }
    values |= _memory(profile, device, misfits) | _room(profile, device, misfits)
    values["intra_op_threads"] = min(profile.intra_op_threads, max(1, values["cores"]))
    values["cores"] = max(1, values["cores"])
    if not any(misfit.field in ("arch", "onnxruntime", "runtime") for misfit in misfits):
        if device.arch is not None:
            values["arch"] = (Arch(device.arch),)
        if device.onnxruntime is not None:
            values["onnxruntime"] = f"=={device.onnxruntime}"
    narrowed = _replace(profile, values)
    return Narrowed(
        profile=narrowed,
        changes={
            name: (_say(getattr(profile, name)), _say(getattr(narrowed, name)))
            for name in values
            if name != "calibration" and getattr(narrowed, name) != getattr(profile, name)
        },
        misfits=tuple(misfits),
    )


def find_capabilities(said: Any) -> DeviceCapabilities | None:
    """Find what a device said of itself in any of the forms in which it is said.

    A report's or device's JSON (its ``capabilities``), the list ``edge-agent doctor --json``
    prints, or the capabilities alone.

    Returns:
        None when none of these.
    """
    if isinstance(said, list):
        found = [find_capabilities(item) for item in said[:1_000] if _has_own(item)]
        return found[0] if found else None
    if not isinstance(said, Mapping):
        return None
    if _has_own(said):
        said = said["capabilities"]
    return DeviceCapabilities.from_report(said) if CAPABILITY_NAMES & set(said) else None


def _has_own(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("capabilities"), Mapping)


def _replace(profile: DeviceProfile, values: Mapping[str, Any]) -> DeviceProfile:
    options = {n: o for n, o in profile.provider_options.items() if n in values["providers"]}
    return replace(profile, provider_options=options, **values)


def _memory(
    profile: DeviceProfile, device: DeviceCapabilities, misfits: list[Misfit]
) -> dict[str, int]:
    if device.ram_bytes is None:
        return {}
    usable = int(device.ram_bytes * RUNTIME_RAM_SHARE)
    if usable < RAM_BYTES_MIN:
        need, have = f"{2 * RAM_BYTES_MIN} at least", f"{device.ram_bytes}"
        misfits.append(Misfit(field="ram_bytes", need=need, have=have))
        return {}
    return {
        "ram_bytes": min(profile.ram_bytes, device.ram_bytes),
        "rss_bytes_max": min(profile.rss_bytes_max, usable),
    }


def _room(
    profile: DeviceProfile, device: DeviceCapabilities, misfits: list[Misfit]
) -> dict[str, int]:
    if device.disk_free_bytes is None:
        return {}
    room = device.disk_free_bytes // COPIES_ON_DISK
    if room < PACKAGE_BYTES_MIN:
        need = f"{COPIES_ON_DISK * PACKAGE_BYTES_MIN} at least"
        have = f"{device.disk_free_bytes}"
        misfits.append(Misfit(field="disk_free_bytes", need=need, have=have))
        return {}
    return {"package_bytes_max": min(profile.package_bytes_max, room)}


def _precisions(profile: DeviceProfile, device: DeviceCapabilities) -> tuple[Precision, ...]:
    """Leave float16 out where it is computed as float32: it only costs the conversions."""
    if device.has_fp16 is not False:
        return profile.precisions
    return tuple(p for p in profile.precisions if p is not Precision.FP16)


def _providers(profile: DeviceProfile, device: DeviceCapabilities) -> tuple[str, ...]:
    """Keep the order of the profile; the CPU's provider is in every runtime."""
    if not device.providers:
        return profile.providers
    kept = tuple(p for p in profile.providers if p in device.providers)
    return kept or (CPU,)


def _least(limit: int, have: int | None) -> int:
    return limit if have is None else min(limit, have)


def _say(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
