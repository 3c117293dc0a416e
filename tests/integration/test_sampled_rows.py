"""Sampled rows from an answer on the device to a message for the server."""

from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.outbox_rows import BYTES_SHARE, NewBatch
from edge_agent.adapters.row_redaction import redact
from edge_agent.adapters.row_sampler import PENDING_BYTES_MAX, RowPool
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.contract.rows import (
    Reason,
    Redaction,
    RowBatch,
    RowFeature,
    RowMessage,
    decode_rows,
    frame_batch,
)
from edge_agent.contract.schema import Feature, NamedLabel
from edge_agent.errors import InputError
from edge_agent.row_settings import RowSettings
from tests.support.clock import FakeClock
from tests.support.serving import (
    activate,
    build_classifier,
    build_regressor,
    build_several,
    make_service,
)

FEATURES = (
    Feature(name="heat"),
    Feature(name="grid", shape=(2, 2)),
    Feature(name="serial"),
    Feature(name="hum"),
)
BUILT = build_classifier(features=FEATURES)
RULES = {"heat": "keep", "grid": "round 0.5", "hum": "hash", "serial": "drop"}
KEY = b"k" * 32


class Device:
    """A service that samples, on a clock of its own."""

    def __init__(
        self, section: Mapping[str, Any], *, per_day: int = 10**9, path: Path | None = None
    ) -> None:
        self.clock, self.outbox = FakeClock(), Outbox(path, bytes_max=4_194_304)
        settings = RowSettings.from_section(section)
        self.pool = RowPool(
            settings,
            self.outbox,
            UplinkMeter(per_day, self.clock, {}, name="rows"),
            boot=5,
            key=KEY,
            clock=self.clock,
            jitter=np.random.default_rng(1).random,
        )
        self.service = make_service(clock=self.clock, outbox=self.outbox, rows=self.pool)

    def gather(self) -> list[RowBatch]:
        """Let the rows be gathered; take all batches out of the outbox."""
        self.service.close_due()
        self.clock.advance(self.pool.settings.gather_s)
        self.service.close_due()
        found = []
        while (batch := self.outbox.pending_rows()) is not None:
            found.append(decode_rows(frame_batch(*batch)).batch)
            self.outbox.acknowledge_rows([LabelRange(batch.boot, 0, batch.sequence)])
        return found


def section(share: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"share": share, "models": {"plant": RULES}, **more}


def numbers(values: bytes) -> list[float]:
    return array("f", values).tolist()


def test_rows_leave_as_their_rules_say_with_answer_and_id() -> None:
    device = Device(section())
    activate(device.service, BUILT)
    rows = BUILT.rows[:5]
    answers = [device.service.predict("main", rows[n : n + 1]) for n in range(3)]
    answers.append(device.service.predict("main", rows[3:5]))
    (batch,) = device.gather()
    assert batch.artifact == bytes.fromhex(answers[0].served.sha256)[:8]
    assert batch.features == (
        RowFeature(name="heat"),
        RowFeature(name="grid", redaction=Redaction.ROUND, step=0.5, width=4),
        RowFeature(name="hum", redaction=Redaction.HASH),
    )
    assert [(r.number, r.row) for r in batch.rows] == [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)]
    labels = [int(n) for a in answers for n in a.outputs["label"]]
    sure = [float(p.max()) for a in answers for p in a.outputs["probabilities"]]
    assert [int(r.predicted) for r in batch.rows] == labels
    assert [r.confidence for r in batch.rows] == pytest.approx(sure)
    assert {r.reason for r in batch.rows} == {Reason.SHARE}
    heat, grid, hum = batch.values
    assert numbers(heat) == rows[:, 0].tolist()
    expected = np.round(rows[:, 1:5].astype(np.float64) / 0.5) * 0.5
    assert numbers(grid) == expected.ravel().tolist()
    assert len(hum) == 5 * 8
    assert hum == redact(rows[:, 6:7], [batch.features[2]], KEY)[0]


