"""Targeting: who can be given a version, and the words for who cannot."""

from dataclasses import replace
from typing import Any

import pytest

from device_profiles.catalog import load_profile
from device_profiles.compatibility import PackageNeeds
from device_profiles.profile import Precision
from fleet_server.core.label_query import parse_query
from fleet_server.core.targeting import Candidate, Package, Unfit, find_targets

CAMERA = load_profile("camera")
PROFILES = {"camera": CAMERA}
NEEDS = PackageNeeds(ir=0, opset=0, opset_ml=0, precision=Precision.FP32, package_bytes=1_000)
PACKAGES = {
    "camera": Package(profile="camera", target="m/1/camera.tar", sha256="0" * 64, needs=NEEDS),
    "unknown": Package(profile="unknown", target="m/1/unknown.tar", sha256="1" * 64),
}
DEVICE = Candidate(number=1, id="cam-1", profile="camera")


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"is_revoked": True}, Unfit.REVOKED, "revoked"),
        ({"is_enrolled": False}, Unfit.NEVER_ENROLLED, "never joined"),
        ({"profile": "iot-gateway"}, Unfit.NO_ARTIFACT, "profile iot-gateway"),
        ({"capabilities": {"arch": "riscv64"}}, Unfit.MISFIT, "arch: needs"),
        ({"capabilities": {"disk_free_bytes": 1_999}}, Unfit.MISFIT, "has at most 1999"),
    ],
)
def test_leaves_out(change: dict[str, Any], reason: Unfit, detail: str) -> None:
    found = find_targets([replace(DEVICE, **change)], parse_query("all"), PACKAGES, PROFILES)
    assert found.fit == ()
    assert found.left_out[0].reason is reason
    assert detail in found.left_out[0].detail


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"capabilities": {}},
        {"capabilities": {"arch": CAMERA.arch[0], "disk_free_bytes": 2_000}},
        {"profile": "unknown", "capabilities": {"arch": "riscv64"}},
        {"is_online": False},
    ],
)
def test_accepts(change: dict[str, Any]) -> None:
    device = replace(DEVICE, **change)
    found = find_targets([device], parse_query("all"), PACKAGES, PROFILES)
    assert found.fit == (device,)
    assert found.left_out == ()


def test_devices_outside_the_group_are_not_mentioned() -> None:
    other = replace(DEVICE, number=2, id="cam-2", is_revoked=True)
    found = find_targets([DEVICE, other], parse_query("id=cam-1"), PACKAGES, PROFILES)
    assert found.fit == (DEVICE,)
    assert found.left_out == ()
