"""What a model does to the process it runs in never ends the agent: real agents, real signals."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_profiles import catalog
from edge_agent.contract.assignment import ProbationPolicy
from tests.support.agent_fleet import PROFILE, AgentLab
from tests.support.serving import build_classifier
from tests.support.serving_worker import infer_request, is_gone
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("contained-runtime")]
LONG = ProbationPolicy(duration_s=300, rows_min=0, output_shift_max=1)
EVIDENCE = {"evidence.json": b'{"precision":"fp32","graph":{"ir":8,"opset":13,"opset_ml":0}}'}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("contained"))
    yield lab
    lab.stop()


def package(seed: int) -> bytes:
    return build_classifier(seed=seed, edit=lambda members: members | EVIDENCE).blob


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(") ", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def worker_of(agent: subprocess.Popen[bytes]) -> int:
    wait_until(lambda: workers_of(agent))
    return workers_of(agent)[0]


def workers_of(agent: subprocess.Popen[bytes]) -> list[int]:
    return [
        pid
        for pid in children(agent.pid)
        if b"edge_agent.serving_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def version_of(lab: AgentLab, directory: Path) -> str:
    port = lab.status(directory)["process"]["http_port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = json.dumps(infer_request((0.1, 0.2, 0.3, 0.4)))
        connection.request("POST", "/v2/models/plant/infer", body)
        return str(json.loads(connection.getresponse().read())["model_version"])
    finally:
        connection.close()


def test_a_candidate_whose_process_dies_is_rolled_back_and_the_confirmed_answers_at_once(
    lab: AgentLab,
) -> None:
    directory = lab.join("dev-crash")
    agent = lab.run_agent(directory)
    one = lab.release("plant", 1, package(1))
    lab.wish("dev-crash", one)
    lab.wait_for_slot("dev-crash", "confirmed", one)
    two = lab.release("plant", 2, package(2))
    lab.wish("dev-crash", two, probation=LONG)
    lab.wait_for_slot("dev-crash", "probation", two)
    assert version_of(lab, directory) == "2"
    worker, began = worker_of(agent), time.monotonic()
    os.kill(worker, signal.SIGSEGV)
    wait_until(lambda: is_gone(worker))
    wait_until(lambda: version_of(lab, directory) == "1")
    assert time.monotonic() - began < 20  # 2 where nothing else runs
    row = lab.wait_for_slot("dev-crash", "failed", two)
    assert (row.code, row.running_target) == ("probation-crash", one)
    assert "died of SIGSEGV" in row.detail
    assert agent.poll() is None

    worker = worker_of(agent)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: is_gone(worker))
    assert version_of(lab, directory) == "1"
    assert "onnxruntime" not in Path(f"/proc/{agent.pid}/maps").read_text()


def test_a_killed_agent_leaves_no_process_and_the_next_one_answers(lab: AgentLab) -> None:
    directory = lab.join("dev-kill")
    agent = lab.run_agent(directory)
    target = lab.release("plant", 11, package(11))
    lab.wish("dev-kill", target)
    lab.wait_for_slot("dev-kill", "confirmed", target)
    worker = worker_of(agent)
    agent.kill()
    agent.wait()
    wait_until(lambda: is_gone(worker) or worker not in children(1))
    lab.run_agent(directory)
    wait_until(lambda: "http_port" in (lab.status(directory)["process"] or {}))
    wait_until(lambda: is_answering(lab, directory))


def is_answering(lab: AgentLab, directory: Path) -> bool:
    try:
        return version_of(lab, directory) == "11"
    except (OSError, KeyError):
        return False


def test_a_profile_may_keep_confirmed_models_in_the_agents_process(lab: AgentLab) -> None:
    directory = lab.join("dev-inside")
    shipped = Path(catalog.__file__).parent / "data" / f"{PROFILE}.toml"
    own = directory / "profiles" / f"{PROFILE}.toml"
    own.parent.mkdir()
    own.write_text('serving = "in_process"\n' + shipped.read_text())
    agent = lab.run_agent(directory)
    one = lab.release("plant", 21, package(21))
    lab.wish("dev-inside", one)
    lab.wait_for_slot("dev-inside", "confirmed", one)
    wait_until(lambda: workers_of(agent) == [])
    assert version_of(lab, directory) == "21"
    assert "onnxruntime" in Path(f"/proc/{agent.pid}/maps").read_text()

    two = lab.release("plant", 22, package(22))
    lab.wish("dev-inside", two, probation=LONG)
    lab.wait_for_slot("dev-inside", "probation", two)
    wait_until(lambda: version_of(lab, directory) == "22")
    os.kill(worker_of(agent), signal.SIGSEGV)
    row = lab.wait_for_slot("dev-inside", "failed", two)
    assert (row.code, row.running_target) == ("probation-crash", one)
    wait_until(lambda: workers_of(agent) == [])
    assert version_of(lab, directory) == "21"
    assert agent.poll() is None
