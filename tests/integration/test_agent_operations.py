"""A person at the device: status beside a running agent, rollback, logs, settings."""

import json
import logging
import os
import queue
import stat
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.control_socket import ControlSocket, ask_agent
from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.log_output import LINE_CHARS_MAX, start_logging
from edge_agent.adapters.log_reader import follow
from edge_agent.adapters.service_notifier import ServiceNotifier
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.agent_loop import AgentLoop
from edge_agent.cli import main
from edge_agent.errors import AgentError, NotRunningError, SettingsError
from edge_agent.local_control import LocalControl
from edge_agent.local_status import find_status
from edge_agent.local_status_text import describe_status
from edge_agent.ports import Connected, ServingFound
from edge_agent.settings import AgentSettings
from edge_agent.settings_check import check_settings
from tests.support.agent import a_package
from tests.support.agent_device import enrolled_device
from tests.support.agent_world import World
from tests.support.waiting import wait_until


class Running:
    """A played world whose agent is turned by the real loop, beside the real control socket."""

    def __init__(self, world: World) -> None:
        self.world, self.stop = world, threading.Event()
        self.inbox: queue.Queue[object] = queue.Queue()
        self.control = LocalControl(
            agent=world.agent, clock=SystemClock(), count_windows=world.telemetry.counts
        )
        notifier = ServiceNotifier(SystemClock(), {})
        self.loop = AgentLoop(self, self.inbox, self.control, notifier)
        self.socket = ControlSocket(world.directory, self.inbox.put)
        self.lock = DirectoryLock(world.directory)
        self.thread = threading.Thread(target=self.loop.run, args=(self.stop,))

    def tick(self) -> float:
        self.world.agent.tick()
        self.world.work()
        return 0.01

    def handle(self, item: object) -> None:
        self.world.agent.handle(item)
        self.world.work()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.agent, name)

    def __enter__(self) -> "Running":
        self.lock.acquire()
        self.lock.describe({"http_host": "127.0.0.1", "http_port": 8090})
        self.socket.start()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.socket.stop()
        self.lock.release()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(enrolled_device(tmp_path))
    world.connect()
    for number, content in enumerate(("one", "two"), start=1):
        world.assign(a_package(content), number)
        world.run(65)
    return world


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_status_of_a_running_agent_says_what_answers_and_since_when(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with Running(world) as running:
        running.inbox.put(Connected())
        code, out, err = run(capsys, "status", "--dir", str(world.directory))
        _, text, _ = run(capsys, "status", "--json", "--dir", str(world.directory))
    assert (code, err) == (0, "")
    assert f"running as process {os.getpid()} since 20" in out
    assert "connected since 20" in out
    assert "running    model/2/camera.tar (" in out
    assert "windows 1 waiting to be sent, 0 dropped" in out
    status = json.loads(text)
    assert status["live"] is True
    assert status["slots"]["plant"]["running"]["target"] == "model/2/camera.tar"
    assert status["slots"]["plant"]["since"]


def test_rollback_through_the_running_agent_survives_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(world.directory)
    with Running(world):
        code, out, err = run(capsys, "rollback", "--dir", directory)
        assert (code, out) == (0, "")
        assert "slot plant goes back to model/1/camera.tar" in err
        code, _, err = run(capsys, "rollback", "--dir", directory)
        assert code == 1
        assert "cannot be rolled back" in err
        code, _, err = run(capsys, "rollback", "--slot", "door", "--dir", directory)
        assert code == 1
        assert "no slot 'door' on this device; slots are plant" in err
    code, out, _ = run(capsys, "status", "--dir", directory)
    assert "confirmed  model/1/camera.tar" in out
    assert "desired    model/2/camera.tar" in out
    assert "operator-rollback: an operator on the device went back" in out
    assert "means      a person went back" in out
    world.run(1)
    assert world.reports[-1].slots["plant"].code == "operator-rollback"


def test_rollback_without_an_agent_says_what_to_do(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "rollback", "--dir", str(world.directory))
    assert code == 3
    assert "start it with edge-agent run" in err


def test_a_stuck_loop_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.adapters.control_socket.LOOP_TIMEOUT_S", 0.1)
    nobody: queue.Queue[object] = queue.Queue()
    control = ControlSocket(tmp_path, nobody.put)
    control.start()
    try:
        assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
        with pytest.raises(AgentError, match="loop did not answer"):
            ask_agent(tmp_path, {"do": "status"})
        with pytest.raises(AgentError, match="no request: more than 4096 bytes"):
            ask_agent(tmp_path, {"do": "x" * 5_000})
    finally:
        control.stop()
    with pytest.raises(NotRunningError):
        ask_agent(tmp_path, {"do": "status"})


def test_a_deep_directory_has_a_socket_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    asked: queue.Queue[Any] = queue.Queue()

    def give(request: Any) -> None:
        asked.put(request)
        request.answer({"a": 1})

    control = ControlSocket(deep, give)
    control.start()
    try:
        assert ask_agent(deep, {"do": "status"}) == {"a": 1}
        assert asked.get().words == {"do": "status"}
    finally:
        control.stop()


def test_what_others_wrote_cannot_command_the_terminal(world: World) -> None:
    status = find_status(world.directory)
    assert status["slots"]["plant"]["bad"] == []
    status["slots"]["plant"] |= {"code": "misfit", "detail": "\x1b[2Jbad\nslot forged: fine"}
    assert (status["disk"]["problem"], status["disk"]["free_bytes"] > 0) == ("", True)
    status["disk"]["problem"] = "3 MiB free at /srv/agent, at least 64 are needed"
    status["slots"]["plant"]["bad"] = [{"sha256": "ab" * 32, "code": "selftest-golden"}]
    plain = describe_status(status)
    assert "\x1b" not in plain
    assert "?[2Jbad?slot forged" in plain
    assert "\ndisk    3 MiB free at /srv/agent" in plain
    assert "known bad  abababababab (selftest-golden)" in plain
    assert "\x1b[31mmisfit\x1b[0m" in describe_status(status, is_coloured=True)


def test_status_says_where_models_answer_and_what_ended_that(world: World) -> None:
    with Running(world) as running:
        running.control.find_serving = lambda: {"place": "worker", "pid": 77}
        running.inbox.put(ServingFound(is_up=True, restarts=0, failures=0, fault=""))
        wait_until(lambda: find_status(world.directory)["serving"].get("is_up"))
        assert "models  answer in a process of their own, 77" in describe_status(
            find_status(world.directory)
        )
        fault = ServingFound(is_up=True, restarts=2, failures=1, fault="died of SIGSEGV")
        running.inbox.put(fault)
        wait_until(lambda: find_status(world.directory)["serving"]["restarts"] == 2)
        said = describe_status(find_status(world.directory))
        assert "started again 2 times, last because died of SIGSEGV" in said


# Logs -----------------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("edge_agent.test")  # noqa: LOG001 - one that pytest does not hear
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_a_json_log_is_one_bounded_object_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    start_logging(AgentSettings(log_format="json", log_file="agent.log"), tmp_path, logger)
    logger.warning("said %s", "\x1b[2J\nforged" + "x" * 10_000)
    try:
        names: dict[str, str] = {}
        names["y" * 100_000]
    except KeyError:
        logger.exception("failed")
    lines = (tmp_path / "agent.log").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["level"], first["logger"]) == ("warning", "edge_agent.test")
    assert first["message"].startswith("said ?[2J?forgedxxx")
    assert len(first["message"]) < LINE_CHARS_MAX + 20
    assert second["trace"].endswith("yyy'")
    assert len(lines[1]) < 20_000
    assert capsys.readouterr().err.splitlines() == lines
    assert stat.S_IMODE((tmp_path / "agent.log").stat().st_mode) == 0o600


