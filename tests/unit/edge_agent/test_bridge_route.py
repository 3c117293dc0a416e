"""Topics and payloads of the MQTT bridge, and what is said of wrong settings."""

from pathlib import Path

import pytest

from edge_agent.bridge_settings import load_bridge_settings
from edge_agent.core.bridge_route import BridgeRoute, pick_fields
from edge_agent.errors import InputError, SettingsError
from edge_agent.settings import load_settings

GOOD = 'topic_in = "plant/{machine}/in"\ntopic_out = "plant/{machine}/out"\n'


def load(directory: Path, text: str, head: str = "[mqtt_bridge]\n") -> object:
    (directory / "agent.toml").write_text(f"http_port = 0\n{head}{text}")
    return load_bridge_settings(directory)


def test_the_wildcards_text_goes_into_the_topics_answered_on() -> None:
    route = BridgeRoute(
        topic_in="plant/{machine}/in", topic_out="{machine}/out", topic_error="bad/{machine}"
    )
    assert route.subscription == "plant/+/in"
    assert route.answer_topic("plant/press-3/in") == "press-3/out"
    assert route.error_topic("plant//in") == "bad/"
    plain = BridgeRoute(topic_in="in", topic_out="out")
    assert (plain.subscription, plain.answer_topic("in"), plain.error_topic("in")) == (
        "in",
        "out",
        "",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topic_in": "a/{b}/{c}"}, "names 2 wildcards"),
        ({"topic_in": "a/+/b"}, r"level '\+' must be plain"),
        ({"topic_in": "a/#"}, "level '#'"),
        ({"topic_in": "a/x{b}"}, "one whole {name}"),
        ({"topic_in": ""}, "1 to 1024 bytes"),
        ({"topic_in": "$SYS/a"}, "does not begin with"),
        ({"topic_out": "o/{other}"}, "names {other}, which topic_in does not"),
        ({"topic_out": "plant/x/in"}, "would answer itself"),
        ({"topic_out": "plant/{machine}/in"}, "would answer itself"),
        ({"topic_error": "plant/errors/in"}, "topic_error .* would answer itself"),
    ],
)
def test_wrong_topics_are_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        BridgeRoute(**{"topic_in": "plant/{machine}/in", "topic_out": "out"} | changes)


def test_fields_are_found_at_their_paths() -> None:
    payload = {"t": {"in": 1}, "door": [1, 2], "other": "x"}
    assert pick_fields(payload, {"heat": "t.in", "door": "door"}) == {"heat": 1, "door": [1, 2]}
    assert pick_fields(payload, {}) == payload
    for path in ("t.out", "t.in.deep", "nothing"):
        with pytest.raises(InputError, match=f"no {path}, which is field heat"):
            pick_fields(payload, {"heat": path})


def test_the_section_is_read_and_does_not_disturb_the_agent(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD + 'keep = ["time"]\n[mqtt_bridge.fields]\nheat = "t.in"\n')
    assert settings == load_bridge_settings(tmp_path)
    assert load_bridge_settings(tmp_path).fields == {"heat": "t.in"}
    assert load_settings(tmp_path, environment={}).http_port == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "topic_in must be set"),
        ('topic_in = "a"', "topic_out must be set"),
        (GOOD + "prot = 1", "unknown setting 'prot'; known are topic_in"),
        (GOOD + "port = 0", "port must be 1 to 65535, got 0"),
        (GOOD + "port = true", "port must be a whole number"),
        (GOOD + 'port = "1"', "port must be a whole number"),
        (GOOD + "qos = 2", "qos must be 0 or 1"),
        (GOOD + "queue_max = 0", "queue_max must be 1 to 100000"),
        (GOOD + 'host = ""', "host must be the name"),
        (GOOD + "slot = 3", "slot must be a text"),
        (GOOD + "fields = {heat = 1}", "fields must be a table of field names to paths"),
        (GOOD + 'keep = "time"', "keep must be a list of names"),
        (GOOD + 'password_file = "p"', "username must be set when password_file is"),
        (GOOD + 'certificate_file = "c"', "key_file must be set together"),
        (GOOD + 'certificate_file = "c"\nkey_file = "k"', "ca_file must be set"),
        (GOOD + 'topic_status = "plant/a/in"', "would answer itself"),
        (GOOD + 'topic_status = "a/{machine}"', "one topic without a wildcard"),
        (GOOD + 'topic_error = "plant/x/in"', "would answer itself"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file_and_range(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        load(tmp_path, text)
    assert "agent.toml, [mqtt_bridge]: " in str(caught.value)


def test_without_a_section_it_is_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs at least topic_in and topic_out"):
        load(tmp_path, "", head="")
    with pytest.raises(SettingsError, match=r"mqtt_bridge must be a section"):
        load(tmp_path, "mqtt_bridge = 1", head="")
