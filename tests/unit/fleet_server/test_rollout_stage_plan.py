"""Stages: who gets what when, and what cannot be honoured."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.core.stage_plan import StageError, StagePlan, parse_stages, plan_stages
from fleet_server.core.targeting import Candidate


def devices(counts: dict[str, int], *, offline: int = 0) -> list[Candidate]:
    made: list[Candidate] = []
    for profile, count in counts.items():
        for k in range(count):
            made.append(
                Candidate(
                    number=len(made) + 1,
                    id=f"{profile}-{k:04d}",
                    profile=profile,
                    is_online=k >= offline,
                )
            )
    return made


def plan(
    made: list[Candidate],
    stages: str,
    release: str = "digits/3",
    groups: dict[str, Callable[[Candidate], bool]] | None = None,
) -> StagePlan:
    return plan_stages(made, parse_stages(stages), release=release, groups=groups or {})


@pytest.mark.parametrize(
    ("count", "stages", "sizes"),
    [
        (100, "5%,25%,100%", [5, 20, 75]),
        (106, "5%,25%,100%", [6, 21, 79]),
        (3, "5%,25%,100%", [1, 1, 1]),
        (4, "5%,25%,100%", [1, 1, 2]),
        (2, "5%,25%,100%", [1, 1]),
        (1, "5%,25%,100%", [1]),
        (10, "100%", [10]),
        (10, "rest", [10]),
        (10, "2,5,rest", [2, 3, 5]),
        (10, "2,50%,rest", [2, 3, 5]),
        (10, "9,100%", [9, 1]),
        (10, "10,100%", [9, 1]),
        (1000, "0.5%,100%", [5, 995]),
    ],
)
def test_sizes(count: int, stages: str, sizes: list[int]) -> None:
    found = plan(devices({"camera": count}), stages)
    assert [len(stage.devices) for stage in found.stages] == sizes


def test_says_which_stages_a_small_group_cannot_have() -> None:
    found = plan(devices({"camera": 1}), "5%,25%,100%")
    assert [stage.name for stage in found.stages] == ["100%"]
    assert found.notes[0].startswith("stage 25% is left out: 3 stages need 3 devices, there is 1")


def test_every_profile_is_tried_in_the_first_stage_when_it_has_room() -> None:
    found = plan(devices({"camera": 90, "iot-gateway": 8, "onprem-server": 2}), "5%,100%")
    assert Counter(d.profile for d in found.stages[0].devices) == {
        "camera": 3,
        "iot-gateway": 1,
        "onprem-server": 1,
    }
    assert found.notes == ()


def test_profiles_are_in_proportion() -> None:
    found = plan(devices({"camera": 600, "iot-gateway": 300, "onprem-server": 100}), "10%,100%")
    share = Counter(d.profile for d in found.stages[0].devices)
    assert share == {"camera": 60, "iot-gateway": 30, "onprem-server": 10}


def test_says_which_profile_is_tried_late() -> None:
    found = plan(devices({"camera": 9, "iot-gateway": 1}), "1,5,100%")
    assert found.notes == ("profile iot-gateway is first tried in stage 2",)


def test_devices_online_at_planning_come_first() -> None:
    found = plan(devices({"camera": 20}, offline=15), "25%,100%")
    assert all(device.is_online for device in found.stages[0].devices)


def test_another_release_tries_other_devices_first_and_the_same_release_the_same() -> None:
    made = devices({"camera": 200})
    first, again = plan(made, "5%,100%"), plan(made[::-1], "5%,100%")
    other = plan(made, "5%,100%", release="digits/4")
    assert first.stages == again.stages
    assert first.stages[0].devices != other.stages[0].devices


def test_a_group_can_be_a_stage() -> None:
    made = devices({"camera": 8, "iot-gateway": 4})
    found = plan(made, "gateways,50%,100%", groups={"gateways": lambda d: "gateway" in d.profile})
    assert {d.profile for d in found.stages[0].devices} == {"iot-gateway"}
    assert [len(stage.devices) for stage in found.stages] == [4, 2, 6]


def test_a_group_without_devices_is_left_out_with_a_note() -> None:
    found = plan(devices({"camera": 8}), "nobody,100%", groups={"nobody": lambda _: False})
    assert [stage.name for stage in found.stages] == ["100%"]
    assert found.notes == ("stage nobody has no device of its own and is left out",)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("", "write a percentage"),
        ("5%,,100%", "write a percentage"),
        ("0%,100%", "above 0"),
        ("101%", "above 0 and at most 100"),
        ("0,100%", "a count is 1"),
        ("999999999,100%", "a count is 1"),
        ("25%,5%,100%", "must grow"),
        ("5%,5%,100%", "must grow"),
        ("5 %", "write a percentage"),
        (",".join(f"{k}%" for k in range(1, 22)), "the limit is 20"),
        ("1," * 2_000, "the limit is 2000"),
    ],
)
def test_refuses_stages(stages: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        parse_stages(stages)


def test_refuses_stages_that_leave_devices_in_none() -> None:
    with pytest.raises(StageError, match=r"75 of 100 devices are in no stage"):
        plan(devices({"camera": 100}), "5%,25%")


def test_refuses_an_unknown_group_and_no_devices() -> None:
    with pytest.raises(StageError, match="no group of that name"):
        plan(devices({"camera": 5}), "lab,100%")
    with pytest.raises(StageError, match="no device"):
        plan([], "100%")


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 60), min_size=1),
    st.lists(st.fractions(Fraction(1, 100), Fraction(99, 100)), max_size=5, unique=True),
    st.integers(0, 30),
)
def test_every_device_is_in_exactly_one_stage_and_none_is_empty(
    counts: dict[str, int], shares: list[Fraction], offline: int
) -> None:
    made = devices(counts, offline=offline)
    text = ",".join([f"{float(share):.2%}" for share in sorted(shares)] + ["100%"])
    try:
        stages = parse_stages(text)
    except StageError:
        return  # two shares that are the same to two digits
    found = plan_stages(made, stages, release="m/1", groups={})
    placed = [device.number for stage in found.stages for device in stage.devices]
    assert sorted(placed) == [device.number for device in made]
    assert all(stage.devices for stage in found.stages)
