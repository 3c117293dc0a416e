"""Draw the diagram of docs/update_states.md: ``python -m tests.support.draw_update_states``.

Nothing here knows where a row of the table leads. Every state of a slot that two packages can bring
about is visited, every event is told in each, and where it went is what is drawn: rows of one phase
as a diagram, what happens in every phase as a list. ``--check`` changes nothing and tells whether
the page is as it would be written; a test does the same.

Left out: numbers. Times, tries and counts are brought to "not yet" and "due" so that there are few
states.
"""

import argparse
import sys
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.core import events as ev
from edge_agent.core.boot import BOOTS_MAX
from edge_agent.core.moves import TRIES_MAX
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import Package, Release
from edge_agent.core.slot import IN_PROGRESS, Slot
from edge_agent.core.update_machine import ANYWHERE, DEADLINES, TABLE, step

PAGE = Path(__file__).parents[2] / "docs" / "update_states.md"
BEGIN = "<!-- drawn by python -m tests.support.draw_update_states: begin -->\n"
END = "<!-- end -->\n"
LATE = 1e6
"""An instant at which everything is due."""
TIME = "time"
_PLAIN = Release(target="m/1/p.tar", sha256="1" * 64, size_bytes=1, chunks="", schema="")
_SHADOWED = replace(
    _PLAIN, target="m/2/p.tar", sha256="2" * 64, shadow=ShadowPolicy(duration_s=1, rows_min=1)
)
_RELEASES = (_PLAIN, _SHADOWED)
_SEEN = ShadowReport(sha256=_SHADOWED.sha256, state=ShadowState.COMPARING, rows=9)
_GOOD, _BROKEN = ProbationStats(requests=99, rows=99), ProbationStats(requests=99, errors=99)

Edge = tuple[Phase, str, Phase]


def explore() -> tuple[set[Edge], set[Edge]]:
    """Visit every state; return edges by rows of the table, and by what holds anywhere."""
    rows, anywhere = set[Edge](), set[Edge]()
    begin = Slot()
    known, waiting = {begin}, deque([begin])
    while waiting:
        slot = waiting.popleft()
        for told, event in _told(slot):
            after, _ = step(told, event)
            kind = type(event)
            if slot.phase is after.phase and after == told:
                continue
            is_row = (slot.phase, kind) in TABLE or isinstance(event, ev.Ticked)
            name = TIME if isinstance(event, ev.Ticked) else kind.__name__
            if after.phase is not slot.phase:
                (rows if is_row else anywhere).add((slot.phase, name, after.phase))
            after = _plain(after)
            if after not in known:
                known.add(after)
                waiting.append(after)
    return rows, anywhere


def draw() -> str:
    """Return what stands between the marks."""
    rows, anywhere = explore()
    joined: defaultdict[tuple[Phase, Phase], list[str]] = defaultdict(list)
    for begin, name, end in sorted(rows, key=lambda e: (*_order(e), e[1])):
        joined[begin, end].append(name)
    lines = [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> empty",
        "    empty --> offered: Assigned",
    ]
    lines += [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in joined.items()]
    lines += ["```", "", "From every phase, beside these:", "", "| event | leads to |", "|---|---|"]
    for kind in ANYWHERE:
        ends = {end for _, name, end in anywhere if name == kind.__name__}
        if ends:
            lines.append(f"| {kind.__name__} | {', '.join(p for p in Phase if p in ends)} |")
    return "\n".join(lines) + "\n"


def find_endless() -> set[Phase]:
    """Return the phases that work goes on in and that no deadline ends."""
    resting = {Phase.EMPTY, Phase.CONFIRMED, Phase.FAILED}
    return set(Phase) - resting - set(DEADLINES)


