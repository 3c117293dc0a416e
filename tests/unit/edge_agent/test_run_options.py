"""The options of ``edge-agent run``: read without argparse where they are plain, and as it does."""

import pytest

from edge_agent.cli import _parser
from edge_agent.cli_run import read_options

PLAIN = [
    ["run"],
    ["run", "--dir", "/var/lib/edge-agent"],
    ["run", "--http-port", "0", "--http-host", "::1", "--window-s", "1.5", "--log-level", "debug"],
    ["run", "--dir", "a", "--dir", "b"],
]


@pytest.mark.parametrize("argv", PLAIN)
def test_plain_options_are_those_that_argparse_reads(argv: list[str]) -> None:
    read = vars(_parser().parse_args(argv))
    del read["run"]
    assert read_options(argv) == read


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["status"],
        ["--version"],
        ["run", "--help"],
        ["run", "--http-port"],
        ["run", "--http-port", "x"],
        ["run", "--http-port", "-1"],
        ["run", "--log-level", "loud"],
        ["run", "--port", "1"],
        ["run", "--http-port=1", "--dir"],
    ],
)
def test_whatever_else_is_left_to_argparse(argv: list[str]) -> None:
    assert read_options(argv) is None
