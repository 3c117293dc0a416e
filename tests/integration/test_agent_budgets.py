"""What fetching may cost, and that it ends at once when nobody wants it any more."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, Part, count_chunks
from edge_agent.core.moves import TRIES_MAX
from tests.support.agent import ChunkServer, a_package
from tests.support.agent_world import World

BIG = a_package("big", padding=1_000_000)
OTHER = a_package("other", padding=330_000)


class LyingServer(ChunkServer):
    """Sends chunks that are not those signed."""

    sent_bytes = 0

    def answer(self, request: ChunkRequest) -> list[ChunkFrame]:
        frames = super().answer(request)
        if request.part is Part.CHUNKS:
            frames = [replace(frame, body=b"x" * len(frame.body)) for frame in frames]
        self.sent_bytes += sum(len(frame.body) for frame in frames)
        return frames


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.connect()
    return world


def test_each_try_may_cost_so_many_bytes_and_a_round_so_many_tries(world: World) -> None:
    liar = LyingServer(BIG)
    world.assign(BIG, 1)
    world.servers[liar.sha256] = liar
    world.work()
    slot = world.slot()
    assert (slot.phase, slot.code) == (Phase.OFFERED, Code.FETCH_BUDGET)
    a_try = liar.sent_bytes
    assert a_try <= 3 * len(BIG) + 1_048_576 + 4 * 65_536
    world.run(3 * 3_600, step_s=30)
    slot = world.slot()
    assert (slot.phase, slot.code, slot.bad) == (Phase.FAILED, Code.FETCH_BUDGET, ())
    assert class_of(Code.FETCH_BUDGET) is FailureClass.RETRYABLE
    assert liar.sent_bytes <= TRIES_MAX * a_try


def test_a_fetch_nobody_wants_ends_between_two_chunks(world: World) -> None:
    world.assign(BIG, 1)
    while not list((world.directory / "parts").glob("*.bitmap")):
        world.work(jobs=1)
    unwanted = world.servers[ChunkServer(BIG).sha256]
    served = list(unwanted.served)
    is_wanted = ChunkServer(OTHER).sha256
    assert 0 < sum(part is Part.CHUNKS for part, _ in served) < count_chunks(len(BIG))
    world.is_server_up = False
    world.assign(OTHER, 2)
    while (wanted := world.slot().wanted) is None or wanted.sha256 != is_wanted:
        world.work(jobs=1)
    world.link.sent.clear()
    world.work()
    asked = [ChunkRequest.decode(p) for c, p in world.link.sent if c is Channel.CHUNK_REQUEST]
    assert {request.sha256 for request in asked} <= {is_wanted}
    world.is_server_up = True
    world.run(90)
    assert unwanted.served == served
    assert world.slot().phase is Phase.CONFIRMED


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_class_and_only_what_broke_here_counts_against_the_release(
    code: Code,
) -> None:
    words = "nobody decided" if code is Code.SHADOW_UNDECIDED else str(code).split("-")[0]
    expected = {
        "nobody decided": FailureClass.RETRYABLE,
        "selftest": FailureClass.BROKEN_HERE,
        "shadow": FailureClass.BROKEN_HERE,
        "probation": FailureClass.BROKEN_HERE,
        "fetch": FailureClass.RETRYABLE,
        "disk": FailureClass.RETRYABLE,
        "assign": FailureClass.NOT_FOR_ME,
        "wrong": FailureClass.NOT_FOR_ME,
    }
    assert class_of(code) is expected.get(words, class_of(code))
