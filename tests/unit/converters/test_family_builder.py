"""Members of a family are filled in, and whoever that does not suit is converted anew."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from converters.errors import NoRungFitsError
from converters.families import member_converter
from converters.families.family_builder import BuiltMember, FamilyBuilder
from converters.families.graph_template import GraphTemplate
from converters.families.member_converter import MemberConverter, Way
from converters.request import BuildRequest, Effort, ProfileLimits
from device_profiles.catalog import load_profile
from edge_agent.contract.package import EVIDENCE, unpack_members
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

PROFILE = load_profile("onprem-server")
SCHEMA = ModelSchema(
    model="member",
    task=Task.REGRESSION,
    features=(Feature(name="x"),),
    outputs=(Output(name="value", role=Role.VALUE),),
)
FAR = 1e6
"""A column this far from zero has no room in float32 for what the model subtracts."""


def ask(
    seed: int, *, at: float = 0.0, rows_off_max: float | None = None, error_max: float | None = None
) -> BuildRequest:
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(120, 1)) + at).astype(np.float32).astype(np.float64)
    targets = (rows[:, 0] - at) * (1 + seed) + 0.01 * random.normal(size=120)
    return BuildRequest(
        estimator=LinearRegression().fit(rows, targets),
        schema=SCHEMA,
        profile=PROFILE,
        calibration=rows[:80],
        holdout=rows[80:],
        holdout_targets=targets[80:],
        effort=Effort.BRIEF,
        limits=ProfileLimits(rows_off_max=rows_off_max, error_max=error_max),
    )


@pytest.fixture
def builder() -> FamilyBuilder:
    builder = FamilyBuilder()
    built = [builder.build(ask(seed)) for seed in range(3)]
    assert [one.way for one in built] == [Way.FULL, Way.FULL, Way.FILLED]
    assert [bool(one.reason) for one in built] == [True, True, False]
    return builder


def evidence(built: BuiltMember) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(unpack_members(built.package.blob)[EVIDENCE])
    return found


def test_a_filled_member_that_breaks_a_limit_is_converted_anew_in_full(
    builder: FamilyBuilder,
) -> None:
    built = builder.build(ask(3, at=FAR, rows_off_max=0.0, error_max=1e-5))
    assert built.way is Way.FULL
    assert built.reason == "filled in it broke a limit"
    assert built.package.max_abs_error < 1e-5
    found = evidence(built)
    assert found["context"]["graph"] == str(Way.FULL)
    assert found["repairs"] == ["everything runs in float64"]
    assert [one["way"] for one in found["tries"]] == ["plain", "everything runs in float64"]
    assert builder.build(ask(4)).way is Way.FILLED


def test_a_filled_member_within_the_limits_but_not_exact_is_converted_anew(
    builder: FamilyBuilder,
) -> None:
    built = builder.build(ask(3, at=FAR, rows_off_max=1.0))
    assert built.way is Way.FULL
    assert evidence(built)["parity"]["rows_off"] == 0


def test_a_member_that_no_way_suits_is_refused_and_the_next_is_not(
    builder: FamilyBuilder,
) -> None:
    with pytest.raises(NoRungFitsError, match="error"):
        builder.build(ask(3, at=FAR, error_max=1e-12))
    assert builder.build(ask(4)).way is Way.FILLED


def test_the_evidence_of_a_filled_member_has_no_other_members_figures(
    builder: FamilyBuilder,
) -> None:
    built = builder.build(ask(5))
    assert evidence(built)["context"]["graph"] == str(Way.FILLED)
    assert evidence(built)["tries"] == []


def test_now_and_then_a_member_is_converted_both_ways_and_a_difference_ends_the_template(
    builder: FamilyBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_converter, "CHECK_EVERY", 3)
    ways = [builder.build(ask(seed)).way for seed in range(3, 6)]
    assert ways == [Way.FILLED, Way.CHECKED, Way.FILLED]
    other = MemberConverter().convert(ask(9).estimator, SCHEMA, PROFILE, ask(9).holdout).model
    monkeypatch.setattr(GraphTemplate, "render", lambda *_: other)
    request = ask(6, rows_off_max=1.0, error_max=1e9)
    assert builder.build(request).way is Way.FULL, "its answers were another member's"
    monkeypatch.setattr(member_converter, "CHECK_EVERY", 1)
    assert builder.build(ask(7)).way is Way.FULL
    built = builder.build(ask(8))
    assert built.way is Way.FULL, "the template is given up"
    assert "other bytes" in built.reason
