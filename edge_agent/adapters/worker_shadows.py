"""Candidates in shadow beside models that answer in another process.

What is to be compared is remembered here, so that the next process compares it again, from nothing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.contract.codes import Code
from edge_agent.contract.shadow import NOTE_CHARS_MAX, ShadowPolicy, ShadowReport, ShadowState
from edge_agent.shadow_port import BlobPlace, ShadowOrder, ShadowSight

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edge_agent.adapters.worker_supervisor import Answer

START, STOP = "shadow", "unshadow"
"""Operations of the process that answers."""
Ask = Callable[..., "Future[Answer] | None"]


class WorkerShadows:
    """A ``ShadowService`` that asks another process."""

    def __init__(self, ask: Ask) -> None:
        """Begin with none; ``ask`` gives an operation to the process, None while there is none."""
        self._ask = ask
        self._lock = threading.Lock()
        self._orders: dict[str, ShadowOrder] = {}
        self._sights: dict[str, ShadowSight] = {}

    def start(self, slot: str, order: ShadowOrder) -> None:
        """Compare, now or when there is a process again; a former shadow of the slot ends."""
        with self._lock:
            self._orders[slot] = order
            self._sights.pop(slot, None)
            asked = self._ask(START, **order_to_json(slot, order))
        if asked is not None:
            asked.add_done_callback(lambda answer: self._on_started(slot, order, answer))

    def stop(self, slot: str) -> None:
        """Compare no more; without effect when nothing is compared."""
        with self._lock:
            if self._orders.pop(slot, None) is not None:
                self._ask(STOP, slot=slot)
            self._sights.pop(slot, None)

    def find(self, slot: str) -> ShadowSight | None:
        """Return how it went a moment ago; None when nothing is known."""
        return self._sights.get(slot)

    def operations(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return what a new process is told."""
        with self._lock:
            return [(START, order_to_json(slot, order)) for slot, order in self._orders.items()]

    def take(self, said: Mapping[str, Mapping[str, Any]]) -> None:
        """Hear how all go."""
        with self._lock:
            for slot, fields in said.items():
                order, sight = self._orders.get(slot), sight_from_json(fields)
                if order is not None and order.attempt == sight.attempt:
                    self._sights[slot] = sight

    def forget(self) -> None:
        """Forget what was counted: the process that counted it is gone."""
        with self._lock:
            self._sights.clear()

    def _on_started(self, slot: str, order: ShadowOrder, answer: "Future[Answer]") -> None:
        """Let the update go on without a shadow that cannot even begin."""
        if answer.exception() is not None or "code" not in answer.result():
            return
        note = f"the shadow could not begin: {answer.result()['detail']}"[:NOTE_CHARS_MAX]
        report = ShadowReport(sha256=order.package.sha256, state=ShadowState.SKIPPED, note=note)
        with self._lock:
            if self._orders.get(slot) is order:
                self._sights[slot] = ShadowSight(attempt=order.attempt, report=report)


def order_to_json(slot: str, order: ShadowOrder) -> dict[str, Any]:
    """Give an order as the process that answers reads it."""
    return {
        "slot": slot,
        "attempt": order.attempt,
        "package": [str(order.package.path), order.package.sha256],
        "beside": [str(order.beside.path), order.beside.sha256],
        "policy": order.policy.to_json(),
    }


def order_from_json(fields: Mapping[str, Any]) -> ShadowOrder:
    """Read what ``order_to_json`` gave."""
    package, beside = (BlobPlace(Path(p), s) for p, s in (fields["package"], fields["beside"]))
    return ShadowOrder(
        attempt=fields["attempt"],
        package=package,
        beside=beside,
        policy=ShadowPolicy.from_json(fields["policy"]),
    )


def sight_to_json(sight: ShadowSight) -> dict[str, Any]:
    """Give a sight as the agent reads it."""
    return {
        "attempt": sight.attempt,
        "report": sight.report.to_json(),
        "code": sight.code,
        "detail": sight.detail[:512],
    }


def sight_from_json(fields: Mapping[str, Any]) -> ShadowSight:
    """Read what ``sight_to_json`` gave."""
    code = fields["code"]
    return ShadowSight(
        attempt=fields["attempt"],
        report=ShadowReport.from_json(fields["report"]),
        code=None if code is None else Code(code),
        detail=fields["detail"],
    )
