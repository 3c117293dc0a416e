"""Models answer in this process, candidates on trial in a child: real processes and signals."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from device_profiles.catalog import load_profile
from device_profiles.profile import Serving as Place
from edge_agent import serving_host, serving_places
from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.listening import listen
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.contract.messages import SlotState
from edge_agent.core.agent_state import AgentState
from edge_agent.core.banks import Bank, Banks
from edge_agent.core.release import Package
from edge_agent.core.slot import Slot
from edge_agent.serving_config import ServingConfig
from edge_agent.serving_host import make_serving_host
from edge_agent.serving_places import TwoPlaces
from edge_agent.settings import AgentSettings
from tests.support.serving import BuiltPackage, build_classifier
from tests.support.serving_worker import QuickClient, is_gone
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from edge_agent.agent_jobs import SlotEvent

ONE, TWO = build_classifier(seed=1), build_classifier(seed=2)
NTH = 5
DEADLY = f"""
import signal, sys
from edge_agent import serving_worker
from edge_agent.adapters.served_model import ServedModel
count, predict = 0, ServedModel.predict
def crash(self, *args, **fields):
    global count
    if "/2/" in self.target:
        count += 1
        if count == {NTH}:
            signal.raise_signal(signal.SIGSEGV)  # this thread, now
    return predict(self, *args, **fields)
ServedModel.predict = crash
sys.exit(serving_worker.main())
"""


class Places:
    """The host of one slot, and an agent's state that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.outbox = Outbox(directory / "outbox.db")
        self.blobs = directory / "blobs"
        self.blobs.mkdir()
        self.state = AgentState()
        self.told: list[Any] = []
        sockets = listen("127.0.0.1", 0)
        self.port = int(sockets[0].getsockname()[1])
        host = make_serving_host(
            ServingConfig(
                directory=directory,
                boot=7,
                settings=replace(AgentSettings(), http_port=self.port, window_s=3_600),
                profile=replace(load_profile("camera"), serving=Place.IN_PROCESS),
            ),
            sockets,
            DirectoryBlobStore(self.blobs),
            self.outbox,
            clock=SystemClock(),
            give=self.told.append,
            find_state=lambda: self.state,
        )
        assert isinstance(host, TwoPlaces)
        self.host = host
        self.host.start()

    def commit(self, phase: SlotState, confirmed: BuiltPackage, other: BuiltPackage | None) -> None:
        """Write the state as the agent commits it before it activates anything."""
        banks = Banks(a=package(confirmed, 1), confirmed=Bank.A)
        candidate = None
        if other is not None:
            banks, candidate = replace(banks, b=package(other, 2)), Bank.B
        self.state = AgentState(slots={"main": Slot(phase=phase, banks=banks, candidate=candidate)})

    def activate(self, built: BuiltPackage, version: int) -> None:
        (self.blobs / built.sha256).write_bytes(built.blob)
        target = package(built, version).target
        self.host.activate("main", blob=built.blob, target=target, sha256=built.sha256)

    def confirm_one(self) -> None:
        self.commit(SlotState.CONFIRMED, ONE, None)
        self.activate(ONE, 1)

    def try_two(self) -> None:
        self.commit(SlotState.PROBATION, ONE, TWO)
        self.activate(TWO, 2)

    def confirm_two(self) -> None:
        self.commit(SlotState.CONFIRMED, TWO, None)

    def ask(self) -> str:
        with contextlib.closing(QuickClient(self.port)) as client:
            return client.ask()

    def events(self) -> list[str]:
        return [type(one.event).__name__ for one in self.slot_events()]

    def slot_events(self) -> "list[SlotEvent]":
        return [one for one in self.told if hasattr(one, "event")]

    def close(self) -> None:
        self.host.stop()
        self.outbox.close()


def package(built: BuiltPackage, version: int) -> Package:
    return Package(target=f"plant/{version}/camera.tar", sha256=built.sha256)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    places = Places(tmp_path)
    try:
        yield places
    finally:
        places.close()


