"""The page of a family: every member, what failed, nothing that the data could smuggle in."""

import base64
import hashlib
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from fleet_server.ports.registry import FamilyMember, FamilyRun
from fleet_server.services.browse_family import BrowseFamily, FamilyView
from fleet_server.web.family_page import write_family_page
from fleet_server.web.family_plot import DOTS_MAX

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"


class Registry:
    """One family, as the database gives it."""

    def __init__(self, members: list[FamilyMember], run: FamilyRun | None = None) -> None:
        self._members, self._run = members, run

    def list_family(self, pattern: str) -> list[FamilyMember]:
        assert pattern == "line-{route}"
        return self._members

    def find_family_run(self, pattern: str) -> FamilyRun | None:
        assert pattern == "line-{route}"
        return self._run


def member(name: str, mae: float, **given: Any) -> FamilyMember:
    better = given.pop("better", None)
    compared = better and {"value": better, "low": better - 0.1, "high": better + 0.1}
    evaluation = {
        "rows": 1_200,
        "shipped": {"camera": {"metrics": {"mae": {"value": mae}}}},
        "against_fallback": compared,
    }
    family = {"pattern": "line-{route}", "values": {"route": given.pop("value", name)}}
    return FamilyMember(
        model=name,
        number=3,
        state="approved",
        champion=0,
        champion_state="",
        metrics={"mae": mae},
        evaluation=evaluation,
        run={"primary": "mae", "family": family, "ways": {"camera": "filled in"}},
        sizes={"camera": 8_192},
    )


def look(members: list[FamilyMember], run: FamilyRun | None = None) -> FamilyView:
    return BrowseFamily(registry=Registry(members, run)).view("line-{route}")  # type: ignore[arg-type]


def read(page: str) -> list[list[str]]:
    """Give the cells of every row."""
    rows: list[list[str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            assert attrs is not None
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th") and rows:
                rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if rows and rows[-1] and (self.get_starttag_text() or "")[:3] in ("<td", "<th"):
                rows[-1][-1] += data.strip()

    Reader().feed(page)
    return rows


def test_members_are_listed_the_worst_first_with_their_figures() -> None:
    run = FamilyRun(
        pattern="line-{route}",
        is_acceptable=True,
        sentence="2 registered, 0 up to date, 1 failed, 0 with too few rows.",
        registered=2,
        kept=0,
        failed={"line-c": "mae 9 is above 5"},
        too_small={"line-d": 7},
        rows_without=0,
        reasons={},
        at=AT,
    )
    view = look([member("line-a", 0.5, better=0.9), member("line-b", 2.0)], run)
    page = write_family_page(view, at=AT)
    rows = read(page)
    listed = [row for row in rows if row[0].startswith("line-")]
    assert [row[0] for row in listed] == ["line-b", "line-a", "line-c", "line-d"]
    assert listed[1][5:] == ["0.5", "", "+0.9 (+0.8 to +1)", "1,200", "8,192", "filled in"]
    assert listed[2][1] == "mae 9 is above 5"
    assert listed[3][1] == "7 rows, fewer than rows_min"
    assert "line-a: 0.5" in page
    assert page.count("<circle") == 3, "two members, and the fallback beside one"
    assert not re.search(r"(src|href)=|https?://(?!www.w3.org)", page), "nothing is fetched"


def test_what_came_with_the_data_is_text_and_nothing_else() -> None:
    page = write_family_page(look([member("line-a", 1.0, value=EVIL)]), at=AT)
    assert EVIL not in page
    (script,) = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page, "a browser runs this script and no other"


def test_of_very_many_members_the_plot_keeps_the_ends() -> None:
    many = [member(f"line-{n:05}", n / 10) for n in range(DOTS_MAX + 500)]
    page = write_family_page(look(many), at=AT)
    assert page.count("<circle") == DOTS_MAX
    assert "line-00000: 0</title>" in page
    assert "line-03499: 349.9</title>" in page


def test_a_member_without_a_finite_metric_is_listed_and_not_drawn() -> None:
    page = write_family_page(look([member("line-a", float("nan")), member("line-b", 1.0)]), at=AT)
    assert page.count("<circle") == 1
    assert "line-a" in page
