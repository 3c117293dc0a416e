"""Parts of the load simulator: faults that repeat, drifts within ranges, shared packages."""

import math

import numpy as np
import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.contract.transfer import CHUNK_BYTES
from edge_agent.errors import StorageError
from fleet_server.errors import FleetError, MisuseError, NotFoundError, RefusedError
from simulators.faults import Faults
from simulators.field_data import Drift, FieldData
from simulators.identities import name_members
from simulators.load import describe_figures
from simulators.memory_stores import MemoryBlobStore, MemoryChunkStore, SharedBytes
from tests.support.agent import ChunkServer
from tests.support.serving import build_classifier

SCHEMA = ModelSchema(
    model="m",
    task=Task.REGRESSION,
    features=(Feature(name="light", shape=(2,), low=0, high=16), Feature(name="heat")),
    outputs=(Output(name="value", role=Role.VALUE),),
)
ROWS = np.array([[0, 15, 3], [8, 8, -2]], np.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("light:+4", [[4, 16, 3], [12, 12, -2]]),
        ("light:-9", [[0, 6, 3], [0, 0, -2]]),
        ("light_1:*0.5", [[0, 7.5, 3], [8, 4, -2]]),
        ("heat:+1.5", [[0, 15, 4.5], [8, 8, -0.5]]),
        ("brightness:+4", [[4, 16, 7], [12, 12, 2]]),
    ],
)
def test_a_drift_changes_its_columns_within_the_declared_ranges(
    text: str, expected: list[list[float]]
) -> None:
    before = ROWS.copy()
    assert Drift.parse(text).apply(ROWS, SCHEMA).tolist() == expected
    assert (before == ROWS).all()


@pytest.mark.parametrize("text", ["", "light", "light:4", "light:+x", "light:+1e9", ":+4", "a:+-4"])
def test_a_malformed_drift_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(MisuseError, match=r"brightness:\+4"):
        Drift.parse(text)


def test_a_drift_of_no_feature_names_those_there_are() -> None:
    with pytest.raises(MisuseError, match="no such feature, it has light, heat"):
        Drift.parse("lihgt:+1").apply(ROWS, SCHEMA)


def test_faults_repeat_and_hit_about_the_share_that_was_asked_for() -> None:
    faults = Faults(seed=3, fail_rate=0.2)
    broken = [n for n in range(2_000) if faults.breaks(f"sim-{n}", "a" * 64)]
    assert broken == [n for n in range(2_000) if faults.breaks(f"sim-{n}", "a" * 64)]
    assert 320 <= len(broken) <= 480
    other = [n for n in range(2_000) if Faults(seed=4, fail_rate=0.2).breaks(f"sim-{n}", "a" * 64)]
    assert other != broken
    assert not Faults().breaks("sim-1", "a" * 64)


def test_disconnects_come_at_the_rate_that_was_asked_for() -> None:
    faults = Faults(disconnects_per_hour=60)
    waits = [faults.next_disconnect_s("sim-1", n) for n in range(2_000)]
    assert 55 <= sum(waits) / len(waits) <= 65
    assert Faults().next_disconnect_s("sim-1", 0) == math.inf


@pytest.mark.parametrize("wrong", [{"fail_rate": 1.1}, {"disconnects_per_hour": -1}], ids=str)
def test_impossible_faults_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be 0 to"):
        Faults(**wrong)  # type: ignore[arg-type]


def test_profiles_are_dealt_out_in_turn() -> None:
    members = name_members(3, "sim", ["camera", "iot-gateway"])
    assert [m.profile for m in members] == ["camera", "iot-gateway", "camera"]
    assert members[2].device_id == "sim-0003"


def test_devices_share_bytes_but_each_fetches_its_own() -> None:
    blob = b"x" * (2 * CHUNK_BYTES + 5)
    server, shared = ChunkServer(blob), SharedBytes()
    first, second = MemoryBlobStore(shared), MemoryBlobStore(shared)
    chunks = [MemoryChunkStore(shared, store) for store in (first, second)]
    pieces = [(n, blob[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]) for n in range(3)]
    for store in chunks:
        assert store.open(server.sha256, len(blob)).hashes is None
        store.save_hashes(server.sha256, server.hashes)
        store.save_chunks(server.sha256, pieces[:2])
        assert store.open(server.sha256, len(blob)).bitmap == 0b11
    chunks[0].save_chunks(server.sha256, pieces[2:])
    chunks[0].finish(server.sha256, len(blob))
    assert first.read(server.sha256) == blob
    assert not second.has(server.sha256)
    with pytest.raises(StorageError) as caught:
        chunks[1].finish(server.sha256, len(blob))
    assert caught.value.code is Code.BLOB_SIZE
    assert first.collect(frozenset()) == 1
    with pytest.raises(StorageError):
        first.read(server.sha256)


def test_chunks_that_are_not_the_package_are_found() -> None:
    server, shared = ChunkServer(b"right"), SharedBytes()
    blobs = MemoryBlobStore(shared)
    chunks = MemoryChunkStore(shared, blobs)
    chunks.open(server.sha256, 5)
    chunks.save_chunks(server.sha256, [(0, b"wrong")])
    with pytest.raises(StorageError) as caught:
        chunks.finish(server.sha256, 5)
    assert caught.value.code is Code.BLOB_HASH


def test_without_a_table_devices_see_the_golden_rows() -> None:
    built = build_classifier()
    data = FieldData(None, Drift.parse("f0:+1"))
    rows = data.rows_for(built.blob, built.sha256, is_drifted=False)
    drifted = data.rows_for(built.blob, built.sha256, is_drifted=True)
    assert rows.shape == (8, 4)
    assert np.allclose(drifted - rows, [1, 0, 0, 0])


def test_a_table_gives_the_models_columns_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    built, path = build_classifier(), tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("other,f3,f2,f1,f0\n9,4,3,2,1\n9,8,7,6,5\n")
    rows = FieldData(path, None).rows_for(built.blob, built.sha256, is_drifted=False)
    assert rows.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, NotFoundError, "does not exist"),
        ("f0,f1,f2\n1,2,3\n", RefusedError, "lacks 1 columns of model plant: f3"),
        ("f0,f1,f2,f3\n", RefusedError, "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    tmp_path_factory: pytest.TempPathFactory, text: str | None, error: type[FleetError], words: str
) -> None:
    built, path = build_classifier(), tmp_path_factory.mktemp("rows") / "rows.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        FieldData(path, None).rows_for(built.blob, built.sha256, is_drifted=False)


def test_the_figures_are_one_sentence() -> None:
    figures = {
        "at_s": 5.2,
        "devices": 3,
        "connected": 2,
        "rows": 1_234,
        "refusing": 1,
        "windows_waiting": 4,
        "windows_dropped": 0,
        "is_drifted": True,
        "running": {"digits/1": 2},
    }
    assert describe_figures(figures) == (
        "5 s: 2 of 3 connected; 2 run digits/1; 1,234 rows answered, 4 windows waiting, 0 dropped;"
        " 1 refuse; drifted"
    )
