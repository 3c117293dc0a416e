"""When an agent asks for its next certificate, and what it does about every kind of answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.topics import Channel
from edge_agent.core.renewal_plan import (
    ANSWER_S,
    REST_S,
    RETRY_BASE_S,
    RETRY_CAP_S,
    CertificateFacts,
    find_wait_s,
)
from edge_agent.errors import EnrolmentError, StorageError
from edge_agent.ports import Lane
from edge_agent.renewal import Renewal
from tests.support.agent_world import PlayedLink
from tests.support.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 86_400.0
LIFE = timedelta(days=90)


@dataclass
class PlayedRenewer:
    facts: CertificateFacts = field(
        default_factory=lambda: CertificateFacts(
            serial="a1", not_before=START, not_after=START + LIFE
        )
    )
    clock: FakeClock = field(default_factory=FakeClock)
    problems: list[str] = field(default_factory=list)
    fault: Exception | None = None
    prepared: int = 0

    def prepare(self) -> str:
        if isinstance(self.fault, StorageError):
            raise self.fault
        self.prepared += 1
        return "request"

    def accept(self, certificate: str) -> CertificateFacts:
        if self.fault is not None:
            raise self.fault
        self.facts = CertificateFacts(
            serial=certificate, not_before=self.clock.now(), not_after=self.clock.now() + LIFE
        )
        return self.facts

    def follow_authorities(self, listed: tuple[str, ...], bundle: bytes) -> CertificateFacts:
        assert (listed, bundle) == ((), b"")
        return self.facts

    def note_problem(self, problem: str) -> None:
        self.problems.append(problem)


class Bench:
    """A renewal by itself; jobs are done at once, time moves when told."""

    def __init__(self, floor: datetime = START, now_at: datetime = START) -> None:
        self.clock, self.link = FakeClock(now_at), PlayedLink()
        self.renewer = PlayedRenewer(clock=self.clock)
        self.link.is_connected = True
        self.renewal = Renewal(
            self.renewer,
            clock=self.clock,
            jitter=lambda: 0.0,
            jobs=self,
            link=self.link,
            find_floor=lambda: floor,
        )

    def submit(self, lane: Lane, job: Callable[[], object]) -> None:
        assert lane is Lane.DISK
        event = job()
        if event is not None:
            self.renewal.handle(event)

    def run(self, seconds: float, *, step_s: float = 60) -> None:
        for _ in range(int(seconds / step_s)):
            self.clock.advance(step_s)
            self.renewal.tick()

    @property
    def asked(self) -> list[RenewRequest]:
        return [RenewRequest.decode(p) for c, p in self.link.sent if c is Channel.RENEW]

    def answer(self, **fields: object) -> None:
        self.renewal.on_answer(CertificateAnswer(**{"serial": "a1", **fields}).encode())  # type: ignore[arg-type]


def at_two_thirds() -> Bench:
    bench = Bench()
    bench.clock.advance(60 * DAY_S)
    bench.renewal.tick()
    return bench


def test_it_asks_at_two_thirds_and_not_before() -> None:
    bench = Bench()
    bench.clock.advance(60 * DAY_S - 1)
    bench.renewal.tick()
    assert bench.asked == []
    bench.clock.advance(1)
    bench.renewal.tick()
    assert [(r.serial, r.csr) for r in bench.asked] == [("a1", "request")]
    bench.answer(certificate="b2")
    assert bench.renewal.report == {"serial": "b2"}


def test_a_clock_of_1970_counts_from_what_was_signed_last() -> None:
    bench = Bench(START + timedelta(days=61), now_at=datetime(1970, 1, 1, tzinfo=UTC))
    bench.renewal.tick()
    assert len(bench.asked) == 1


def test_a_clock_far_ahead_does_not_ask_without_end() -> None:
    bench = Bench()
    bench.clock.advance(10 * 365 * DAY_S)
    bench.renewer.facts = CertificateFacts(serial="a1", not_before=START, not_after=START + LIFE)
    bench.renewal.tick()
    bench.renewer.clock = FakeClock(START)  # what the server signs is long over for this clock
    bench.answer(certificate="b2")
    bench.run(REST_S - 120)
    assert len(bench.asked) == 1
    bench.run(180)
    assert len(bench.asked) > 1


def test_without_a_connection_it_waits_for_one() -> None:
    bench = Bench()
    bench.link.is_connected = False
    bench.clock.advance(61 * DAY_S)
    bench.run(3_600)
    assert bench.renewer.prepared == 0
    bench.link.is_connected = True
    bench.renewal.tick()
    assert len(bench.asked) == 1


def test_a_lost_answer_is_asked_for_again_and_told() -> None:
    bench = at_two_thirds()
    bench.run(ANSWER_S + RETRY_BASE_S + 5, step_s=1)
    assert len(bench.asked) == 2
    assert bench.renewal.report["problem"] == "the server did not answer"
    bench.answer(certificate="b2")
    assert bench.renewal.report == {"serial": "b2"}
    assert bench.renewer.problems == ["the server did not answer"]


def test_a_refusal_is_told_and_tried_again_when_the_server_says() -> None:
    bench = at_two_thirds()
    bench.answer(code="too-often", detail="5 certificates within a day", retry_after_s=7_200)
    assert bench.renewal.report["problem"] == "too-often: 5 certificates within a day"
    bench.run(7_100)
    assert len(bench.asked) == 1
    bench.run(180)
    assert len(bench.asked) > 1


def test_an_answer_to_an_earlier_certificate_changes_nothing() -> None:
    bench = at_two_thirds()
    bench.answer(serial="99", certificate="c3")
    bench.answer(serial="99", code="unknown-serial", detail="")
    assert bench.renewal.report == {"serial": "a1"}


@pytest.mark.parametrize("fault", ["disk", "certificate"])
def test_what_cannot_be_kept_leaves_the_former_certificate_in_use(fault: str) -> None:
    bench = at_two_thirds()
    bench.renewer.fault = (
        StorageError(Code.DISK_FULL, "no room")
        if fault == "disk"
        else EnrolmentError("the certificate is for another name or key")
    )
    bench.answer(certificate="b2")
    assert bench.renewal.report["serial"] == "a1"
    assert bench.renewal.report["problem"]
    bench.renewer.fault = None
    bench.run(ANSWER_S + 2 * RETRY_BASE_S + 60, step_s=5)
    bench.answer(certificate="b2")
    assert bench.renewal.report == {"serial": "b2"}


@given(st.binary(max_size=200))
def test_no_answer_can_harm(payload: bytes) -> None:
    bench = at_two_thirds()
    bench.renewal.on_answer(payload)
    assert bench.renewal.report["serial"] == "a1"


def test_an_agent_without_an_identity_on_disk_never_asks() -> None:
    bench = Bench()
    inert = Renewal(
        None,
        clock=bench.clock,
        jitter=lambda: 0.0,
        jobs=bench,
        link=bench.link,
        find_floor=lambda: START,
    )
    bench.clock.advance(1_000 * DAY_S)
    inert.tick()
    inert.on_answer(b"{}")
    assert inert.report == {}
    assert bench.link.sent == []


@given(st.integers(1, 200), st.floats(0, 0.999), st.floats(-100, 100))
def test_waits_are_bounded_and_never_none(tries: int, jitter: float, left_days: float) -> None:
    wait_s = find_wait_s(tries, jitter=jitter, left=timedelta(days=left_days))
    assert RETRY_BASE_S <= wait_s <= RETRY_BASE_S + RETRY_CAP_S


@pytest.mark.parametrize(
    "fields",
    [
        {"csr": "x" * 9_000, "serial": "a1"},
        {"csr": "x", "serial": "../../etc"},
        {"csr": "x", "serial": "a" * 41},
        {"csr": "x"},
        {"csr": 7, "serial": "a1"},
        {"csr": "x", "serial": "a1", "v": 2},
    ],
)
def test_a_request_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        RenewRequest.decode(json.dumps({"v": 1, **fields}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"serial": "a1"},
        {"serial": "a1", "certificate": "x", "code": "too-often"},
        {"serial": "a1", "code": "too-often", "retry_after_s": 10**9},
        {"serial": "zz", "code": "too-often"},
        {"serial": "a1", "certificate": "x" * 9_000},
    ],
)
def test_an_answer_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        CertificateAnswer.decode(json.dumps({"v": 1, **fields}).encode())
