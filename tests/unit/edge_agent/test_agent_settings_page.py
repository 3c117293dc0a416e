"""docs/agent.md lists every setting as the code explains it; every code has words for people."""

from pathlib import Path

from edge_agent.code_words import CODE_WORDS, explain_code
from edge_agent.contract.codes import Code
from edge_agent.settings import AgentSettings, FoundSettings
from edge_agent.settings_view import list_settings, settings_table

PAGE = (Path(__file__).parents[3] / "docs" / "agent.md").read_text()


def test_the_page_has_the_table_of_the_code() -> None:
    begin = PAGE.index("\n", PAGE.index("<!-- settings")) + 1
    told = PAGE[begin : PAGE.index("<!-- end of settings")].strip()
    assert told == settings_table(), f"put this into docs/agent.md:\n{settings_table()}"


def test_every_code_has_words_of_its_own() -> None:
    assert set(CODE_WORDS) == set(Code)
    assert len(set(CODE_WORDS.values())) == len(CODE_WORDS)
    assert explain_code("of-a-newer-agent") == ""


def test_every_setting_is_listed_with_its_meaning() -> None:
    names = list(AgentSettings.__dataclass_fields__)
    found = FoundSettings(settings=AgentSettings(), sources=dict.fromkeys(names, "default"))
    rows = list_settings(found)
    assert [row["name"] for row in rows] == names
    assert all(row["meaning"].endswith(".") for row in rows)
