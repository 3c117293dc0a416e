"""``edgefleet demo``: the whole loop on real parts, in a folder of its own."""

from pathlib import Path
from typing import Annotated

import typer

from fleet_server.cli.output import fleet_errors, say


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Empty folder to use. Default: a temporary one.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")
    ] = False,
) -> None:
    """Play the whole loop with real processes: train, sign, roll out, halt, drift, retrain.

    Takes about three minutes; ends with 0 when every step did what it says.

    Example: edgefleet demo --keep
    """
    with fleet_errors():
        import shutil
        import tempfile
        from threading import Event

        from rich.console import Console

        from fleet_server.cli.in_process import read_in_process
        from fleet_server.demo.processes import StepFailedError
        from fleet_server.demo.story import Demo
        from fleet_server.errors import MisuseError, RefusedError
        from fleet_server.workers.supervisor import stop_on_signals

        if directory is not None and directory.exists() and any(directory.iterdir()):
            raise MisuseError(f"{directory} is not empty; name an empty or new folder")
        root = directory or Path(tempfile.mkdtemp(prefix="edgefleet-demo-"))
        console = Console(highlight=False)
        story, stop = Demo(root.resolve(), console, read_in_process), Event()
        is_whole = False
        try:
            story.play()
            is_whole = True
            console.print()
            console.print(story.summary())
            if keep:
                stop_on_signals(stop)
                say(f"running; try: edgefleet rollout ls -w {story.fleet.workspace}")
                say("Ctrl-C stops everything")
                stop.wait()
        except StepFailedError as error:
            raise RefusedError(f"the demo stopped: {error}\nlogs: {story.fleet.log_dir}") from error
        finally:
            story.stop()
            if directory is None and is_whole:
                shutil.rmtree(root, ignore_errors=True)
