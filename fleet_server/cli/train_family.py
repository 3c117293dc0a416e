"""``edgefleet train`` of a family: a progress bar, then what came of it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fleet_server.bootstrap import Fleet
from fleet_server.cli.output import EXIT_REFUSED, print_json, print_table, say, word_console
from fleet_server.errors import MisuseError
from fleet_server.wiring.training import build_family_trainer
from fleet_server.wiring.trust import user_name

if TYPE_CHECKING:
    from fleet_server.services.train_family import TrainedFamily
    from fleet_server.training.family_member import MemberOutcome

FAILURES_SHOWN_MAX = 20
REASONS_SHOWN = 5


def train_family(
    fleet: Fleet, spec: Path, *, jobs: int | None, force: str | None, as_json: bool
) -> None:
    """Train a family and show what came of it; exit code 1 when too many members failed."""
    if force is not None:
        raise MisuseError("--force registers one version; a family lists the members that fail")
    with FamilyProgress() as progress:
        trained = build_family_trainer(fleet, progress, jobs).train(spec, actor=user_name())
    if as_json:
        print_json({**asdict(trained), "is_acceptable": trained.is_acceptable})
    else:
        _print(trained)
    if not trained.is_acceptable:
        raise typer.Exit(EXIT_REFUSED)


class FamilyProgress:
    """A bar on stderr where somebody looks; silent otherwise."""

    def __init__(self) -> None:
        console = word_console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._failed = 0

    def __enter__(self) -> "FamilyProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begun(self, members: int, kept: int) -> None:
        """Show how many there are."""
        words = f"{kept} up to date" if kept else ""
        self._task = self._bar.add_task("members", total=members, completed=kept, words=words)

    def done(self, outcome: "MemberOutcome") -> None:
        """Count one more."""
        self._failed += bool(outcome.failure)
        words = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, words=words)


def _print(trained: "TrainedFamily") -> None:
    rows: list[tuple[str, object]] = [
        ("registered", len(trained.registered)),
        ("up to date", len(trained.kept)),
        ("failed", len(trained.failed)),
        ("fewer rows than rows_min", len(trained.too_small)),
        *((f"graphs {way}", count) for way, count in sorted(trained.ways.items())),
    ]
    print_table(trained.pattern, ["members", ""], rows)
    if trained.metrics:
        print_table("", ["metric", "best", "median", "worst"], _spread(trained.metrics))
    for reason, count in sorted(trained.reasons.items(), key=lambda item: -item[1])[:REASONS_SHOWN]:
        say(f"{count:,} graphs converted in full: {reason}")
    for name, reason in sorted(trained.failed.items())[:FAILURES_SHOWN_MAX]:
        say(f"failed: {name}: {reason}")
    if len(trained.failed) > FAILURES_SHOWN_MAX:
        say(f"and {len(trained.failed) - FAILURES_SHOWN_MAX} more failed; --json names them all")
    if trained.rows_without:
        say(f"note: {trained.rows_without} rows belong to no member and were left aside")
    if trained.registered:
        say(f"next: edgefleet model show '{trained.pattern}'")
        say(f"then: edgefleet model approve '{trained.pattern}'")


def _spread(metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    from fleet_server.training.metrics import METRICS

    rows = []
    for name in next(iter(metrics.values())):
        values = sorted(
            (own[name] for own in metrics.values()),
            reverse=METRICS[name].is_larger_better,
        )
        picked = (values[0], values[len(values) // 2], values[-1])
        rows.append((name, *(f"{value:.4g}" for value in picked)))
    return rows
