"""One world that every attack is tried in, and the law that every attack is held to.

A real workspace, a real device that runs ``plant`` 1 by assignment 5, and ``plant`` 2 and 3
approved after that. ``AttackSuite`` collects the attacks of one kind of attacker; a test runs each
in a fresh copy of the world with ``hold``.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.messages import SlotState
from fleet_server.bootstrap import open_fleet
from fleet_server.workspace import Workspace
from tests.support.attack_clock import WallClock
from tests.support.attack_device import SLOT, Answer, Device, PackageServer
from tests.support.attack_server import (
    DEVICE,
    FLEET,
    PROFILE,
    TARGETS,
    V1,
    V2,
    AttackedServer,
    package,
)

DAY_S = 86_400
REPORT = "device's report"
AUDIT = "audit log"
IGNORED = "nothing moves"
"""Nothing to refuse: the next report says the same as before, and no code."""
DELAYED = "delay only"
"""The report says that the update is still under way."""
RECOVERED = "recovered"
"""It hurts, until the humans do what the attack's line says; then updates work again."""
ALLOWED = "allowed"
"""By design; the report shows it."""
DETOUR = "fetched as it is"
"""The honest package comes all the same, by itself; the report says why."""
OUTCOMES = (IGNORED, DELAYED, RECOVERED, ALLOWED, DETOUR)
Act = Callable[[Any], str | None]
"""Tries an attack in a world of its kind; see ``Attack.act``."""
TOLD = "told to the person"
"""Seen by whoever runs the command: the sentence says what is wrong and what to do."""


class AttackWorld:
    """Server, device and what lies between them."""

    def __init__(self, server: AttackedServer, device: Device, answers: dict[str, Answer]) -> None:
        self.server, self.device = server, device
        self.answers = answers
        self.rightful = V1
        self.retained: tuple[dict[str, bytes], bytes] | None = None

    @classmethod
    def create(cls, directory: Path) -> "AttackWorld":
        """Make the world all others are copies of."""
        now = datetime.now(UTC).replace(microsecond=0)
        server = AttackedServer.create(directory / "fleet", WallClock(now))
        server.approver.approve("plant", 1)
        device = _make_device(directory, server.repository.root(), now)
        world = cls(server, device, {})
        device.start()
        for number, target in enumerate((V2, V1), start=4):
            if target == V2:
                server.approver.approve("plant", 2)
            world.update(target, number)
            world.answers[target] = device.ask()
        assert world.answers[V1].probabilities != world.answers[V2].probabilities
        server.approver.approve("plant", 3)
        return world

    def copy(self, directory: Path) -> "AttackWorld":
        """Go on from here in another directory; the device begins another life there."""
        former = self.device.directory.parent
        shutil.copytree(former, directory, symlinks=True)
        now = self.server.clock.now()
        clock = WallClock(now)
        workspace = Workspace(root=directory / "fleet", config=self.server.workspace.config)
        server = AttackedServer(open_fleet(workspace, clock), clock)
        device = _make_device(directory, self.device.root, now)
        device.boots = self.device.boots
        world = AttackWorld(server, device, dict(self.answers))
        world.retained = self.retained
        device.start()
        return world

    def update(self, target: str, counter: int) -> None:
        """Let the device take an honest assignment through to its end."""
        self.retained = self.server.refresh(), self.server.order(target, counter)
        self.device.deliver(*self.retained, for_s=3)
        assert self.device.ask().target == target
        assert self.device.reports[-1].assignment_counter == counter
        self.rightful = target

    def restart(self) -> None:
        """Cut the device's power; the broker then delivers again what it last was told."""
        self.device.restart()
        if self.retained is not None:
            self.device.deliver(*self.retained, for_s=3)

    def advance(self, *, days: float) -> None:
        """Let time pass for server and device."""
        self.server.clock.advance(days * DAY_S)
        self.device.clock.advance(days * DAY_S)

    def turn_back(self, *, days: float) -> None:
        """Put both clocks on the wall back to where they were."""
        for clock in (self.server.clock, self.device.clock):
            clock.turn_to(clock.now() - timedelta(days=days))

    def close(self) -> None:
        """Let go of what is held open."""
        self.device.close()
        if "engine" in vars(self.server.opened):
            self.server.opened.engine.dispose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attempt of one kind of attacker.

    Attributes:
        holder: What the attacker has.
        attempt: What is tried, a sentence without a subject.
        stop: What stops it.
        code: How it is refused.
        seen: Where it is to be seen afterwards: in the device's report, or as an act of the
            audit log.
        act: Tries it; where no device refuses, returns how it was refused.
        ruins_server: The server's metadata cannot be used honestly afterwards.
    """

    holder: str
    attempt: str
    stop: str
    code: str
    seen: str
    act: Act
    ruins_server: bool = False


class AttackSuite:
    """The attacks of one kind of attacker, in the order of the file."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.attacks: list[Attack] = []

    def __call__(
        self, code: str, *, seen: str = REPORT, ruins_server: bool = False
    ) -> Callable[[Act], Act]:
        """Register a function: its name is the attempt, its docstring what stops it."""

        def register(function: Act) -> Act:
            assert function.__doc__, function.__name__
            self.attacks.append(
                Attack(
                    holder=self.holder,
                    attempt=function.__name__.replace("_", " "),
                    stop=" ".join(function.__doc__.split()),
                    code=str(code),
                    seen=seen,
                    act=function,
                    ruins_server=ruins_server,
                )
            )
            return function

        return register

    def cases(self) -> pytest.MarkDecorator:
        """Parametrize a test over the attacks registered so far."""
        return pytest.mark.parametrize("attack", self.attacks, ids=lambda a: a.attempt)


def hold(world: AttackWorld, attack: Attack) -> None:
    """Try an attack: it is refused by its code, seen, and what answered before still does."""
    device, server = world.device, world.server
    assert device.ask() == world.answers[world.rightful]
    acts_before = len(server.audit_rows()) if attack.seen.startswith(AUDIT) else 0
    counter = device.agent.state.accepted.counter
    refused = attack.act(world)
    assert device.ask() == world.answers[world.rightful]
    if attack.seen == REPORT:
        _check_report(world, attack.code, counter)
    elif not attack.seen.startswith(AUDIT):
        assert refused == attack.code
    else:
        acts = [row.act for row in server.audit_rows()[acts_before:]]
        assert (refused, attack.seen) in [(attack.code, f"{AUDIT}: {act}") for act in acts]
    if not attack.ruins_server:
        device.serve = device.serve_honestly
        world.update(V1, device.agent.state.accepted.counter + 1_000)
        assert device.reports[-1].refusal is None
        assert device.ask() == world.answers[V1]


def _check_report(world: AttackWorld, code: str, counter: int) -> None:
    device = world.device
    if code not in OUTCOMES:
        assert device.said_codes() == {code}
        return
    device.disconnect()
    device.connect()
    last = device.reports[-1]
    running, state = last.slots[SLOT].running, last.slots[SLOT].state
    assert last.refusal is None
    assert running is not None
    assert running.target == world.rightful
    assert state is (SlotState.FETCHING if code == DELAYED else SlotState.CONFIRMED)
    assert code == RECOVERED or device.said_codes() == set()
    assert code != IGNORED or last.assignment_counter == counter


def _make_device(directory: Path, root: bytes, now: datetime) -> Device:
    return Device(
        directory / "device",
        root=root,
        clock=WallClock(now),
        device_id=DEVICE,
        fleet=FLEET,
        profile=PROFILE,
        serve=PackageServer(package(path) for path in TARGETS),
    )
