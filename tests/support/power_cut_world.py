"""Power cuts in the life of an agent: scenarios over ``World``, and what must hold after each cut.

A scenario is one life of an agent on a directory, recorded at the seam, and its retry: a new
agent on whatever a cut left. What a cut must not break is said once, in ``AgentScenario.check``.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.chunk_store import DirectoryChunkStore
from edge_agent.adapters.state_store import FILE as STATE_FILE
from edge_agent.adapters.state_store import FORMER, FileStateStore
from edge_agent.commits import restore_state
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState
from edge_agent.contract.shadow import ShadowPolicy
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import Part
from edge_agent.core.agent_state import AgentState, state_from_json, state_to_json
from edge_agent.core.verified import AcceptedTrust
from fleet_server.adapters.package_encoder import Encoded
from tests.support.agent import GOOD_STATS, ChunkServer, a_package, hash_chunks
from tests.support.agent_world import SLOT, PlayedTester, PlayedVerifier, World
from tests.support.encoded import MEMORY_BYTES, encoded, noise
from tests.support.power_cut import CrashState, Recording, RecordingOs, recording

V1, V2, V3 = a_package("one"), a_package("two", padding=70_000), a_package("three")
V4 = a_package("four")
LONG = a_package("long", padding=330_000)
OLD, NEW, ODD = (a_package(name, body=noise(90_000)) for name in ("old", "new", "odd"))
"""Alike but for a little, of one size; none compresses."""
HOME = "agent"
SECOND_SLOT = "second"
SHADOW = ShadowPolicy(duration_s=10, rows_min=50, timeout_s=600)
STEP_S, STEPS_MAX = 5.0, 60


class CutWorld(World):
    """A world that is set up before its agent starts."""

    def __init__(self, directory: Path, set_up: Callable[[World], None] = lambda _: None) -> None:
        self._set_up = set_up
        super().__init__(directory)

    def start(self) -> None:
        self._set_up(self)
        for blob in (V1, V2, V3, V4, LONG, OLD, NEW):
            server = ChunkServer(blob)
            self.servers.setdefault(server.sha256, server)
        super().start()

    def run_until(self, is_done: Callable[[World], bool]) -> bool:
        self.work()
        for _ in range(STEPS_MAX):
            if is_done(self):
                break
            self.clock.advance(STEP_S)
            self.agent.tick()
            self.work()
        return is_done(self)


@dataclass(frozen=True, kw_only=True)
class AgentScenario:
    """One life of an agent.

    Attributes:
        name: For people.
        prepare: Makes what is on disk before, durably.
        lives: Connects and says what the server says; also on whatever a cut left.
        is_done: Whether the goal is reached.
        set_up: Of the world, before each start.
        may_serve: Of the packages, those that may be what is confirmed.
        keeps: Packages on disk when all is done.
        set_ups: Other worlds to meet after a cut; each state is checked in each.
    """

    name: str
    prepare: Callable[[Path], None]
    lives: Callable[[World], None]
    is_done: Callable[[World], bool]
    set_up: Callable[[World], None] = lambda _: None
    may_serve: tuple[bytes, ...] = (V1, V2)
    keeps: tuple[bytes, ...] = ()
    set_ups: tuple[Callable[[World], None], ...] = ()

    def record(self, root: Path, seam: type[RecordingOs] | None = None) -> Recording:
        directory = root / HOME
        self.prepare(directory)
        with recording(root, seam) as recorded, _marking(recorded):
            recorded.mark("saved", _read_state(directory))
            self.live(directory)
        return recorded

    def live(self, directory: Path) -> None:
        world = CutWorld(directory, self.set_up)
        self.lives(world)
        assert world.run_until(self.is_done), f"{self.name} does not reach its goal uncut"

    def check(self, state: CrashState, root: Path) -> None:
        """Start an agent on what a cut left; raises AssertionError."""
        directory = root / HOME
        for number, set_up in enumerate((self.set_up, *self.set_ups)):
            place = directory
            if number < len(self.set_ups):
                place = directory.with_name(f"{directory.name}-{number}")
                if directory.exists():
                    shutil.copytree(directory, place)
            self._check_once(state, place, set_up)
            if place != directory:
                shutil.rmtree(place)

    def _check_once(
        self, state: CrashState, directory: Path, set_up: Callable[[World], None]
    ) -> None:
        found = restore_state(FileStateStore(directory))
        promised = [state.marks[name] for name in ("saved", "saving") if name in state.marks]
        assert state_to_json(found) in promised, "a committed state is lost"
        with _reading_back(directory):
            self._go_on(state, found, directory, set_up)

    def _go_on(
        self,
        state: CrashState,
        found: AgentState,
        directory: Path,
        set_up: Callable[[World], None],
    ) -> None:
        allowed = self._find_runnable(state, found, directory)
        tested = set(state.marks.get("tested", ()))
        world = CutWorld(directory, set_up)
        world.work()
        self._check_serving(world, found, allowed)
        asked = world.inference.activated
        tested |= set(world.tester.tested)
        assert set(asked) <= allowed | tested, "what was never tested was asked to answer"
        self.lives(world)
        assert world.run_until(self.is_done), f"stuck in {world.agent.state.slots}"
        tested |= set(world.tester.tested)
        assert set(world.inference.activated) <= allowed | tested, "untested bytes answer"
        self._check_progress(state, world)
        assert set(_list_blobs(directory)) == {hash_chunks(blob)[0] for blob in self.keeps}, (
            "packages left over or missing"
        )
        assert not list((directory / "parts").iterdir()), "parts left over"

    def _find_runnable(self, state: CrashState, found: AgentState, directory: Path) -> set[str]:
        """Return what may answer; before any repair, what is confirmed is whole."""
        allowed: set[str] = set()
        for slot in found.slots.values():
            confirmed = slot.banks.confirmed_package
            if confirmed is not None:
                data = (directory / "blobs" / confirmed.sha256).read_bytes()
                assert _sha256(data) == confirmed.sha256, "the confirmed package is torn"
                assert data in self.may_serve, "an unknown package is confirmed"
                allowed.add(confirmed.sha256)
            candidate = slot.banks.at(slot.candidate)
            if candidate is not None:
                tested = state.marks.get("tested", ())
                assert candidate.sha256 in tested, "a candidate was never tested"
                allowed.add(candidate.sha256)
        return allowed

    def _check_serving(self, world: World, found: AgentState, allowed: set[str]) -> None:
        served = set(world.inference.served.values())
        assert served <= allowed | set(world.tester.tested), (
            "something answers that is neither confirmed nor tested"
        )
        for slot in found.slots.values():
            if slot.banks.confirmed is not None and not _is_withdrawn(world, found):
                assert served, "nothing answers though a package is confirmed"
            candidate = slot.banks.at(slot.candidate)
            if slot.phase is SlotState.SHADOWING and candidate is not None:
                assert candidate.sha256 not in served, "a candidate in shadow answers"

    def _check_progress(self, state: CrashState, world: World) -> None:
        """Chunks that were durable are not fetched again."""
        for sha256, kept in state.marks.get("kept", {}).items():
            served = world.servers[sha256].served if sha256 in world.servers else []
            again = [n for part, n in served if part is Part.CHUNKS and kept >> n & 1]
            assert not again, f"durable chunks {again} were fetched again"


def assigning(blob: bytes, version: int, counter: int) -> Callable[[World], None]:
    """The server's side of an update: the same signed assignment each time it is said."""

    def live(world: World) -> None:
        world.counter = counter - 1
        world.connect()
        world.assign(blob, version)

    return live


