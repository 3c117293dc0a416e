from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from device_profiles.calibration import CALL, Calibration
from device_profiles.catalog import list_profiles, load_profile
from device_profiles.compatibility import PackageNeeds
from device_profiles.profile import Precision
from fleet_server.adapters.reported_latency import find_percentile
from fleet_server.core.profile_fit import (
    BuiltPackage,
    Latency,
    LatencySource,
    find_latency,
    judge_devices,
    judge_profiles,
)
from fleet_server.core.targeting import Candidate

PROFILES = {name: load_profile(name) for name in list_profiles()}
HERE = Calibration(onnxruntime="1.31.1", threads=1, ms={CALL: 0.01, "matmul_fp32": 0.1})
SLOW = Calibration(onnxruntime="1.22.0", threads=1, ms={CALL: 0.1, "matmul_fp32": 1.0})
PACKAGE = BuiltPackage(
    profile="camera",
    target="digits/1/camera.tar",
    sha256="a" * 64,
    needs=PackageNeeds(
        ir=8,
        opset=18,
        opset_ml=0,
        precision=Precision.FP32,
        package_bytes=100_000,
        operators={"Gemm": 13},
    ),
    latency_ms_p95=2.0,
    model_bytes=50_000,
    calibration=HERE,
)
CAPABLE: dict[str, Any] = {"arch": "x86_64", "onnxruntime": "1.31.1", "ram_bytes": 2**30}


def device(number: int, **changes: Any) -> Candidate:
    base = Candidate(
        number=number, id=f"cam-{number}", profile="camera", capabilities=dict(CAPABLE)
    )
    return replace(base, **changes)


def test_a_device_is_judged_by_the_package_of_its_profile() -> None:
    devices = [
        device(1),
        device(2, capabilities={**CAPABLE, "arch": "armv7l"}),
        device(3, profile="raspberry-pi-3"),
        device(4, profile="unheard-of"),
        device(5, is_revoked=True),
        device(6, is_enrolled=False),
        device(7, capabilities=None),
    ]
    found = {fit.device: fit for fit in judge_devices([PACKAGE], PROFILES, devices, {})}
    assert set(found) == {"cam-1", "cam-2", "cam-3", "cam-4", "cam-7"}
    assert found["cam-1"].misfits == found["cam-7"].misfits == ()
    assert [m.field for m in found["cam-2"].misfits] == ["arch"]
    assert found["cam-3"].problem == "no package was built for profile raspberry-pi-3"
    assert found["cam-4"].problem == "no package was built for profile unheard-of"


def test_a_profile_without_a_package_hears_whose_would_fit() -> None:
    large = replace(PACKAGE, profile="onprem-server", needs=replace(PACKAGE.needs, opset=21))  # type: ignore[type-var]  # needs is there
    fits = {fit.profile: fit for fit in judge_profiles([PACKAGE, large], PROFILES, [])}
    assert fits["raspberry-pi-4"].others == ("camera", "onprem-server")
    assert fits["raspberry-pi-4"].target == ""
    small = {"camera": PROFILES["camera"]}
    (alone,) = judge_profiles([large], small, [])
    assert (alone.others, [m.field for m in alone.misfits]) == ((), ["opset_max"])


def test_a_package_that_cannot_be_read_is_a_misfit_of_its_profile_and_a_problem_there() -> None:
    broken = replace(PACKAGE, needs=None, problem="not a tar")
    fits = {
        fit.profile: fit
        for fit in judge_profiles(
            [broken], PROFILES, judge_devices([broken], PROFILES, [device(1)], {})
        )
    }
    assert str(fits["camera"].misfits[0]) == "package: needs readable evidence, has not a tar"
    assert (fits["camera"].devices, fits["camera"].unfit) == (1, 1)


def test_latency_is_reported_else_estimated_else_of_another_machine() -> None:
    calibrated = device(1, capabilities={**CAPABLE, "calibration": SLOW.to_json()})
    counted = Latency(ms=9, low_ms=5, high_ms=9, source=LatencySource.REPORTED, requests=50)
    reported = {(3, PACKAGE.sha256): counted}
    one, two, three = judge_devices(
        [PACKAGE], PROFILES, [calibrated, device(2), device(3)], reported
    )
    assert one.latency is not None
    assert one.latency.source is LatencySource.ESTIMATE
    assert one.latency.ms == pytest.approx(20)
    assert one.latency.low_ms < 20 < one.latency.high_ms
    assert two.latency == Latency(ms=2, low_ms=2, high_ms=2, source=LatencySource.ELSEWHERE)
    assert three.latency == counted


def test_a_latency_likely_above_the_limit_is_a_warning_and_no_misfit() -> None:
    slow = device(1, capabilities={**CAPABLE, "calibration": SLOW.to_json()})
    (fit,) = judge_devices([PACKAGE], PROFILES, [slow], {})
    assert fit.misfits == ()
    assert fit.warning.startswith("latency_ms_p95_max: allows 10, estimate 16 to 25")
    (camera,) = [f for f in judge_profiles([PACKAGE], PROFILES, [fit]) if f.profile == "camera"]
    assert camera.warning == fit.warning
    elsewhere = replace(PACKAGE, latency_ms_p95=500.0)
    (unknown,) = judge_devices([elsewhere], PROFILES, [device(2)], {})
    assert unknown.warning == ""


def test_a_profile_sums_up_what_its_devices_report_before_any_estimate() -> None:
    slow = device(1, capabilities={**CAPABLE, "calibration": SLOW.to_json()})
    estimated = judge_devices([PACKAGE], PROFILES, [slow, device(2)], {})
    (fit,) = [f for f in judge_profiles([PACKAGE], PROFILES, estimated) if f.profile == "camera"]
    assert fit.latency is not None
    assert fit.latency.source is LatencySource.ESTIMATE
    counted = Latency(ms=9, low_ms=5, high_ms=9, source=LatencySource.REPORTED, requests=50)
    known = judge_devices([PACKAGE], PROFILES, [slow, device(2)], {(2, PACKAGE.sha256): counted})
    (fit,) = [f for f in judge_profiles([PACKAGE], PROFILES, known) if f.profile == "camera"]
    assert fit.latency == counted


def test_a_profile_may_bring_a_calibration_of_its_own() -> None:
    slow = {"camera": replace(PROFILES["camera"], calibration=SLOW)}
    (fit,) = judge_profiles([PACKAGE], slow, [])
    assert fit.latency is not None
    assert fit.latency.source is LatencySource.ESTIMATE


def test_a_package_of_an_older_builder_is_not_estimated() -> None:
    found = find_latency(replace(PACKAGE, calibration=None), SLOW)
    assert found is not None
    assert found.source is LatencySource.ELSEWHERE
    assert find_latency(replace(PACKAGE, latency_ms_p95=0.0), SLOW) is None


@pytest.mark.parametrize(
    ("counts", "ends"),
    [
        ([100, 0, 0], (0.0, 1.0)),
        ([95, 5, 0], (0.0, 1.0)),
        ([94, 6, 0], (1.0, 2.0)),
        ([0, 0, 30], (2.0, 2.0)),
    ],
)
def test_a_percentile_is_the_bin_it_lies_in(counts: list[int], ends: tuple[float, float]) -> None:
    found = find_percentile(np.array(counts), (1.0, 2.0))
    assert found is not None
    assert (found.low_ms, found.high_ms, found.requests) == (*ends, sum(counts))


def test_few_requests_say_nothing() -> None:
    assert find_percentile(np.array([19, 0, 0]), (1.0, 2.0)) is None
