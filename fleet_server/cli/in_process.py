"""Run a reading command inside this process: no interpreter to start, the same code."""

from collections.abc import Mapping

from typer.testing import CliRunner


def read_in_process(arguments: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Return the exit code and what the command printed on stdout, or said when it failed."""
    from fleet_server.cli import app

    done = CliRunner().invoke(app, arguments, env=environment)
    return done.exit_code, done.output if done.exit_code else done.stdout
