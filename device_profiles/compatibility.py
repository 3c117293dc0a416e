"""Judge whether a package fits a profile and a device fits both, before anything is sent. Pure.

Only what is known is compared: a capability the device did not report never makes a misfit, nor
does a need that an older package does not tell.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from device_profiles.capabilities import DOT_PRODUCT_FLAGS, DeviceCapabilities
from device_profiles.needs import PackageNeeds
from device_profiles.operators import find_missing, find_oldest, find_operators
from device_profiles.profile import DeviceProfile
from device_profiles.providers import CPU
from device_profiles.versions import is_release_in, parse_release

__all__ = ["DeviceCapabilities", "Misfit", "PackageNeeds", "find_misfits"]

COPIES_ON_DISK = 2
"""The package while it is fetched, and its installed members."""
OPERATORS_NAMED_MAX = 5
_ONE_OF_THE_FLAGS = f"one of {', '.join(sorted(DOT_PRODUCT_FLAGS))}"
_GLIBC = re.compile(r"(?:glibc)?[ -]*(\d+\.\d+.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """One reason why a package cannot run: what is needed, what there is.

    Attributes:
        field: Profile key or capability at fault.
        need: As text, with the comparison in words.
        have: As text.
    """

    field: str
    need: str
    have: str

    def __str__(self) -> str:
        return f"{self.field}: needs {self.need}, has {self.have}"


def find_misfits(
    needs: PackageNeeds | None,
    profile: DeviceProfile,
    capabilities: DeviceCapabilities | None = None,
) -> list[Misfit]:
    """List what stands against running a package on a device of a profile.

    Args:
        needs: The package; None compares the device with its profile only.
        profile: What the package was built for.
        capabilities: The device; None compares the package with the profile only.

    Returns:
        Every misfit, in a fixed order; empty when it fits.
    """
    found: list[Misfit] = []
    if needs is not None:
        found += _package_against_profile(needs, profile)
    if capabilities is not None:
        found += _device_against_profile(profile, capabilities)
    if needs is not None and capabilities is not None:
        found += _package_against_device(needs, capabilities)
    return found


def _package_against_profile(needs: PackageNeeds, profile: DeviceProfile) -> Iterator[Misfit]:
    for name, need, limit in (
        ("ir_max", needs.ir, profile.ir_max),
        ("opset_max", needs.opset, profile.opset_max),
        ("opset_ml_max", needs.opset_ml, profile.opset_ml_max),
        ("package_bytes_max", needs.package_bytes, profile.package_bytes_max),
        ("rss_bytes_max", needs.rss_bytes or 0, profile.rss_bytes_max),
    ):
        if need > limit:
            yield Misfit(field=name, need=f"{need}", have=f"at most {limit}")
    if needs.precision not in profile.precisions:
        have = ", ".join(profile.precisions)
        yield Misfit(field="precisions", need=str(needs.precision), have=have)
    if needs.is_full_range and not profile.int8_full_range:
        bits = "true: its int8 weights use all 8 bits"
        yield Misfit(field="int8_full_range", need=bits, have="false")
    oldest = find_oldest(profile.onnxruntime)
    yield from _missing_operators(needs, oldest, "the oldest the profile lets in")


def _device_against_profile(profile: DeviceProfile, device: DeviceCapabilities) -> Iterator[Misfit]:
    if device.arch is not None and device.arch not in profile.arch:
        yield Misfit(field="arch", need=" or ".join(profile.arch), have=device.arch)
    if device.libc is not None and not is_libc_new_enough(device.libc, profile.libc_min):
        yield Misfit(field="libc_min", need=f"glibc {profile.libc_min} or newer", have=device.libc)
    for name, have, wanted in (
        ("python", device.python, profile.python),
        ("onnxruntime", device.onnxruntime, profile.onnxruntime),
    ):
        if have is not None and not _is_in(have, wanted):
            yield Misfit(field=name, need=wanted, have=have)
    if device.runtime_fault:
        yield Misfit(field="runtime", need="an onnxruntime that loads", have=device.runtime_fault)
    for name, need, have_at_most in (
        ("rss_bytes_max", profile.rss_bytes_max, device.ram_bytes),
        ("intra_op_threads", profile.intra_op_threads, device.cores),
    ):
        if have_at_most is not None and have_at_most < need:
            yield Misfit(field=name, need=f"{need}", have=f"{have_at_most}")
    yield from _missing_providers(profile, device)
    if profile.int8_full_range and device.has_dot_products is False:
        flags = ", ".join(sorted(device.cpu_flags))
        yield Misfit(field="int8_full_range", need=_ONE_OF_THE_FLAGS, have=flags)


def _missing_providers(profile: DeviceProfile, device: DeviceCapabilities) -> Iterator[Misfit]:
    wanted = profile.providers[:1] if profile.require_provider else profile.providers
    if device.providers and not set(device.providers) & set(wanted):
        need, have = " or ".join(wanted), ", ".join(device.providers)
        yield Misfit(field="providers", need=need, have=have)


def _package_against_device(needs: PackageNeeds, device: DeviceCapabilities) -> Iterator[Misfit]:
    for name, need, limit in (
        ("ir_max", needs.ir, device.ir_max),
        ("opset_max", needs.opset, device.opset_max),
        ("opset_ml_max", needs.opset_ml, device.opset_ml_max),
        ("disk_free_bytes", COPIES_ON_DISK * needs.package_bytes, device.disk_free_bytes),
        ("ram_bytes", needs.rss_bytes or 0, device.ram_bytes),
    ):
        if limit is not None and need > limit:
            yield Misfit(field=name, need=f"{need}", have=f"at most {limit}")
    if needs.is_full_range and device.has_dot_products is False:
        flags = ", ".join(sorted(device.cpu_flags))
        why = "as its int8 weights use all 8 bits"
        yield Misfit(field="cpu_flags", need=f"{_ONE_OF_THE_FLAGS}, {why}", have=flags)
    if device.onnxruntime is not None:
        yield from _missing_operators(needs, device.onnxruntime, "the device's")


def _missing_operators(needs: PackageNeeds, release: str, whose: str) -> Iterator[Misfit]:
    """Compare with what was asked of a runtime; nothing is known of one older than all of those."""
    measured = find_operators(release) if needs.operators else None
    if measured is None:
        return
    name, operators = measured
    missing = find_missing(needs.operators, operators)
    where = f"{CPU} of onnxruntime {release}, {whose}"
    if name != release:
        where += f" (asked: {name})"
    for need, have in list(missing.items())[:OPERATORS_NAMED_MAX]:
        yield Misfit(field="operators", need=need, have=f"{have} in {where}")
    if len(missing) > OPERATORS_NAMED_MAX:
        more = len(missing) - OPERATORS_NAMED_MAX
        yield Misfit(
            field="operators", need=f"{more} operators more", have=f"none of them in {where}"
        )


def is_libc_new_enough(libc: str, oldest: str) -> bool:
    """Tell whether a C library is a glibc, and not older than ``oldest``."""
    found = _GLIBC.fullmatch(libc.strip())
    return found is not None and parse_release(found.group(1)) >= parse_release(oldest)


def _is_in(release: str, wanted: str) -> bool:
    try:
        return is_release_in(release, wanted)
    except ValueError:
        return False
