"""The ``edge-agent`` command: argparse and plain text, because a device has little room.

Exit codes: 0 done, 1 refused or failed, 2 misuse, 3 the other side cannot be reached. Data goes to
stdout, words to stderr. Heavy imports wait until a command needs them.
"""

from edge_agent.adapters import fewer_imports  # noqa: F401 - before all others

# isort: split
import argparse
import faulthandler
import sys
from collections.abc import Callable, Sequence
from typing import Any

from edge_agent import __version__
from edge_agent.cli_edges import add_commands as add_edge_commands
from edge_agent.cli_operate import add_commands
from edge_agent.errors import (
    AgentError,
    EnrolmentError,
    NotRunningError,
    SettingsError,
    UnreachableError,
)
from edge_agent.settings import LOG_LEVELS, find_directory, load_settings

DONE, FAILED, MISUSE, UNREACHABLE = 0, 1, 2, 3
STDERR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except AgentError as error:
        _say(f"edge-agent: {error}")
        return _exit_code(error)
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:
        return DONE
    except OSError as error:  # a disk or terminal that nobody closer expected to fail
        _say(f"edge-agent: {error}")
        return FAILED


def _exit_code(error: AgentError) -> int:
    is_unreachable = isinstance(error, UnreachableError | NotRunningError) or (
        isinstance(error, EnrolmentError) and getattr(error, "is_unreachable", False)
    )
    if isinstance(error, SettingsError):
        return MISUSE
    return UNREACHABLE if is_unreachable else FAILED


def _join(arguments: argparse.Namespace) -> int:
    from edge_agent.adapters.enrolment import enrol
    from edge_agent.adapters.identity_store import is_enrolled, load_identity

    directory = find_directory(arguments.dir)
    if is_enrolled(directory) and not arguments.force:
        identity = load_identity(directory)
        _say(
            f"edge-agent: {directory} has already joined fleet {identity.fleet} as"
            f" {identity.device_id}; --force joins anew, or choose another --dir"
        )
        return FAILED
    identity = enrol(arguments.join_string, directory, is_replacing=arguments.force)
    if identity.is_plain:
        from edge_agent.adapters.plain_text import INSECURE

        _say(INSECURE)
    _say(
        f"{identity.device_id} joined fleet {identity.fleet} as {identity.profile};"
        f" next: edge-agent run --dir {directory}"
    )
    return DONE


def _run(arguments: argparse.Namespace) -> int:
    directory = find_directory(arguments.dir)
    settings = load_settings(
        directory,
        flags={
            "http_host": arguments.http_host,
            "http_port": arguments.http_port,
            "window_s": arguments.window_s,
            "log_level": arguments.log_level,
        },
    )
    from edge_agent.adapters.log_output import start_logging
    from edge_agent.bootstrap import AgentProcess

    start_logging(settings, directory)
    # A supervisor that ends a stuck agent (SIGABRT) gets the stack of every thread.
    faulthandler.enable(file=STDERR)

    process = AgentProcess(directory, settings)
    process.stop_on_signals()
    process.run()
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description="Keeps models running on this device: joins a fleet, updates itself, serves.",
        epilog="example: edge-agent join 'ef1:...' && edge-agent run",
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    join = _command(commands, "join", _join, "join a fleet", "edge-agent join 'ef1:...'")
    join.add_argument("join_string", help="what `edgefleet device add` printed")
    join.add_argument("--force", action="store_true", help="join anew, with a new identity")

    run = _command(commands, "run", _run, "run the agent", "edge-agent run --http-port 8090")
    run.add_argument("--http-host", help="address for local applications (default 127.0.0.1)")
    run.add_argument("--http-port", type=int, help="port for them, 0 for a free one (default 8090)")
    run.add_argument("--window-s", type=float, help="longest telemetry window (default: profile)")
    run.add_argument("--log-level", choices=LOG_LEVELS, help="how much to say (default info)")

    add_commands(commands, _command)

    add_edge_commands(commands, _command)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], words: str, example: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=f"example: {example}",
    )
    command.add_argument("--dir", help="the agent's directory (EDGE_AGENT_DIR, ~/.edge-agent)")
    command.set_defaults(run=run)
    return command


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


if __name__ == "__main__":
    sys.exit(main())
