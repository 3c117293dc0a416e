"""How a family is shown: folded into one row, as a page, and before it is signed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet_server.cli.output import print_table, say

if TYPE_CHECKING:
    from fleet_server.core.family_summary import Spread
    from fleet_server.ports.registry import FamilyMember, Model
    from fleet_server.ports.trust import SignedTarget
    from fleet_server.services.browse_family import FamilyView

BAR_CHARS = 40
PACKAGES_SHOWN_MAX = 5
WORST_SHOWN_MAX = 10


def fold_families(models: "Iterable[Model]") -> list[tuple[object, ...]]:
    """Give the rows of ``model ls``: one a model, and one for all members of a family."""
    rows: list[tuple[object, ...]] = []
    families: dict[str, list[Model]] = {}
    for model in models:
        if model.family:
            families.setdefault(model.family, []).append(model)
            continue
        newest = max(model.versions, default=0)
        rows.append(
            (
                model.name,
                model.task,
                len(model.versions),
                f"{newest} {model.versions[newest]}" if newest else "-",
                model.champion or "-",
                model.problem,
            )
        )
    for pattern, members in families.items():
        states = Counter(member.versions[max(member.versions)] for member in members)
        crowned = sum(member.champion > 0 for member in members)
        rows.append(
            (
                pattern,
                members[0].task,
                f"{len(members):,} members",
                say_counts(states),
                f"{crowned:,} of {len(members):,}" if crowned else "-",
                members[0].problem,
            )
        )
    return sorted(rows, key=lambda row: str(row[0]))


def say_counts(counts: Mapping[str, int]) -> str:
    """Say how many there are of each.

    >>> say_counts({"approved": 3, "registered": 1})
    '3 approved, 1 registered'
    """
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)


def print_members(view: "FamilyView", limit: int) -> None:
    """Print the members, the worst first."""
    names = [*view.ranked, *(name for name in view.members if name not in set(view.ranked))]
    print_table(
        f"{view.pattern}: {len(view.members):,} members, the worst first",
        ("member", "values", "version", "state", "champion", view.primary, "against it"),
        [_member_row(view, view.members[name], view.standings[name]) for name in names[:limit]],
    )
    if len(names) > limit:
        say(f"and {len(names) - limit:,} more; --last {len(names)} shows all")


def print_family(view: "FamilyView") -> None:
    """Print the page of a family."""
    fallback = view.fallback
    standings = Counter(str(standing) for standing in view.standings.values())
    rows = [
        ("members", f"{len(view.members):,}"),
        ("newest versions", say_counts(view.states)),
        ("in service", f"{view.in_service:,}"),
        ("fallback", fallback.model if fallback else "none"),
        ("graphs", say_counts(view.ways)),
        ("against those in service", say_counts(standings)),
        ("against the fallback", say_counts(Counter(map(str, view.against_fallback.values())))),
        ("inconclusive limits", f"{view.inconclusive:,} members"),
    ]
    if view.run is not None:
        rows.append(("newest training", f"{view.run.at:%Y-%m-%d %H:%M}: {view.run.sentence}"))
    print_table(view.pattern, ("", ""), rows)
    print_spreads(view.spreads)
    for spread in view.spreads:
        if spread.metric == view.primary:
            _print_bars(spread)
    print_members(view, WORST_SHOWN_MAX)
    if view.run is not None and view.run.failed:
        failed = list(view.run.failed.items())
        print_table("failed in the newest training", ("member", "why"), failed[:WORST_SHOWN_MAX])
        if len(failed) > WORST_SHOWN_MAX:
            say(f"and {len(failed) - WORST_SHOWN_MAX:,} more; --html FILE and --json name them")


def print_spreads(spreads: "Iterable[Spread]") -> None:
    """Print the best, median and worst of every metric."""
    print_table(
        "held-out metrics over the members",
        ("metric", "best", "median", "worst"),
        [
            (
                spread.metric,
                f"{spread.best[0]:.4g}  {spread.best[1]}",
                f"{spread.median:.4g}",
                f"{spread.worst[0]:.4g}  {spread.worst[1]}",
            )
            for spread in spreads
        ],
    )


def say_family(view: "FamilyView", members: int) -> None:
    """Say what is about to be signed, before the packages are shown."""
    say(f"about to sign {members:,} members of {view.pattern} with one signature")
    for spread in view.spreads:
        if spread.metric == view.primary:
            say(
                f"  {spread.metric}: median {spread.median:.4g}, worst {spread.worst[0]:.4g}"
                f" ({spread.worst[1]})"
            )
    standings = Counter(str(standing) for standing in view.standings.values())
    if view.in_service:
        say(f"  against those in service: {say_counts(standings)}")
    if view.inconclusive:
        say(f"  {view.inconclusive:,} members have a limit that more rows would settle")


def write_page(view: "FamilyView", path: Path) -> None:
    """Write a family as one HTML page."""
    from fleet_server.adapters.system_clock import SystemClock
    from fleet_server.durable_files import write_durable
    from fleet_server.errors import RefusedError
    from fleet_server.web.family_page import write_family_page

    page = write_family_page(view, at=SystemClock().now()).encode()
    try:
        write_durable(path, page)
    except OSError as error:
        raise RefusedError(
            f"{path} cannot be written: {error.strerror or error}; name another place"
        ) from error
    say(f"{path}: {len(view.members):,} members, {len(page):,} bytes; open it in a browser")


def write_listing_file(path: Path, targets: "Iterable[SignedTarget]") -> None:
    """Write the list of packages for who wants to check it with sha256sum."""
    from fleet_server.services.release import write_listing

    path.write_text(write_listing(list(targets)), encoding="utf-8")


def family_to_json(view: "FamilyView") -> dict[str, Any]:
    """Give a family as JSON values."""
    from dataclasses import asdict

    return {
        "family": view.pattern,
        "fallback": view.fallback.model if view.fallback else None,
        "primary": view.primary,
        "states": dict(view.states),
        "in_service": view.in_service,
        "standings": dict(Counter(str(one) for one in view.standings.values())),
        "against_fallback": dict(Counter(str(one) for one in view.against_fallback.values())),
        "inconclusive": view.inconclusive,
        "newest_training": None if view.run is None else asdict(view.run),
        "ways": dict(view.ways),
        "metrics": [asdict(spread) for spread in view.spreads],
        "members": [
            {
                "model": name,
                "values": dict(member.values),
                "version": member.number,
                "state": member.state,
                "champion": member.champion,
                "metrics": dict(member.metrics),
                "against_champion": str(view.standings[name]),
                "against_fallback": str(view.against_fallback[name]),
                "package_bytes": dict(member.sizes),
                "ways": dict(member.run.get("ways", {})),
                "full_because": dict(member.run.get("full_because", {})),
            }
            for name, member in view.members.items()
        ],
    }


def _member_row(view: "FamilyView", member: "FamilyMember", standing: str) -> tuple[object, ...]:
    value = member.metrics.get(view.primary)
    values = ", ".join(f"{name} {value}" for name, value in member.values.items())
    return (
        member.model,
        "fallback" if member.is_fallback else values,
        member.number,
        member.state,
        member.champion or "-",
        "-" if value is None else f"{value:.4g}",
        standing,
    )


def _print_bars(spread: "Spread") -> None:
    most = max(spread.counts, default=0)
    print_table(
        f"{spread.metric}: members by value",
        ("from", "to", "members", ""),
        [
            (f"{low:.4g}", f"{high:.4g}", count, "#" * round(BAR_CHARS * count / (most or 1)))
            for low, high, count in zip(spread.edges, spread.edges[1:], spread.counts, strict=False)
        ],
    )
