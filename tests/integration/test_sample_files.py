"""Sampled rows on the server: taken once, filed, dropped when old, exported with labels."""

import csv
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlmodel import select
from typer.testing import CliRunner, Result

from edge_agent.contract.messages import LabelRange
from edge_agent.contract.rows import (
    Reason,
    Redaction,
    RowBatch,
    RowFeature,
    RowHead,
    SampledLabel,
    encode_batch,
    frame_batch,
)
from edge_agent.contract.schema import Feature, NamedLabel
from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters import sample_files
from fleet_server.adapters.database import sample_book, sample_room
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.sample_book import MARKS_MAX
from fleet_server.adapters.database.sample_tables import SampleMarkRow
from fleet_server.adapters.database.tables import AuditRow, DeviceRow
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.cli import label, samples
from fleet_server.core.checkup import Grade, judge_waiting_samples
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.ports.gateway import InboundMessage
from fleet_server.services.export_samples import Export
from fleet_server.services.file_samples import FILE_AFTER
from fleet_server.services.record_messages import Recorded
from fleet_server.services.record_rows import RecordRows
from fleet_server.wiring.samples import build_sample_desk, build_sample_keeper
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.agent_fleet import release
from tests.support.clock import FakeClock
from tests.support.serving import (
    BuiltPackage,
    build_classifier,
    build_regressor,
    build_several,
)

BOOT = 0x51
PLANT = build_classifier(
    features=(Feature(name="heat"), Feature(name="grid", shape=(2,)), Feature(name="door"))
)
CLASSES = PLANT.schema.classes
FEATURES = (
    RowFeature(name="heat", redaction=Redaction.ROUND, step=0.5),
    RowFeature(name="grid", width=2),
    RowFeature(name="door", redaction=Redaction.HASH),
)


