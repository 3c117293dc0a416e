"""Labels and sampled rows from an application on a device to what a person reads on the server.

Real agents, broker and gateway; the gateway is killed while rows are on their way.
"""

import http.client
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from edge_agent.adapters.mqtt_link import MqttLink
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.outbox_rows import NewBatch
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.contract.package import EVIDENCE
from edge_agent.contract.rows import Reason, RowBatch, RowFeature, RowHead, encode_batch
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.ports import Connected, MessageArrived
from fleet_server.cli import label, samples
from tests.support.agent_fleet import AgentLab
from tests.support.serving import BuiltPackage, build_classifier
from tests.support.telemetry_load import JITTER, make_identity

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("rows-and-labels")]
EVIDENCE_JSON = {"precision": "fp32", "graph": {"ir": 8, "opset": 13, "opset_ml": 0}}
BUILT = build_classifier(edit=lambda m: {**m, EVIDENCE: json.dumps(EVIDENCE_JSON).encode()})
CLASSES = BUILT.schema.classes
SETTINGS = """
[row_samples]
share = 1.0
gather_s = 1
[row_samples.models.plant]
f0 = "keep"
f1 = "round 0.5"
f2 = "hash"
"""
BATCHES, KILLS, DEVICES = 60, 3, ("dev-k1", "dev-k2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("rows"))
    yield lab
    lab.stop()


def ask(port: int, path: str, body: object) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, answer
    return answer


def read(lab: AgentLab, app: Any, *arguments: str) -> Any:
    root = str(lab.workspace.root)
    result = CliRunner().invoke(app, [*arguments, "--json", "-w", root])
    return json.loads(result.stdout) if result.exit_code == 0 else None


def test_feedback_of_an_application_is_read_as_accuracy_and_its_rows_are_exported(
    lab: AgentLab, tmp_path: Path
) -> None:
    directory = lab.join("dev-rows")
    (directory / "agent.toml").write_text(SETTINGS)
    lab.run_agent(directory)
    target = lab.release("plant", 1, BUILT.blob)
    lab.wish("dev-rows", target)
    lab.wait_for_slot("dev-rows", "confirmed", target)
    port = lab.status(directory)["process"]["http_port"]
    asked = [{f"f{k}": float(x) for k, x in enumerate(row)} for row in BUILT.rows[:8]]
    answers = ask(port, "/v1/models/plant/predict", {"rows": asked})["predictions"]
    truth = [
        answer["class"] if n % 4 else next(c for c in CLASSES if c != answer["class"])
        for n, answer in enumerate(answers)
    ]
    said = [
        {"prediction_id": answer["prediction_id"], "label": label}
        for answer, label in zip(answers, truth, strict=True)
    ]
    assert ask(port, "/v1/feedback", said)["taken"] == 8

    def is_counted() -> bool:
        found = read(lab, label.app, "show", "plant")
        return bool(found and found["versions"] and found["versions"][0]["rows"] == 8)

    lab.wait(is_counted)
    (version,) = read(lab, label.app, "show", "plant")["versions"]
    assert (version["version"], version["devices"]) == (1, 1)
    assert version["accuracy"]["value"] == 0.75

    def is_labelled() -> bool:
        found = read(lab, samples.app, "ls", "plant")
        return bool(found and found["versions"][0]["labels"] == 8)

    lab.wait(is_labelled)
    out = tmp_path / "rows.parquet"
    assert read(lab, samples.app, "export", "plant", "--out", str(out))["rows"] == 8
    rows = pq.read_table(out).to_pylist()
    assert [f"{r['_prediction_id']}.{r['_row']}" for r in rows] == [
        answer["prediction_id"] for answer in answers
    ]
    assert [r["_label"] for r in rows] == truth
    assert [r["_predicted"] for r in rows] == [answer["class"] for answer in answers]
    assert [r["f0"] for r in rows] == pytest.approx([row["f0"] for row in asked])
    assert all(r["f1"] % 0.5 == 0 and len(r["f2"]) == 16 and "f3" not in r for r in rows)


class SendingDevice:
    """An outbox full of batches and the agent's own uplink and link."""

    def __init__(self, lab: AgentLab, name: str, built: BuiltPackage) -> None:
        lab.issue(name)
        folder = lab.workspace.root / "sending" / name
        folder.mkdir(parents=True)
        self.outbox, clock = Outbox(folder / "outbox.db"), SystemClock()
        self._items: queue.Queue[object] = queue.Queue()
        identity = make_identity(lab, name, folder)
        self._link = MqttLink(identity, 9, self._items.put, clock=clock, jitter=lambda: JITTER)
        self._uplink = TelemetryUplink(
            self.outbox,
            lambda _: True,
            clock,
            lambda: JITTER,
            publish_rows=lambda payload: self._link.publish(Channel.ROWS, payload, qos=1),
        )
        self._topic = device_topic(name, Channel.TELEMETRY_ACK)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.outbox.append_rows(9, [NewBatch(1, encode(built, n)) for n in range(BATCHES)])

    def start(self) -> None:
        self._link.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._link.stop()
        self.outbox.close()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            while not self._items.empty():
                item = self._items.get()
                if isinstance(item, Connected):
                    self._uplink.on_connected()
                elif isinstance(item, MessageArrived) and item.topic == self._topic:
                    self._uplink.on_ack(item.payload)
            self._uplink.pump()


def encode(built: BuiltPackage, number: int) -> bytes:
    return encode_batch(
        RowBatch(
            artifact=bytes.fromhex(built.sha256)[:8],
            stream=0,
            share=1,
            features=(RowFeature(name="f0"),),
            rows=(RowHead(number, 0, 1, Reason.SHARE, 0, 0.5),),
            values=(bytes(4),),
        )
    )


def test_kills_of_the_gateway_lose_and_double_no_row(lab: AgentLab, tmp_path: Path) -> None:
    built = build_classifier(seed=7)
    lab.release("moss", 1, built.blob, is_approved=False)
    lab.add_devices(DEVICES)
    devices = [SendingDevice(lab, name, built) for name in DEVICES]

    def waiting() -> int:
        return sum(device.outbox.counts()["samples"] for device in devices)

    try:
        for device in devices:
            device.start()
        step = BATCHES * len(DEVICES) // (KILLS + 1)
        for left in range((KILLS - 1) * step + step, 0, -step):
            lab.wait(lambda left=left: waiting() <= left)  # type: ignore[misc]
            lab.kill_gateway()
            lab.start_gateway()
        lab.wait(lambda: waiting() == 0, timeout_s=60)
    finally:
        for device in devices:
            device.stop()
    out = tmp_path / "rows.parquet"
    read(lab, samples.app, "export", "moss", "--out", str(out))
    rows = pq.read_table(out, columns=["_device", "_prediction_id"]).to_pylist()
    stored = Counter((row["_device"], row["_prediction_id"]) for row in rows)
    assert stored == Counter((d, f"{9:016x}-0-{n:x}") for d in DEVICES for n in range(BATCHES))
