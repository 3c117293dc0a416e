import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_profiles.catalog import find_line, load_profile, load_profile_file
from device_profiles.compatibility import DeviceCapabilities, PackageNeeds, find_misfits
from device_profiles.errors import ProfileFormatError
from device_profiles.narrowing import find_capabilities, narrow_profile
from device_profiles.profile import Arch, Precision

CAMERA = load_profile("camera")
REPORT: dict[str, Any] = {
    "arch": "aarch64",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "onnxruntime": "1.24.4",
    "ir_max": 11,
    "opset_max": 15,
    "opset_ml_max": 2,
    "ram_bytes": 200_000_000,
    "disk_free_bytes": 6_000_000,
    "cores": 1,
    "providers": ["CPUExecutionProvider"],
    "cpu_flags": ["asimd"],
}


def test_the_tighter_of_profile_and_device_holds() -> None:
    narrowed = narrow_profile(CAMERA, DeviceCapabilities.from_report(REPORT))
    profile = narrowed.profile
    assert narrowed.misfits == ()
    assert (profile.ir_max, profile.opset_max, profile.opset_ml_max) == (9, 15, 2)
    assert (profile.ram_bytes, profile.rss_bytes_max) == (200_000_000, 100_000_000)
    assert (profile.cores, profile.intra_op_threads) == (1, 1)
    assert profile.package_bytes_max == 3_000_000
    assert (profile.arch, profile.onnxruntime) == ((Arch.AARCH64,), "==1.24.4")
    assert narrowed.changes["opset_max"] == ("18", "15")
    assert "ir_max" not in narrowed.changes


def test_a_device_that_says_nothing_narrows_nothing() -> None:
    narrowed = narrow_profile(CAMERA, DeviceCapabilities())
    assert (narrowed.profile, dict(narrowed.changes)) == (CAMERA, {})


def test_a_device_that_can_do_more_widens_nothing() -> None:
    rich = {"ram_bytes": 2**40, "disk_free_bytes": 2**40, "cores": 64, "opset_max": 99}
    narrowed = narrow_profile(CAMERA, DeviceCapabilities.from_report(rich))
    assert dict(narrowed.changes) == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"arch": "armv7l"}, "arch"),
        ({"libc": "musl 1.2"}, "libc_min"),
        ({"onnxruntime": "1.16.3"}, "onnxruntime"),
        ({"runtime_fault": "the process that loaded it died of SIGILL"}, "runtime"),
        ({"ram_bytes": 1_000}, "ram_bytes"),
        ({"disk_free_bytes": 1_000}, "disk_free_bytes"),
    ],
)
def test_what_no_limit_allows_for_is_a_misfit(change: dict[str, Any], field: str) -> None:
    narrowed = narrow_profile(CAMERA, DeviceCapabilities.from_report(REPORT | change))
    assert [misfit.field for misfit in narrowed.misfits] == [field]


def test_precision_and_weights_follow_the_processor() -> None:
    able = replace(CAMERA, precisions=(Precision.FP32, Precision.FP16), int8_full_range=True)
    plain = narrow_profile(able, DeviceCapabilities(cpu_flags=frozenset({"avx2"}))).profile
    assert (plain.precisions, plain.int8_full_range) == ((Precision.FP32,), False)
    modern = DeviceCapabilities(cpu_flags=frozenset({"asimddp", "asimdhp"}))
    assert narrow_profile(able, modern).profile == able


def test_providers_keep_their_order_and_end_with_what_every_runtime_has() -> None:
    listed = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    wanted = replace(
        CAMERA, providers=listed, provider_options={"TensorrtExecutionProvider": {"a": "1"}}
    )
    said = DeviceCapabilities(providers=("CPUExecutionProvider", "CUDAExecutionProvider"))
    narrowed = narrow_profile(wanted, said).profile
    assert narrowed.providers == listed[1:]
    assert narrowed.provider_options == {}


@pytest.mark.parametrize(
    "said",
    [
        REPORT,
        {"id": "cam-1", "capabilities": REPORT},
        [{"check": "python", "ok": True}, {"check": "capabilities", "capabilities": REPORT}],
    ],
)
def test_capabilities_are_found_in_every_form_they_are_said_in(said: Any) -> None:
    found = find_capabilities(json.loads(json.dumps(said)))
    assert found is not None
    assert found.opset_max == 15


@pytest.mark.parametrize("said", [[], {}, "x", None, {"capabilities": []}, [{"check": "a"}]])
def test_other_json_is_not_taken_for_capabilities(said: Any) -> None:
    assert find_capabilities(said) is None


NEEDS = PackageNeeds(ir=9, opset=18, opset_ml=3, precision=Precision.FP32, package_bytes=1_000_000)


