"""Every attack of the suite as the table of docs/threat_model.md.

``python -m tests.attacks.catalog`` writes the table into the page; a test holds the two equal.
"""

import importlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.support.attacks import Attack

PAGE = Path(__file__).parents[2] / "docs" / "threat_model.md"
HEADING = "## Attacks tried at every test run"
NEXT = "\n## "
COMMAND = "python -m tests.attacks.catalog"


def read_attacks() -> list[Attack]:
    """Return every attack, by file and in the order of the file."""
    found: list[Attack] = []
    for path in sorted(Path(__file__).parent.glob("test_attack_*.py")):
        module = importlib.import_module(f"tests.attacks.{path.stem}")
        suites = [module.attack, *getattr(module, "more_suites", ())]
        for suite in suites:
            found += suite.attacks
    return found


def write_section(attacks: list[Attack]) -> str:
    """Write the section: one table a kind of attacker."""
    return "\n".join(_lines(attacks)) + "\n"


def _lines(attacks: list[Attack]) -> Iterator[str]:
    yield HEADING
    yield ""
    yield (
        f"{len(attacks)} attempts in `tests/attacks/`, each on the real agent, server and broker"
        " code, each in a world of its own. After every one the model that answered before still"
        f" answers. This section is written by `{COMMAND}`; a test holds it equal to the suite."
    )
    for holder, group in groupby(attacks, key=lambda attack: attack.holder):
        mine = list(group)
        yield ""
        yield f"### The attacker holds {holder} ({len(mine)})"
        yield ""
        yield "| tries to | what stops it | refused as | seen in |"
        yield "|---|---|---|---|"
        for attack in mine:
            cells = (attack.attempt, attack.stop, f"`{attack.code}`", attack.seen)
            yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def find_section(page: str) -> str:
    """Return the section as the page has it, empty when it has none."""
    start = page.find(HEADING)
    if start < 0:
        return ""
    end = page.find(NEXT, start + len(HEADING))
    return page[start:].rstrip() + "\n" if end < 0 else page[start:end].rstrip() + "\n"


def write_page() -> None:
    """Put the section into the page, at its place or at the end."""
    page = PAGE.read_text() if PAGE.exists() else "# Threat model\n"
    section, former = write_section(read_attacks()), find_section(page)
    if former:
        page = page.replace(former.rstrip(), section.rstrip())
    else:
        page = f"{page.rstrip()}\n\n{section}"
    PAGE.write_text(page)


if __name__ == "__main__":
    write_page()
