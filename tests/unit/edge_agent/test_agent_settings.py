"""Settings of an agent: where they come from, and what is said of a wrong one."""

import os
from pathlib import Path
from typing import Any

import pytest

from edge_agent.bootstrap import load_device_profile
from edge_agent.errors import SettingsError
from edge_agent.ports import Identity
from edge_agent.settings import AgentSettings, find_directory, load_settings


def load(directory: Path, text: str = "", **given: Any) -> AgentSettings:
    if text:
        (directory / "agent.toml").write_text(text)
    return load_settings(directory, environment=given.pop("environment", {}), **given)


def test_later_sources_win(tmp_path: Path) -> None:
    text = "http_port = 1000\nwindow_s = 5\nlog_level = 'debug'"
    environment = {"EDGE_AGENT_HTTP_PORT": "2000", "EDGE_AGENT_WINDOW_S": "6"}
    settings = load(tmp_path, text, environment=environment, flags={"http_port": 3000})
    assert (settings.http_port, settings.window_s, settings.log_level) == (3000, 6.0, "debug")


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, flags={"http_port": None}) == AgentSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("htpp_port = 1", "unknown setting 'htpp_port'"),
        ("http_port = 65536", "http_port must be 0 to 65535, got 65536"),
        ("http_port = 1.5", "http_port must be a whole number"),
        ("http_port = true", "http_port must be a whole number"),
        ("window_s = 0.5", "window_s must be 1 to 86400 seconds"),
        ("window_s = nan", "window_s must be 1 to 86400 seconds"),
        ("grace_s = -1", "grace_s must be 0 to 600 seconds"),
        ("log_level = 'loud'", "log_level must be one of debug, info"),
        ("http_host = 3", "http_host must be a text"),
        ("http_port =", "is not TOML"),
        ("#" * 70_000, "larger than"),
    ],
)
def test_a_wrong_setting_is_named_with_its_range(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(tmp_path, text)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="EDGE_AGENT_HTTP_PORT must be a number, got 'x'"):
        load(tmp_path, environment={"EDGE_AGENT_HTTP_PORT": "x"})


def test_the_directory_is_the_flag_the_variable_or_the_home(tmp_path: Path) -> None:
    environment = {"EDGE_AGENT_DIR": str(tmp_path / "variable")}
    assert find_directory(str(tmp_path / "flag"), environment) == tmp_path / "flag"
    assert find_directory(None, environment) == tmp_path / "variable"
    assert find_directory(None, {}) == Path.home() / ".edge-agent"


def test_settings_in_a_pipe_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "agent.toml")
    with pytest.raises(SettingsError, match=r"agent\.toml is no regular file"):
        load(tmp_path)


def test_a_folder_of_profiles_that_is_not_there_is_no_reason_to_take_another(
    tmp_path: Path,
) -> None:
    device = Identity(
        device_id="gate-1",
        profile="camera",
        fleet="demo",
        host="127.0.0.1",
        mqtt_port=1,
        api_port=2,
        root=b"",
        directory=tmp_path,
    )
    settings = AgentSettings(profiles_dir=str(tmp_path / "mine"))
    with pytest.raises(SettingsError, match=r"profiles_dir .*mine is no folder; create it, or"):
        load_device_profile(device, tmp_path, settings)
    (tmp_path / "mine").mkdir()
    assert load_device_profile(device, tmp_path, settings).id == "camera"
