"""``edgefleet train``: from a spec to a registered version, one line a step."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    say,
    word_console,
)
from fleet_server.cli.version_views import print_builds, version_to_json

if TYPE_CHECKING:
    from rich.status import Status

STEP_CHARS = 20


def train(
    spec: Annotated[Path, typer.Argument(help="The model spec, a TOML file (docs/spec.md).")],
    workspace: WorkspaceOption = None,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Register in spite of missed limits; recorded."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes for a family; one a processor unless given."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model, build it for every profile of its spec and register a version.

    Nothing is registered when the data, a limit or a profile says no. The spec of a family
    (docs/spec.md) trains a model of its own for every value of a column; run again, it goes on
    where it was.

    Example: edgefleet train examples/digits/digits.toml
    """
    with fleet_errors(), StepLines() as lines:
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.train_family import train_family
        from fleet_server.services.train_model import check_reason
        from fleet_server.wiring.training import build_browser, build_trainer, is_family
        from fleet_server.wiring.trust import user_name

        fleet = open_fleet(workspace)
        lines.started("start", "libraries")
        check_reason(force)
        if is_family(fleet, spec):
            lines.end()
            train_family(fleet, spec, jobs=jobs, force=force, as_json=as_json)
            return
        trained = build_trainer(fleet, lines).train(spec, actor=user_name(), force_reason=force)
        version = build_browser(fleet).get_version(trained.model, trained.number)
        lines.end()
        if as_json:
            print_json(version_to_json(version))
            return
        print_builds(version)
        for note in trained.notes:
            say(f"note: {note}")
        for gate in trained.inconclusive:
            say(f"inconclusive: {gate.sentence}")
        for gate in trained.missed:
            say(f"forced: {gate.sentence}")
        if force is not None and not trained.missed:
            say("--force was not needed: no limit was missed, and no reason was recorded")
        say(f"next: edgefleet model approve {trained.model} {trained.number}")


class StepLines:
    """One line a finished step on stderr; on a terminal the running step is shown below."""

    def __init__(self) -> None:
        self._console = word_console()
        self._status: Status | None = None

    def __enter__(self) -> "StepLines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def started(self, step: str, detail: str) -> None:
        """Show what runs, where somebody looks."""
        if not self._console.is_terminal:
            return
        words = f"{step}   {detail}"
        if self._status is None:
            self._status = self._console.status(words)
            self._status.start()
        else:
            self._status.update(words)

    def working(self, step: str, detail: str) -> None:
        """Show how far the running step is."""
        self.started(step, detail)

    def finished(self, step: str, seconds: float, sentence: str) -> None:
        """Print the step's line."""
        line = f"{step:<{STEP_CHARS}} {seconds:6.1f} s   {sentence}"
        self._console.print(line, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the running step off the terminal."""
        if self._status is not None:
            self._status.stop()
            self._status = None