def page_with(drawn: str) -> str:
    """Return the page with the drawing in its place."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + drawn + END + rest.split(END, 1)[1]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Draw the states of a slot into the page.")
    parser.add_argument("--check", action="store_true", help="Compare only.")
    page = page_with(draw())
    if parser.parse_args().check:
        return 0 if page == PAGE.read_text() else 1
    PAGE.write_text(page)
    return 0


def _told(slot: Slot) -> Iterator[tuple[Slot, ev.Event]]:
    """Tell each event early, and where counting matters when the count is nearly full."""
    counted = (ev.FetchFailed, ev.VerifyFailed, ev.Ticked, ev.Booted)
    for event in _events(slot):
        yield slot, event
        if isinstance(event, counted):
            yield replace(slot, tries=TRIES_MAX - 1, boots=BOOTS_MAX - 1), event


def _events(slot: Slot) -> Iterator[ev.Event]:
    now, attempt = LATE, slot.attempt
    yield from (ev.LinkUp(now), ev.LinkDown(), ev.Ticked(now, 0.5), ev.Booted(now))
    yield ev.OperatorRollback(now)
    yield ev.ServingLost(Code.PROBATION_CRASH, "", now)
    for release in _RELEASES:
        yield ev.Assigned(release, now)
        yield ev.Withdrawn(frozenset({release.key}), now)
        yield ev.Answering(release.target, release.sha256, now)
        for code in (Code.DISK_ERROR, Code.BLOB_HASH):
            yield ev.ActivationFailed(release.sha256, code, "", now)
    yield ev.Answering("", None, now)
    if slot.phase in (Phase.OFFERED, Phase.FETCHING):
        yield from (ev.FetchStarted(attempt, now), ev.FetchMoved(attempt, now))
        yield ev.Fetched(attempt, now)
        yield ev.FetchFailed(attempt, Code.FETCH_TIMEOUT, "", now, 0.5)
    if slot.phase is Phase.VERIFYING:
        yield ev.Verified(attempt, now)
        for code in (Code.DISK_ERROR, Code.BLOB_HASH, Code.PACKAGE_FORMAT):
            yield ev.VerifyFailed(attempt, code, "", now, 0.5)
    if slot.phase is Phase.SELF_TESTING:
        yield ev.SelfTested(attempt, None, "", now)
        yield ev.SelfTested(attempt, Code.SELFTEST_GOLDEN, "", now)
    if slot.phase is Phase.SHADOWING:
        yield ev.ShadowSeen(attempt, _SEEN, None, "", now)
        yield ev.ShadowSeen(attempt, _SEEN, Code.SHADOW_CRASH, "", now)
    if slot.phase is Phase.PROBATION:
        yield ev.Observed(_GOOD, 10.0, now)
        yield ev.Observed(_BROKEN, 10.0, now)


def _plain(slot: Slot) -> Slot:
    """Bring what only counts to a few values, and what is fetched to one that answers meanwhile."""
    is_fetched = slot.phase in IN_PROGRESS
    return replace(
        slot,
        attempt=0,
        tries=0,
        boots=0,
        code=_kind_of(slot),
        due_at=None if slot.due_at is None else 0.0,
        reask_at=None,
        since_at=None if slot.since_at is None else 0.0,
        rows=0,
        detail="",
        shadow=None,
        shadow_live=None,
        running=_named(slot.banks.confirmed_package if is_fetched else slot.running),
        bad=tuple(
            replace(bad, code=Code.KNOWN_BAD) for bad in sorted(slot.bad, key=lambda b: b.sha256)
        ),
    )


def _kind_of(slot: Slot) -> Code | None:
    """Bring a code to one that is treated alike."""
    code = slot.code
    if slot.phase in IN_PROGRESS and code is not Code.BLOB_HASH:
        return None
    if code is None or code in (Code.WITHDRAWN, Code.OPERATOR_ROLLBACK, Code.BLOB_HASH):
        return code
    is_retryable = class_of(code) is FailureClass.RETRYABLE
    return Code.DISK_ERROR if is_retryable else Code.SELFTEST_GOLDEN


def _named(package: Package | None) -> Package | None:
    return None if package is None else Package(target=package.target, sha256=package.sha256)


def _order(edge: Edge) -> tuple[int, int]:
    phases = list(Phase)
    return phases.index(edge[0]), phases.index(edge[2])


if __name__ == "__main__":
    sys.exit(main())
