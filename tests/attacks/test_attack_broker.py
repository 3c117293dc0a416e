"""Whoever holds the broker, or a retained message on it, delivers to a device what they like."""

import base64
import json
from collections.abc import Callable
from typing import Any

from edge_agent.contract.codes import Code
from tests.support.attack_server import V1, V2
from tests.support.attacks import Attack, AttackSuite, AttackWorld, hold

attack = AttackSuite("the broker")


def edited(envelope: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    value = json.loads(envelope)
    edit(value)
    return json.dumps(value).encode()


@attack(Code.ASSIGN_REPLAY)
def replay_an_older_assignment(w: AttackWorld) -> None:
    """The newest counter is committed with the slots it moved."""
    old = w.server.order(V1, 5)
    w.update(V2, 6)
    w.device.deliver(w.server.refresh(), old)


@attack(Code.ASSIGN_SIGNATURE)
def edit_the_assignment(w: AttackWorld) -> None:
    """The director signs every byte of it."""

    def edit(value: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(value["payload"]))
        payload["counter"] = 7
        value["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    w.device.deliver(w.server.refresh(), edited(w.server.order(V2, 6), edit))


@attack.cases()
def test_an_attack_from_the_broker_is_refused_and_seen(attack: Attack, world: AttackWorld) -> None:
    hold(world, attack)
