"""Late labels from an answer on the device to a message for the server."""

import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.outbox_labels import LABELS_MAX
from edge_agent.adapters.recent_answers import ROWS_KEPT, AnsweringPackage, RecentAnswers
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.client import LocalModel
from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.contract.labels import LABEL_ROWS_MAX, LabelRow, Labels
from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.errors import InputError
from tests.integration.test_serving_service import BUILT
from tests.support.clock import FakeClock
from tests.support.serving import activate, build_regressor, make_service

CLASSES = BUILT.schema.classes


def wrong_and_right(predicted: str) -> tuple[str, str]:
    return next(name for name in CLASSES if name != predicted), predicted


def test_a_label_meets_what_was_answered_and_by_whom() -> None:
    outbox, clock = Outbox(None), FakeClock()
    service = make_service(outbox=outbox, clock=clock)
    activate(service, BUILT)
    answers = [service.predict("main", BUILT.rows[n : n + 1]) for n in range(4)]
    batch = service.predict("main", BUILT.rows[:3])
    wrong, _ = wrong_and_right(answers[2].class_names[0])
    service.labels.add(answers[2].prediction_id, wrong)
    service.labels.add(f"{batch.prediction_id}.1", batch.class_names[1])
    activate(service, BUILT)  # its successor; the old answers are remembered
    service.labels.add(answers[0].prediction_id, answers[0].class_names[0])
    service.close_due()
    _, rows = outbox.pending_labels(10)
    said = [(CLASSES[int(r.predicted)], CLASSES[int(r.label)]) for r in rows]
    same = [answers[0].class_names[0]] * 2
    assert said == [(answers[2].class_names[0], wrong), (batch.class_names[1],) * 2, tuple(same)]
    artifact = bytes.fromhex(answers[0].served.sha256)[:8]
    at_ms = int(clock.now().timestamp() * 1_000)
    assert {(r.artifact, r.is_class, r.at_ms) for r in rows} == {(artifact, True, at_ms)}
    assert [r.sequence for r in rows] == [1, 2, 3]


def test_a_label_nobody_can_use_is_refused_with_the_reason() -> None:
    service = make_service(outbox=Outbox(None))
    activate(service, BUILT)
    one = service.predict("main", BUILT.rows[:1]).prediction_id
    many = service.predict("main", BUILT.rows[:3]).prediction_id
    boot, stream, _ = one.split("-")
    cases: list[tuple[str, str | float, str]] = [
        ("", "x", "no prediction id"),
        ("x" * 200, "x", "no prediction id"),
        (f"{'0' * 15}f-{stream}-0", CLASSES[0], "not of this start"),
        (f"{boot}-{stream}-ff", CLASSES[0], "not remembered"),
        (f"{boot}-9-0", CLASSES[0], "not remembered"),
        (many, CLASSES[0], re.escape(f"{many}.0 to {many}.2")),
        (f"{many}.3", CLASSES[0], "not remembered"),
        (one, "no such class", "none of"),
        (one, 1.0, "none of"),
    ]
    for prediction_id, label, words in cases:
        with pytest.raises(InputError, match=words):
            service.labels.add(prediction_id, label)


def test_the_newest_answers_are_remembered_over_the_end_of_the_ring() -> None:
    ring = RecentAnswers()
    package = ring.add_package(AnsweringPackage(b"a" * 8, (AnswerPart("", ("no", "yes")),)))
    for first in range(0, 3 * ROWS_KEPT, 1_000):
        numbers = np.arange(first, first + 1_000)
        ring.remember(package, numbers, np.zeros(1_000, np.int64), numbers % 2, first)
    last = numbers[-1]
    for number in (last, last - ROWS_KEPT + 1):
        answer = ring.find(int(number), 0)
        assert answer is not None
        assert (answer.predicted, answer.rows) == ((number % 2,), 1)
    assert ring.find(int(last) - ROWS_KEPT, 0) is None


def row(n: int, *, is_class: bool = True) -> LabelRow:
    return LabelRow(0, b"a" * 8, is_class, n % 3, (n + 1) % 3, 1_000 + n)