class Server:
    """A workspace with two devices and a released package, without processes."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.fleet: Fleet = open_fleet(root, clock=self.clock)
        self.keeper = build_sample_keeper(self.fleet)
        self.desk = build_sample_desk(self.fleet, actor="tester")
        self.folder = self.fleet.workspace.samples_dir

    def find(self, device_id: str) -> int | None:
        return {"cam-1": 1, "cam-2": 2}.get(device_id)

    def say(self, payload: bytes, device: str = "cam-1") -> Recorded:
        message = InboundMessage(device_topic(device, Channel.ROWS), payload)
        return RecordRows(self.keeper.book, self).record([message], at=self.clock.now())

    def file(self) -> int:
        self.clock.advance(FILE_AFTER.total_seconds())
        return self.keeper.file()

    def export(self, out: Path, **more: Any) -> list[dict[str, Any]]:
        self.desk.export(Export(model="plant", out=out, **more))
        return list(pq.read_table(out).to_pylist())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "ws"
    fleet = open_fleet(init_workspace(root, Config(samples_bytes_max=1_048_576)).workspace)
    with write_session(fleet.engine) as session:
        for name in ("cam-1", "cam-2"):
            session.add(DeviceRow(id=name, profile="camera", created_at=fleet.clock.now()))
    release(fleet, "plant", 1, PLANT.blob, is_approved=False)
    fleet.engine.dispose()
    return root


@pytest.fixture
def server(made: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(shutil.copytree(made, tmp_path / "ws"))
    yield server
    server.fleet.engine.dispose()


def batch(
    server: Server,
    sequence: int,
    numbers: Sequence[int],
    *,
    built: BuiltPackage = PLANT,
    features: tuple[RowFeature, ...] = FEATURES,
    labels: Sequence[SampledLabel] = (),
    boot: int = BOOT,
) -> bytes:
    at_ms = int(server.clock.now().timestamp() * 1_000)
    rows = tuple(RowHead(n, 0, at_ms, Reason(n % 2), float(n % len(CLASSES)), 0.5) for n in numbers)
    values = tuple(
        b"".join(bytes([n]) * 8 for n in numbers)
        if f.redaction is Redaction.HASH
        else np.repeat(np.array(numbers, "<f4"), f.width).tobytes()
        for f in features
    )
    own = RowBatch(
        artifact=bytes.fromhex(built.sha256)[:8],
        stream=0,
        share=0.25,
        features=features if numbers else (),
        rows=rows,
        values=values if numbers else (),
        labels=tuple(labels),
    )
    return frame_batch(boot, sequence, encode_batch(own))


def test_rows_of_few_bytes_that_unfold_to_many_share_no_file(server: Server) -> None:
    wide = RowFeature(name="grid", width=1_000_000)
    own = RowBatch(
        artifact=bytes.fromhex(PLANT.sha256)[:8],
        stream=0,
        share=1.0,
        features=(wide,),
        rows=(RowHead(0, 0, 0, Reason.SHARE, 0.0, 0.0),),
        values=(bytes(wide.row_bytes),),
    )
    encoded = encode_batch(own)
    assert len(encoded) < 8_192
    for sequence in range(1, 25):
        server.say(frame_batch(BOOT, sequence, encoded))
    assert server.file() == 2, "96 MB of rows"
    assert sum(each.rows for each in server.desk.add_up("plant")) == 24


@pytest.mark.parametrize(
    "lies",
    [
        (RowFeature(name="heat", redaction=Redaction.ROUND, step=0.5, width=3),),
        (RowFeature(name="grid", width=2), RowFeature(name="grid_0")),
        (RowFeature(name="nobody's"),),
    ],
)
def test_features_the_model_does_not_have_spoil_no_export(
    server: Server, tmp_path: Path, lies: tuple[RowFeature, ...]
) -> None:
    server.say(batch(server, 1, [1]))
    server.say(batch(server, 1, [2], features=lies), device="cam-2")
    (own, other) = server.export(tmp_path / "rows.parquet")
    assert own["heat"] == 1.0
    assert other["heat"] is None
    assert "nobody's" not in own


def test_rows_come_out_as_they_came_with_labels_from_files_and_from_what_waits(
    server: Server, tmp_path: Path
) -> None:
    server.say(batch(server, 1, [1, 2]))
    server.say(batch(server, 1, [3]), device="cam-2")
    assert server.keeper.file() == 0, "too fresh for a file"
    assert server.file() == 1
    server.say(batch(server, 2, [4], labels=[SampledLabel(2, 0, 1.0)]))
    server.say(batch(server, 3, [], labels=[SampledLabel(4, 0, 2.0), SampledLabel(99, 0, 0.0)]))
    rows = server.export(tmp_path / "rows.parquet")
    assert [(r["_device"], r["_prediction_id"]) for r in rows] == [
        ("cam-1", f"{BOOT:016x}-0-1"),
        ("cam-1", f"{BOOT:016x}-0-2"),
        ("cam-2", f"{BOOT:016x}-0-3"),
        ("cam-1", f"{BOOT:016x}-0-4"),
    ]
    assert [r["_label"] for r in rows] == [None, CLASSES[1], None, CLASSES[2]]
    assert [r["_predicted"] for r in rows] == [CLASSES[n % len(CLASSES)] for n in (1, 2, 3, 4)]
    assert [r["_reason"] for r in rows] == ["uncertain", "share", "uncertain", "share"]
    one = rows[1]
    assert (one["heat"], one["grid_0"], one["grid_1"], one["door"]) == (2.0, 2.0, 2.0, "02" * 8)
    assert (one["_share"], one["_confidence"], one["_row"], one["_version"]) == (0.25, 0.5, 0, 1)
    (total,) = server.desk.add_up()
    assert (total.rows, total.waiting, total.labels, total.files) == (4, 1, 3, 1)
    (path,) = server.folder.rglob("*.parquet")
    assert path.parent.relative_to(server.folder).parts[0] == "plant"
    told = pq.read_schema(path).field("heat").metadata
    assert told[b"redaction"] == b"round 0.5"


def test_categories_and_booleans_come_out_as_tables_have_them(
    server: Server, tmp_path: Path
) -> None:
    typed = build_classifier(
        features=(
            Feature(name="hue", dtype="category", categories=("red", "blue"), is_open=True),
            Feature(name="door", dtype="bool", is_nullable=True),
        )
    )
    release(server.fleet, "paint", 1, typed.blob, is_approved=False)
    own = RowBatch(
        artifact=bytes.fromhex(typed.sha256)[:8],
        stream=0,
        share=1,
        features=(RowFeature(name="hue"), RowFeature(name="door")),
        rows=tuple(RowHead(n, 0, 1, Reason.SHARE, 9e9, 0.5) for n in range(4)),
        values=(
            np.array([1, -1, np.inf, 0], "<f4").tobytes(),
            np.array([1, 0, np.nan, 1], "<f4").tobytes(),
        ),
    )
    server.say(frame_batch(BOOT, 1, encode_batch(own)))
    assert server.file() == 1
    server.desk.export(Export(model="paint", out=tmp_path / "rows.parquet"))
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [r["hue"] for r in rows] == ["blue", "(unlisted)", None, "red"]
    assert [r["door"] for r in rows] == [True, False, None, True]
    assert {r["_predicted"] for r in rows} == {None}, "no class has that number"


FLOWS = build_regressor(targets=("flow", "heat"))


def flows(sequence: int, count: int, labels: Sequence[SampledLabel] = (), **more: Any) -> bytes:
    """Say rows of two targets as a device does, or ``more`` of it otherwise."""
    own = RowBatch(
        artifact=bytes.fromhex(FLOWS.sha256)[:8],
        stream=0,
        share=0.5,
        features=(RowFeature(name="f1"),) if count else (),
        rows=tuple(RowHead(n, 0, 1, Reason.SHARE, 0.0, 0.0) for n in range(count)),
        values=(np.arange(count, dtype="<f4").tobytes(),) if count else (),
        labels=tuple(labels),
        names=("flow", "heat"),
        predicted=tuple(np.arange(count, dtype="<f4").tobytes() for _ in range(2)),
    )
    return frame_batch(BOOT, sequence, encode_batch(replace(own, **more)))


def test_of_several_targets_every_answer_and_label_has_a_column(
    server: Server, tmp_path: Path
) -> None:
    release(server.fleet, "load", 1, FLOWS.blob, is_approved=False)
    server.say(flows(1, 2))
    old = tuple(RowHead(n, 0, 1, Reason.SHARE, float("nan"), 0.0) for n in (7, 8))
    server.say(flows(2, 2, names=(), predicted=(), rows=old))
    assert server.file() == 2, "an older agent's rows have other columns"
    lie = (b"\0\0\x80\x3f",) * 2
    server.say(flows(3, 1, names=("flow", "wind"), predicted=lie), device="cam-2")
    server.say(flows(4, 0, [SampledLabel(1, 0, 20.5, 1), SampledLabel(0, 0, 3.5, 0)]))
    server.say(flows(5, 0, [SampledLabel(1, 0, 1.5, 0), SampledLabel(1, 0, 21.0, 1)]))
    out = tmp_path / "rows.parquet"
    server.desk.export(Export(model="load", out=out))
    rows = sorted(pq.read_table(out).to_pylist(), key=lambda r: (r["_device"], r["f1"]))
    assert [r["_predicted_flow"] for r in rows] == [0.0, None, 1.0, None, 1.0]
    assert [r["_predicted_heat"] for r in rows] == [0.0, None, 1.0, None, None]
    assert [r["_label_flow"] for r in rows] == [3.5, None, 1.5, None, None]
    assert [r["_label_heat"] for r in rows] == [None, None, 21.0, None, None], "the newest"
    assert {r["_predicted"] for r in rows} == {r["_label"] for r in rows} == {None}
    assert "_predicted_wind" not in rows[0], "the model does not answer with it"
    assert server.desk.add_up("load")[0].labels == 3


def test_of_several_labels_each_comes_out_with_the_names_of_its_own_classes(
    server: Server, tmp_path: Path
) -> None:
    weather = build_several(
        (
            NamedLabel(name="rain", classes=("no", "yes")),
            NamedLabel(name="day", classes=("work", "rest", "feast")),
        )
    )
    release(server.fleet, "weather", 1, weather.blob, is_approved=False)
    own = RowBatch(
        artifact=bytes.fromhex(weather.sha256)[:8],
        stream=0,
        share=1,
        features=(RowFeature(name="f1"),),
        rows=tuple(RowHead(n, 0, 1, Reason.SHARE, 0.0, 0.75) for n in range(3)),
        values=(np.arange(3, dtype="<f4").tobytes(),),
        labels=(SampledLabel(2, 0, 2.0, 1), SampledLabel(2, 0, 0.0, 0)),
        names=tuple(label.name for label in weather.schema.labels),
        predicted=(
            np.array([0, 1, 9], "<f4").tobytes(),
            np.array([2, 1, 0], "<f4").tobytes(),
        ),
    )
    server.say(frame_batch(BOOT, 1, encode_batch(own)))
    assert server.file() == 1
    out = tmp_path / "rows.parquet"
    server.desk.export(Export(model="weather", out=out))
    rows = pq.read_table(out).to_pylist()
    rain, day = weather.schema.labels
    assert [r[f"_predicted_{rain.name}"] for r in rows] == [*rain.classes[:2], None]
    assert [r[f"_predicted_{day.name}"] for r in rows] == list(day.classes[2::-1])
    assert rows[2][f"_label_{rain.name}"] == rain.classes[0]
    assert rows[2][f"_label_{day.name}"] == day.classes[2]
    assert {r["_confidence"] for r in rows} == {0.75}


def test_an_export_with_its_labels_filled_in_comes_back(server: Server, tmp_path: Path) -> None:
    release(server.fleet, "load", 1, FLOWS.blob, is_approved=False)
    server.say(flows(1, 3, [SampledLabel(0, 0, 3.5, 0)]))
    assert server.file() == 1
    out = tmp_path / "rows.parquet"
    server.desk.export(Export(model="load", out=out))
    table = pq.read_table(out)
    for name, known in (("_label_flow", [3.5, None, 1.5]), ("_label_heat", [20.0, None, 22.0])):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(known, pa.float64()))
    pq.write_table(table, out)
    told = json.loads(run_label(server, "load", str(out), "--json"))
    assert (told["added"], told["same"], told["refused"]) == (3, 1, 0)
    again = tmp_path / "again.parquet"
    server.desk.export(Export(model="load", out=again))
    assert pq.read_table(again).column("_label_flow").to_pylist() == [3.5, None, 1.5]
    assert pq.read_table(again).column("_label_heat").to_pylist() == [20.0, None, 22.0]
    with read_session(server.fleet.engine) as session:
        acts = session.exec(select(AuditRow.act, AuditRow.detail)).all()
    assert ("labels.import", {"labels": 3, "path": str(out)}) in [
        (act, json.loads(detail)) for act, detail in acts
    ]


def test_a_table_of_text_is_filled_in_as_well(server: Server, tmp_path: Path) -> None:
    release(server.fleet, "load", 1, FLOWS.blob, is_approved=False)
    server.say(flows(1, 2, [SampledLabel(0, 0, 3.5, 0)]))
    out = tmp_path / "rows.csv"
    server.desk.export(Export(model="load", out=out))
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["_label_flow"], r["_label_heat"], r["_predicted_heat"]) for r in table] == [
        ("3.5", "", "0"),
        ("", "", "1"),
    ]
    table[1]["_label_heat"] = "20.25"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    told = json.loads(run_label(server, "load", str(out), "--json"))
    assert (told["added"], told["same"], told["refused"]) == (1, 1, 0)


def test_a_picture_in_a_row_is_refused_as_a_table_of_text(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_files, "COLUMNS_MAX", 1)
    server.say(batch(server, 1, [1]))
    with pytest.raises(RefusedError, match=r"grid is a list in each row.*write \.parquet"):
        server.desk.export(Export(model="plant", out=tmp_path / "rows.csv"))
    assert list(tmp_path.glob("*rows*")) == []


def test_labels_nobody_can_use_are_told_by_line_and_the_rest_is_kept(
    server: Server, tmp_path: Path
) -> None:
    release(server.fleet, "load", 1, FLOWS.blob, is_approved=False)
    server.say(flows(1, 3))
    name, path = f"{BOOT:016x}-0-", tmp_path / "labels.csv"
    lines = (
        f"cam-1,{name}0,0,1.5,20",
        f"cam-1,{name}1,0,wet,20",
        f"cam-1,{name}1,0,1e999,",
        f"cam-1,{name}0,0,1.5,",
        f"cam-1,{name}9,0,1.5,",
        f"cam-2,{name}2,0,1.5,",
        f"cam-1,{name}2,x,1.5,",
        f"cam-1,{name}2,0,,",
        f"cam-1,{name}2,0,,0",
    )
    head = "_device,_prediction_id,_row,_label_flow,_label_heat"
    path.write_text("\n".join((head, *lines)) + "\n")
    told = json.loads(run_label(server, "load", str(path), "--json", expect=1))
    assert (told["added"], told["same"], told["refused"]) == (3, 0, 6)
    for (line, reason), (expected, words) in zip(
        told["faults"],
        (
            (2, "label of flow 'wet' is no finite number"),
            (3, "label of flow '1e999' is no finite number"),
            (4, f"flow of {name}0.0 has a label in this file already"),
            (5, "no sampled row of load is row 0 of prediction"),
            (6, "of device cam-2"),
            (7, "is row -1 of prediction"),
        ),
        strict=True,
    ):
        assert (line, words in reason) == (expected, True), reason
    path.write_text(f"{head}\ncam-1,{name}0,0,2.5,20\n")
    assert "has another label already; --replace" in run_label(server, "load", str(path), expect=1)
    assert "0 labels added, 1 replaced, 1 known" in run_label(
        server, "load", str(path), "--replace"
    )
    for wrong, words in (
        (f"_device,_prediction_id,_label_wind\ncam-1,{name}0,1\n", "its columns are _label_flow"),
        (f"_device,_prediction_id,_label\ncam-1,{name}0,1\n", "answers nothing that column _label"),
        ("_device,_prediction_id,flow\n", "needs columns _device, _prediction_id, _row and _label"),
        ("_device,_prediction_id,_label,_label\n", "has column '_label' twice"),
    ):
        path.write_text(wrong)
        assert words in run_label(server, "load", str(path), expect=1)


def test_labels_of_one_answer_come_back_as_names_of_classes(server: Server, tmp_path: Path) -> None:
    server.say(batch(server, 1, [1, 2]))
    path = tmp_path / "labels.csv"
    name = f"{BOOT:016x}-0-"
    path.write_text(
        "_device,_prediction_id,_row,_label\n"
        f"cam-1,{name}1,0,{CLASSES[2]}\ncam-1,{name}2,0,nonsense\n"
    )
    told = run_label(server, "plant", str(path), expect=1)
    assert f"line 2: label 'nonsense' is none of {', '.join(CLASSES)}" in told
    endless = pa.table({"_device": ["cam-1"], "_prediction_id": [f"{name}1"], "_row": [math.inf]})
    endless = endless.append_column("_label", pa.array([CLASSES[0]]))
    pq.write_table(endless, tmp_path / "endless.parquet")
    told = run_label(server, "plant", str(tmp_path / "endless.parquet"), expect=1)
    assert "line 1: no sampled row of plant is row -1" in told
    rows = server.export(tmp_path / "rows.parquet")
    assert [r["_label"] for r in rows] == [CLASSES[2], None]


def run_label(server: Server, *arguments: str, expect: int = 0) -> str:
    """Import labels; return data, or words on one line."""
    root = str(server.fleet.workspace.root)
    result = CliRunner().invoke(label.app, ["import", *arguments, "-w", root])
    assert result.exit_code == expect, result.output
    return result.stdout or " ".join(result.stderr.split())


def test_a_batch_is_taken_once_however_often_it_is_sent(server: Server, tmp_path: Path) -> None:
    first = batch(server, 5, [1, 2])
    for _ in range(3):
        said = server.say(first)
        assert said.acks[0][1].rows == (LabelRange(BOOT, 5, 5),)
    server.say(batch(server, 4, [9]))  # an older one of the same boot: it was there before
    server.say(batch(server, 1, [3], boot=BOOT + 1))
    assert server.file() == 1
    server.say(first)
    assert len(server.export(tmp_path / "rows.parquet")) == 3


def test_what_nobody_can_use_is_acknowledged_only_when_it_can_never_be(server: Server) -> None:
    good = batch(server, 1, [1])
    stranger = build_classifier(seed=9)
    unknown = server.say(batch(server, 2, [1], built=stranger, features=()))
    assert len(unknown.acks) == 1
    assert "not registered here" in unknown.quarantined[0].reason
    for payload, device, words in (
        (b"EFR1", "cam-1", "shorter than their head"),
        (good, "stranger", "not enrolled"),
        (good[:-1], "cam-1", "does not end"),
    ):
        said = server.say(payload, device=device)
        assert said.acks == []
        assert words in said.quarantined[0].reason
    assert server.desk.add_up() == []


def test_a_file_that_lost_the_race_does_not_count(server: Server, tmp_path: Path) -> None:
    server.say(batch(server, 1, [1]))
    waiting = server.keeper.book.list_waiting(bytes_max=10**9)
    lost = server.keeper.files.write(waiting)
    server.say(batch(server, 2, [2]))
    assert server.file() == 1
    assert not server.keeper.book.note_file(lost, [b.id for b in waiting])
    assert len(server.export(tmp_path / "rows.parquet")) == 2
    assert (server.folder / lost.path).exists()
    server.clock.advance(10 * 365 * 86_400)  # by the clock of files, a day like any other
    server.keeper.files.sweep([f.path for f in server.keeper.book.list_files()])
    assert not (server.folder / lost.path).exists()


def test_old_rows_go_and_so_do_the_oldest_of_too_many(server: Server) -> None:
    wide = (RowFeature(name="grid", width=2),)
    noise = np.random.default_rng(1).normal(size=2_000).astype("<f4").tobytes()
    rows = tuple(RowHead(n, 0, 1, Reason.SHARE, 0, 0.5) for n in range(1_000))
    for sequence in range(1, 7):
        own = RowBatch(
            artifact=bytes.fromhex(PLANT.sha256)[:8],
            stream=0,
            share=1,
            features=wide,
            rows=rows,
            values=(noise,),
        )
        server.say(frame_batch(BOOT, sequence, encode_batch(own)))
        assert server.file() == 1
    size = server.keeper.book.list_files()[0].size_bytes
    server.keeper = replace(server.keeper, bytes_max=4 * size)
    server.keeper.tidy()
    kept = server.keeper.book.list_files()
    assert 2 < len(kept) < 6
    assert sum(file.size_bytes for file in kept) <= server.keeper.bytes_max
    assert len(list(server.folder.rglob("*.parquet"))) == len(kept)
    server.say(batch(server, 99, [1], labels=[SampledLabel(1, 0, 0.0)]))
    server.clock.advance(timedelta(days=91).total_seconds())
    server.keeper.tidy()
    assert server.desk.add_up() == []
    assert list(server.folder.rglob("*.parquet")) == []


def test_marks_of_a_device_are_bounded(server: Server) -> None:
    for boot in range(2 * MARKS_MAX):
        server.clock.advance(1)
        server.say(batch(server, 1, [1], boot=boot))
    with read_session(server.fleet.engine) as session:
        assert len(session.exec(select(SampleMarkRow)).all()) == MARKS_MAX


def test_a_feature_that_one_device_hashes_has_a_column_beside_the_one_of_its_name(
    server: Server, tmp_path: Path
) -> None:
    kept = tuple(RowFeature(name=f.name, width=f.width) for f in FEATURES)
    server.say(batch(server, 1, [1, 3]))
    assert server.file() == 1
    server.say(batch(server, 1, [2], features=kept), device="cam-2")
    out = tmp_path / "rows.parquet"
    told = json.loads(run(server, "export", "plant", "--out", str(out), "--json").stdout)
    assert (told["rows"], told["apart"]) == (3, {"door (hash)": 2})
    rows = pq.read_table(out).to_pylist()
    assert [r["door"] for r in rows] == [None, None, 2.0]
    assert [r["door (hash)"] for r in rows] == ["01" * 8, "03" * 8, None]
    assert [r["heat"] for r in rows] == [1.0, 3.0, 2.0]
    out.unlink()
    said = run(server, "export", "plant", "--out", str(out)).stderr
    assert "2 of them have column 'door (hash)'" in " ".join(said.split())
    assert out.stat().st_mode & 0o777 == 0o600


def test_hashes_of_a_category_are_not_mixed_with_its_words(server: Server, tmp_path: Path) -> None:
    typed = build_classifier(
        features=(Feature(name="hue", dtype="category", categories=("red", "blue")),)
    )
    release(server.fleet, "paint", 1, typed.blob, is_approved=False)
    for device, redaction in (("cam-1", Redaction.KEEP), ("cam-2", Redaction.HASH)):
        features = (RowFeature(name="hue", redaction=redaction),)
        server.say(batch(server, 1, [1], built=typed, features=features), device=device)
    made = server.desk.export(Export(model="paint", out=tmp_path / "rows.parquet"))
    assert made.apart == {"hue (hash)": 1}
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [r["hue"] for r in rows] == ["blue", None]


def test_answers_of_two_kinds_are_refused_with_a_way_out(server: Server, tmp_path: Path) -> None:
    server.say(batch(server, 1, [1]))
    other = build_regressor()
    release(server.fleet, "plant", 2, other.blob, is_approved=False)
    server.say(batch(server, 2, [2], built=other, features=()))
    with pytest.raises(RefusedError, match=r"column _predicted is .*choose one by --version"):
        server.export(tmp_path / "rows.parquet")
    assert list(tmp_path.glob("*rows*")) == []
    assert len(server.export(tmp_path / "rows.parquet", version=1)) == 1


def test_rows_of_several_targets_come_out_without_an_answer(server: Server, tmp_path: Path) -> None:
    built = build_regressor(targets=("flow", "heat"))
    release(server.fleet, "load", 1, built.blob, is_approved=False)
    own = RowBatch(
        artifact=bytes.fromhex(built.sha256)[:8],
        stream=0,
        share=1.0,
        features=(RowFeature(name="f1"),),
        rows=(RowHead(3, 0, 0, Reason.SHARE, float("nan"), 0.0),),
        values=(np.array([2.5], "<f4").tobytes(),),
    )
    server.say(frame_batch(BOOT, 1, encode_batch(own)))
    server.desk.export(Export(model="load", out=tmp_path / "rows.parquet"))
    (row,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert (row["f1"], row["_predicted"]) == (2.5, None)


def test_an_export_that_would_leave_rows_out_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_book, "BATCHES_AT_ONCE", 2)
    for sequence in (1, 2):
        server.say(batch(server, sequence, [sequence]))
    assert len(server.export(tmp_path / "two.parquet")) == 2
    server.say(batch(server, 3, [3]))
    out = tmp_path / "rows.parquet"
    said = run(server, "export", "plant", "--out", str(out), expect=1).output
    assert "wait for their files than one export reads (2 batches" in " ".join(said.split())
    assert not out.exists()
    assert server.file() == 1
    assert server.file() == 1
    assert len(server.export(out)) == 3


def test_what_waits_is_bounded_for_each_device_and_model_and_dropping_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_room, "DEVICE_BATCHES_MAX", 2)
    monkeypatch.setattr(sample_room, "MODEL_BATCHES_MAX", 3)
    for sequence in (1, 2):
        assert not server.say(batch(server, sequence, [sequence])).quarantined
    for sequence in (3, 4):
        said = server.say(batch(server, sequence, [sequence]))
        assert said.acks[0][1].rows == (LabelRange(BOOT, sequence, sequence),)
        assert "2 batches of the device wait, the limit is 2" in said.quarantined[0].reason
    assert not server.say(batch(server, 1, [1]), device="cam-2").quarantined
    said = server.say(batch(server, 2, [2]), device="cam-2")
    assert "3 batches of the model wait, the limit is 3" in said.quarantined[0].reason
    with server.fleet.engine.connect() as connection:
        query = "SELECT object, reason FROM audit WHERE act = 'samples.dropped' ORDER BY id"
        told = connection.exec_driver_sql(query).all()
    assert [row[0] for row in told] == ["cam-1", "cam-2"], "once a day"
    assert server.file() == 1
    assert not server.say(batch(server, 5, [5])).quarantined, "there is room again"
    server.clock.advance(7_200)
    waiting = sample_book.DatabaseSampleBook(server.fleet.engine).weigh_waiting()
    found = judge_waiting_samples(*waiting, server.clock.now())
    assert found.grade is Grade.WARNING
    assert "1 batches of sampled rows" in found.what


def test_bytes_that_wait_and_labels_of_a_device_are_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = batch(server, 1, [1], labels=[SampledLabel(1, 0, 1.0), SampledLabel(2, 0, 1.0)])
    monkeypatch.setattr(sample_room, "DEVICE_BYTES_MAX", len(first) + 10)
    monkeypatch.setattr(sample_room, "LABELS_MAX", 2)
    server.say(first)
    said = server.say(batch(server, 2, [2], labels=[SampledLabel(3, 0, 1.0)]))
    (set_aside,) = said.quarantined
    assert f"{len(first)} bytes of the device wait" in set_aside.reason
    assert "2 labels of the device's sampled rows are kept, the limit is 2" in set_aside.reason
    (total,) = server.desk.add_up("plant")
    assert (total.rows, total.labels) == (1, 2)


def test_a_feature_that_is_new_is_empty_in_older_rows(server: Server, tmp_path: Path) -> None:
    server.say(batch(server, 1, [1], features=FEATURES[:1]))
    server.say(batch(server, 2, [2]))
    rows = server.export(tmp_path / "rows.parquet")
    assert [r["grid_0"] for r in rows] == [None, 2.0]


def test_a_damaged_file_is_named(server: Server, tmp_path: Path) -> None:
    server.say(batch(server, 1, [1]))
    server.file()
    (path,) = server.folder.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(FleetError, match="not as they were written"):
        server.export(tmp_path / "rows.parquet")
    with pytest.raises(NotFoundError, match="no sampled rows of other"):
        server.desk.export(Export(model="other", out=tmp_path / "rows.parquet"))


def run(server: Server, *arguments: str, expect: int = 0) -> Result:
    root = str(server.fleet.workspace.root)
    result = CliRunner().invoke(samples.app, [*arguments, "-w", root])
    assert result.exit_code == expect, result.output
    return result


def test_a_person_lists_and_exports_and_the_export_is_written_down(
    server: Server, tmp_path: Path
) -> None:
    assert "no sampled rows" in run(server, "ls").stderr
    run(server, "ls", "plant", expect=1)
    server.say(batch(server, 1, [1, 2], labels=[SampledLabel(1, 0, 1.0)]))
    assert "plant" in run(server, "ls").stdout
    (version,) = json.loads(run(server, "ls", "plant", "--json").stdout)["versions"]
    assert (version["rows"], version["labels"], version["waiting"]) == (2, 1, 2)
    out = tmp_path / "rows.parquet"
    told = json.loads(run(server, "export", "plant", "--out", str(out), "--json").stdout)
    assert told == {"model": "plant", "rows": 2, "path": str(out)}
    assert pq.read_table(out).num_rows == 2
    again = run(server, "export", "plant", "--out", str(out), expect=1).output
    assert "is there already" in " ".join(again.split())
    with server.fleet.engine.connect() as connection:
        query = "SELECT object, detail FROM audit WHERE act = 'samples.export'"
        ((subject, detail),) = connection.exec_driver_sql(query).all()
    assert (subject, json.loads(detail)["rows"]) == ("samples/plant", 2)
