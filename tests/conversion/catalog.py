"""What becomes of every estimator, as the tables of docs/conversion.md.

``python -m tests.conversion.catalog`` judges every case and writes the tables into the page; the
tests of this folder judge them again and hold the two equal, each its own part.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from converters.source import SourceNotes
from converters.sources import list_notes
from tests.support.sweep import Outcome, judge
from tests.support.sweep_cases import KINDS, list_cases

PAGE = Path(__file__).parents[2] / "docs" / "conversion.md"
HEADING = "## Every estimator"
NEXT = "\n## "
COMMAND = "python -m tests.conversion.catalog"
SOURCES_HEADING = "## Sources"
INTRODUCTION = f"""\
Every estimator of scikit-learn's own `all_estimators()`, fitted on small real tables, converted for
the profile `camera` and compared on held-out rows; the tables are written by `{COMMAND}` and tests
hold them. **exact**: converted as it is, every answer the same (1e-4 of 1 + |answer|, every label).
**repaired**: the same after what the last column says. **refused**: no package, for the reason in
the last column. Beside the verdicts on float64 and float32 rows: rows on and beside the middle of
neighbouring training values, rows with a missing value (-: the estimator refuses them), and rows
with a number of 1e12 or more, where float32 arithmetic may end (`differ`)."""


def write_section(outcomes: Iterable[Outcome]) -> str:
    """Write the section: one table a kind of estimator."""
    return "\n".join(_lines(list(outcomes))) + "\n"


def write_rows(outcomes: Iterable[Outcome]) -> list[str]:
    """Write the rows of a table."""
    return [f"| {' | '.join(cell.replace('|', '/') for cell in _cells(one))} |" for one in outcomes]


def _cells(one: Outcome) -> tuple[str, ...]:
    return (
        one.name,
        one.verdict,
        one.verdict_float32,
        one.boundary,
        one.missing,
        one.huge,
        one.how,
    )


def _lines(outcomes: list[Outcome]) -> Iterator[str]:
    yield HEADING
    yield ""
    yield INTRODUCTION
    for kind, group in groupby(outcomes, key=lambda one: one.kind):
        mine = list(group)
        yield ""
        yield f"### {_title(kind)} ({len(mine)})"
        yield ""
        yield "| estimator | float64 | float32 | between values | missing | huge | how or why |"
        yield "|---|---|---|---|---|---|---|"
        yield from write_rows(mine)


def _title(kind: str) -> str:
    return kind[0].upper() + kind[1:]


def write_sources(notes: Iterable[SourceNotes]) -> str:
    """Write what each kind of source keeps and what it cannot."""
    lines = [
        SOURCES_HEADING,
        "",
        f"What each source says of itself (`converters.sources`); written by `{COMMAND}`.",
        "",
        "| source | given as | files | read by | keeps | cannot |",
        "|---|---|---|---|---|---|",
    ]
    for one in notes:
        files = ", ".join(f"`{end}`" for end in one.files)
        cells = (one.kind, one.given_as, files, one.read_by, one.keeps, one.cannot)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def find_section(page: str, heading: str = HEADING) -> str:
    """Return a section as the page has it, empty when it has none."""
    start = page.find(heading)
    if start < 0:
        return ""
    end = page.find(NEXT, start + len(heading))
    return page[start:].rstrip() + "\n" if end < 0 else page[start:end].rstrip() + "\n"


def find_rows(kind: str) -> list[str]:
    """Return the rows of one kind as the page has them."""
    section = find_section(PAGE.read_text())
    start = section.find(f"### {_title(kind)} (")
    if start < 0:
        return []
    part = section[start:].split("\n### ", maxsplit=1)[0]
    return [line for line in part.splitlines() if line.startswith("| ")][1:]


def judge_all() -> Iterator[Outcome]:
    """Judge every case there is."""
    from tests.support.sweep_boosted import judge_boosted, list_boosted
    from tests.support.sweep_torch import judge_torch, list_torch

    for case in list_cases(KINDS):
        yield judge(case)
    for boosted in list_boosted():
        yield judge_boosted(boosted)
    for module in list_torch():
        yield judge_torch(module)


def write_page(section: str, heading: str) -> None:
    """Put a section into the page, at its place or at the end."""
    page = PAGE.read_text()
    former = find_section(page, heading)
    if former:
        page = page.replace(former.rstrip(), section.rstrip())
    else:
        page = f"{page.rstrip()}\n\n{section}"
    PAGE.write_text(page)


if __name__ == "__main__":
    write_page(write_sources(list_notes()), SOURCES_HEADING)
    write_page(write_section(judge_all()), HEADING)
