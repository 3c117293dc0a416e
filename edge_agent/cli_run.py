"""``edge-agent run``: the command that lives for months, so its options are read without argparse.

Options written out, each with its value, are read here; help, abbreviations and mistakes are left
to argparse (``cli.py``), which says what is wrong. A parser of all commands takes 0.7 MB and is
of use for a moment.
"""

import faulthandler
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_agent.settings import LOG_LEVELS, find_directory, load_settings

if TYPE_CHECKING:
    import argparse

STDERR = 2


class _Option(NamedTuple):
    """How the value of an option is read, and what it is for."""

    read: Callable[[str], Any]
    help: str
    choices: tuple[str, ...] | None = None


OPTIONS: Mapping[str, _Option] = {
    "--http-host": _Option(str, "address for local applications (default 127.0.0.1)"),
    "--http-port": _Option(int, "port for them, 0 for a free one (default 8090)"),
    "--window-s": _Option(float, "longest telemetry window (default: profile)"),
    "--log-level": _Option(str, "how much to say (default info)", LOG_LEVELS),
}
DIRECTORY = "--dir"


def read_options(argv: Sequence[str]) -> dict[str, Any] | None:
    """Return the options of a plain ``run`` by name; None for whatever argparse is to read.

    >>> read_options(["run", "--http-port", "0"])["http_port"], read_options(["run", "--help"])
    (0, None)
    """
    if argv[:1] != ["run"] or len(argv) % 2 == 0:
        return None
    found: dict[str, Any] = {_name(option): None for option in (DIRECTORY, *OPTIONS)}
    for option, text in zip(argv[1::2], argv[2::2], strict=True):
        known = _Option(str, "") if option == DIRECTORY else OPTIONS.get(option)
        if known is None or text.startswith("-") or (known.choices and text not in known.choices):
            return None
        try:
            found[_name(option)] = known.read(text)
        except ValueError:
            return None
    return found


def add_options(parser: "argparse.ArgumentParser") -> None:
    """Add the options of ``run``, all but the directory, which every command has."""
    for option, known in OPTIONS.items():
        parser.add_argument(option, type=known.read, help=known.help, choices=known.choices)


def run(options: Mapping[str, Any]) -> None:
    """Run the agent until it is told to end; raises AgentError."""
    directory = find_directory(options["dir"])
    settings = load_settings(
        directory, flags={_name(name): options[_name(name)] for name in OPTIONS}
    )
    from edge_agent.adapters.log_output import start_logging
    from edge_agent.bootstrap import AgentProcess

    start_logging(settings, directory)
    # A supervisor that ends a stuck agent (SIGABRT) gets the stack of every thread.
    faulthandler.enable(file=STDERR)

    process = AgentProcess(directory, settings)
    process.stop_on_signals()
    process.run()


def _name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")
