"""Real agent processes against the real gateway and broker: push, swap, roll back, kills."""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.package import EVIDENCE, GOLDEN, unpack_members
from edge_agent.contract.transfer import CHUNK_BYTES
from edge_agent.errors import StorageError
from tests.support.agent_fleet import AgentLab
from tests.support.serving import CLASSES, build_classifier
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("agent-push")]
ROW = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("push"))
    yield lab
    lab.stop()


def package(seed: int, *, filler: int = 0, golden_of: int | None = None) -> bytes:
    """A sound package, padded, or with the golden vectors of another model."""
    evidence = {
        "precision": "fp32",
        "graph": {"ir": 8, "opset": 13, "opset_ml": 0},
        "filler": random.Random(seed).randbytes(filler // 2).hex(),  # zstd makes it a half
    }
    members = {EVIDENCE: json.dumps(evidence).encode()}
    if golden_of is not None:
        other = build_classifier(seed=golden_of)
        members[GOLDEN] = unpack_members(other.blob)[GOLDEN]
    return build_classifier(seed=seed, edit=lambda m: {**m, **members}).blob


def ask(lab: AgentLab, directory: Path, slot: str = "plant") -> dict[str, Any]:
    process = lab.status(directory)["process"]
    return ask_at(process["http_port"], slot)


def ask_at(port: int, slot: str = "plant") -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": ROW}
    try:
        connection.request("POST", f"/v2/models/{slot}/infer", json.dumps({"inputs": [tensor]}))
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, answer
    return answer


def test_a_package_is_pushed_answers_and_is_swapped_without_a_failed_request(
    lab: AgentLab,
) -> None:
    directory = lab.join("dev-swap")
    lab.run_agent(directory)
    one = lab.release("plant", 1, package(1))
    lab.wish("dev-swap", one)
    row = lab.wait_for_slot("dev-swap", "confirmed", one)
    assert row.running_target == row.confirmed_target == one
    assert ask(lab, directory)["model_version"] == "1"
    check_predict_and_doctor(directory)
    port = lab.status(directory)["process"]["http_port"]
    stop, seen, failures = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                seen.append(ask_at(port)["model_version"])
            except (AssertionError, OSError, ValueError) as error:
                failures.append(repr(error))

    application = threading.Thread(target=load)
    application.start()
    two = lab.release("plant", 2, package(2))
    lab.wish("dev-swap", two)
    lab.wait_for_slot("dev-swap", "confirmed", two)
    before = len(seen)
    command("rollback", "--dir", str(directory))
    row = lab.wait_for_slot("dev-swap", "failed", two)
    stop.set()
    application.join()
    assert failures == []
    assert (seen[0], seen[-1]) == ("1", "1")
    assert seen[:before] == sorted(seen[:before])
    assert "2" in seen
    assert (row.code, row.running_target) == ("operator-rollback", one)
    assert f"confirmed  {one} (" in command("status", "--dir", str(directory))


def check_predict_and_doctor(directory: Path) -> None:
    rows = directory / "rows.csv"
    rows.write_text("other,f3,f2,f1,f0\n" + "9,0.4,0.3,0.2,0.1\n" * 300)
    done = command("predict", str(rows), "--dir", str(directory))
    answers = [json.loads(line) for line in done.splitlines()]
    assert [answer["row"] for answer in answers] == list(range(1, 301))
    assert answers[0]["class"] in CLASSES
    assert len(answers[299]["probabilities"]) == len(CLASSES)
    assert "FAIL" not in command("doctor", "--dir", str(directory))


def command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_a_package_that_fails_its_golden_rows_is_refused_and_the_former_answers(
    lab: AgentLab,
) -> None:
    directory = lab.join("dev-golden")
    lab.run_agent(directory)
    good = lab.release("plant", 11, package(11))
    lab.wish("dev-golden", good)
    lab.wait_for_slot("dev-golden", "confirmed", good)
    bad = lab.release("plant", 12, package(12, golden_of=112))
    lab.wish("dev-golden", bad)
    row = lab.wait_for_slot("dev-golden", "failed", bad)
    assert (row.code, row.running_target) == ("selftest-golden", good)
    assert ask(lab, directory)["model_version"] == "11"


def test_a_stop_in_good_order_says_offline_and_a_restart_answers_without_a_server(
    lab: AgentLab,
) -> None:
    directory = lab.join("dev-stop")
    agent = lab.run_agent(directory)
    target = lab.release("plant", 21, package(21))
    lab.wish("dev-stop", target)
    lab.wait_for_slot("dev-stop", "confirmed", target)
    agent.terminate()
    assert agent.wait(60) == 0
    lab.wait(lambda: not lab.device_row("dev-stop").is_online)
    lab.broker.stop()
    try:
        lab.run_agent(directory)
        wait_until(lambda: "http_port" in (lab.status(directory)["process"] or {}))
        wait_until(lambda: is_answering(lab, directory))
    finally:
        lab.broker.start()


def is_answering(lab: AgentLab, directory: Path) -> bool:
    process = lab.status(directory)["process"]
    try:
        return "http_port" in (process or {}) and bool(ask_at(process["http_port"]))
    except (AssertionError, OSError):
        return False


@pytest.fixture
def slow_lab(tmp_path: Path) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path, transfer_bytes_per_s=400_000)
    yield lab
    lab.stop()


