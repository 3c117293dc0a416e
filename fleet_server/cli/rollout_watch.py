"""``edgefleet rollout watch``: a fixed screen on a terminal, a line a change elsewhere.

Reads the database; that nobody runs the workspace is said, and after a while is an end of its own.
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from threading import Event
from typing import Protocol

import typer

from fleet_server.cli.rollout_views import render_line, render_watch
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.errors import UnreachableError
from fleet_server.services.list_devices import tell_age
from fleet_server.services.read_rollouts import RolloutView, is_moving

POLL_S = 0.5
EXIT_STOPPED = 1
EXIT_INTERRUPTED = 130


class Screen(Protocol):
    """Where states are shown."""

    def show(self, view: RolloutView, footer: str) -> None:
        """Show the newest state."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class LineScreen:
    """A line for each change, or an object for each with ``--json``."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._last = as_json, ""

    def show(self, view: RolloutView, footer: str) -> None:
        """Print a line when the state, the sentence or a count has changed."""
        del footer
        stages = [dict(stage.outcomes) for stage in view.stages]
        mark = repr((view.rollout.state, view.rollout.sentence, stages))
        if mark == self._last:
            return
        self._last = mark
        said = json.dumps(view.to_json(), default=str) if self._as_json else render_line(view)
        typer.echo(said)
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing was opened."""


class TerminalScreen:
    """The alternate screen, redrawn in place; the last state goes into the scrollback."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._is_plain = (self._console.encoding or "").lower() not in ("utf-8", "utf8")
        self._live: Live = Live(console=self._console, screen=True, auto_refresh=False)
        self._live.start()
        self._lines: list[str] = []

    def show(self, view: RolloutView, footer: str) -> None:
        """Redraw when something has changed."""
        from rich.text import Text

        width = self._console.width
        lines = render_watch(view, width=width, is_plain=self._is_plain, footer=footer)
        if lines == self._lines:
            return
        self._lines = lines
        text = Text("\n".join(self._lines), no_wrap=True, overflow="crop")
        self._live.update(text, refresh=True)

    def close(self) -> None:
        """Leave the alternate screen and keep the last state in the scrollback."""
        self._live.stop()
        lines = [line for line in self._lines[:-2] if line]
        if lines:
            typer.echo("\n".join(lines))


def watch_rollout(
    read: Callable[[], RolloutView],
    *,
    screen: Screen,
    find_beat: Callable[[], datetime | None],
    is_up: Callable[[], bool],
    monotonic: Callable[[], float],
    patience_s: float,
) -> int:
    """Show a rollout until nothing more will happen to it; return the exit code.

    Args:
        read: Reads the newest state; may raise UnreachableError, which is tried again.
        screen: Where it is shown.
        find_beat: When the controller last said it is at work.
        is_up: Whether somebody runs the workspace.
        monotonic: Seconds.
        patience_s: How long nobody may run it, or the database stay away, before giving up.

    Raises:
        UnreachableError: Patience ran out.
    """
    wait = Event()
    away_since_s: float | None = None
    view: RolloutView | None = None
    while True:
        try:
            view = read()
            why = "" if is_up() else "edgefleet up is not running: nothing moves"
        except UnreachableError as error:
            why = str(error)
        if view is not None:
            screen.show(view, _footer(view, find_beat(), why))
            if not is_moving(view.rollout):
                return 0 if view.rollout.state is RolloutState.COMPLETED else EXIT_STOPPED
        now_s = monotonic()
        away_since_s = (away_since_s if away_since_s is not None else now_s) if why else None
        if away_since_s is not None and now_s - away_since_s >= patience_s:
            raise UnreachableError(f"{why}; gave up after {patience_s:g} s")
        wait.wait(POLL_S)


def _footer(view: RolloutView, beat_at: datetime | None, why: str) -> str:
    age = tell_age(beat_at, view.read_at)
    seen = f"controller {age} ago" if age else "no controller seen"
    return f"{why or seen} · ctrl-c leaves the rollout running"
