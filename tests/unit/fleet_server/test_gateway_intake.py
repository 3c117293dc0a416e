"""What is made of a batch of messages: windows, reports, quarantine, acknowledgements."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.messages import (
    ACK_RANGES_MAX,
    AckRange,
    Reported,
    SlotReport,
    SlotState,
    Status,
)
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from edge_agent.contract.windows import Window, WindowFrame, encode_windows
from fleet_server.ports.gateway import DeviceChange, DeviceState, InboundMessage
from fleet_server.services.ingest_windows import (
    UNKNOWN_CHANNEL,
    merge_runs,
    plan_acknowledgements,
    sort_messages,
)
from fleet_server.services.record_report import DeviceMessage, RecordReports, fold_messages

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOOT = 0x2A
DEVICE, NUMBER = "cam-7", 7


class FakeDirectory:
    def find(self, device_id: str) -> int | None:
        return NUMBER if device_id == DEVICE else None


def window(sequence: int, stream: int = 0) -> Window:
    return Window(
        stream=stream,
        sequence=sequence,
        t0_ms=sequence,
        t1_ms=sequence,
        reference=b"r" * 8,
        artifact=b"a" * 8,
        rows=1,
        counters=b"",
    )


def inbound(channel: Channel, payload: bytes, device: str = DEVICE) -> InboundMessage:
    return InboundMessage(device_topic(device, channel), payload)


TELEMETRY = inbound(Channel.TELEMETRY, encode_windows(BOOT, [window(0), window(1)]))
STATUS = inbound(Channel.STATUS, Status(is_online=True, boot=BOOT).encode())


def report(sequence: int, boot: int = BOOT, *, state: SlotState = SlotState.CONFIRMED) -> Reported:
    return Reported(
        boot=boot, sequence=sequence, at_ms=0, agent="1", slots={"main": SlotReport(state=state)}
    )


def changed_report(**changes: object) -> bytes:
    document = json.loads(report(1).encode()) | changes
    return json.dumps(document).encode()


def test_a_batch_is_sorted_by_what_it_carries() -> None:
    said = sort_messages(
        [TELEMETRY, STATUS, inbound(Channel.REPORTED, report(1).encode())], FakeDirectory()
    )
    assert [(w.device, w.boot, w.window.sequence) for w in said.windows] == [
        (NUMBER, BOOT, 0),
        (NUMBER, BOOT, 1),
    ]
    assert [type(r.message) for r in said.reports] == [Status, Reported]
    assert (said.devices, said.quarantined) == ({NUMBER}, [])


@pytest.mark.parametrize(
    ("message", "channel", "reason"),
    [
        (inbound(Channel.TELEMETRY, b""), "tel", "shorter than its head"),
        (inbound(Channel.TELEMETRY, b"EFW9" + bytes(20)), "tel", "begins with b'EFW9'"),
        (inbound(Channel.TELEMETRY, TELEMETRY.payload[:-1]), "tel", "ends inside a window"),
        (inbound(Channel.TELEMETRY, TELEMETRY.payload + b"x"), "tel", "behind its end"),
        (inbound(Channel.TELEMETRY, bytes(262_145)), "tel", "limit is 262144"),
        (inbound(Channel.STATUS, b"{"), "status", "not JSON"),
        (inbound(Channel.STATUS, b'{"v":2}'), "status", "version 2.*upgrade"),
        (inbound(Channel.STATUS, b" " * 1_025), "status", "limit is 1024"),
        (inbound(Channel.STATUS, b"[]"), "status", "must be a JSON object"),
        (inbound(Channel.REPORTED, b"{}"), "reported", "version None"),
        (inbound(Channel.REPORTED, b'{"v":1}'), "reported", "missing"),
        (inbound(Channel.REPORTED, b"[" * 60_000), "reported", "not JSON"),
        (inbound(Channel.REPORTED, bytes(65_537)), "reported", "limit is 65536"),
        (inbound(Channel.REPORTED, changed_report(sequence=-1)), "reported", "sequence must be"),
        (
            inbound(Channel.REPORTED, changed_report(slots={"\ud800": {"state": "empty"}})),
            "reported",
            "not UTF-8",
        ),
        (
            inbound(Channel.REPORTED, report(1).encode().decode().encode("utf-16")),
            "reported",
            "not UTF-8",
        ),
        (inbound(Channel.ACK, b"{}"), "ack", "no command was sent"),
        (inbound(Channel.DESIRED, b"{}"), "desired", "devices do not speak"),
        (inbound(Channel.STATUS, STATUS.payload, device="cam-8"), "status", "not enrolled"),
        (InboundMessage("ef/v1/00/cam-7/up/tel", b""), "tel", "bucket '00' is not that of cam-7"),
        (InboundMessage("ef/v1/be/cam-7/up/hello", b""), UNKNOWN_CHANNEL, "unknown channel"),
        (InboundMessage("ef/v1/be/Cam_7/up/tel", b""), "tel", "device id"),
        (InboundMessage(META_TOPIC, b""), UNKNOWN_CHANNEL, "is not ef/v1"),
        (InboundMessage("\ud800", b""), UNKNOWN_CHANNEL, "is not ef/v1"),
    ],
)
def test_the_unusable_is_quarantined_with_its_reason_and_the_rest_goes_on(
    message: InboundMessage, channel: str, reason: str
) -> None:
    said = sort_messages([message, TELEMETRY], FakeDirectory())
    (bad,) = said.quarantined
    assert bad.channel == channel
    assert bad.payload == message.payload
    assert re.search(reason, bad.reason), bad.reason
    assert len(said.windows) == 2


@given(st.sampled_from(sorted(Channel)), st.binary(max_size=200))
def test_no_bytes_can_stop_the_stream(channel: Channel, payload: bytes) -> None:
    said = sort_messages([inbound(channel, payload), STATUS], FakeDirectory())
    assert len(said.reports) >= 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(("slots", "capabilities", "refusal", "boot", "outbox", "more")),
)
def test_no_json_can_stop_the_stream(value: object, name: str) -> None:
    payload = changed_report(**{name: value})
    said = sort_messages([inbound(Channel.REPORTED, payload), STATUS], FakeDirectory())
    assert 1 <= len(said.reports) <= 2
    for accepted in said.reports:
        accepted.text.encode()


def test_chunk_requests_are_left_to_the_other_connection() -> None:
    said = sort_messages([inbound(Channel.CHUNK_REQUEST, b"{}")], FakeDirectory())
    assert (said.quarantined, said.reports, said.windows) == ([], [], [])


# Acknowledgements


@pytest.mark.parametrize(
    ("numbers", "runs"),
    [([], []), ([5], [(5, 5)]), ([0, 1, 2], [(0, 2)]), ([1, 3, 4, 9], [(1, 1), (3, 4), (9, 9)])],
)
def test_runs_are_merged(numbers: list[int], runs: list[tuple[int, int]]) -> None:
    assert merge_runs(numbers) == runs


def test_acknowledgements_are_merged_per_device_boot_and_stream() -> None:
    frames = [
        ("a", WindowFrame(boot=1, windows=(window(3), window(4), window(0, stream=1)))),
        ("b", WindowFrame(boot=1, windows=(window(9),))),
        ("a", WindowFrame(boot=1, windows=(window(2), window(4)))),
        ("a", WindowFrame(boot=2, windows=(window(5),))),
    ]
    acks = dict(plan_acknowledgements(frames))
    assert acks["a"].ranges == (AckRange(1, 0, 2, 4), AckRange(1, 1, 0, 0), AckRange(2, 0, 5, 5))
    assert acks["b"].ranges == (AckRange(1, 0, 9, 9),)


def test_many_ranges_go_in_several_messages() -> None:
    frames = [
        ("a", WindowFrame(boot=1, windows=(window(2 * n),))) for n in range(ACK_RANGES_MAX + 1)
    ]
    acks = plan_acknowledgements(frames)
    assert [len(ack.ranges) for _, ack in acks] == [ACK_RANGES_MAX, 1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.integers(0, 30))))
def test_exactly_what_came_is_acknowledged(sent: list[tuple[str, int, int]]) -> None:
    frames = [(device, WindowFrame(boot=boot, windows=(window(n),))) for device, boot, n in sent]
    named = [
        (device, r.boot, n)
        for device, ack in plan_acknowledgements(frames)
        for r in ack.ranges
        for n in range(r.first, r.last + 1)
    ]
    assert sorted(named) == sorted(set(sent))


# Reports


def said(*messages: Status | Reported) -> list[DeviceMessage]:
    return [
        DeviceMessage(device=NUMBER, message=m, text=f"text {i}") for i, m in enumerate(messages)
    ]


def online(boot: int) -> Status:
    return Status(is_online=True, boot=boot)


def offline(boot: int) -> Status:
    return Status(is_online=False, boot=boot)


def hexed(boot: int) -> str:
    return f"{boot:016x}"


@pytest.mark.parametrize(
    ("messages", "boot", "sequence", "is_online", "text"),
    [
        ([online(1)], 1, 0, True, None),
        ([online(1), report(1, 1)], 1, 1, True, "text 1"),
        ([report(2, 1), report(1, 1)], 1, 2, False, "text 0"),  # the older report comes late
        ([report(2, 1), report(2, 1)], 1, 2, False, "text 0"),  # delivered twice
        ([report(9, 1), report(1, 2)], 2, 1, False, "text 1"),  # a new boot counts anew
        ([online(1), online(2), report(7, 1)], 2, 0, True, None),  # the old boot's last word
        ([online(1), online(2), offline(1)], 2, 0, True, None),  # the old boot's will comes late
        ([online(1), offline(1), online(1)], 1, 0, True, None),  # a link that broke
        ([report(3, 1), online(2)], 2, 0, True, "text 0"),  # the last report is not thrown away
        ([offline(3)], 3, 0, False, None),  # a boot nobody met, and it is over
    ],
)
def test_messages_fold_to_the_newest_boot_and_sequence(
    messages: list[Status | Reported],
    boot: int,
    sequence: int,
    is_online: bool,
    text: str | None,
) -> None:
    folded = fold_messages(DeviceState(), said(*messages), retired=())
    assert folded.state == DeviceState(boot=hexed(boot), sequence=sequence, is_online=is_online)
    assert (folded.report.text if folded.report else None) == text


def test_a_boot_that_was_left_behind_never_speaks_again() -> None:
    state = DeviceState(boot=hexed(2), sequence=4, is_online=True)
    late = said(offline(1), report(99, 1), online(1))
    folded = fold_messages(state, late, retired=[hexed(1)])
    assert (folded.state, folded.report, folded.retired) == (state, None, ())


def test_the_stored_boot_speaks_even_when_a_crash_retired_it() -> None:
    state = DeviceState(boot=hexed(2), sequence=4)
    folded = fold_messages(state, said(report(5, 2)), retired=[hexed(2)])
    assert folded.state.sequence == 5


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=12), st.data())
def test_late_copies_change_nothing(words: list[tuple[int, int]], data: st.DataObject) -> None:
    words.sort()
    whole = fold_messages(
        DeviceState(), said(*(report(sequence, boot) for boot, sequence in words)), retired=()
    )
    if words:
        again = data.draw(st.lists(st.sampled_from(words), max_size=6))
        late = said(*(report(sequence, boot) for boot, sequence in again))
        folded = fold_messages(whole.state, late, retired=whole.retired)
        assert folded.state == whole.state
        assert folded.report is None


@dataclass
class FakeRepository:
    states: dict[int, DeviceState] = field(default_factory=dict)
    saved: list[DeviceChange] = field(default_factory=list)
    is_broken: bool = False

    def load_states(self, devices: object) -> dict[int, DeviceState]:
        del devices
        return dict(self.states)

    def save_changes(self, changes: object, *, at: datetime) -> None:
        del at
        if self.is_broken:
            raise OSError
        assert isinstance(changes, list)
        self.saved.extend(changes)
        self.states |= {c.device: c.state for c in changes}

    def save_last_seen(self, devices: object, *, at: datetime) -> None: ...

    def mark_silent_offline(self, *, unseen_since: datetime) -> int:
        del unseen_since
        return 0


@dataclass
class FakeBoots:
    retired: list[tuple[int, str]] = field(default_factory=list)

    def retired_boots(self, devices: object) -> dict[int, tuple[str, ...]]:
        del devices
        return {NUMBER: tuple(boot for _, boot in self.retired)}

    def retire_boots(self, boots: object) -> None:
        assert isinstance(boots, list)
        self.retired.extend(boots)


def test_only_changes_are_written() -> None:
    repository = FakeRepository({NUMBER: DeviceState(boot=hexed(1), sequence=3, is_online=True)})
    records = RecordReports(repository, FakeBoots())
    assert records.apply(said(online(1), report(3, 1)), at=NOW) == 0
    assert repository.saved == []
    assert records.apply(said(report(4, 1)), at=NOW) == 1
    (change,) = repository.saved
    assert change.report is not None
    assert change.report.slots["main"].state is SlotState.CONFIRMED


def test_a_deleted_device_is_passed_over() -> None:
    assert RecordReports(FakeRepository(), FakeBoots()).apply(said(online(1)), at=NOW) == 0


def test_a_crash_between_retiring_and_saving_is_survived() -> None:
    repository = FakeRepository({NUMBER: DeviceState(boot=hexed(1), sequence=3)})
    boots = FakeBoots()
    records = RecordReports(repository, boots)
    repository.is_broken = True
    with pytest.raises(OSError):  # noqa: PT011 - the fake's own
        records.apply(said(report(1, 2)), at=NOW)
    repository.is_broken = False
    assert records.apply(said(report(4, 1), report(1, 2)), at=NOW) == 1
    assert repository.states[NUMBER] == DeviceState(boot=hexed(2), sequence=1)
    assert records.apply(said(report(5, 1)), at=NOW) == 0