def test_log_files_are_bounded_and_read_across_their_rotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    toml = 'log_file = "agent.log"\nlog_bytes_max = 10000\nlog_files_kept = 2\n'
    (tmp_path / "agent.toml").write_text(toml)
    start_logging(
        AgentSettings(log_file="agent.log", log_bytes_max=10_000, log_files_kept=2),
        tmp_path,
        logger,
    )
    for n in range(1_000):
        logger.warning("line %03d", n)
    files = sorted(tmp_path.glob("agent.log*"))
    assert [path.name for path in files] == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(path.stat().st_size <= 10_000 for path in files)
    capsys.readouterr()
    code, out, err = run(capsys, "logs", "--lines", "200", "--dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert [line[-3:] for line in out.splitlines()] == [f"{n:03d}" for n in range(800, 1_000)]


@pytest.mark.parametrize("files_kept", [0, 1])
def test_a_log_is_followed_over_its_rotation(
    tmp_path: Path, files_kept: int, logger: logging.Logger
) -> None:
    settings = AgentSettings(log_file="a.log", log_bytes_max=10_000, log_files_kept=files_kept)
    start_logging(settings, tmp_path, logger)
    logger.warning("before")
    stop, seen = threading.Event(), []
    lines = follow(tmp_path / "a.log", stop)
    for n in range(300):
        logger.warning("line %03d", n)
        if n % 50 == 0:
            seen.append(next(lines))
    assert "before" not in seen[0]
    assert seen[0].endswith("line 000")
    stop.set()
    assert any(line.endswith("line 299") for line in [*seen, *lines])


def test_a_log_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    (tmp_path / "agent.log").mkdir()
    start_logging(AgentSettings(log_file="agent.log"), tmp_path, logger)
    logger.warning("one")
    logger.warning("two")
    err = capsys.readouterr().err
    assert err.count("takes no more log lines") == 1
    assert "two" in err


def test_logs_without_a_file_says_where_the_log_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "logs", "--dir", str(tmp_path))
    assert (code, out) == (1, "")
    assert "journalctl -u edge-agent" in err


