"""Labels and sampled rows of several targets, from an answer on a device to what a person reads.

The agent's service, outbox and uplink on one side, the gateway's services, the registered package
and the command line on the other; bytes between them, without broker and processes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from typer.testing import CliRunner

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.row_sampler import RowPool
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.client import LocalModel
from edge_agent.contract.topics import device_topic
from edge_agent.row_settings import RowSettings
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import DeviceRow
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.cli import label, samples
from fleet_server.ports.gateway import InboundMessage
from fleet_server.services.record_labels import RecordLabels
from fleet_server.services.record_messages import RecordMessages
from fleet_server.services.record_rows import RecordRows
from fleet_server.wiring.labels import build_label_book
from fleet_server.wiring.samples import build_sample_keeper
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.agent_fleet import release
from tests.support.clock import FakeClock
from tests.support.serving import activate, build_regressor, make_service

BUILT = build_regressor(targets=("flow", "heat"))


class Directory:
    def find(self, device_id: str) -> int | None:
        return 1 if device_id == "pump-1" else None


class Device:
    """An agent's service and uplink; what it publishes goes straight to the gateway's services."""

    def __init__(self, fleet: Fleet) -> None:
        self.clock, self.outbox = FakeClock(fleet.clock.now()), Outbox(None)
        pool = RowPool(
            RowSettings.from_section({"share": 1.0, "models": {"load": {"f1": "keep"}}}),
            self.outbox,
            UplinkMeter(10**9, self.clock, {}, name="rows"),
            boot=5,
            key=b"k" * 32,
            clock=self.clock,
            jitter=lambda: 0.5,
        )
        self.service = make_service(clock=self.clock, outbox=self.outbox, rows=pool)
        self._directory, self._fleet = Directory(), fleet
        book, keeper = build_label_book(fleet), build_sample_keeper(fleet)
        self.uplink = TelemetryUplink(
            self.outbox,
            lambda _: True,
            self.clock,
            lambda: 0.0,
            publish_labels=self._to(RecordLabels(book, self._directory)),
            publish_rows=self._to(RecordRows(keeper.book, self._directory)),
        )
        activate(self.service, BUILT)

    def _to(self, records: RecordMessages) -> Any:
        def publish(payload: bytes) -> bool:
            message = InboundMessage(device_topic("pump-1", records.channel), payload)
            said = records.record([message], at=self._fleet.clock.now())
            assert said.quarantined == []
            for _, ack in said.acks:
                self.uplink.on_ack(ack.encode())
            return True

        return publish

    def settle(self) -> None:
        for _ in range(4):
            self.clock.advance(60)
            self.service.close_due()
            self.uplink.pump()


def run(fleet: Fleet, app: Any, *arguments: str) -> Any:
    root = str(fleet.workspace.root)
    result = CliRunner().invoke(app, [*arguments, "-w", root])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_became_true_of_each_target_is_read_on_the_server(tmp_path: Path) -> None:
    fleet = open_fleet(init_workspace(tmp_path / "ws", Config()).workspace)
    with write_session(fleet.engine) as session:
        session.add(DeviceRow(id="pump-1", profile="camera", created_at=fleet.clock.now()))
    release(fleet, "load", 1, BUILT.blob, is_approved=False)
    device = Device(fleet)
    model = LocalModel(device.service, "main")
    answers = [model.predict(BUILT.rows[n : n + 1]) for n in range(8)]
    device.settle()
    for answer in answers:  # heat is known at once, flow of half of them and later
        heat = float(answer.outputs["value"][0, 1])
        model.feedback(answer.prediction_id, {"heat": heat - 2})
    device.settle()
    for answer in answers[:4]:
        flow = float(answer.outputs["value"][0, 0])
        model.feedback(answer.prediction_id, {"flow": flow + 1})
    device.settle()
    counts = device.outbox.counts()
    assert (counts["labels"], counts["samples"]) == (0, 0), "all of it was acknowledged"

    (version,) = json.loads(run(fleet, label.app, "show", "load", "--json"))["versions"]
    each = {name: part["absolute_error"] for name, part in version["parts"].items()}
    assert version["names"] == list(each) == ["flow", "heat"]
    np.testing.assert_allclose([each[n]["value"] for n in each], [1, 2], rtol=1e-5)
    assert [each[n]["rows"] for n in each] == [4, 8]
    np.testing.assert_allclose(version["absolute_error"]["value"], 1.5, rtol=1e-5)
    text = run(fleet, label.app, "show", "load").splitlines()
    assert "load 1: mean absolute error 1.5 (" in text[0]
    assert "over 12 labels, the mean of 2 of 2 targets; 1 devices" in text[0]
    assert text[1].startswith("  flow: mean absolute error 1 (")
    assert text[4].startswith("    leans by 2 (")

    out = tmp_path / "rows.parquet"
    run(fleet, samples.app, "export", "load", "--out", str(out))
    rows = sorted(pq.read_table(out).to_pylist(), key=lambda r: r["_prediction_id"])
    values = np.vstack([answer.outputs["value"] for answer in answers])
    got = np.array([[r["_predicted_flow"], r["_predicted_heat"]] for r in rows])
    np.testing.assert_array_equal(got, values)
    np.testing.assert_allclose([r["_label_heat"] for r in rows], values[:, 1] - 2)
    np.testing.assert_allclose([r["_label_flow"] for r in rows[:4]], values[:4, 0] + 1)
    assert [r["_label_flow"] for r in rows[4:]] == [None] * 4
    fleet.engine.dispose()