def test_equal_values_hash_alike_and_another_key_tells_nothing() -> None:
    feature = [RowFeature(name="door", redaction=Redaction.HASH)]
    column = np.array([[0.0], [-0.0], [1.0], [np.nan], [np.nan]], np.float32)
    (found,) = redact(column, feature, KEY)
    hashes = [found[at : at + 8] for at in range(0, 40, 8)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[3] == hashes[4]
    (other,) = redact(column, feature, b"x" * 32)
    assert not {other[at : at + 8] for at in range(0, 40, 8)} & set(hashes)
    (renamed,) = redact(column, [RowFeature(name="gate", redaction=Redaction.HASH)], KEY)
    assert renamed[:8] != found[:8]


@pytest.mark.parametrize("models", [{}, {"other": RULES}, {"plant": {"serial": "drop"}}])
def test_a_model_nobody_names_gives_nothing(models: dict[str, Any]) -> None:
    device = Device(section(models=models))
    activate(device.service, BUILT)
    device.service.predict("main", BUILT.rows[:9])
    assert device.gather() == []


def test_a_regression_gives_its_value() -> None:
    built = build_regressor()
    device = Device({"share": 1.0, "confidence_max": 1.0, "models": {"load": {"f1": "keep"}}})
    activate(device.service, built)
    answer = device.service.predict("main", built.rows[:2])
    (batch,) = device.gather()
    values = answer.outputs["value"].reshape(-1).tolist()
    assert [(r.predicted, r.confidence) for r in batch.rows] == [(v, 0.0) for v in values]
    assert numbers(batch.values[0]) == built.rows[:2, 1].tolist()


def test_of_several_targets_every_answer_and_label_leaves_by_its_name() -> None:
    built = build_regressor(targets=("flow", "heat"))
    device = Device({"share": 1.0, "models": {"load": {"f1": "keep"}}})
    activate(device.service, built)
    answer = device.service.predict("main", built.rows[:3])
    (batch,) = device.gather()
    values = answer.outputs["value"]
    assert batch.names == ("flow", "heat")
    assert [numbers(answers) for answers in batch.predicted] == values.T.tolist()
    assert numbers(batch.values[0]) == built.rows[:3, 1].tolist()
    device.service.labels.add(f"{answer.prediction_id}.1", {"heat": 20})
    device.service.labels.add(f"{answer.prediction_id}.1", {"flow": 3.5})
    (labels,) = device.gather()
    assert (labels.names, labels.rows) == (("flow", "heat"), ())
    assert [tuple(label) for label in labels.labels] == [(0, 1, 20.0, 1), (0, 1, 3.5, 0)]


def test_of_several_labels_the_least_sure_one_makes_a_row_uncertain() -> None:
    labels = (
        NamedLabel(name="rain", classes=("no", "yes")),
        NamedLabel(name="day", classes=("work", "rest", "feast")),
    )
    built = build_several(labels)
    device = Device({"share": 0.0, "confidence_max": 0.5, "models": {"sky": {"f1": "keep"}}})
    activate(device.service, built)
    answer = device.service.predict("main", built.rows)
    probabilities = answer.outputs["probabilities"]
    sure = np.minimum(probabilities[:, :2].max(axis=1), probabilities[:, 2:].max(axis=1))
    chosen = np.flatnonzero(sure <= 0.5)
    (batch,) = device.gather()
    assert 0 < len(chosen) < len(built.rows)
    assert [r.row for r in batch.rows] == chosen.tolist()
    assert [r.confidence for r in batch.rows] == pytest.approx(sure[chosen].tolist())
    assert batch.names == ("rain", "day")
    predicted = [numbers(answers) for answers in batch.predicted]
    assert predicted == answer.outputs["label"][chosen].T.tolist()
    row = f"{answer.prediction_id}.{chosen[0]}"
    device.service.labels.add(row, {"day": "feast", "rain": "no"})
    with pytest.raises(InputError, match=f"label 'yes' of day of {row} is none of work, rest"):
        device.service.labels.add(row, {"day": "yes"})
    (said,) = device.gather()
    assert [tuple(label)[1:] for label in said.labels] == [
        (chosen[0], 2.0, 1),
        (chosen[0], 0.0, 0),
    ]
    _, pending = device.outbox.pending_labels(9)
    assert [(r.name, r.is_class, r.label) for r in pending] == [
        ("day", True, 2.0),
        ("rain", True, 0.0),
    ]


def test_uncertain_rows_are_taken_beside_the_share() -> None:
    device = Device(section(0.0, confidence_max=0.6))
    activate(device.service, BUILT)
    answer = device.service.predict("main", BUILT.rows)
    sure = answer.outputs["probabilities"].max(axis=1)
    (batch,) = device.gather()
    assert [r.row for r in batch.rows] == np.flatnonzero(sure <= 0.6).tolist()
    assert {r.reason for r in batch.rows} == {Reason.UNCERTAIN}
    assert batch.share == 0


def test_labels_of_sampled_rows_follow_them_and_others_do_not() -> None:
    device = Device(section(0.1))
    activate(device.service, BUILT)
    ids = [device.service.predict("main", BUILT.rows[n : n + 1]).prediction_id for n in range(200)]
    (batch,) = device.gather()
    sampled = [r.number for r in batch.rows]
    assert 5 < len(sampled) < 50
    classes = BUILT.schema.classes
    for prediction_id in ids:
        device.service.labels.add(prediction_id, classes[1])
    (labels,) = device.gather()
    assert (labels.rows, labels.artifact) == ((), batch.artifact)
    assert [tuple(label) for label in labels.labels] == [(n, 0, 1.0, 0) for n in sampled]
    assert device.outbox.counts()["labels"] == 200, "counting them is another matter"


def test_the_days_bytes_of_rows_are_kept_uncertain_ones_first_and_the_rest_is_counted() -> None:
    device = Device(section(1.0, confidence_max=0.45), per_day=40_000)
    activate(device.service, BUILT)
    first = device.service.predict("main", BUILT.rows)
    uncertain = int((first.outputs["probabilities"].max(axis=1) <= 0.45).sum())
    kept = [row for batch in device.gather() for row in batch.rows]
    # A row is taken by chance before it is taken for being uncertain: share 1 takes all.
    assert {row.reason for row in kept} == {Reason.SHARE}
    assert uncertain
    assert 0 < len(kept) < len(BUILT.rows)
    assert device.outbox.counts()["samples_dropped"] == len(BUILT.rows) - len(kept)
    taken = [len(kept)]
    for _ in range(4 * 24):
        device.service.predict("main", BUILT.rows[:50])
        device.clock.advance(900 - device.pool.settings.gather_s)
        taken.append(sum(len(batch.rows) for batch in device.gather()))
    size = 27 + 4 + 16 + 8
    assert sum(taken) * size < 2 * 40_000, "compressed they are smaller than told beforehand"
    assert min(taken[1:]) > 0, "spread over the day"
    assert device.outbox.notes()["rows_used"] <= 40_000


def test_what_waits_in_memory_is_bounded() -> None:
    wide = build_classifier(features=(Feature(name="pixels", shape=(32, 32)),))
    device = Device({"share": 1.0, "models": {"plant": {"pixels": "keep"}}})
    activate(device.service, wide)
    for _ in range(2):
        device.service.predict("main", wide.rows[:400])
    kept = sum(len(batch.rows) for batch in device.gather())
    most = PENDING_BYTES_MAX // (4 * 1_024)
    assert most // 2 < kept <= most
    assert device.outbox.counts()["samples_dropped"] == 800 - kept


def test_batches_survive_a_restart_and_the_oldest_are_dropped_and_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=400_000)
    outbox.append_rows(5, [NewBatch(3, bytes(30_000))], lost=2, notes={"rows_level": 7})
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=400_000)
    assert outbox.counts()["samples"] == 1
    assert outbox.notes()["rows_level"] == 7
    for _ in range(4):
        outbox.append_rows(6, [NewBatch(10, bytes(30_000))])
    counts = outbox.counts()
    assert (counts["samples"], counts["samples_dropped"]) == (400_000 // BYTES_SHARE // 30_000, 15)
    batch = outbox.pending_rows()
    assert batch is not None
    assert (batch.boot, batch.sequence) == (6, 3)
    outbox.close()


class World:
    """An uplink whose server says what it is told to."""

    def __init__(self, per_day: int = 0) -> None:
        self.device = Device(section())
        self.clock, self.outbox = self.device.clock, self.device.outbox
        self.sent: list[RowMessage] = []
        self.is_up = True
        self.meter = UplinkMeter(per_day, self.clock, {}) if per_day else None
        self.uplink = TelemetryUplink(
            self.outbox,
            lambda _: True,
            self.clock,
            lambda: 0.0,
            publish_rows=self.publish,
            meter=self.meter,
        )

    def publish(self, payload: bytes) -> bool:
        if self.is_up:
            self.sent.append(decode_rows(payload))
        return self.is_up

    def pump_after(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        self.uplink.pump()
        sent, self.sent = self.sent, []
        return [message.sequence for message in sent]

    def acknowledge(self, boot: int, last: int) -> None:
        self.uplink.on_ack(TelemetryAck(rows=(LabelRange(boot, last, last),)).encode())


def encoded(device: Device) -> Callable[[int], NewBatch]:
    def make(rows: int) -> NewBatch:
        activate(device.service, BUILT)
        device.service.predict("main", BUILT.rows[:rows])
        device.service.close_due(is_last=True)
        batch = device.outbox.pending_rows()
        assert batch is not None
        device.outbox.acknowledge_rows([LabelRange(batch.boot, 0, batch.sequence)])
        return NewBatch(rows, batch.encoded)

    return make


def test_batches_leave_in_order_one_at_a_time_until_the_server_has_them() -> None:
    world = World()
    batch = encoded(world.device)(3)
    world.outbox.append_rows(5, [batch, batch])
    assert world.pump_after(0) == [2]
    assert world.pump_after(5) == []
    assert world.pump_after(10) == [2], "no acknowledgement came"
    world.acknowledge(5, 2)
    assert world.pump_after(0) == [3]
    world.is_up = False
    world.uplink.on_connected()
    assert world.pump_after(0) == []
    world.is_up = True
    world.uplink.on_connected()
    assert world.pump_after(0) == [3]
    world.acknowledge(6, 3)
    assert world.outbox.counts()["samples"] == 1, "not of that boot"
    world.acknowledge(5, 3)
    assert world.outbox.counts()["samples"] == 0
    assert world.pump_after(60) == []


def test_rows_that_cannot_be_put_away_take_no_windows_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(section())
    activate(device.service, BUILT)
    device.service.predict("main", BUILT.rows[:3])
    device.service.deactivate("main")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(RowPool, "flush", fail)
        with pytest.raises(MemoryError):
            device.service.close_due()
    device.service.close_due()
    assert device.outbox.counts()["waiting"] == 1


def test_without_a_link_rows_cost_hardly_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(per_day=10**7)
    world.outbox.append_rows(5, [encoded(world.device)(3)])
    commits: list[int] = []
    reserve = Outbox.reserve

    def count(outbox: Outbox, *given: Any) -> Any:
        commits.append(1)
        return reserve(outbox, *given)

    monkeypatch.setattr(Outbox, "reserve", count)
    world.is_up = False
    for _ in range(600):
        world.pump_after(1)
    assert 2 < len(commits) < 10
    assert world.meter is not None
    assert world.meter.counts()["used_bytes"] == 0


def test_rows_leave_half_of_the_budget_to_windows_and_labels() -> None:
    world = World(per_day=100_000)
    batch = encoded(world.device)(100)
    size = len(batch.encoded)
    world.outbox.append_rows(5, [batch] * 40)
    sent = 0
    assert world.meter is not None
    while found := world.pump_after(0):
        sent += len(found)
        world.acknowledge(5, found[-1])
    burst = world.meter.burst_bytes
    assert sent in (burst // 2 // (size + 64), burst // 2 // (size + 64) + 1)
    assert world.meter.room_bytes() > burst // 2 - size - 200
    assert world.uplink.counts()["held"] == 1
    assert world.pump_after(3_600), "later there is more"


def test_a_text_stays_here_unless_it_is_named_and_is_hashed_as_a_whole() -> None:
    features = (Feature(name="heat"), Feature(name="note", dtype="text", chars_max=3))
    built = build_classifier(features=features)
    rows = np.array([[1, 2, 104, 105, 0], [2, 2, 104, 105, 0]], np.float32)
    found = {}
    for rule in ("keep", "hash", "round 2", "drop", ""):
        rules = {"heat": "keep"} | ({"note": rule} if rule else {})
        device = Device({"share": 1.0, "models": {"plant": rules}})
        activate(device.service, built)
        device.service.predict("main", rows)
        (batch,) = device.gather()
        found[rule] = dict(zip([f.name for f in batch.features], batch.values, strict=True))
    assert [name for name, one in found.items() if "note" in one] == ["keep", "hash"]
    assert numbers(found["keep"]["note"]) == [2, 104, 105, 0] * 2
    first, second = found["hash"]["note"][:8], found["hash"]["note"][8:]
    assert first == second
