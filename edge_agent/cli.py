"""The ``edge-agent`` command: argparse and plain text, because a device has little room.

Exit codes: 0 done, 1 refused or failed, 2 misuse, 3 the other side cannot be reached. Data goes to
stdout, words to stderr. Heavy imports wait until a command needs them.
"""

from edge_agent.adapters import fewer_imports  # noqa: F401 - before all others

# isort: split
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edge_agent import __version__, cli_run
from edge_agent.errors import (
    AgentError,
    EnrolmentError,
    NotRunningError,
    SettingsError,
    UnreachableError,
)
from edge_agent.settings import find_directory

if TYPE_CHECKING:
    import argparse

DONE, FAILED, MISUSE, UNREACHABLE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = cli_run.read_options(given)
    try:
        if options is not None:
            cli_run.run(options)
            return DONE
        return _run_parsed(given)
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


def _run_parsed(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _exit_code(error: AgentError) -> int:
    is_unreachable = isinstance(error, UnreachableError | NotRunningError) or (
        isinstance(error, EnrolmentError) and getattr(error, "is_unreachable", False)
    )
    if isinstance(error, SettingsError):
        return MISUSE
    return UNREACHABLE if is_unreachable else FAILED


def _join(arguments: "argparse.Namespace") -> int:
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


def _run(arguments: "argparse.Namespace") -> int:
    cli_run.run(vars(arguments))
    return DONE


def _parser() -> "argparse.ArgumentParser":
    import argparse

    from edge_agent.cli_edges import add_commands as add_edge_commands
    from edge_agent.cli_operate import add_commands

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
    cli_run.add_options(run)

    add_commands(commands, _command)
    add_edge_commands(commands, _command)
    return parser


def _command(
    commands: Any, name: str, run: "Callable[[argparse.Namespace], int]", words: str, example: str
) -> "argparse.ArgumentParser":
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
