"""Candidates in shadow of real models: what is counted, and that nothing they do reaches an answer.

Real processes throughout. Where a limit is minutes long in service, the test shortens it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.adapters import shadow_run
from edge_agent.adapters.shadow_child import find_difference
from edge_agent.adapters.shadow_run import ShadowLimits, ShadowRun
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.contract.schema import Feature
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.shadow_port import BlobPlace, ShadowOrder, ShadowSight
from tests.support.serving import (
    TARGET,
    BuiltPackage,
    activate,
    build_classifier,
    build_regressor,
    classifier_graph,
    make_service,
    run_graph,
)
from tests.support.serving_worker import WorkerWorld, is_gone, worker_world
from tests.support.waiting import wait_until

ALL = ShadowPolicy(duration_s=0, rows_min=1, share=1.0, cpu_share=1.0)
LIMITS = ShadowLimits(rss_bytes_max=2**30)
ONE, TWO = build_classifier(seed=1), build_classifier(seed=2)
ROWS = np.random.default_rng(7).normal(size=(40, 4)).astype(np.float32)


def nearly(seed: int, by: float) -> BuiltPackage:
    """The same classifier with weights a little off."""
    weights = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
    return build_classifier(seed=seed, model=classifier_graph((weights + by).astype(np.float32)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerWorld]:
    with worker_world(tmp_path_factory.mktemp("shadow")) as world:
        world.activate(ONE)
        yield world


class Bench:
    """One run without a process that serves: requests are given to its tap by hand."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.run: ShadowRun | None = None

    def place(self, built: BuiltPackage) -> BlobPlace:
        path = self._directory / built.sha256
        path.write_bytes(built.blob)
        return BlobPlace(path, built.sha256)

    def start(
        self,
        candidate: BuiltPackage,
        *,
        beside: BuiltPackage = ONE,
        policy: ShadowPolicy = ALL,
        limits: ShadowLimits = LIMITS,
        command: tuple[str, ...] = shadow_run.COMMAND,
    ) -> ShadowRun:
        order = ShadowOrder(
            attempt=3, package=self.place(candidate), beside=self.place(beside), policy=policy
        )
        self.run = ShadowRun(order, limits, SystemClock(), command=command)
        return self.run

    def compare(
        self, run: ShadowRun, rows: NDArray[np.float32], built: BuiltPackage = ONE
    ) -> ShadowReport:
        wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
        tap, before = run.tap(), counted(run.sight().report)
        for row in rows:
            tap.offer(row[None], answers(built, row[None]), 0.3)
        wait_until(lambda: counted(run.sight().report) == before + len(rows))
        return run.sight().report


def counted(report: ShadowReport) -> int:
    return report.rows + report.errors + report.skipped + report.dropped


def answers(built: BuiltPackage, rows: NDArray[np.float32]) -> list[NDArray[Any]]:
    model = package.unpack_members(built.blob)[package.MODEL]
    return list(run_graph(model, rows, built.schema).values())


_ONCE = answers(ONE, ROWS[:1])


def ended(run: ShadowRun) -> ShadowSight:
    wait_until(lambda: run.sight().code is not None)
    return run.sight()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    if bench.run is not None:
        bench.run.close()


