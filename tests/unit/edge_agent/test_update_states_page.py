"""docs/update_states.md tells of every row of the table, and of none that is not there."""

import re
from pathlib import Path

from edge_agent.core.boot import BOOTS_MAX
from edge_agent.core.fetching import FETCH_STALL_S
from edge_agent.core.moves import (
    ACTIVATE_S,
    RETRY_CAP_S,
    SELF_TEST_S,
    TRIES_MAX,
    VERIFY_S,
)
from edge_agent.core.release import BAD_PACKAGES_MAX
from edge_agent.core.update_machine import ANYWHERE, DEADLINES, REASK_S, TABLE
from tests.support.draw_update_states import draw, find_endless, page_with

PAGE = (Path(__file__).parents[3] / "docs" / "update_states.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_row_of_the_table_is_on_the_page() -> None:
    told = set(re.findall(r"^\| (\w+) \| (\w+) \|", section("Rows"), re.MULTILINE))
    told.discard(("phase", "event"))
    assert told == {(str(phase), event.__name__) for phase, event in TABLE}


def test_every_event_of_any_phase_is_on_the_page() -> None:
    rows = section("Rows").split("Events that mean the same")[1]
    told = {
        name
        for cell in re.findall(r"^\| ([\w, ]+) \|", rows, re.MULTILINE)
        for name in cell.split(", ")
    } - {"event"}
    assert told == {event.__name__ for event in ANYWHERE}


def test_every_deadline_is_on_the_page_with_its_limit() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.*?) \|", section("Deadlines"), re.MULTILINE))
    rows.pop("phase")
    assert set(rows) == {str(phase) for phase in DEADLINES}
    for phase, limit in (
        ("offered", RETRY_CAP_S),
        ("fetching", FETCH_STALL_S),
        ("verifying", VERIFY_S),
        ("self_testing", SELF_TEST_S),
        ("shadowing", "timeout_s"),
        ("probation", ACTIVATE_S),
        ("rolling_back", ACTIVATE_S),
    ):
        assert (limit if isinstance(limit, str) else f"{limit:.0f} s") in rows[phase]


def test_the_diagram_is_what_the_machine_does_and_no_work_is_without_an_end() -> None:
    assert page_with(draw()) == PAGE
    assert find_endless() == set()


def test_the_counts_in_the_text_are_those_of_the_code() -> None:
    assert (TRIES_MAX, BAD_PACKAGES_MAX, BOOTS_MAX, REASK_S) == (10, 16, 3, 30)
