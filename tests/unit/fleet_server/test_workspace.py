"""The workspace's configuration: what is read, what is refused, where it is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_server.errors import MisuseError, NotFoundError
from fleet_server.wiring.workspace import check_insecure
from fleet_server.workspace import (
    CONFIG_BYTES_MAX,
    CONFIG_NAME,
    Config,
    find_workspace,
    open_workspace,
    parse_config,
    render_config,
)


def test_a_configuration_is_read_as_it_was_written() -> None:
    config = Config(fleet="plant-9", broker_port=18_883, drift_period_s=5.0)
    assert parse_config(render_config(config)) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brokerport = 1", "unknown key 'brokerport'; did you mean broker_port"),
        ("colour = 1", "unknown key 'colour'; known: api_port"),
        ("broker_port = 0", "broker_port must be 1 to 65535, got 0"),
        ("broker_port = 65536", "broker_port must be 1 to 65535, got 65536"),
        ('broker_port = "1883"', "broker_port must be int, got str"),
        ("broker_port = true", "broker_port must be int, got bool"),
        ("drift_period_s = nan", "drift_period_s must be 0.5 to 86400, got nan"),
        ('broker = "remote"', "broker must be 'managed' or 'external', got 'remote'"),
        ('broker_host = "mq"', 'broker_host is for broker = "external"'),
        ('server_host = "mq"', 'server_host is for broker = "external"'),
        ('broker = "external"', "needs broker_host .* and server_host"),
        ('broker = "external"\nbroker_host = "mq"', "and server_host"),
        ('fleet = ""', "fleet must have 1 to 64 characters"),
        ("[", "is not TOML"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(MisuseError, match=says):
        parse_config(text)


def test_a_whole_number_serves_where_a_fraction_is_wanted() -> None:
    assert parse_config("drift_period_s = 5").drift_period_s == 5


def test_a_workspace_is_found_upward_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEFLEET_WORKSPACE", raising=False)
    (tmp_path / CONFIG_NAME).write_text("")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find_workspace(None) == tmp_path


def test_where_there_is_no_workspace_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEFLEET_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="run `edgefleet init DIR`"):
        open_workspace()
    with pytest.raises(NotFoundError, match="is not a workspace"):
        open_workspace(tmp_path / "elsewhere")


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_NAME
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MisuseError, match="cannot read"):
        open_workspace(tmp_path)
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(MisuseError, match=f"larger than {CONFIG_BYTES_MAX} bytes"):
        open_workspace(tmp_path)


def test_an_external_broker_is_where_it_is_said_to_be() -> None:
    text = 'public_host = "fleet"\nbroker = "external"\nbroker_host = "mq"\nserver_host = "mq-in"'
    config = parse_config(text)
    assert (config.mqtt_host, config.server_host) == ("mq", "mq-in")
    assert parse_config(render_config(config)) == config
    assert parse_config('public_host = "fleet"').mqtt_host == "fleet"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bind_host": "0.0.0.0"}, "bind_host is '0.0.0.0'"),  # noqa: S104 - refused
        ({"bind_host": "localhost"}, "bind_host is 'localhost'"),
        ({"public_host": "fleet.example"}, "public_host is 'fleet.example'"),
        ({"broker": "external", "broker_host": "127.0.0.1", "server_host": "127.0.0.1"}, "broker"),
    ],
)
def test_without_tls_nothing_leaves_the_loopback(changes: dict[str, str], says: str) -> None:
    check_insecure(Config())
    with pytest.raises(MisuseError, match=says):
        check_insecure(replace(Config(), **changes))  # type: ignore[arg-type] # all texts