def shadow_children(parent: int) -> list[int]:
    return [
        int(pid)
        for task in Path(f"/proc/{parent}/task").iterdir()
        for pid in (task / "children").read_text().split()
        if b"shadow_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def order(world: WorkerWorld, candidate: BuiltPackage, attempt: int) -> ShadowOrder:
    path = world.blobs / candidate.sha256
    path.write_bytes(candidate.blob)
    beside = BlobPlace(world.blobs / ONE.sha256, ONE.sha256)
    return ShadowOrder(
        attempt=attempt, package=BlobPlace(path, candidate.sha256), beside=beside, policy=ALL
    )


def look(world: WorkerWorld, is_it: Callable[[ShadowSight], bool]) -> ShadowSight:
    def sight() -> ShadowSight | None:
        found = world.service.shadows.find("main")
        return found if found is not None and is_it(found) else None

    wait_until(lambda: sight() is not None)
    found = sight()
    assert found is not None
    return found


def test_targets_of_another_order_are_compared_by_name(bench: Bench) -> None:
    own = build_regressor(targets=("flow", "heat"))
    swapped = build_regressor(targets=("heat", "flow"))  # the same numbers under other names
    report = bench.compare(bench.start(swapped, beside=own), own.rows[:20], own)
    assert (report.rows, report.differs, report.difference[0]) == (20, 0, 0)


def test_a_candidate_that_answers_otherwise_is_counted_row_by_row_and_never_answers(
    world: WorkerWorld,
) -> None:
    shadows = world.service.shadows
    shadows.start("main", order(world, TWO, 1))
    look(world, lambda s: s.report.state is ShadowState.COMPARING)
    for row in ROWS:
        answer = world.ask([float(cell) for cell in row])
        assert answer["model_version"] == "1"
    found = look(world, lambda s: s.report.rows == len(ROWS)).report
    first, second = answers(ONE, ROWS), answers(TWO, ROWS)
    assert found.differs == int((first[0] != second[0]).sum()) > 0
    assert sum(found.difference) == sum(found.latency) == sum(found.candidate_latency) == len(ROWS)
    assert sum(found.difference[5:]) > len(ROWS) / 2  # probabilities are off by 0.01 and more
    assert found.cpu_ms > 0
    (child,) = shadow_children(world.pid)
    assert int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[16]) == 19
    assert Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "1000"
    shadows.stop("main")
    wait_until(lambda: is_gone(child))
    assert shadows.find("main") is None


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGSEGV, Code.SHADOW_CRASH), (signal.SIGKILL, Code.SHADOW_MEMORY)],
)
def test_a_shadow_that_dies_is_told_and_what_serves_does_not_notice(
    world: WorkerWorld, number: signal.Signals, code: Code
) -> None:
    world.service.shadows.start("main", order(world, TWO, 2))
    look(world, lambda s: s.report.state is ShadowState.COMPARING)
    pid, events = world.pid, len(world.events)
    os.kill(shadow_children(pid)[0], number)
    found = look(world, lambda s: s.code is not None)
    assert found.code is code
    assert found.attempt == 2
    assert ("killed" if code is Code.SHADOW_MEMORY else "SIGSEGV") in found.detail
    assert world.ask()["model_version"] == "1"
    assert (world.pid, len(world.events)) == (pid, events)
    world.service.shadows.stop("main")


def test_the_next_process_that_serves_begins_the_comparing_anew(world: WorkerWorld) -> None:
    world.service.shadows.start("main", order(world, TWO, 4))
    look(world, lambda s: s.report.state is ShadowState.COMPARING)
    for _ in range(3):
        world.ask()
    look(world, lambda s: s.report.rows == 3)
    lost, pid = shadow_children(world.pid)[0], world.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(lost))
    wait_until(lambda: world.service.pid not in (None, pid))
    world.ask()
    look(world, lambda s: s.report.state is ShadowState.COMPARING)
    world.ask()
    # The row asked while it may have been loading counts or not; the three of before do not.
    assert look(world, lambda s: s.report.rows > 0).report.rows <= 2
    world.service.shadows.stop("main")


def test_a_candidate_that_agrees_differs_in_no_label_and_in_small_bins(bench: Bench) -> None:
    found = bench.compare(bench.start(nearly(1, by=1e-5)), ROWS)
    assert (found.rows, found.requests, found.differs, found.errors) == (40, 40, 0, 0)
    assert sum(found.difference[:4]) == 40  # below 1e-3
    assert found.latency[2] == 40  # 0.2 to 0.5 ms


def test_a_regression_is_compared_by_its_values(bench: Bench) -> None:
    one, two = build_regressor(seed=1), build_regressor(seed=2)
    found = bench.compare(bench.start(two, beside=one), ROWS[:, :3].copy(), one)
    expected = np.abs(answers(one, ROWS[:, :3])[0] - answers(two, ROWS[:, :3])[0])
    expected /= 1 + np.abs(answers(one, ROWS[:, :3])[0])
    assert found.differs == 0
    assert found.difference[-1] == int((expected >= 1).sum())
    assert sum(found.difference) == 40


def test_of_a_large_request_some_rows_are_compared_and_no_latency(bench: Bench) -> None:
    run = bench.start(TWO)
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    rows = np.repeat(ROWS, 5, axis=0)
    run.tap().offer(rows, answers(ONE, rows), 3.0)
    wait_until(lambda: run.sight().report.rows > 0)
    found = run.sight().report
    assert (found.rows, found.requests, sum(found.latency)) == (64, 1, 0)


def test_the_processor_budget_is_kept_and_what_it_cost_is_counted(bench: Bench) -> None:
    run = bench.start(TWO, policy=replace(ALL, cpu_share=0.02))
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    tap, given = run.tap(), [answers(ONE, row[None]) for row in ROWS]
    began, taken = time.monotonic(), 0
    while time.monotonic() - began < 2.5:
        row, values = ROWS[taken % 40][None], given[taken % 40]
        tap.offer(row, values, 0.3)
        taken += 1
        if taken % 10 == 0:
            threading.Event().wait(0.01)
    wait_until(lambda: counted(run.sight().report) == taken)
    found = run.sight().report
    assert found.skipped > found.rows > 0
    # A full bucket, what 2.5 s earn, and the piece that overdrew it.
    assert found.cpu_ms < 0.02 * 1e3 * (2.0 + 2.5) + 60


