"""The order in which revoked devices are shut out, whatever fails in between."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Any

from fleet_server.ports.certificates import RevokedPair, WantedCut
from fleet_server.services.end_sessions import AGAIN, SessionEnder
from tests.support.clock import FakeClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAIR = RevokedPair(certificate=b"", key=b"")


class Waiter(Event):
    """Waiting moves the clock instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.advance(timeout or 0)
        return False


@dataclass
class Everything:
    """Database, list and broker in one; ``log`` is what happened in its order."""

    cuts: list[WantedCut] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    reads_after: int = 2
    """Probes until the broker has read the list."""
    can_cut: bool = True
    can_clear: bool = True

    @contextmanager
    def ledgers(self) -> Iterator[Any]:
        yield self

    @property
    def devices(self) -> "Everything":
        return self

    certificates = audit = devices

    def list_cuts(self, limit: int) -> list[WantedCut]:
        return self.cuts[:limit]

    def finish_cut(self, cut: WantedCut) -> bool:
        self.log.append(f"finish {cut.device_id}")
        self.cuts.remove(cut)
        return True

    def append(self, *, act: str, subject: str, **_: object) -> None:
        self.log.append(f"{act} {subject}")

    def list_unlisted(self, _limit: int) -> list[str]:
        return list(self.unlisted)

    def mark_listed(self, serials: Sequence[str], *, at: datetime) -> None:
        assert at == NOW or at > NOW
        self.unlisted = [s for s in self.unlisted if s not in serials]

    def revoke(self, serials: Sequence[str]) -> None:
        self.log.append(f"list {list(serials)}")

    def revoke_probe(self, serials: Sequence[str]) -> RevokedPair:
        self.log.append(f"list {list(serials)} and probe")
        return PAIR

    def refuses(self, _pair: RevokedPair) -> bool:
        self.reads_after -= 1
        return self.reads_after < 0

    def cut(self, device_id: str) -> bool:
        self.log.append(f"cut {device_id}")
        return self.can_cut

    def clear_desired(self, device_ids: Sequence[str]) -> bool:
        self.log.append(f"clear {list(device_ids)}")
        return self.can_clear


def a_cut(number: int, *, is_revoked: bool = True) -> WantedCut:
    return WantedCut(device=number, device_id=f"cam-{number}", wanted_at=NOW, is_revoked=is_revoked)


def an_ender(world: Everything, *, is_list_read: bool = True) -> tuple[SessionEnder, FakeClock]:
    clock = FakeClock(NOW)
    ender = SessionEnder(
        ledgers=world.ledgers,
        revocations=world,
        broker=world,
        clock=clock,
        stop=Waiter(clock),
        is_list_read=is_list_read,
    )
    return ender, clock


def test_nothing_is_cut_before_the_broker_refuses_what_was_revoked() -> None:
    world = Everything([a_cut(1), a_cut(2, is_revoked=False)], ["ab"])
    ender, _ = an_ender(world)
    assert ender.step()
    assert world.log == [
        "list ['ab'] and probe",
        "cut cam-1",
        "cut cam-2",
        "clear ['cam-1']",
        "finish cam-1",
        "device.cut cam-1",
        "finish cam-2",
        "device.cut cam-2",
    ]
    assert not ender.step()
    assert ender.done == 2


def test_a_broker_that_does_not_read_the_list_loses_the_session_but_nothing_is_noted() -> None:
    world = Everything([a_cut(1)], ["ab"], reads_after=10**6)
    ender, clock = an_ender(world)
    ender.step()
    assert world.log == ["list ['ab'] and probe", "cut cam-1", "clear ['cam-1']"]
    assert world.cuts, "it is still wanted"
    assert not ender.step(), "not at once again"
    clock.advance(AGAIN.total_seconds())
    world.reads_after = 0
    assert ender.step()
    assert not world.cuts


def test_what_could_not_be_cut_or_cleared_is_tried_again() -> None:
    for fault in ("can_cut", "can_clear"):
        world = Everything([a_cut(1)])
        setattr(world, fault, False)
        ender, clock = an_ender(world)
        ender.step()
        assert world.cuts
        setattr(world, fault, True)
        clock.advance(AGAIN.total_seconds())
        ender.step()
        assert not world.cuts


def test_a_broker_without_tls_reads_no_list() -> None:
    world = Everything([a_cut(1)], reads_after=10**6)
    ender, _ = an_ender(world, is_list_read=False)
    ender.step()
    assert not world.cuts
    assert not any("probe" in line for line in world.log)


def test_replaced_certificates_reach_the_list_without_hurry() -> None:
    world = Everything(unlisted=["ab", "cd"])
    ender, _ = an_ender(world)
    assert ender.list_revoked() == 2
    assert world.log == ["list ['ab', 'cd']"]
    assert ender.list_revoked() == 0
