from dataclasses import replace
from typing import Any

import pytest

from device_profiles.catalog import load_profile
from device_profiles.compatibility import DeviceCapabilities, PackageNeeds, find_misfits
from device_profiles.profile import Precision

CAMERA = load_profile("camera")
NEEDS = PackageNeeds(
    ir=CAMERA.ir_max,
    opset=CAMERA.opset_max,
    opset_ml=CAMERA.opset_ml_max,
    precision=Precision.INT8_STATIC,
    package_bytes=CAMERA.package_bytes_max,
)
DEVICE = DeviceCapabilities(
    arch="aarch64",
    libc="glibc 2.28",
    python="3.13.1",
    onnxruntime="1.22.0",
    ir_max=NEEDS.ir,
    opset_max=NEEDS.opset,
    opset_ml_max=NEEDS.opset_ml,
    ram_bytes=CAMERA.rss_bytes_max,
    disk_free_bytes=2 * NEEDS.package_bytes,
    cores=CAMERA.intra_op_threads,
    providers=("AzureExecutionProvider", "CPUExecutionProvider"),
)


def fields(needs: PackageNeeds | None, device: DeviceCapabilities | None) -> list[str]:
    return [misfit.field for misfit in find_misfits(needs, CAMERA, device)]


def test_what_is_exactly_at_every_limit_fits() -> None:
    assert fields(NEEDS, DEVICE) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ir": NEEDS.ir + 1}, "ir_max"),
        ({"opset": NEEDS.opset + 1}, "opset_max"),
        ({"opset_ml": NEEDS.opset_ml + 1}, "opset_ml_max"),
        ({"package_bytes": NEEDS.package_bytes + 1}, "package_bytes_max"),
        ({"precision": Precision.FP16}, "precisions"),
    ],
)
def test_a_package_beyond_its_profile_is_a_misfit(change: dict[str, Any], field: str) -> None:
    assert fields(replace(NEEDS, **change), None) == [field]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"arch": "armv7l"}, "arch"),
        ({"libc": "glibc 2.27"}, "libc_min"),
        ({"libc": "musl 1.2"}, "libc_min"),
        ({"python": "3.10.9"}, "python"),
        ({"onnxruntime": "1.21.0"}, "onnxruntime"),
        ({"onnxruntime": "none"}, "onnxruntime"),
        ({"ir_max": NEEDS.ir - 1}, "ir_max"),
        ({"opset_max": NEEDS.opset - 1}, "opset_max"),
        ({"opset_ml_max": NEEDS.opset_ml - 1}, "opset_ml_max"),
        ({"ram_bytes": CAMERA.rss_bytes_max - 1}, "rss_bytes_max"),
        ({"disk_free_bytes": 2 * NEEDS.package_bytes - 1}, "disk_free_bytes"),
        ({"cores": 0}, "intra_op_threads"),
        ({"providers": ("CUDAExecutionProvider",)}, "providers"),
    ],
)
def test_a_device_below_a_need_is_a_misfit(change: dict[str, Any], field: str) -> None:
    assert fields(NEEDS, replace(DEVICE, **change)) == [field]


def test_a_device_that_says_nothing_fits() -> None:
    assert fields(NEEDS, DeviceCapabilities()) == []


def test_a_misfit_says_need_and_have() -> None:
    (misfit,) = find_misfits(None, CAMERA, replace(DEVICE, libc="glibc 2.27"))
    assert str(misfit) == "libc_min: needs glibc 2.28 or newer, has glibc 2.27"


def test_a_report_is_read_and_wrong_types_count_as_not_said() -> None:
    report = {
        "arch": "x86_64",
        "cores": "many",
        "ir_max": True,
        "ram_bytes": 5,
        "providers": ["CPUExecutionProvider", 3],
        "mood": "good",
    }
    read = DeviceCapabilities.from_report(report)
    assert (read.arch, read.cores, read.ir_max, read.ram_bytes) == ("x86_64", None, None, 5)
    assert read.providers == ("CPUExecutionProvider",)
