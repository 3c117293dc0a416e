"""Write a family as one HTML page: its members, how they do, what failed. Pure.

The page needs nothing from elsewhere and no server; a click on a heading sorts a table. Every text
that came with the data is escaped.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from fleet_server.core.family_summary import Difference, Standing
from fleet_server.ports.registry import AGAINST_CHAMPION, AGAINST_FALLBACK, FamilyMember
from fleet_server.services.browse_family import FamilyView, find_difference
from fleet_server.training.metrics import METRICS
from fleet_server.web.family_plot import Dot, plot_members

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; }
table { border-collapse: collapse; margin: .5rem 0 2rem; width: 100%; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884; }
th[data-sort] { cursor: pointer; }
th[data-sort]::after { content: " \\2195"; opacity: .4; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: #0a7; } .worse { color: #c33; }
.note { opacity: .75; } svg { width: 100%; height: auto; }
"""
_SCRIPT = """
document.querySelectorAll("th[data-sort]").forEach(head => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex;
  const turn = head.dataset.turn = head.dataset.turn === "1" ? "-1" : "1";
  const key = row => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const isNumber = head.dataset.sort === "n", number = row => key(row) || NaN;
  const order = (a, b) =>
    isNumber ? number(a) - number(b) : key(a).localeCompare(key(b));
  const rows = [...body.rows].sort((a, b) => {
    const found = order(a, b);
    if (Number.isNaN(found)) return (key(a) === "") - (key(b) === "");
    return turn * found;
  });
  body.append(...rows);
}));
"""
_COLUMNS = (
    ("member", "t"),
    ("values", "t"),
    ("version", "n"),
    ("state", "t"),
    ("in service", "n"),
    ("", "n"),
    ("against champion", "n"),
    ("against fallback", "n"),
    ("held-out rows", "n"),
    ("package bytes", "n"),
    ("graph", "t"),
)


def write_family_page(view: FamilyView, *, at: datetime) -> str:
    """Give the page.

    Args:
        view: The family.
        at: When it was looked at.
    """
    title = escape(view.pattern)
    dots = [_dot(view, view.members[name]) for name in view.ranked]
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_allow()}">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f'<p class="note">Looked at {at:%Y-%m-%d %H:%M} UTC.</p>',
        _summary(view),
        f"<h2>{escape(view.primary)} over the members</h2>",
        plot_members(dots, view.primary),
        '<p class="note">Dots: members as they ship, green where better and red where worse than'
        " what is in service. Rings: the fallback on the same rows.</p>",
        _spreads(view),
        f"<h2>{len(view.members):,} members</h2>",
        _members(view),
        _failures(view),
        f"<script>{_SCRIPT}</script></body></html>",
        "",
    ]
    return "\n".join(part for part in parts if part)


