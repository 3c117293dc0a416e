"""The process that serves is killed, stopped, made to hang and to grow; the agent's side lives.

Real processes and signals throughout: what is shown is what a device would see.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_agent.contract.codes import Code
from edge_agent.core.events import ActivationFailed, ServingLost
from edge_agent.core.worker_health import WorkerLimits
from edge_agent.errors import PackageError
from tests.support.serving import CLASSES, BuiltPackage, build_classifier, graph_bytes
from tests.support.serving_worker import (
    BOOT,
    QuickClient,
    WorkerWorld,
    crashing_command,
    is_gone,
    worker_world,
)
from tests.support.waiting import wait_until

ONE, TWO = build_classifier(seed=1), build_classifier(seed=2)
AGAIN_S = 20.0
"""Two on an idle machine; this one may be busy with other tests."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WorkerWorld]:
    with worker_world(tmp_path) as world:
        yield world


def hanging_package() -> BuiltPackage:
    """A classifier that adds up ``features[0, 0]`` ones in a loop: a row may ask for 10^18."""
    weights = np.eye(4, len(CLASSES), dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "one"], ["sum_next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_next", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [0.0])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "start"], ["sum_last"], body=body),
        helper.make_node("MatMul", ["features", "w"], ["plain"]),
        helper.make_node("Add", ["plain", "sum_last"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = graph_bytes(
        nodes,
        width=4,
        constants={"w": weights, "start": np.zeros(1, np.float32)},
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["rows", len(CLASSES)]
            ),
        ],
    )
    return build_classifier(model=graph)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGILL])
def test_a_process_that_dies_is_replaced_and_answers_again(
    world: WorkerWorld, number: signal.Signals
) -> None:
    world.activate(ONE)
    before, pid = world.ask(), world.pid
    wait_until(lambda: world.notes)  # it answers requests a moment before its keeper hears of it
    began = time.monotonic()
    os.kill(pid, number)
    wait_until(lambda: "ServingLost" in world.kinds())
    after = world.ask()  # connects while nothing serves
    assert time.monotonic() - began < AGAIN_S
    assert after["outputs"] == before["outputs"]
    assert is_gone(pid)
    assert world.pid != pid
    lost = world.events[0][1]
    assert isinstance(lost, ServingLost)
    assert lost.code is Code.PROBATION_CRASH
    assert ("killed" if number is signal.SIGKILL else number.name) in lost.detail
    wait_until(lambda: world.kinds() == ["ServingLost", "Answering"])
    wait_until(lambda: [note.is_up for note in world.notes] == [True, False, True])
    assert (world.notes[-1].restarts, world.notes[-1].failures) == (1, 1)


def test_predictions_and_windows_of_two_lives_never_have_the_same_name(world: WorkerWorld) -> None:
    world.activate(ONE)
    first = world.ask()
    os.kill(world.pid, signal.SIGKILL)
    wait_until(lambda: "Answering" in world.kinds())
    second = world.ask()
    assert prediction_id(first).startswith(f"{BOOT:016x}-0-")
    assert not prediction_id(second).startswith(f"{BOOT:016x}-")
    world.service.close()
    ((boot, window),) = world.outbox.pending(10)  # the first life's counts died with it
    assert (boot == BOOT, window.rows) == (False, 1)
    assert prediction_id(second).startswith(f"{boot:016x}-{window.stream:x}-")


def prediction_id(answer: dict[str, Any]) -> str:
    return str(answer["parameters"]["prediction_id"])


def test_a_process_that_stands_still_is_ended(tmp_path: Path) -> None:
    limits = WorkerLimits(rss_bytes_max=2**29, turn_s=0.5)
    with worker_world(tmp_path, limits=limits) as world:
        world.activate(ONE)
        pid = world.pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: "ServingLost" in world.kinds())
        assert world.ask()["model_name"] == "plant"
        assert is_gone(pid)
        lost = world.events[0][1]
        assert isinstance(lost, ServingLost)
        assert lost.code is Code.PROBATION_HANG


def test_a_request_that_does_not_end_ends_the_process_and_the_others_go_on(tmp_path: Path) -> None:
    limits = WorkerLimits(rss_bytes_max=2**29, request_s=1.0)
    with worker_world(tmp_path, limits=limits) as world:
        world.activate(hanging_package())
        world.ask((1, 2, 3, 4))
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            world.ask((1e12, 0, 0, 0))
        assert world.ask((1, 2, 3, 4))["model_name"] == "plant"
        lost = world.events[0][1]
        assert isinstance(lost, ServingLost)
        assert lost.code is Code.PROBATION_HANG
        assert "a request was not answered in 1 s" in lost.detail


def test_a_process_that_holds_too_much_memory_is_replaced_without_a_failed_request(
    tmp_path: Path,
) -> None:
    limits = WorkerLimits(rss_bytes_max=2**20, rss_samples=2)
    with worker_world(tmp_path, limits=limits) as world:
        world.activate(ONE)
        while "ServingLost" not in world.kinds():
            world.ask()
            time.sleep(0.02)
        world.ask()
        lost = world.events[0][1]
        assert isinstance(lost, ServingLost)
        assert lost.code is Code.PROBATION_MEMORY
        assert "the profile allows 1 MiB for 1 slots" in lost.detail
        assert world.outbox.counts()["waiting"] >= 1  # it was ended in good order