@pytest.mark.parametrize(
    ("needs", "field", "words"),
    [
        ({"operators": {"Gemm": 13, "Attention": 23}}, "operators", "Attention 23"),
        ({"operators": {"Cast": 24}}, "operators", "versions 6, 9, 13, 19, 21"),
        ({"operators": {"com.microsoft:Solve": 1}}, "operators", "no operators of com.microsoft"),
        ({"operators": {"NotAnOperator": 0}}, "operators", "none in CPUExecutionProvider"),
        ({"rss_bytes": CAMERA.rss_bytes_max + 1}, "rss_bytes_max", "at most 134217728"),
        ({"is_full_range": True}, "int8_full_range", "all 8 bits"),
    ],
)
def test_what_a_graph_needs_is_compared_with_the_profile(
    needs: dict[str, Any], field: str, words: str
) -> None:
    (misfit,) = find_misfits(replace(NEEDS, **needs), CAMERA)
    assert misfit.field == field
    assert words in str(misfit)


def test_operators_are_judged_by_the_release_the_device_runs() -> None:
    profile = replace(CAMERA, onnxruntime="<2")
    needs = replace(NEEDS, operators={"Swish": 24, "Gemm": 13})
    assert find_misfits(needs, profile, DeviceCapabilities(onnxruntime="1.31.1")) == []
    (misfit,) = find_misfits(needs, profile, DeviceCapabilities(onnxruntime="1.23.2"))
    assert str(misfit) == (
        "operators: needs Swish 24, has none in CPUExecutionProvider of onnxruntime 1.23.2,"
        " the device's (asked: 1.22.0)"
    )


def test_of_a_runtime_older_than_all_that_were_asked_nothing_is_claimed() -> None:
    profile = replace(CAMERA, onnxruntime=">=1.10,<2")
    needs = replace(NEEDS, operators={"NotAnOperator": 1})
    assert find_misfits(needs, profile, DeviceCapabilities(onnxruntime="1.12.0")) == []


def test_a_device_is_compared_with_memory_and_flags_a_package_needs() -> None:
    needs = replace(NEEDS, rss_bytes=100_000_000, is_full_range=True)
    device = DeviceCapabilities(ram_bytes=90_000_000, cpu_flags=frozenset({"avx2"}))
    fields = [m.field for m in find_misfits(needs, CAMERA, device)]
    assert fields == ["int8_full_range", "rss_bytes_max", "ram_bytes", "cpu_flags"]


def test_a_required_provider_must_be_there_and_a_wanted_one_need_not() -> None:
    profile = replace(CAMERA, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    device = DeviceCapabilities(providers=("CPUExecutionProvider",))
    assert find_misfits(None, profile, device) == []
    (misfit,) = find_misfits(None, replace(profile, require_provider=True), device)
    assert str(misfit) == "providers: needs CUDAExecutionProvider, has CPUExecutionProvider"


def test_evidence_of_an_older_builder_names_operators_without_versions() -> None:
    graph = {"ir": 8, "opset": 18, "opset_ml": 0, "operators": {"Gemm": 2}}
    needs = PackageNeeds.from_evidence({"precision": "fp32", "graph": graph}, package_bytes=10)
    assert needs.operators == {"Gemm": 0}
    said = {"operators": {"Gemm": 13, "Bad": -1, 7: 1}, "rss_bytes": 5, "is_full_range": True}
    newer = {"precision": "int8_static", "graph": graph, "needs": said}
    read = PackageNeeds.from_evidence(newer, package_bytes=10)
    assert read.describe() == {"operators": {"Gemm": 13}, "rss_bytes": 5, "is_full_range": True}


@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"precision": "fp32", "graph": {"ir": "8", "opset": 1, "opset_ml": 1}},
        {"precision": "int3", "graph": {"ir": 8, "opset": 1, "opset_ml": 1}},
    ],
)
def test_evidence_without_what_every_package_says_is_refused(evidence: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"evidence|Precision"):
        PackageNeeds.from_evidence(evidence, package_bytes=1)


SHIPPED = Path(find_line.__code__.co_filename).parent / "data" / "camera.toml"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cores = 2", "cores = 0", "door.toml line 8: cores: must be"),
        ("cores = 2", "ram = 2", "door.toml line 8: ram: unknown key"),
        ("cores = 2", "cores =", "line 8"),
        ("window_s = 60", "window_s = 0", "door.toml line 25: window_s: must be"),
        ("[labels]", "[provider_options.CUDAExecutionProvider]\na = 1\n[labels]", "line 30: prov"),
        ('class = "camera"', "class = 7", "door.toml line 31: labels.class"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_key(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = SHIPPED.read_text().replace('id = "camera"', 'id = "door"')
    path = tmp_path / "door.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ProfileFormatError, match=words):
        load_profile_file(path)
