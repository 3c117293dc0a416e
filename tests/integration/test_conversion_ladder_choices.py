"""Whole ladders on real rows: what pays for a camera, what is tried, what is asked and refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.build import build_package
from converters.errors import NoRungFitsError
from converters.request import (
    BuildRequest,
    BuiltPackage,
    Criterion,
    Effort,
    MeasurementPlan,
    ProfileLimits,
    Smaller,
)
from device_profiles.profile import Precision
from edge_agent.contract.package import MODEL, unpack_members
from tests.support.convert import request_of
from tests.support.networks import request_of_cnn

Array = NDArray[Any]
STEADY = MeasurementPlan(rounds=15, round_s=0.004, runs_max=60)
LOOSE = ProfileLimits(label_flips_max=0.1, metric_drop_max=0.05)


def network(*units: int) -> Any:
    return make_pipeline(StandardScaler(), MLPClassifier(units, max_iter=20, random_state=0))


def rungs_of(package: BuiltPackage) -> dict[str, dict[str, Any]]:
    return {rung["name"]: rung for rung in package.evidence["ladder"]}


@pytest.fixture(scope="module")
def camera_cnn() -> BuiltPackage:
    return build_package(request_of_cnn(plan=STEADY, effort=Effort.FULL))


@pytest.fixture(scope="module")
def wide() -> BuildRequest:
    return request_of(network(512, 256), "digits", plan=STEADY)


@pytest.fixture(scope="module")
def camera_mlp(wide: BuildRequest) -> BuiltPackage:
    half = replace(wide.profile, precisions=tuple(Precision))
    return build_package(
        replace(wide, profile=half, effort=Effort.FULL, smaller=Smaller.DISTILLED, limits=LOOSE)
    )


# What a camera gets


def test_a_convolutional_network_for_a_camera_is_a_quarter_and_no_slower(
    camera_cnn: BuiltPackage,
) -> None:
    rungs = rungs_of(camera_cnn)
    chosen = rungs[camera_cnn.evidence["rung"]]
    assert chosen["model_bytes"] <= 0.30 * rungs["fp32"]["model_bytes"]
    assert chosen["latency_ratio_interval"][0] <= 1
    assert chosen["flip_share"] <= 0.005
    assert camera_cnn.precision in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC)
    assert rungs["int8_dynamic"]["settings"] == {"bits": 7, "bits_of_convolutions": 8}


def test_a_wide_network_for_a_camera_is_a_quarter_and_no_slower(wide: BuildRequest) -> None:
    package = build_package(wide)
    rungs = rungs_of(package)
    chosen = rungs[package.evidence["rung"]]
    assert chosen["model_bytes"] <= 0.30 * rungs["fp32"]["model_bytes"]
    assert chosen["latency_ratio_interval"][0] <= 1
    assert chosen["flip_share"] <= 0.005


def test_a_small_network_stays_fp32_for_a_camera_and_says_why() -> None:
    package = build_package(request_of(network(64), "digits"))
    assert package.precision is Precision.FP32
    reason = "int8 saves no transfer chunk of so small a graph and is not faster"
    assert package.decision.startswith(f"fp32: {reason} (fp32 has ")


# What is tried


def test_every_rung_is_tried_in_order_when_all_are_wanted(camera_mlp: BuiltPackage) -> None:
    assert list(rungs_of(camera_mlp)) == [
        "fp32",
        "fp32_optimised",
        "fp16_weights",
        "fp16",
        "int8_weights",
        "int8_dynamic",
        "int8_static_minmax",
        "int8_static_entropy",
        "int8_static_percentile",
        "narrower_layers",
        "narrower_layers_int8_static",
        "distilled",
    ]


def test_every_built_rung_carries_its_figures(camera_mlp: BuiltPackage) -> None:
    for rung in rungs_of(camera_mlp).values():
        if not rung["is_built"]:
            assert rung["note"]
            continue
        low, high = rung["latency_ratio_interval"]
        assert low <= rung["latency_ratio"] <= high
        low, high = rung["metric_drop_interval"]
        assert low <= rung["metric_drop"] <= high
        assert rung["load_ms"] > 0
        assert rung["rss_bytes"] > 20e6
        assert set(rung["error_quantiles"]) == {"50", "90", "99"}
        assert rung["error_quantiles"]["99"] <= rung["max_abs_error"]
    assert sum(rung["is_on_front"] for rung in rungs_of(camera_mlp).values() if rung["is_built"])


def test_halves_are_half_and_less_wrong_than_int8(camera_mlp: BuiltPackage) -> None:
    rungs = rungs_of(camera_mlp)
    half = rungs["fp16_weights"]
    assert half["model_bytes"] < 0.52 * rungs["fp32"]["model_bytes"]
    assert half["max_abs_error"] < rungs["int8_dynamic"]["max_abs_error"]


def test_a_narrower_network_was_searched_share_by_share(camera_mlp: BuiltPackage) -> None:
    settings = rungs_of(camera_mlp)["narrower_layers"]["settings"]
    tried = settings["tried"]
    assert [one["is_within"] for one in tried[:-1]] == [True] * (len(tried) - 1)
    assert settings["share"] == [one["share"] for one in tried if one["is_within"]][-1]
    sizes = [one["model_bytes"] for one in tried]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_child_process_was_asked_is_in_the_evidence(camera_cnn: BuiltPackage) -> None:
    assert camera_cnn.evidence["asked"] == {
        "effort": "full",
        "smaller": "no",
        "prefer": ["accuracy", "latency", "size", "memory"],
    }
    assert "not portable" in rungs_of(camera_cnn)["fp32_optimised"]["note"]


def test_the_worst_rows_are_shown_with_what_was_asked(camera_mlp: BuiltPackage) -> None:
    worst = camera_mlp.evidence["parity"]["worst"]
    request = request_of(network(8), "digits")
    for row in worst:
        asked = request.holdout[row["row"]].astype(np.float32).tolist()
        assert row["inputs"] == dict(zip(request.schema.columns, asked, strict=True))


def test_a_layer_that_int8_spoils_is_found_and_left_out() -> None:
    limits = ProfileLimits(label_flips_max=0.005)
    package = build_package(request_of_cnn(is_spoiled=True, limits=limits, plan=STEADY))
    rungs = rungs_of(package)
    assert rungs["int8_static_minmax"]["flip_share"] > 0.3
    assert any("label flips" in why for why in rungs["int8_dynamic"]["reasons_against"])
    mixed = rungs["int8_static_minmax_mixed"]
    assert mixed["flip_share"] <= 0.005
    costs = mixed["settings"]["sensitivity"]
    assert mixed["settings"]["excluded"] == [costs[0]["node"]]
    assert costs[0]["operator"] == "Gemm"
    assert costs[0]["flip_share"] > 0.3 > costs[1]["flip_share"]


def test_when_no_exclusion_helps_that_is_said() -> None:
    limits = ProfileLimits(error_max=1e-6)
    package = build_package(request_of_cnn(limits=limits))
    rungs = rungs_of(package)
    assert package.precision is Precision.FP32
    assert "error" in rungs["int8_dynamic"]["reasons_against"][0]
    assert rungs["int8_dynamic"]["settings"] == {"bits": 7}  # convolutions stay float32 then
    note = rungs["int8_static_minmax_mixed"]["note"]
    assert note == "no number of excluded nodes keeps the limits (4 nodes measured)"


def test_calibration_rows_with_holes_are_left_out_and_said() -> None:
    request = request_of_cnn()
    rows = request.calibration.copy()
    rows[20:, 3] = np.nan
    package = build_package(replace(request, calibration=rows))
    left_out, few = package.evidence["notes"][:2]
    assert left_out.endswith("calibration rows hold missing values and were left out")
    assert few.startswith("only 20 rows to calibrate with")
    assert rungs_of(package)["int8_static_minmax"]["settings"]["calibration"] == [left_out, few]


# Another model, when that is allowed


def test_a_network_of_convolutions_is_narrowed_in_every_layer() -> None:
    request = request_of_cnn(limits=LOOSE, smaller=Smaller.PRUNED)
    plain = replace(request.profile, precisions=(Precision.FP32,))
    rungs = rungs_of(build_package(replace(request, profile=plain)))
    sizes = [
        rungs[name]["model_bytes"] for name in ("fp32", "narrower_convolutions", "narrower_network")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert rungs["narrower_convolutions"]["model_bytes"] < 0.6 * rungs["fp32"]["model_bytes"]
    assert rungs["narrower_convolutions"]["flip_share"] <= 0.1
    assert "fp32_compact" not in rungs  # no channel of it is needless


def test_a_smaller_forest_ships_only_when_another_model_may() -> None:
    forest = RandomForestClassifier(40, random_state=0)
    request = request_of(forest, "digits", limits=LOOSE, plan=STEADY)
    plain = build_package(request)
    assert list(rungs_of(plain)) == ["fp32", "int8_dynamic", "int8_static"]
    order = (Criterion.SIZE,)
    package = build_package(replace(request, smaller=Smaller.PRUNED, prefer=order))
    rungs = rungs_of(package)
    chosen = rungs[package.evidence["rung"]]
    assert chosen["name"] in ("fewer_trees", "pruned_trees", "shallower_trees")
    assert package.precision is Precision.FP32
    assert chosen["model_bytes"] < 0.6 * rungs["fp32"]["model_bytes"]
    assert 0 < chosen["flip_share"] <= 0.1
    assert chosen["rss_bytes"] < rungs["fp32"]["rss_bytes"]
    assert len(unpack_members(package.blob)[MODEL]) == chosen["model_bytes"]
    assert package.evidence["metric"]["shipped"] == chosen["metric"]


def test_a_limit_that_no_smaller_model_keeps_leaves_the_model_as_it_is() -> None:
    limits = ProfileLimits(label_flips_max=0.0)
    request = request_of(RandomForestClassifier(20, random_state=0), "digits", limits=limits)
    package = build_package(replace(request, smaller=Smaller.PRUNED, prefer=(Criterion.SIZE,)))
    assert package.evidence["rung"] == "fp32"
    note = rungs_of(package)["fewer_trees"]["note"]
    assert note.startswith("no limit is kept at a share of 0.5: ")
    assert "label flips" in note


def test_a_model_with_nothing_to_cut_says_so() -> None:
    request = request_of(make_pipeline(StandardScaler(), Ridge()), "diabetes")
    package = build_package(replace(request, smaller=Smaller.PRUNED))
    assert rungs_of(package)["smaller"]["note"].startswith("nothing to cut among")


# Limits


def test_memory_beyond_the_profile_is_refused_with_numbers() -> None:
    request = request_of(network(8), "wine")
    poor = replace(request.profile, rss_bytes_max=2_000_000)
    with pytest.raises(NoRungFitsError, match=r"memory [\d,]+ above 2,000,000 bytes"):
        build_package(replace(request, profile=poor))


def test_an_error_beyond_the_limit_of_the_spec_is_refused() -> None:
    limits = ProfileLimits(error_max=1e-12)
    with pytest.raises(NoRungFitsError, match=r"error \S+ above 1e-12"):
        build_package(
            request_of(make_pipeline(StandardScaler(), Ridge()), "diabetes", limits=limits)
        )
