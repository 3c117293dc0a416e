"""Small rules about devices: durations, labels, states, what is shown."""

from datetime import UTC, datetime, timedelta

import pytest

from fleet_server.errors import MisuseError
from fleet_server.ports.devices import DeviceRecord, SlotRecord
from fleet_server.services.add_device import LABELS_MAX, check_labels, parse_ttl
from fleet_server.services.inspect_packages import hash_chunks
from fleet_server.services.list_devices import (
    DeviceFilter,
    name_version,
    state_of,
    tell_age,
    view_device,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEVICE = DeviceRecord(number=1, id="cam-1", profile="camera", created_at=NOW, labels={"site": "a"})


def with_changes(**changes: object) -> DeviceRecord:
    values = {name: getattr(DEVICE, name) for name in DeviceRecord.__slots__}
    return DeviceRecord(**{**values, **changes})


@pytest.mark.parametrize(
    ("text", "ttl"),
    [
        ("1m", timedelta(minutes=1)),
        ("90m", timedelta(minutes=90)),
        ("24h", timedelta(days=1)),
        ("30d", timedelta(days=30)),
    ],
)
def test_durations_are_read(text: str, ttl: timedelta) -> None:
    assert parse_ttl(text) == ttl


@pytest.mark.parametrize("text", ["", "0m", "24", "1w", "31d", "-1h", "1.5h", "999999999d", "1h "])
def test_other_durations_are_misuse(text: str) -> None:
    with pytest.raises(MisuseError):
        parse_ttl(text)


def test_labels_have_a_limit() -> None:
    assert len(check_labels({f"l{n}": "v" for n in range(LABELS_MAX)})) == LABELS_MAX
    with pytest.raises(MisuseError, match="the limit is 64"):
        check_labels({f"l{n}": "v" for n in range(LABELS_MAX + 1)})


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "not joined"),
        ({"enrolled_at": NOW}, "never seen"),
        ({"enrolled_at": NOW, "last_seen_at": NOW}, "offline"),
        ({"enrolled_at": NOW, "last_seen_at": NOW, "is_online": True}, "online"),
        ({"enrolled_at": NOW, "is_online": True, "revoked_at": NOW}, "revoked"),
    ],
)
def test_a_device_has_one_state(changes: dict[str, object], state: str) -> None:
    device = with_changes(**changes)
    assert state_of(device) == state
    assert DeviceFilter(state=state).lets_through(device)


@pytest.mark.parametrize(
    ("wanted", "is_listed"),
    [
        (DeviceFilter(), True),
        (DeviceFilter(profile="camera"), True),
        (DeviceFilter(profile="iot-gateway"), False),
        (DeviceFilter(labels={"site": "a"}), True),
        (DeviceFilter(labels={"site": "b"}), False),
        (DeviceFilter(labels={"lane": ""}), False),
        (DeviceFilter(state="online"), False),
    ],
)
def test_each_part_of_a_filter_decides(wanted: DeviceFilter, is_listed: bool) -> None:
    assert wanted.lets_through(DEVICE) is is_listed


def test_the_refusal_of_a_whole_assignment_is_shown_before_that_of_a_slot() -> None:
    slot = SlotRecord(
        slot="digits",
        state="failed",
        running_target="",
        desired_target="digits/3/camera.tar",
        code="selftest-golden",
        detail="row 3",
        changed_at=NOW,
    )
    assert view_device(DEVICE, [slot]).refusal == "selftest-golden row 3"
    refused = with_changes(refusal={"code": "tuf-expired", "detail": "timestamp"})
    assert view_device(refused, [slot]).refusal == "tuf-expired timestamp"
    assert view_device(refused, [slot]).since_at == NOW


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_199, "1 h"), (86_400, "1 d"), (-5, "0 s")],
)
def test_ages_are_told_in_one_unit(seconds: float, words: str) -> None:
    assert tell_age(NOW, NOW + timedelta(seconds=seconds)) == words


def test_targets_are_told_by_model_and_version() -> None:
    assert [name_version(t) for t in ("digits/3/camera.tar", "", "odd")] == ["digits@3", "", ""]


def test_chunk_hashes_tell_packages_apart_at_the_chunk_s_edge() -> None:
    sizes = (0, 1, 65_535, 65_536, 65_537)
    assert len({hash_chunks(b"x" * size) for size in sizes}) == len(sizes)
