"""Shadowing from the server's wish to its database: real server, agent, worker and models."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables_shadow import ShadowRow
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.shadow_limits import DisagreementTest
from fleet_server.services.plan_rollout import PlanRequest
from fleet_server.wiring.devices import build_assignment_desk
from fleet_server.wiring.rollouts import (
    build_planner,
    build_rollout_desk,
    build_rollout_reader,
    build_runner,
)
from tests.support.agent_fleet import AgentLab
from tests.support.serving import build_classifier, classifier_graph
from tests.support.serving_worker import infer_request
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("shadow-story")]
EVIDENCE = {"evidence.json": b'{"precision":"fp32","graph":{"ir":8,"opset":13,"opset_ml":0}}'}
SHADOW = ShadowPolicy(duration_s=1, rows_min=25, timeout_s=120, share=1.0, cpu_share=1.0)
WEIGHTS = np.random.default_rng(4).normal(size=(4, 3))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("shadow"))
    yield lab
    lab.stop()


def package(by: float) -> bytes:
    """A classifier whose weights are off by so much."""
    graph = classifier_graph((WEIGHTS + by * np.arange(12).reshape(4, 3)).astype(np.float32))
    return build_classifier(model=graph, edit=lambda members: members | EVIDENCE).blob


def shadows(lab: AgentLab) -> dict[str, ShadowRow]:
    with read_session(lab.fleet.engine) as session:
        return {row.target: row for row in session.exec(select(ShadowRow))}


class Requests:
    """One connection of a local application."""

    def __init__(self, lab: AgentLab, directory: Path) -> None:
        port = lab.status(directory)["process"]["http_port"]
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.close = self._connection.close
        self._rows = np.random.default_rng(9).normal(size=(1_000, 4))
        self._count = 0

    def ask(self) -> str:
        """Ask about another row; return the version that answered."""
        row = [float(cell) for cell in self._rows[self._count % 1_000]]
        self._count += 1
        body = json.dumps(infer_request(row))
        self._connection.request("POST", "/v2/models/plant/infer", body)
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status == http.client.OK, said
        return str(said["model_version"])


def is_answering(requests: Requests, version: str) -> bool:
    return requests.ask() == version


def test_candidates_are_compared_on_real_requests_and_the_counts_arrive(lab: AgentLab) -> None:
    directory = lab.join("dev-shadow")
    lab.run_agent(directory)
    first = lab.release("plant", 1, package(0.0))
    lab.wish("dev-shadow", first, shadow=SHADOW)
    lab.wait_for_slot("dev-shadow", "confirmed", first)
    wait_until(lambda: first in shadows(lab), timeout_s=60)
    skipped = shadows(lab)[first]
    assert (skipped.state, skipped.rows) == ("skipped", 0)
    assert "nothing is confirmed" in skipped.note

    with closing(Requests(lab, directory)) as requests:
        follow(lab, requests)
        stop_by_rollout(lab, requests)


def follow(lab: AgentLab, requests: Requests) -> None:
    for version, by, is_good in ((2, 1e-6, True), (3, 0.5, False)):
        target = lab.release("plant", version, package(by))
        lab.wish("dev-shadow", target, shadow=SHADOW)
        lab.wait_for_slot("dev-shadow", "shadowing", target)
        assert requests.ask() == str(version - 1)
        answered: set[str] = set()

        def is_through(target: str = target, answered: set[str] = answered) -> bool:
            answered.update(requests.ask() for _ in range(3))
            return target in shadows(lab) and shadows(lab)[target].state == "over"

        wait_until(is_through, timeout_s=60)
        assert answered <= {str(version - 1), str(version)}
        wait_until(partial(is_answering, requests, str(version)), timeout_s=60)
        lab.wait_for_slot("dev-shadow", "confirmed", target)
        found = shadows(lab)[target]
        bins = json.loads(found.bins)
        assert found.rows >= 25
        assert sum(bins["difference"]) == sum(bins["latency"]) == found.rows
        assert (found.differs == 0) is is_good
        assert (sum(bins["difference"][4:]) == 0) is is_good  # 0.001 and more
        assert found.errors == 0


def stop_by_rollout(lab: AgentLab, requests: Requests) -> None:
    """A rollout halts a candidate on what it did in shadow; it has answered nobody."""
    target = lab.release("plant", 4, package(3.0))
    policy = RolloutPolicy(
        shadow=replace(SHADOW, duration_s=60),
        disagreement=DisagreementTest(),
        is_held_by_alarms=False,
    )
    planner = build_planner(lab.fleet, actor="tester")
    plan = planner.plan(
        PlanRequest(model="plant", version=4, group="all", stages="100%", policy=policy)
    )
    number = planner.store(plan)
    build_rollout_desk(lab.fleet, actor="tester").start(number)
    runner, reader = build_runner(lab.fleet), build_rollout_reader(lab.fleet)
    answered: set[str] = set()
    seen: set[str] = set()

    def is_over() -> bool:
        runner.run_once()
        while build_assignment_desk(lab.fleet).sign_stale():
            continue
        answered.update(requests.ask() for _ in range(10))
        view = reader.show(number)
        seen.update(str(outcome) for stage in view.stages for outcome in stage.outcomes)
        return view.rollout.state is RolloutState.ROLLED_BACK

    wait_until(is_over, timeout_s=60)
    assert answered == {"3"}
    assert "shadow" in seen
    rollout = reader.show(number).rollout
    assert "In shadow: " in rollout.stop_reason
    assert "Never above 10 % (goal 2 %)" in rollout.stop_reason
    assert shadows(lab)[target].rows >= 16