def test_labels_survive_a_restart_and_are_bounded(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.append_labels(5, [row(n) for n in range(3)], lost=2)
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.counts()["labels"] == 3
    outbox.append_labels(6, [row(n) for n in range(LABELS_MAX)])
    counts = outbox.counts()
    assert (counts["labels"], counts["labels_dropped"]) == (LABELS_MAX, 5)
    boot, rows = outbox.pending_labels(2)
    assert (boot, [r.sequence for r in rows]) == (6, [4, 5])
    outbox.close()


class World:
    def __init__(self, per_day: int = 0) -> None:
        self.clock, self.outbox = FakeClock(), Outbox(None)
        self.sent: list[bytes] = []
        self.is_up = True
        self.uplink = TelemetryUplink(
            self.outbox,
            lambda _: True,
            self.clock,
            lambda: 0.0,
            publish_labels=self.publish,
            meter=UplinkMeter(per_day, self.clock, {}) if per_day else None,
        )

    def publish(self, payload: bytes) -> bool:
        if self.is_up:
            self.sent.append(payload)
        return self.is_up

    def pump_after(self, seconds: float) -> list[tuple[int, int, int]]:
        self.clock.advance(seconds)
        self.uplink.pump()
        sent, self.sent = [Labels.decode(p) for p in self.sent], []
        return [(m.boot, m.rows[0].sequence, m.rows[-1].sequence) for m in sent]

    def acknowledge(self, boot: int, first: int, last: int) -> None:
        ack = TelemetryAck(labels=(LabelRange(boot, first, last),))
        self.uplink.on_ack(ack.encode())


def test_labels_leave_in_order_one_message_at_a_time_until_counted() -> None:
    world = World()
    world.outbox.append_labels(5, [row(n) for n in range(LABEL_ROWS_MAX + 7)])
    world.outbox.append_labels(6, [row(n) for n in range(2)])
    first = (5, 1, LABEL_ROWS_MAX)
    assert world.pump_after(0) == [first]
    assert world.pump_after(2) == []
    assert world.pump_after(5) == [first], "no acknowledgement came"
    world.acknowledge(*first)
    assert world.pump_after(3) == [(5, LABEL_ROWS_MAX + 1, LABEL_ROWS_MAX + 7)]
    world.uplink.on_connected()
    assert world.pump_after(0) == [(5, LABEL_ROWS_MAX + 1, LABEL_ROWS_MAX + 7)]
    world.acknowledge(5, LABEL_ROWS_MAX + 1, LABEL_ROWS_MAX + 7)
    assert world.pump_after(3) == [(6, LABEL_ROWS_MAX + 8, LABEL_ROWS_MAX + 9)]
    world.acknowledge(6, 0, 2**50)
    assert world.outbox.counts()["labels"] == 0
    assert world.pump_after(60) == []


def test_labels_are_paid_from_the_days_budget() -> None:
    world = World(per_day=20_000)
    world.outbox.append_labels(5, [row(n) for n in range(2_000)])
    sent = []
    for _ in range(288):
        for boot, first, last in world.pump_after(300):
            sent.append(last)
            world.acknowledge(boot, first, last)
    counts = world.uplink.counts()
    assert sent
    assert counts["held"] > 0
    assert counts["labels"] > 0, "what exceeds the budget waits"


@pytest.mark.parametrize("is_class", [True, False])
def test_labels_come_back_from_the_wire_as_they_were(is_class: bool) -> None:
    rows = [
        LabelRow(n, bytes([n % 2]) * 8, is_class, float(n % 7), float(n % 5) / (2 - is_class), n)
        for n in range(1, 40)
    ]
    message = Labels(boot=2**63 - 1, rows=tuple(rows))
    assert Labels.decode(message.encode()) == message


def test_labels_of_several_targets_leave_by_name_and_an_older_file_takes_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    Outbox(path).close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE label DROP COLUMN name")  # as an older agent made it
        db.execute("INSERT INTO label VALUES (1, 5, x'6161616161616161', 1, 0, 1, 9)")
    db.close()
    outbox, clock = Outbox(path), FakeClock()
    service = make_service(outbox=outbox, clock=clock)
    built = build_regressor(targets=("flow", "heat"))
    activate(service, built)
    rows = LocalModel(service, "main")
    answer = rows.predict(built.rows[:2])
    rows.feedback(f"{answer.prediction_id}.1", {"heat": 20})
    with pytest.raises(InputError, match=r"heat of .* has its label already"):
        rows.feedback(f"{answer.prediction_id}.1", {"flow": 1.0, "heat": 21})
    rows.feedback(f"{answer.prediction_id}.1", {"flow": 1.0})
    service.close_due()
    _, pending = outbox.pending_labels(10)
    flow, heat = answer.outputs["value"][1].tolist()
    assert [(r.name, r.predicted, r.label) for r in pending] == [
        ("", 0.0, 1.0),
        ("heat", heat, 20.0),
        ("flow", flow, 1.0),
    ]
    outbox.close()


def test_an_answer_that_is_no_number_takes_no_label_and_one_answer_takes_one() -> None:
    service = make_service(outbox=Outbox(None))
    built = build_regressor()
    activate(service, built)
    one = service.predict("main", built.rows[:1]).prediction_id
    service.labels.add(one, 2.0)
    with pytest.raises(InputError, match=f"{one} has its label already"):
        service.labels.add(one, 2.5)
    lost = service.predict("main", np.full((1, 3), np.inf, np.float32)).prediction_id
    with pytest.raises(InputError, match=r"was answered with (nan|-?inf), to which no label"):
        service.labels.add(lost, 2.0)


def test_labels_with_long_names_leave_in_as_many_messages_as_they_need() -> None:
    world = World()
    names = [f"{n:03}" + "\U0001f300" * 125 for n in range(100)]
    rows = [row(n, is_class=False)._replace(name=name) for n, name in enumerate(names)]
    world.outbox.append_labels(5, rows)
    found = []
    for _ in range(10):
        for boot, first, last in world.pump_after(10):
            found.append((first, last))
            world.acknowledge(boot, first, last)
    assert world.outbox.counts()["labels"] == 0
    assert len(found) > 1
    assert [first for first, _ in found[1:]] == [last + 1 for _, last in found[:-1]]