def test_what_comes_before_the_candidate_is_loaded_is_skipped_without_waiting(
    bench: Bench,
) -> None:
    run = bench.start(TWO)
    began = time.thread_time()
    for _ in range(1_000):
        run.tap().offer(ROWS[:1], _ONCE, 0.3)
    assert time.thread_time() - began < 0.5
    assert run.sight().report.skipped == 1_000


def test_only_the_share_is_taken_whatever_the_order(bench: Bench) -> None:
    run = bench.start(TWO, policy=replace(ALL, share=0.25))
    tap = run.tap()
    for _ in range(1_000):
        tap.offer(ROWS[:1], _ONCE, 0.3)
    assert run.sight().report.skipped == pytest.approx(250, abs=3)


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.start(TWO)
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    monkeypatch.setattr(shadow_run, "REQUESTS_WAITING_MAX", 1)
    for _ in range(200):
        run.tap().offer(ROWS[:1], _ONCE, 0.3)
    wait_until(lambda: counted(run.sight().report) == 200)
    found = run.sight().report
    assert found.dropped > 0
    assert found.rows > 0


def test_wide_answers_count_in_what_may_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.start(TWO)
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    monkeypatch.setattr(shadow_run, "BYTES_WAITING_MAX", 1_000)
    wide = [_ONCE[0], np.zeros((1, 100_000), np.float32)]
    for _ in range(20):
        run.tap().offer(ROWS[:1], wide, 0.3)
    assert run.sight().report.dropped > 15


def test_a_request_without_an_end_ends_the_shadow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_run, "HANG_CPU_S", 0.2)
    program = (
        "import sys; from edge_agent.adapters import shadow_child as s\n"
        "def spin(self, message):\n    while True: pass\n"
        "s.Child._compare = spin\nsys.exit(s.main())"
    )
    run = bench.start(TWO, command=(sys.executable, "-c", program))
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    run.tap().offer(ROWS[:1], _ONCE, 0.3)
    found = ended(run)
    assert found.code is Code.SHADOW_HANG
    assert "did not end a request" in found.detail


def test_a_child_that_does_not_read_does_not_hold_up_the_end(bench: Bench, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = (
        "import sys, time; from edge_agent.adapters import shadow_child as s\n"
        f"def sleep(self, message): open({str(asked)!r}, 'x'); time.sleep(60)\n"
        "s.Child._compare = sleep\nsys.exit(s.main())"
    )
    run = bench.start(TWO, command=(sys.executable, "-c", program))
    wait_until(lambda: run.sight().report.state is ShadowState.COMPARING)
    (child,) = shadow_children(os.getpid())
    run.tap().offer(ROWS[:1], [_ONCE[0], np.zeros((1, 900_000), np.float32)], 0.3)
    wait_until(asked.exists)
    began_s = time.monotonic()
    run.close()
    assert time.monotonic() - began_s < 20
    assert is_gone(child)
    assert run.sight().code is None


def test_memory_beyond_the_profile_ends_the_shadow(bench: Bench) -> None:
    run = bench.start(TWO, limits=replace(LIMITS, rss_bytes_max=2**20))
    found = ended(run)
    assert found.code is Code.SHADOW_MEMORY
    assert "the profile allows 1 MiB" in found.detail


def test_bytes_that_are_not_those_signed_are_not_loaded(bench: Bench) -> None:
    wrong = replace(TWO, blob=TWO.blob[:-1] + b"x")
    assert ended(bench.start(wrong)).code is Code.BLOB_HASH


def test_models_with_other_inputs_are_not_compared_and_it_says_so(bench: Bench) -> None:
    run = bench.start(build_classifier(width=5))
    wait_until(lambda: run.sight().report.state is ShadowState.SKIPPED)
    assert run.sight().report.note == "the two models take different inputs"
    assert run.sight().code is None


def test_ranges_may_differ_and_names_may_not() -> None:
    plain = build_classifier().schema
    ranged = replace(plain, features=tuple(replace(f, low=0.0) for f in plain.features))
    named = replace(plain, features=tuple(Feature(name=f"g{n}") for n in range(4)))
    assert find_difference(plain, ranged) == ""
    assert "different inputs" in find_difference(plain, named)
    assert "regression" in find_difference(plain, build_regressor(width=4).schema)


def test_where_there_is_no_place_for_a_shadow_the_wish_is_answered(tmp_path: Path) -> None:
    service = make_service()
    activate(service, ONE, target=TARGET)
    place = Bench(tmp_path).place(TWO)
    service.shadows.start("main", ShadowOrder(attempt=1, package=place, beside=place, policy=ALL))
    found = service.shadows.find("main")
    assert found is not None
    assert found.report.state is ShadowState.SKIPPED
    assert "no place" in found.report.note