def test_a_candidate_answers_in_a_child_until_it_is_confirmed(places: Places) -> None:
    places.confirm_one()
    assert (places.ask(), places.host.worker_pid) == ("1", None)
    places.try_two()
    child = places.host.worker_pid
    assert child is not None
    assert places.ask() == "2"
    wait_until(lambda: places.host.probation_stats("main").rows == 1)
    places.confirm_two()
    wait_until(lambda: places.host.worker is None and is_gone(child))
    assert places.ask() == "2"
    wait_until(lambda: places.events() == ["Answering"])
    wait_until(lambda: places.outbox.counts()["waiting"] >= 2)
    boots = {boot for boot, _ in places.outbox.pending(10)}
    assert len(boots) == 2, "two sides marked windows alike"


@pytest.mark.parametrize("how", ["at its nth request", "killed"])
def test_a_candidate_that_ends_its_process_is_rolled_back_and_this_one_lives(
    places: Places, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(serving_host, "PLAIN_COMMAND", (sys.executable, "-c", DEADLY))
    places.confirm_one()
    places.try_two()
    child = places.host.worker_pid
    assert child is not None
    if how == "killed":
        os.kill(child, signal.SIGILL)
    else:
        with contextlib.suppress(AssertionError, OSError):
            for _ in range(NTH):
                assert places.ask() == "2"
    wait_until(lambda: "ServingLost" in places.events())
    places.commit(SlotState.ROLLING_BACK, ONE, None)
    places.activate(ONE, 1)
    assert places.ask() == "1"
    places.commit(SlotState.FAILED, ONE, None)
    wait_until(lambda: places.host.worker is None)
    assert places.ask() == "1"
    wait_until(lambda: places.events()[-1] == "Answering")


def test_a_move_back_without_memory_is_tried_again(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_places, "AGAIN_S", 0.1)
    tries: list[int] = []
    read = DirectoryBlobStore.read

    def read_short(store: DirectoryBlobStore, sha256: str) -> bytes:
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        return read(store, sha256)

    monkeypatch.setattr(DirectoryBlobStore, "read", read_short)
    places.confirm_one()
    places.try_two()
    places.confirm_two()
    wait_until(lambda: places.host.worker is None)
    assert len(tries) == 2


def test_a_rolled_back_candidate_is_never_loaded_here(places: Places) -> None:
    """Between the commit of a rollback and its activation nobody is on trial any more."""
    places.confirm_one()
    places.try_two()
    places.commit(SlotState.ROLLING_BACK, ONE, None)
    with pytest.raises(AssertionError):
        wait_until(lambda: places.host.worker is None, timeout_s=1.2)
    places.activate(ONE, 1)
    wait_until(lambda: places.host.worker is None)
    assert places.ask() == "1"


def test_no_request_fails_while_models_move_out_and_in(places: Places) -> None:
    places.confirm_one()
    over, failures, answered = threading.Event(), list[str](), list[str]()

    def ask_on() -> None:
        while not over.is_set():
            try:
                ask_until_told_to_go(places.port, over, answered.append)
            except (OSError, AssertionError) as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for confirmed, candidate in ((ONE, TWO), (TWO, ONE)):
            places.commit(SlotState.PROBATION, confirmed, candidate)
            places.activate(candidate, 2)
            begun = len(answered)
            wait_until(lambda begun=begun: len(answered) > begun + 100)  # type: ignore[misc]
            places.commit(SlotState.CONFIRMED, candidate, None)
            wait_until(lambda: places.host.worker is None)
            begun = len(answered)
            wait_until(lambda begun=begun: len(answered) > begun + 100)  # type: ignore[misc]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(answered) > 400


def ask_until_told_to_go(port: int, over: threading.Event, note: Callable[[str], None]) -> None:
    """Ask over one connection until the server says that it closes it."""
    with contextlib.closing(QuickClient(port)) as client:
        while not over.is_set():
            note(client.ask())
            if client.is_last:
                return


def test_a_slot_that_was_stopped_says_why_on_both_sides(places: Places) -> None:
    places.confirm_one()
    places.host.deactivate("gone", reason="it was withdrawn")
    for side in (None, "child"):
        with (
            contextlib.closing(QuickClient(places.port, "gone")) as client,
            pytest.raises(AssertionError, match=r"503.*it was withdrawn"),
        ):
            client.ask()
        if side is None:
            places.try_two()
            assert places.host.worker_pid is not None
