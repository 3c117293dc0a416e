import json
from typing import Any

import pytest

from device_profiles.errors import ProfileFormatError
from device_profiles.profile import DeviceProfile, Precision, Serving

CPU = "CPUExecutionProvider"


def table(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": "probe",
        "description": "A probe.",
        "arch": ["x86_64"],
        "libc_min": "2.28",
        "python": ">=3.11,<3.14",
        "ram_bytes": 536_870_912,
        "disk_bytes": 1_073_741_824,
        "cores": 2,
        "onnxruntime": ">=1.22,<2",
        "ir_max": 9,
        "opset_max": 18,
        "opset_ml_max": 3,
        "precisions": ["fp32", "int8_static"],
        "package_bytes_max": 1_048_576,
        "latency_ms_p95_max": 5,
        "rss_bytes_max": 134_217_728,
    }
    return {**values, **changes}


def test_a_table_becomes_a_profile_with_the_defaults_of_a_device() -> None:
    profile = DeviceProfile.from_table(table(telemetry={"window_s": 10}), source="probe.toml")
    assert profile.precisions == (Precision.FP32, Precision.INT8_STATIC)
    assert profile.providers == ("CPUExecutionProvider",)
    assert (profile.intra_op_threads, profile.allow_spinning) == (1, False)
    assert profile.serving is Serving.WORKER
    assert profile.telemetry.window_s == 10
    assert profile.telemetry.window_rows_max > 0


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"id": "Probe"}, "id", "must match"),
        ({"id": 7}, "id", "must match"),
        ({"id": "x" * 64}, "id", "must match"),
        ({"description": "x" * 513}, "description", "512"),
        ({"arch": []}, "arch", "at least one"),
        ({"arch": ["armv7l"]}, "arch", "x86_64, aarch64"),
        ({"arch": "x86_64"}, "arch", "list of texts"),
        ({"libc_min": "glibc"}, "libc_min", "release number"),
        ({"libc_min": 2.28}, "libc_min", "version text"),
        ({"onnxruntime": "1.22"}, "onnxruntime", "version range"),
        ({"python": "3"}, "python", "version range"),
        ({"ram_bytes": -1}, "ram_bytes", "integer from"),
        ({"ram_bytes": 1e9}, "ram_bytes", "integer from"),
        ({"cores": True}, "cores", "integer from"),
        ({"ir_max": 2}, "ir_max", "integer from 3"),
        ({"latency_ms_p95_max": 0}, "latency_ms_p95_max", "above 0"),
        ({"latency_ms_p95_max": float("nan")}, "latency_ms_p95_max", "above 0"),
        ({"latency_ms_p95_max": "5"}, "latency_ms_p95_max", "a number"),
        ({"precisions": ["int8_static"]}, "precisions", "fp32"),
        ({"precisions": ["fp32", "int4"]}, "precisions", "known:"),
        ({"providers": []}, "providers", "CPUExecutionProvider"),
        ({"providers": ["CudaExecutionProvider"]}, "providers", "CUDAExecutionProvider"),
        ({"providers": [CPU, "CUDAExecutionProvider"]}, "providers", "list it last"),
        ({"providers": [CPU, CPU]}, "providers", "twice"),
        ({"provider_options": []}, "provider_options", "a table"),
        ({"provider_options": {CPU: 1}}, f"provider_options.{CPU}", "a table"),
        ({"provider_options": {CPU: {"a b": 1}}}, f"provider_options.{CPU}.a b", "letters"),
        ({"provider_options": {CPU: {"a": []}}}, f"provider_options.{CPU}.a", "text, a number"),
        ({"provider_options": {CPU: {"a": "x" * 513}}}, f"provider_options.{CPU}.a", "512"),
        (
            {"provider_options": {CPU: {f"o{n}": 1 for n in range(33)}}},
            f"provider_options.{CPU}",
            "33 options",
        ),
        (
            {"provider_options": {CPU: {f"o{n}": "x" * 400 for n in range(12)}}},
            "provider_options",
            "limit is 4096",
        ),
        (
            {"provider_options": {"CUDAExecutionProvider": {"a": 1}}},
            "provider_options.CUDAExecutionProvider",
            "not among providers",
        ),
        ({"require_provider": 1}, "require_provider", "true or false"),
        ({"int8_full_range": "yes"}, "int8_full_range", "true or false"),
        ({"calibration": {"suite": 9}}, "calibration", "doctor --calibrate"),
        ({"allow_spinning": "no"}, "allow_spinning", "true or false"),
        ({"serving": "thread"}, "serving", "worker, in_process"),
        ({"serving": 1}, "serving", "list of texts"),
        ({"rss_bytes_max": 536_870_913}, "rss_bytes_max", "more than ram_bytes"),
        ({"package_bytes_max": 1_073_741_825}, "package_bytes_max", "more than disk_bytes"),
        ({"intra_op_threads": 3}, "intra_op_threads", "more than cores"),
        ({"labels": {"a b": "c"}}, "labels.a b", "label name"),
        ({"labels": {"site": 4}}, "labels.site", "text"),
        ({"labels": {f"l{n}": "" for n in range(65)}}, "labels", "65 labels"),
        ({"labels": ["site"]}, "labels", "a table"),
        ({"telemetry": {"window_s": 0}}, "window_s", "1 to 86400"),
        ({"telemetry": {"windows": 1}}, "telemetry.windows", "unknown key"),
        ({"ram": 1}, "ram", "unknown key"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ProfileFormatError, match=words) as caught:
        DeviceProfile.from_table(table(**changes), source="probe.toml")
    assert caught.value.field == field


def test_the_limits_of_values_are_allowed() -> None:
    profile = DeviceProfile.from_table(
        table(
            id="x" * 63,
            rss_bytes_max=536_870_912,
            package_bytes_max=1_073_741_824,
            intra_op_threads=2,
            description="x" * 512,
        ),
        source="probe.toml",
    )
    assert profile.intra_op_threads == 2


def test_a_profile_comes_back_from_plain_values() -> None:
    profile = DeviceProfile.from_table(
        table(serving="in_process", labels={"site": "x"}, telemetry={"window_s": 10}),
        source="probe.toml",
    )
    told = json.loads(json.dumps(profile.to_table()))
    assert DeviceProfile.from_table(told, source="probe.toml") == profile


def test_every_missing_key_is_named_at_once() -> None:
    whole = table()
    del whole["arch"], whole["cores"]
    with pytest.raises(ProfileFormatError, match="lacks arch, cores"):
        DeviceProfile.from_table(whole, source="probe.toml")