def shadowing(blob: bytes, version: int, counter: int) -> Callable[[World], None]:
    """As ``assigning``, with the wish that it is compared before it answers."""

    def live(world: World) -> None:
        world.counter = counter - 1
        world.connect()
        world.assign(blob, version, shadow=SHADOW)

    return live


def confirmed(blob: bytes) -> Callable[[World], bool]:
    def is_done(world: World) -> bool:
        slot = world.agent.state.slots.get(SLOT)
        is_confirmed = slot is not None and slot.phase is SlotState.CONFIRMED
        return is_confirmed and world.inference.served == {SLOT: _sha256(blob)}

    return is_done


def having(*blobs: bytes) -> Callable[[Path], None]:
    """A device on which packages were confirmed one after another."""

    def prepare(directory: Path) -> None:
        world = CutWorld(directory)
        world.connect()
        for version, blob in enumerate(blobs, start=1):
            world.assign(blob, version)
            assert world.run_until(confirmed(blob))
        world.work()

    return prepare


def _two_slots(world: World) -> None:
    """One assignment that gives a package to each of two slots, one of them new."""
    world.counter = 1
    world.connect()
    three, four = ChunkServer(V3), ChunkServer(V4)
    envelope = world.sign({SLOT: (three, 3), SECOND_SLOT: (four, 4)})
    world.send_metadata()
    world.say(Channel.DESIRED, envelope)


