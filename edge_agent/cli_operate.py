"""The commands of ``edge-agent`` that operate a device: status, doctor, settings, logs, rollback.

Data goes to stdout, words to stderr; heavy imports wait until a command needs them.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from edge_agent.settings import find_directory, find_settings

DONE, FAILED, UNREACHABLE = 0, 1, 3
LINES_DEFAULT = 50
AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(commands: Any, add: AddCommand) -> None:
    """Add the commands to the parser; ``add`` makes one with its help and example."""
    status = add(commands, "status", _status, "show what runs", "edge-agent status --json")
    status.add_argument("--json", action="store_true", help="as JSON")

    doctor = add(
        commands,
        "doctor",
        _doctor,
        "find what is missing or wrong, before joining as well",
        "edge-agent doctor --join 'ef1:...'",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument(
        "--calibrate",
        action="store_true",
        help="time small reference graphs and remember the figures (some seconds)",
    )
    doctor.add_argument("--join", metavar="STRING", help="look at the server of a join string")

    settings = add(
        commands,
        "settings",
        _settings,
        "show the settings in force and where each comes from",
        "edge-agent settings --json",
    )
    settings.add_argument("--json", action="store_true", help="as JSON")

    logs = add(commands, "logs", _logs, "show the agent's log file", "edge-agent logs -f")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    logs.add_argument(
        "-n", "--lines", type=_count, default=LINES_DEFAULT, help="how many (default 50)"
    )

    rollback = add(
        commands,
        "rollback",
        _rollback,
        "go back to the package that was confirmed before",
        "edge-agent rollback --slot plant",
    )
    rollback.add_argument("--slot", help="which slot (default: the only one)")


def _status(arguments: argparse.Namespace) -> int:
    from edge_agent.local_status import find_status
    from edge_agent.local_status_text import describe_status

    status = find_status(find_directory(arguments.dir))
    if arguments.json:
        _print(json.dumps(status, indent=2))
    else:
        _print(describe_status(status, is_coloured=_is_coloured()))
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from edge_agent.doctor import describe_check, run_checks

    checks = run_checks(
        find_directory(arguments.dir),
        join_string=arguments.join,
        is_calibrating=arguments.calibrate,
    )
    if arguments.json:
        _print(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        for check in checks:
            _print(describe_check(check))
    if not any(check.is_bad for check in checks):
        return DONE
    return UNREACHABLE if any(check.is_unreachable for check in checks) else FAILED


def _settings(arguments: argparse.Namespace) -> int:
    from edge_agent.settings_check import read_sections
    from edge_agent.settings_view import describe_settings, list_settings

    directory = find_directory(arguments.dir)
    found, sections = find_settings(directory), read_sections(directory)
    if arguments.json:
        _print(json.dumps(list_settings(found, sections), indent=2))
    else:
        _print(describe_settings(found, sections))
    return DONE


def _logs(arguments: argparse.Namespace) -> int:
    from threading import Event

    from edge_agent.adapters.log_reader import find_log, follow, read_last

    directory = find_directory(arguments.dir)
    settings = find_settings(directory).settings
    path = find_log(directory, settings)
    coming = follow(path, Event()) if arguments.follow else ()
    for line in read_last(path, arguments.lines, files_kept=settings.log_files_kept):
        _print(line)
    sys.stdout.flush()
    for line in coming:
        _print(line)
        sys.stdout.flush()
    return DONE


def _rollback(arguments: argparse.Namespace) -> int:
    from edge_agent.adapters.control_socket import ask_agent
    from edge_agent.adapters.identity_store import load_identity

    directory = find_directory(arguments.dir)
    load_identity(directory)
    request = {"do": "rollback"} | ({"slot": arguments.slot} if arguments.slot else {})
    done = ask_agent(directory, request)
    sys.stderr.write(
        f"slot {done['slot']} goes back to {done['target']}; the server hears of it as"
        " operator-rollback; look with edge-agent status\n"
    )
    return DONE


def _count(text: str) -> int:
    from edge_agent.adapters.log_reader import LINES_MAX

    count = int(text)
    if not 0 <= count <= LINES_MAX:
        raise argparse.ArgumentTypeError(f"must be 0 to {LINES_MAX}, got {count}")
    return count


def _is_coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _print(data: str) -> None:
    sys.stdout.write(f"{data}\n")