# Settings -------------------------------------------------------------------------------------


def test_settings_tell_value_source_and_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.toml").write_text('log_format = "json"\n')
    monkeypatch.setenv("EDGE_AGENT_HTTP_PORT", "9000")
    code, out, _ = run(capsys, "settings", "--dir", str(tmp_path))
    assert code == 0
    assert f'# from: {tmp_path}/agent.toml\nlog_format = "json"' in out
    assert "# from: EDGE_AGENT_HTTP_PORT\nhttp_port = 9000" in out
    assert '# from: default\n# log_file = ""' in out
    _, text, _ = run(capsys, "settings", "--json", "--dir", str(tmp_path))
    row = next(row for row in json.loads(text) if row["name"] == "http_port")
    assert (row["value"], row["source"]) == (9000, "EDGE_AGENT_HTTP_PORT")
    assert row["meaning"]


def test_settings_written_down_are_the_settings_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
http_port = 9000
[row_samples]
share = 0.5
[row_samples.models."plant one"]
heat = "round 0.5"
[mqtt_bridge]
topic_in = "in/{a}"
topic_out = "out/{a}"
keep = ["time", "\\"x\\""]
"""
    (tmp_path / "agent.toml").write_text(text)
    code, out, _ = run(capsys, "settings", "--dir", str(tmp_path))
    assert (code, tomllib.loads(out)) == (0, tomllib.loads(text))
    rows = json.loads(run(capsys, "settings", "--json", "--dir", str(tmp_path))[1])
    assert rows[-1]["value"]["topic_in"] == "in/{a}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http_port = -1", "http_port must be 0 to 65535, got -1"),
        ("[row_samples]\nshare = 2", "[row_samples]: share must be 0 to 1, got 2"),
        ("[mqtt_bridge]\ntopic_in = 'a'", "[mqtt_bridge]: topic_out must be set"),
        ("http_host = '0.0.0.0'", "http_token_file must name a file"),
        ("http_token_file = 'none'", "http_token_file"),
    ],
)
def test_what_the_agent_would_refuse_is_a_finding_and_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        check_settings(tmp_path)
    assert words in str(caught.value)
    if "http_" not in text or "port" in text:
        code, out, err = run(capsys, "settings", "--dir", str(tmp_path))
        assert (code, out, words in err) == (2, "", True)