def test_a_package_that_kills_at_loading_is_refused_and_the_former_answers(tmp_path: Path) -> None:
    with worker_world(tmp_path, command=crashing_command(tmp_path)) as world:
        world.activate(ONE, version=12)
        with pytest.raises(PackageError, match=r"loading plant/13/camera.tar.*SIGILL") as caught:
            world.activate(TWO, version=13)
        assert caught.value.code is Code.PROBATION_CRASH
        assert world.ask()["model_version"] == "12"
        world.activate(TWO, version=14)
        assert world.ask()["model_version"] == "14"


def test_what_kills_at_a_restart_is_left_out_and_told_and_the_other_slots_answer(
    tmp_path: Path,
) -> None:
    """As after a runtime was replaced by one that cannot run a package that had been confirmed."""
    marker = tmp_path / "new-runtime"
    with worker_world(tmp_path, command=crashing_command(marker)) as world:
        world.activate(ONE, slot="good", version=1)
        world.activate(TWO, slot="bad", version=13)
        marker.touch()
        os.kill(world.pid, signal.SIGKILL)
        wait_until(lambda: "ActivationFailed" in world.kinds())
        assert world.ask(slot="good")["model_version"] == "1"
        (failed,) = [event for _, event in world.events if isinstance(event, ActivationFailed)]
        assert (failed.code, failed.sha256) == (Code.PROBATION_CRASH, TWO.sha256)
        with pytest.raises(AssertionError, match="404"):
            world.ask(slot="bad")


def test_a_slot_that_was_stopped_says_why_after_a_restart_too(world: WorkerWorld) -> None:
    world.activate(ONE)
    world.activate(TWO, slot="other")
    world.service.deactivate("main", reason="it was withdrawn")
    os.kill(world.pid, signal.SIGKILL)
    wait_until(lambda: [note.is_up for note in world.notes][-2:] == [False, True])
    lost, back = (note.fault for note in world.notes[-2:])
    assert lost == f"{back}; started again at once"
    with pytest.raises(AssertionError, match=r"503.*it was withdrawn"):
        world.ask()
    assert world.ask(slot="other")["model_name"] == "plant"


def test_a_package_damaged_on_disk_is_refused_by_the_process_itself(world: WorkerWorld) -> None:
    (world.blobs / ONE.sha256).write_bytes(TWO.blob)
    with pytest.raises(PackageError) as caught:
        world.activate(ONE)
    assert caught.value.code is Code.BLOB_HASH
    assert not (world.blobs / ONE.sha256).exists()


def test_one_that_never_comes_up_is_tried_again_and_again(tmp_path: Path) -> None:
    with worker_world(tmp_path, command=(sys.executable, "-c", "raise SystemExit(3)")) as world:
        wait_until(lambda: len(world.notes) >= 3, timeout_s=60)
        assert [note.failures for note in world.notes[:3]] == [1, 2, 3]
        assert "ended with status 3" in world.notes[0].fault
        assert "next start in 2 s" in world.notes[2].fault
        began = time.monotonic()
    assert time.monotonic() - began < 1.9, "the end waits for the next start"


def test_counts_of_a_probation_begin_anew_and_come_within_a_turn(world: WorkerWorld) -> None:
    world.activate(ONE)
    assert world.service.probation_stats("main").rows == 0
    for _ in range(3):
        world.ask()
    wait_until(lambda: world.service.probation_stats("main").rows == 3)
    world.service.reset_stats("main")
    assert world.service.probation_stats("main").rows == 0
    asked: list[object] = []

    def is_counted() -> bool:
        asked.append(world.ask())  # one that comes before the word to begin anew is not counted
        return world.service.probation_stats("main").rows > 0

    wait_until(is_counted)
    assert world.service.probation_stats("main").rows <= len(asked), "and none of before"


@pytest.mark.parametrize("is_stuck", [False, True])
def test_the_process_ends_with_its_parent(tmp_path: Path, is_stuck: bool) -> None:
    program = textwrap.dedent(
        """
        import sys, pathlib, signal
        from tests.support.serving_worker import WorkerWorld, LIMITS, COMMAND
        from tests.support.waiting import wait_until
        world = WorkerWorld(pathlib.Path(sys.argv[1]), LIMITS, COMMAND)
        wait_until(lambda: world.notes)  # it serves
        print(world.pid, flush=True)
        signal.pause()
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if is_stuck:
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: is_gone(pid) or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    """An orphan is waited for by whoever takes it in, which is not ours to see to."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] == "Z"
    return True


def test_ten_thousand_requests_over_twenty_swaps_without_a_failure(world: WorkerWorld) -> None:
    world.activate(ONE, version=1)
    requests, swaps, clients = 10_000, 20, 4
    answered, failures = [0] * clients, []
    versions: set[str] = set()

    def ask_on(number: int) -> None:
        with contextlib.closing(QuickClient(world.port)) as client:
            for _ in range(requests // clients):
                try:
                    versions.add(client.ask())
                    answered[number] += 1
                except (OSError, AssertionError) as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for swap in range(swaps):
        due = swap * requests // (swaps + 1)
        wait_until(lambda due=due: sum(answered) >= due)  # type: ignore[misc]  # mypy cannot type it
        world.activate((TWO, ONE)[swap % 2], version=swap + 2)
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(answered) == requests
    assert len(versions) > swaps // 2
    assert world.ask()["model_version"] == str(swaps + 1)
