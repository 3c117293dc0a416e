"""What the section [row_samples] lets out of a device, and what is said of a wrong one."""

import random
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.row_key import load_row_key
from edge_agent.contract.rows import Redaction
from edge_agent.core.row_choice import RowChoice
from edge_agent.errors import SettingsError
from edge_agent.row_settings import FeatureRule, RowSettings, find_row_section, settings_rows

TEXT = """
http_port = 0
[row_samples]
share = 0.5
[row_samples.models.plant]
heat = "keep"
hum = "round 0.5"
door = "hash"
serial = "drop"
"""


def find(directory: Path, text: str) -> Any:
    (directory / "agent.toml").write_text(text)
    return find_row_section(directory)


def test_only_named_features_leave_each_by_its_rule(tmp_path: Path) -> None:
    section = find(tmp_path, TEXT)
    settings = RowSettings.from_section(section)
    assert settings.share == 0.5
    assert settings.models == {
        "plant": {
            "heat": FeatureRule(redaction=Redaction.KEEP),
            "hum": FeatureRule(redaction=Redaction.ROUND, step=0.5),
            "door": FeatureRule(redaction=Redaction.HASH),
        }
    }
    assert settings.is_hashing
    assert (tmp_path / "rows.key").stat().st_mode & 0o777 == 0o600


def test_without_the_section_nothing_leaves(tmp_path: Path) -> None:
    assert find(tmp_path, "http_port = 0") is None
    assert find_row_section(tmp_path / "nowhere") is None
    assert not list(tmp_path.glob("*.key"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shares = 1", "unknown setting 'shares'"),
        ("share = 1.5", "share must be 0 to 1, got 1.5"),
        ("share = nan", "share must be 0 to 1"),
        ("share = true", "share must be a number"),
        ("confidence_max = 2", "confidence_max must be 0 to 1"),
        ("bytes_per_day_max = 0", "bytes_per_day_max must be above 0"),
        ("bytes_per_day_max = 1.5", "bytes_per_day_max must be a whole number"),
        ("gather_s = 0", "gather_s must be 1 to 3600 seconds"),
        ("key_file = ''", "key_file must be the name"),
        ("key_file = 1", "key_file must be a text"),
        ("models = 1", "models must be a table"),
        ("[row_samples.models.m]\nheat = 'sent'", "models.m.heat must be keep, hash, drop or"),
        ("[row_samples.models.m]\nheat = 1", "models.m.heat must be keep, hash, drop or"),
        ("[row_samples.models.m]\nheat = 'round 0'", "round with a step above 0"),
        ("[row_samples.models.m]\nheat = 'round x'", "round with a step above 0"),
        ("[row_samples.models.m]\n_heat = 'keep'", "does not begin with _"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=r"agent\.toml, \[row_samples\]: .*") as caught:
        find(tmp_path, f"[row_samples]\n{text}")
    assert words in str(caught.value)


def test_a_key_is_made_once_and_kept_to_the_account(tmp_path: Path) -> None:
    path = tmp_path / "rows.key"
    key = load_row_key(path)
    assert (len(key), load_row_key(path)) == (32, key)
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_row_key(path)
    path.chmod(0o600)
    for text, words in (("xyz", "is not hex"), ("aa", "must hold 32 bytes")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=words):
            load_row_key(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9, 1.0])
def test_each_row_is_taken_with_the_same_probability_whatever_the_blocks(share: float) -> None:
    choice, rows, block = RowChoice(share, random.Random(3).random), 40_000, 7
    taken = 0
    places = [0] * block
    for _ in range(0, rows, block):
        for at in choice.take(block):
            taken += 1
            places[at] += 1
    expected = share * rows
    spread = 4 * (expected * (1 - share)) ** 0.5 + 1
    assert abs(taken - expected) <= spread + block
    assert max(places) - min(places) <= 6 * (expected / block) ** 0.5 + 1


def test_the_page_says_what_the_docstring_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "agent.md").read_text()
    assert "\n".join(settings_rows()) + "\n<!-- end of row settings -->" in page
