"""One identity in two places: a table of cases, then laws."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.messages import Reported, Status
from fleet_server.core.clone_watch import BOOTS_MAX, BootMemory
from fleet_server.ports.gateway import DeviceState
from fleet_server.services.record_report import DeviceMessage, Folded, fold_messages

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Said:
    """Boot, sequence (0: a status), when it was met, and when its device says it was made."""

    boot: int
    sequence: int
    met_s: float
    made_s: float | None = None
    is_online: bool = True

    def message(self) -> DeviceMessage:
        if not self.sequence:
            return DeviceMessage(device=1, message=Status(is_online=self.is_online, boot=self.boot))
        made_s = self.met_s if self.made_s is None else self.made_s
        made_ms = int((NOW + timedelta(seconds=made_s)).timestamp() * 1_000)
        report = Reported(
            boot=self.boot, sequence=self.sequence, at_ms=made_ms, agent="1", slots={}
        )
        return DeviceMessage(device=1, message=report, text="{}")


def watch(said: list[Said]) -> str:
    """Fold one message a batch, as the gateway does; return the first evidence."""
    state = DeviceState()
    retired: tuple[str, ...] = ()
    for one in said:
        at = NOW + timedelta(seconds=one.met_s)
        stored = DeviceState(
            boot=state.boot,
            sequence=state.sequence,
            is_online=state.is_online,
            boots=BootMemory.decode(state.boots.encode()),
        )
        folded: Folded = fold_messages(stored, [one.message()], retired=retired, at=at)
        state, retired = folded.state, (*retired, *folded.retired)
        if folded.evidence:
            return folded.evidence
    return ""


RESTART = [Said(1, 0, 0), Said(1, 1, 0), Said(1, 2, 50), Said(2, 0, 100), Said(2, 1, 100)]
HOUR, YEAR = 3_600, 365 * 86_400

COPIES = {
    "a former boot speaks minutes after it was replaced": [*RESTART, Said(1, 3, 400)],
    "two take turns within seconds": [
        *RESTART,
        Said(1, 3, 105),
        Said(2, 2, 110),
        Said(1, 4, 115),
    ],
    "two take turns and both clocks stand in 1970": [
        *RESTART,
        Said(1, 3, 400, -56 * YEAR),
        Said(2, 2, 700, -56 * YEAR),
        Said(1, 4, 1_000, -56 * YEAR),
    ],
    "two take turns and the clock is a year ahead": [
        *RESTART,
        Said(1, 3, 400, YEAR),
        Said(2, 2, 700),
        Said(1, 4, 1_000, YEAR + HOUR),
    ],
    "three copies, the eldest comes back": [
        *RESTART,
        Said(3, 1, 200),
        Said(1, 3, 800),
    ],
}
HARMLESS = {
    "one boot": [Said(1, n, n * 60.0) for n in range(1, 20)],
    "a restart": RESTART,
    "many restarts": [Said(boot, n, boot * 600.0 + n) for boot in range(1, 40) for n in (0, 1, 2)],
    "the last will of the former boot": [*RESTART, Said(1, 0, 600, is_online=False)],
    "a retained status of the former boot": [*RESTART, Said(1, 0, 600)],
    "a restored broker delivers all once more": [
        *RESTART,
        *(Said(s.boot, s.sequence, 9_000, s.met_s) for s in RESTART),
    ],
    "a report from the broker's queue, late": [*RESTART, Said(1, 3, 1_000, 90)],
    "many from the queue, late": [*RESTART, *(Said(1, n, 1_000, 50 + n) for n in range(3, 40))],
    "late, and the new boot goes on": [
        *RESTART,
        Said(1, 3, 1_000, 90),
        *(Said(2, n, 1_000.0 + n) for n in range(2, 40)),
    ],
    "late once in each of many boots": [
        said
        for boot in range(1, 20)
        for said in (
            Said(boot, 1, boot * 600.0),
            Said(boot + 1, 1, boot * 600.0 + 500),
            Said(boot, 2, boot * 600.0 + 510, boot * 600.0 + 400),
        )
    ],
    "a late report with a clock a minute fast": [*RESTART, Said(1, 3, 1_000, 150)],
}


@pytest.mark.parametrize("said", COPIES.values(), ids=COPIES)
def test_a_copy_is_found(said: list[Said]) -> None:
    assert watch(said)


@pytest.mark.parametrize("said", HARMLESS.values(), ids=HARMLESS)
def test_what_happens_to_honest_devices_is_no_copy(said: list[Said]) -> None:
    assert not watch(said)


boots = st.integers(min_value=1, max_value=5)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=40), st.randoms())
def test_an_honest_device_is_never_accused_whatever_is_delivered_twice(
    lives: list[tuple[int, bool]], random: object
) -> None:
    """Boots in order, each with reports; anything said before may be delivered again, any time."""
    said: list[Said] = []
    at = 0.0
    for boot, (reports, _) in enumerate(lives, start=1):
        for sequence in range(1, reports + 1):
            at += 30
            said.append(Said(boot, sequence, at))
            if sequence % 3 == 0:
                index = random.randrange(len(said))  # type: ignore[attr-defined]
                old = said[index]
                said.append(Said(old.boot, old.sequence, at, old.met_s))
    assert not watch(said)


@given(st.integers(2, 6), st.integers(1, 20), st.floats(200, 5_000))
def test_two_that_take_turns_are_found_soon(turns: int, reports: int, pause_s: float) -> None:
    said, at = [], 0.0
    sequences = {1: 0, 2: 0}
    for turn in range(turns + 1):
        boot = 1 + turn % 2
        at += pause_s
        for _ in range(reports):
            sequences[boot] += 1
            said.append(Said(boot, sequences[boot], at))
    assert watch(said)


@given(st.lists(st.tuples(boots, st.integers(1, 5)), max_size=60))
def test_memory_is_bounded_and_survives_its_text(said: list[tuple[int, int]]) -> None:
    state = DeviceState()
    for n, (boot, sequence) in enumerate(said):
        message = Said(boot * 1_000 + n, sequence, n * 60.0).message()
        folded = fold_messages(state, [message], retired=(), at=NOW + timedelta(seconds=n * 60))
        state = folded.state
        assert len(state.boots.left) <= BOOTS_MAX
        assert BootMemory.decode(state.boots.encode()) == state.boots


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "[1]", '[1,[["a"]],0,""]', "\x00", "[[],2,3,4]"]
)
def test_a_memory_that_cannot_be_read_is_begun_anew(text: str) -> None:
    assert BootMemory.decode(text) == BootMemory()