def _are_both_confirmed(world: World) -> bool:
    phases = {name: slot.phase for name, slot in world.agent.state.slots.items()}
    is_confirmed = phases == {SLOT: SlotState.CONFIRMED, SECOND_SLOT: SlotState.CONFIRMED}
    served = {SLOT: _sha256(V3), SECOND_SLOT: _sha256(V4)}
    return is_confirmed and world.inference.served == served


def _half_fetched(directory: Path) -> None:
    having(V1)(directory)
    world = CutWorld(directory)
    world.counter = 1
    world.connect()
    world.assign(LONG, 2)
    while not list((directory / "parts").glob("*.bitmap")):
        world.work(jobs=1)
    assert not (directory / "blobs" / _sha256(LONG)).exists()


def _of_an_older_agent(directory: Path) -> None:
    """State as it was written before packages had a policy for their withdrawal."""
    having(V1)(directory)
    (directory / FORMER).unlink()
    path = directory / STATE_FILE
    state = json.loads(path.read_bytes().partition(b"\n")[2])
    for slot in state["slots"].values():
        for holder in (slot["a"], slot["b"], slot["wanted"]):
            for key in ("on_withdrawn", "is_withdrawn"):
                (holder or {}).pop(key, None)
    body = json.dumps(state).encode()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _damaged(directory: Path) -> None:
    """The disk has flipped a bit in the state."""
    having(V1, V2)(directory)
    path = directory / STATE_FILE
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    former = (directory / FORMER).read_bytes()
    path.unlink()
    path.write_bytes(bytes(data))
    (directory / FORMER).write_bytes(former)


def _failing(world: World) -> None:
    assigning(V2, 2, 2)(world)
    world.inference.stats = replace(GOOD_STATS, errors=80)


def _crashing_in_shadow(world: World) -> None:
    shadowing(V2, 2, 2)(world)
    world.shadows.code = Code.SHADOW_CRASH


def _is_rolled_back(world: World) -> bool:
    slot = world.agent.state.slots[SLOT]
    is_known = any(bad.sha256 == _sha256(V2) for bad in slot.bad)
    return (
        slot.phase is SlotState.FAILED
        and is_known
        and world.inference.served == {SLOT: _sha256(V1)}
        and not world.jobs.waiting
    )


def _withdraw(world: World) -> None:
    world.verifier.withdrawn = {"model/1/camera.tar"}
    world.connect()
    world.send_metadata()


def _remember_withdrawal(world: World) -> None:
    """The metadata itself has survived the cut."""
    played = PlayedVerifier()
    played.withdrawn = {"model/1/camera.tar"}
    played.judge({"timestamp.json": b"{}"}, b"", AcceptedTrust())
    world.verifier = played


def _is_stopped(world: World) -> bool:
    slot = world.agent.state.slots[SLOT]
    is_told = slot.phase is SlotState.FAILED and slot.code is Code.WITHDRAWN
    return is_told and not world.inference.served and slot.banks.digests == frozenset()


def _encoding(made: Encoded) -> Callable[[World], None]:
    """A server that offers an encoding of NEW to a device that restores packages."""

    def set_up(world: World) -> None:
        world.restore_memory_bytes = MEMORY_BYTES
        world.offer_encoded(NEW, made)

    return set_up


def _supersede(world: World) -> None:
    assigning(LONG, 2, 2)(world)
    world.work(jobs=8)
    assigning(V3, 3, 3)(world)