def test_a_transfer_survives_the_kill_of_agent_gateway_and_broker(slow_lab: AgentLab) -> None:
    lab, directory = slow_lab, slow_lab.join("dev-kill")
    agent = lab.run_agent(directory)
    blob = package(31, filler=2_000_000)
    target = lab.release("plant", 31, blob)
    lab.wish("dev-kill", target)
    lowest = 0

    def wait_for(chunks: int) -> None:
        nonlocal lowest
        lab.wait(lambda: chunks_here(directory) >= chunks, timeout_s=60)
        lowest = chunks_here(directory)

    wait_for(4)
    agent.kill()
    agent.wait()
    assert chunks_here(directory) >= lowest
    lab.run_agent(directory)
    wait_for(lowest + 4)
    lab.kill_gateway()
    lab.start_gateway()
    assert chunks_here(directory) >= lowest
    wait_for(lowest + 4)
    lab.kill_broker()
    lab.broker.start()
    assert lowest <= chunks_here(directory) < len(blob) // CHUNK_BYTES
    lab.wait_for_slot("dev-kill", "confirmed", target, timeout_s=60)
    agent_log = (directory / "agent.log").read_text()
    assert "Traceback" not in agent_log, agent_log[-2_000:]


def chunks_here(directory: Path) -> int:
    for path in (directory / "parts").glob("*.bitmap"):
        try:
            return int.from_bytes(path.read_bytes(), "little").bit_count()
        except (FileNotFoundError, StorageError):
            return 0
    return 0


def test_an_agent_killed_in_probation_again_and_again_returns_to_the_confirmed_model(
    lab: AgentLab,
) -> None:
    directory = lab.join("dev-boots")
    agent = lab.run_agent(directory)
    one = lab.release("plant", 41, package(41))
    lab.wish("dev-boots", one)
    lab.wait_for_slot("dev-boots", "confirmed", one)
    two = lab.release("plant", 42, package(42))
    lab.wish("dev-boots", two, probation=ProbationPolicy(duration_s=600))
    lab.wait_for_slot("dev-boots", "probation", two)
    for _ in range(3):
        os.kill(agent.pid, 9)
        agent.wait()
        agent = lab.run_agent(directory)
        wait_until(lambda: is_answering(lab, directory))
    row = lab.wait_for_slot("dev-boots", "failed", two)
    assert (row.code, row.running_target) == ("probation-boots", one)
