"""Small adapters of the agent, each against the real thing: lock, lanes, identity, probe, files."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import pytest

from edge_agent.adapters import capability_probe, files, identity_store
from edge_agent.adapters.capability_probe import ChildProbe, DeviceProbe, find_ram_bytes
from edge_agent.adapters.directory_lock import DirectoryLock, is_locked, read_holder
from edge_agent.adapters.job_lanes import ThreadLanes
from edge_agent.adapters.state_store import FileStateStore
from edge_agent.adapters.tiny_model import tiny_model
from edge_agent.contract.codes import Code
from edge_agent.errors import LockedError, NotEnrolledError, SettingsError, StorageError
from edge_agent.ports import Identity, Lane
from tests.support.waiting import wait_until


def an_identity(directory: Path) -> Identity:
    return Identity(
        device_id="cam-7",
        profile="camera",
        fleet="fleet-1",
        host="fleet.example",
        mqtt_port=8883,
        api_port=8443,
        root=b'{"signed":{}}',
        directory=identity_store.identity_directory(directory),
    )


def test_two_agents_on_one_directory_are_refused(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.acquire()
    assert is_locked(tmp_path)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        second.acquire()
    first.describe({"http_port": 8090})
    assert read_holder(tmp_path) == {"pid": os.getpid(), "http_port": 8090}
    first.release()
    assert not is_locked(tmp_path)
    second.acquire()
    second.release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from edge_agent.adapters.directory_lock import DirectoryLock;"
        f"DirectoryLock(pathlib.Path({str(tmp_path)!r})).acquire(); print('held', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_locked(tmp_path)
        process.kill()
        process.wait()
    assert not is_locked(tmp_path)


def test_a_directory_without_agent_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nowhere")
    assert read_holder(tmp_path) is None


def test_jobs_of_a_lane_keep_their_order_and_lanes_do_not_wait_for_each_other() -> None:
    results: list[object] = []
    lanes = ThreadLanes(results.append)
    blocked = threading.Event()
    lanes.submit(Lane.TEST, lambda: blocked.wait(10) and "test")
    for number in range(3):
        lanes.submit(Lane.SERVE, partial(int, number))
    wait_until(lambda: results == [0, 1, 2])
    blocked.set()
    wait_until(lambda: results == [0, 1, 2, "test"])
    lanes.stop()


def test_a_job_that_fails_does_not_end_its_lane(caplog: pytest.LogCaptureFixture) -> None:
    results: list[object] = []
    lanes = ThreadLanes(results.append)
    lanes.submit(Lane.DISK, lambda: 1 // 0)
    lanes.submit(Lane.DISK, lambda: "next")
    wait_until(lambda: results == ["next"])
    lanes.stop()
    assert "a job of the agent failed" in caplog.text


def test_an_identity_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    assert not identity_store.is_enrolled(tmp_path)
    with pytest.raises(NotEnrolledError, match="edge-agent join"):
        identity_store.load_identity(tmp_path)
    identity = an_identity(tmp_path)
    identity_store.save_identity(identity, ca_pem=b"ca", certificate_pem=b"cert", key_pem=b"key")
    assert identity_store.load_identity(tmp_path) == identity
    assert identity.key_path.read_bytes() == b"key"
    assert identity.key_path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "field", "key"])
def test_a_damaged_identity_says_to_join_again(tmp_path: Path, damage: str) -> None:
    identity = an_identity(tmp_path)
    identity_store.save_identity(identity, ca_pem=b"ca", certificate_pem=b"cert", key_pem=b"key")
    path = identity.directory / "identity.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "field":
        path.write_bytes(path.read_bytes().replace(b"8883", b"99999999"))
    else:
        identity.key_path.unlink()
    with pytest.raises(SettingsError, match="join again"):
        identity_store.load_identity(tmp_path)


def test_the_probe_finds_limits_that_the_runtime_keeps(tmp_path: Path) -> None:
    found = DeviceProbe(tmp_path).probe()
    assert found["onnxruntime"] == onnxruntime.__version__
    onnxruntime.InferenceSession(
        tiny_model(ir=found["ir_max"], opset=found["opset_max"], opset_ml=found["opset_ml_max"]),
        providers=["CPUExecutionProvider"],
    )
    for too_new in (
        tiny_model(ir=found["ir_max"] + 1, opset=13),
        tiny_model(ir=8, opset=found["opset_max"] + 1),
        tiny_model(ir=8, opset=13, opset_ml=found["opset_ml_max"] + 1),
    ):
        with pytest.raises(Exception, match=r"IR version|[Oo]pset"):
            onnxruntime.InferenceSession(too_new, providers=["CPUExecutionProvider"])
    assert found["cores"] >= 1
    assert 2**26 < found["ram_bytes"] == find_ram_bytes()
    assert found["disk_free_bytes"] > 0


@pytest.mark.parametrize(
    ("planted", "write"),
    [
        ("state.json.tmp", lambda path: files.write_durable(path, b"mine")),
        ("state.json.tmp", lambda path: files.write_pieces(path, [b"mine"])),
        ("state.json", lambda path: files.write_at(path, [(0, b"mine")], size_bytes=4)),
        ("state.json", files.open_lock_file),
    ],
)
def test_nothing_is_written_through_a_link(
    tmp_path: Path, planted: str, write: Callable[[Path], object]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / planted).symlink_to(victim)
    with pytest.raises(StorageError):
        write(tmp_path / "state.json")
    assert victim.read_bytes() == b"precious"


def test_a_disk_error_names_the_file_and_keeps_the_former(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_durable(path, b"old")
    (tmp_path / "file.tmp").mkdir()
    with pytest.raises(StorageError, match="file") as caught:
        files.write_durable(path, b"new")
    assert caught.value.code is Code.DISK_ERROR
    assert path.read_bytes() == b"old"


def test_a_state_survives_its_store(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    assert store.load() is None
    for number in range(3):
        store.save({"number": number})
    assert FileStateStore(tmp_path).load() == {"number": 2}
    (tmp_path / "state.json").write_bytes(b"torn")
    assert FileStateStore(tmp_path).load() == {"number": 1}


def test_the_probe_in_a_child_finds_the_same_and_loads_nothing_here(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys; from edge_agent.adapters.capability_probe import ChildProbe;"
        "found = ChildProbe(pathlib.Path(sys.argv[1])).probe();"
        "print(json.dumps([sorted(found), 'onnxruntime' in sys.modules, 'numpy' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True, timeout=60
    )
    names, *loaded = json.loads(done.stdout)
    assert loaded == [False, False]
    assert names == sorted(DeviceProbe(tmp_path).probe())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL"),
        ("raise ImportError('no wheel')", "status 1: ImportError: no wheel"),
        ("print('[]')", "makes no sense"),
    ],
)
def test_a_runtime_that_kills_is_told_and_the_machine_is_still_described(
    tmp_path: Path, body: str, words: str
) -> None:
    found = ChildProbe(tmp_path, child=(sys.executable, "-c", body)).probe()
    assert words in found["runtime_fault"]
    assert found["onnxruntime"].count(".") == 2
    assert "opset_max" not in found
    assert found["arch"]


def test_a_runtime_that_was_slow_once_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability_probe, "TIMEOUTS_S", (0.5, 60.0))
    body = (
        "import pathlib, sys, time; seen = pathlib.Path(sys.argv[1]);"
        'seen.exists() or (seen.touch(), time.sleep(60)); print(\'{"onnxruntime": "1.23.2"}\')'
    )
    child = (sys.executable, "-c", body, str(tmp_path / "seen"))
    found = ChildProbe(tmp_path, child=child).probe()
    assert found["onnxruntime"] == "1.23.2"
    assert "runtime_fault" not in found


def test_a_runtime_that_never_comes_up_is_said_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability_probe, "TIMEOUTS_S", (0.1, 0.2))
    child = (sys.executable, "-c", "import time; time.sleep(60)")
    assert "come up within" in str(ChildProbe(tmp_path, child=child).probe()["runtime_fault"])