def _allow() -> str:
    """Let the page run its own script and nothing else, whatever came with the data."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _summary(view: FamilyView) -> str:
    fallback = view.fallback
    rows = [
        ("members", f"{len(view.members):,}"),
        ("newest versions", _count(view.states)),
        ("in service", f"{view.in_service:,}"),
        ("fallback", fallback.model if fallback else "none"),
        ("graphs", _count(view.ways)),
        ("against those in service", _count(Counter(map(str, view.standings.values())))),
        ("against the fallback", _count(Counter(map(str, view.against_fallback.values())))),
        ("limits that more rows would settle", f"{view.inconclusive:,} members"),
    ]
    if view.run is not None:
        rows.append(("newest training", f"{view.run.at:%Y-%m-%d %H:%M} UTC: {view.run.sentence}"))
        rows += [
            ("converted in full", f"{count:,}: {why}") for why, count in view.run.reasons.items()
        ]
    body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table><tbody>{body}</tbody></table>"


def _spreads(view: FamilyView) -> str:
    rows = [
        [
            _cell(spread.metric),
            _number(spread.best[0], f"{spread.best[0]:.4g} {spread.best[1]}"),
            _number(spread.median),
            _number(spread.worst[0], f"{spread.worst[0]:.4g} {spread.worst[1]}"),
        ]
        for spread in view.spreads
    ]
    return _table((("metric", ""), ("best", ""), ("median", ""), ("worst", "")), rows)


def _members(view: FamilyView) -> str:
    ranked = set(view.ranked)
    names = [*view.ranked, *(name for name in view.members if name not in ranked)]
    columns = [(name or f"{view.primary}, as it ships", kind) for name, kind in _COLUMNS]
    return _table(columns, [_row(view, view.members[name]) for name in names])


def _row(view: FamilyView, member: FamilyMember) -> list[str]:
    name = member.model
    values = ", ".join(f"{column} {value}" for column, value in member.values.items())
    ways = sorted(set(member.run.get("ways", {}).values()))
    why = sorted(set(member.run.get("full_because", {}).values()))
    size = sum(member.sizes.values())
    return [
        _cell(name),
        _cell("fallback" if member.is_fallback else values),
        _number(member.number, str(member.number)),
        _cell(member.state),
        _number(member.champion, str(member.champion) if member.champion else "-"),
        _number(_shipped(member, view.primary)),
        _compared(find_difference(member, AGAINST_CHAMPION), view.standings[name]),
        _compared(find_difference(member, AGAINST_FALLBACK), view.against_fallback[name]),
        _number(float(member.evaluation.get("rows", 0)), f"{member.evaluation.get('rows', 0):,}"),
        _number(size, f"{size:,}"),
        _cell(", ".join(ways), title="; ".join(why)),
    ]


def _failures(view: FamilyView) -> str:
    run = view.run
    if run is None or not (run.failed or run.too_small):
        return ""
    rows = [[_cell(name), _cell(why)] for name, why in run.failed.items()]
    rows += [
        [_cell(name), _cell(f"{count:,} rows, fewer than rows_min")]
        for name, count in run.too_small.items()
    ]
    heading = "<h2>Without a version of the newest training</h2>"
    return heading + _table((("member", "t"), ("why", "t")), rows)


def _dot(view: FamilyView, member: FamilyMember) -> Dot:
    value = _shipped(member, view.primary)
    found = find_difference(member, AGAINST_FALLBACK)
    metric = METRICS.get(view.primary)
    sign = 1.0 if metric is None or metric.is_larger_better else -1.0
    return Dot(
        name=member.model,
        value=float("nan") if value is None else value,
        fallback=_subtract(value, None if found is None else sign * found.value),
        standing=view.standings[member.model],
    )


def _subtract(value: float | None, difference: float | None) -> float | None:
    """Give what is left, None where that is not a finite number."""
    if value is None or difference is None or not math.isfinite(value - difference):
        return None
    return value - difference


def _shipped(member: FamilyMember, metric: str) -> float | None:
    """Give the metric of what ships for the first profile, or of the source model."""
    for shipped in member.evaluation.get("shipped", {}).values():
        return float(shipped["metrics"][metric]["value"])
    value = member.metrics.get(metric)
    return None if value is None else float(value)


def _compared(found: Difference | None, standing: Standing) -> str:
    if found is None:
        return '<td class="n" data-v=""></td>'
    kind = standing.value if standing in (Standing.BETTER, Standing.WORSE) else ""
    words = f"{found.value:+.3g} ({found.low:+.3g} to {found.high:+.3g})"
    return f'<td class="n {kind}" data-v="{found.value!r}" title="{standing.value}">{words}</td>'


def _number(value: float | None, words: str = "") -> str:
    if value is None:
        return '<td class="n" data-v=""></td>'
    return f'<td class="n" data-v="{float(value)!r}">{escape(words or f"{value:.4g}")}</td>'


def _cell(words: str, *, title: str = "") -> str:
    told = f' title="{escape(title)}"' if title else ""
    return f"<td{told}>{escape(words)}</td>"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(
        f'<th data-sort="{kind}">{escape(name)}</th>' if kind else f"<th>{escape(name)}</th>"
        for name, kind in columns
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _count(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)