AGENT_SCENARIOS = (
    AgentScenario(
        name="install",
        prepare=lambda _: None,
        lives=assigning(V1, 1, 1),
        is_done=confirmed(V1),
        keeps=(V1,),
    ),
    AgentScenario(
        name="update",
        prepare=having(V1),
        lives=assigning(V2, 2, 2),
        is_done=confirmed(V2),
        keeps=(V1, V2),
    ),
    AgentScenario(
        name="update through a shadow",
        prepare=having(V1),
        lives=shadowing(V2, 2, 2),
        is_done=confirmed(V2),
        keeps=(V1, V2),
    ),
    AgentScenario(
        name="a shadow that crashes",
        prepare=having(V1),
        lives=_crashing_in_shadow,
        is_done=_is_rolled_back,
        keeps=(V1,),
    ),
    AgentScenario(
        name="two slots at once",
        prepare=having(V1),
        lives=_two_slots,
        is_done=_are_both_confirmed,
        may_serve=(V1, V3, V4),
        keeps=(V1, V3, V4),
    ),
    AgentScenario(
        name="rollback", prepare=having(V1), lives=_failing, is_done=_is_rolled_back, keeps=(V1,)
    ),
    AgentScenario(
        name="withdrawal",
        prepare=having(V1),
        lives=_withdraw,
        is_done=_is_stopped,
        set_ups=(_remember_withdrawal,),
    ),
    AgentScenario(
        name="garbage collection",
        prepare=having(V1, V2),
        lives=assigning(V3, 3, 3),
        is_done=confirmed(V3),
        may_serve=(V2, V3),
        keeps=(V2, V3),
    ),
    AgentScenario(
        name="resume",
        prepare=_half_fetched,
        lives=assigning(LONG, 2, 2),
        is_done=confirmed(LONG),
        may_serve=(V1, LONG),
        keeps=(V1, LONG),
    ),
    AgentScenario(
        name="superseded while fetching",
        prepare=having(V1),
        lives=_supersede,
        is_done=confirmed(V3),
        may_serve=(V1, V3),
        keeps=(V1, V3),
    ),
    AgentScenario(
        name="restoring from a base",
        prepare=having(OLD),
        lives=assigning(NEW, 2, 2),
        set_up=_encoding(encoded(NEW, OLD)),
        is_done=confirmed(NEW),
        may_serve=(OLD, NEW),
        keeps=(OLD, NEW),
    ),
    AgentScenario(
        name="an encoding of other bytes",
        prepare=having(OLD),
        lives=assigning(NEW, 2, 2),
        set_up=_encoding(encoded(ODD, OLD)),
        is_done=confirmed(NEW),
        may_serve=(OLD, NEW),
        keeps=(OLD, NEW),
    ),
    AgentScenario(
        name="state of an older agent",
        prepare=_of_an_older_agent,
        lives=assigning(V2, 2, 2),
        is_done=confirmed(V2),
        keeps=(V1, V2),
    ),
    AgentScenario(
        name="damaged state",
        prepare=_damaged,
        lives=assigning(V2, 2, 2),
        is_done=confirmed(V2),
        keeps=(V1, V2),
    ),
)


@contextmanager
def _reading_back(directory: Path) -> Iterator[None]:
    """Each state that is saved from now on is what would be read."""
    save = FileStateStore.save

    def checked_save(store: FileStateStore, state: Any) -> None:
        save(store, state)
        assert _read_state(directory) == state, "what was saved is not what is read"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileStateStore, "save", checked_save)
        yield


@contextmanager
def _marking(recorded: Recording) -> Iterator[None]:
    """Note what is promised: a state once it is saved, a chunk once it is, a test once passed."""
    save, save_chunks = FileStateStore.save, DirectoryChunkStore.save_chunks
    test = PlayedTester.test
    kept: dict[str, int] = {}
    tested = list(_list_blobs(recorded.root / HOME))  # those were, when they were prepared
    recorded.mark("tested", tuple(tested))

    def marked_save(store: FileStateStore, state: Any) -> None:
        recorded.mark("saving", state)
        save(store, state)
        recorded.mark("saved", state)

    def marked_save_chunks(store: DirectoryChunkStore, sha256: str, pieces: Any) -> None:
        save_chunks(store, sha256, pieces)
        kept[sha256] = store._bitmaps[sha256]
        recorded.mark("kept", dict(kept))

    def marked_test(tester: PlayedTester, sha256: str) -> Any:
        tested.append(sha256)
        recorded.mark("tested", tuple(tested))
        return test(tester, sha256)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileStateStore, "save", marked_save)
        patch.setattr(DirectoryChunkStore, "save_chunks", marked_save_chunks)
        patch.setattr(PlayedTester, "test", marked_test)
        yield


def _read_state(directory: Path) -> dict[str, Any]:
    """Read what is committed, repairing nothing."""
    for name in (STATE_FILE, FORMER):
        path = directory / name
        digest, _, body = path.read_bytes().partition(b"\n") if path.exists() else (b"", b"", b"")
        if digest and _sha256(body).encode() == digest:
            return state_to_json(state_from_json(json.loads(body)))
    return state_to_json(AgentState())


def _list_blobs(directory: Path) -> tuple[str, ...]:
    blobs = directory / "blobs"
    return tuple(path.name for path in blobs.iterdir()) if blobs.exists() else ()


def _is_withdrawn(world: World, found: AgentState) -> bool:
    trusted = world.verifier.stored and world.verifier.withdrawn
    packages = [slot.banks.confirmed_package for slot in found.slots.values()]
    return bool(trusted) and any(p is not None and p.target in trusted for p in packages)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
