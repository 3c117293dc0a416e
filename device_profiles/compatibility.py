"""Judge whether a package fits a profile and a device fits both, before anything is sent. Pure.

Only what is known is compared: a capability the device did not report never makes a misfit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_profiles.profile import DeviceProfile, Precision
from device_profiles.versions import is_release_in, parse_release

COPIES_ON_DISK = 2
"""The package while it is fetched, and its installed members."""
PROVIDERS_MAX = 64
_GLIBC = re.compile(r"(?:glibc)?[ -]*(\d+\.\d+.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageNeeds:
    """What one package asks of a device.

    Attributes:
        ir: ONNX file format of the graph.
        opset: Operator set of domain ``ai.onnx``, 0 when the graph uses none.
        opset_ml: Operator set of domain ``ai.onnx.ml``, 0 when the graph uses none.
        precision: Of the shipped graph.
        package_bytes: Size of the package.
    """

    ir: int
    opset: int
    opset_ml: int
    precision: Precision
    package_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCapabilities:
    """What a device found itself to be; None or empty where it did not say.

    Attributes:
        arch: ``x86_64`` or ``aarch64``, as ``platform.machine()`` says.
        libc: For example ``glibc 2.36``.
        python: For example ``3.11.7``.
        onnxruntime: For example ``1.31.1``.
        ir_max: Newest ONNX file format that loaded.
        opset_max: Newest operator set of ``ai.onnx`` that loaded.
        opset_ml_max: Newest operator set of ``ai.onnx.ml`` that loaded.
        ram_bytes: Memory of the device (of its control group when smaller).
        disk_free_bytes: Free room where packages are kept.
        cores: Processor cores the agent may use.
        providers: Execution providers of its onnxruntime.
    """

    arch: str | None = None
    libc: str | None = None
    python: str | None = None
    onnxruntime: str | None = None
    ir_max: int | None = None
    opset_max: int | None = None
    opset_ml_max: int | None = None
    ram_bytes: int | None = None
    disk_free_bytes: int | None = None
    cores: int | None = None
    providers: tuple[str, ...] = ()

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> "DeviceCapabilities":
        """Read the ``capabilities`` of a device's report; wrong types count as not said.

        >>> DeviceCapabilities.from_report({"cores": 4, "ir_max": "new"}).ir_max is None
        True
        """
        named = report.get("providers")
        providers = named[:PROVIDERS_MAX] if isinstance(named, list) else []
        return cls(
            arch=_text(report.get("arch")),
            libc=_text(report.get("libc")),
            python=_text(report.get("python")),
            onnxruntime=_text(report.get("onnxruntime")),
            ir_max=_count(report.get("ir_max")),
            opset_max=_count(report.get("opset_max")),
            opset_ml_max=_count(report.get("opset_ml_max")),
            ram_bytes=_count(report.get("ram_bytes")),
            disk_free_bytes=_count(report.get("disk_free_bytes")),
            cores=_count(report.get("cores")),
            providers=tuple(p for p in providers if isinstance(p, str)),
        )


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


def _package_against_profile(needs: PackageNeeds, profile: DeviceProfile) -> list[Misfit]:
    found = [
        Misfit(field=name, need=f"{need}", have=f"at most {limit}")
        for name, need, limit in (
            ("ir_max", needs.ir, profile.ir_max),
            ("opset_max", needs.opset, profile.opset_max),
            ("opset_ml_max", needs.opset_ml, profile.opset_ml_max),
            ("package_bytes_max", needs.package_bytes, profile.package_bytes_max),
        )
        if need > limit
    ]
    if needs.precision not in profile.precisions:
        have = ", ".join(profile.precisions)
        found.append(Misfit(field="precisions", need=str(needs.precision), have=have))
    return found


def _device_against_profile(profile: DeviceProfile, device: DeviceCapabilities) -> list[Misfit]:
    found = []
    if device.arch is not None and device.arch not in profile.arch:
        found.append(Misfit(field="arch", need=" or ".join(profile.arch), have=device.arch))
    if device.libc is not None and not _is_libc_new_enough(device.libc, profile.libc_min):
        found.append(
            Misfit(field="libc_min", need=f"glibc {profile.libc_min} or newer", have=device.libc)
        )
    for name, have, wanted in (
        ("python", device.python, profile.python),
        ("onnxruntime", device.onnxruntime, profile.onnxruntime),
    ):
        if have is not None and not _is_in(have, wanted):
            found.append(Misfit(field=name, need=wanted, have=have))
    for name, need, have_at_most in (
        ("rss_bytes_max", profile.rss_bytes_max, device.ram_bytes),
        ("intra_op_threads", profile.intra_op_threads, device.cores),
    ):
        if have_at_most is not None and have_at_most < need:
            found.append(Misfit(field=name, need=f"{need}", have=f"{have_at_most}"))
    if device.providers and not set(device.providers) & set(profile.providers):
        found.append(
            Misfit(
                field="providers",
                need=" or ".join(profile.providers),
                have=", ".join(device.providers),
            )
        )
    return found


def _package_against_device(needs: PackageNeeds, device: DeviceCapabilities) -> list[Misfit]:
    return [
        Misfit(field=name, need=f"{need}", have=f"at most {limit}")
        for name, need, limit in (
            ("ir_max", needs.ir, device.ir_max),
            ("opset_max", needs.opset, device.opset_max),
            ("opset_ml_max", needs.opset_ml, device.opset_ml_max),
            (
                "disk_free_bytes",
                COPIES_ON_DISK * needs.package_bytes,
                device.disk_free_bytes,
            ),
        )
        if limit is not None and need > limit
    ]


def _is_libc_new_enough(libc: str, oldest: str) -> bool:
    found = _GLIBC.fullmatch(libc.strip())
    return found is not None and parse_release(found.group(1)) >= parse_release(oldest)


def _is_in(release: str, wanted: str) -> bool:
    try:
        return is_release_in(release, wanted)
    except ValueError:
        return False


def _text(value: Any) -> str | None:
    return value[:80] if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
