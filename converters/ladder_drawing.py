"""Draw the ladder of a package into a file, from its evidence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.errors import InvalidRequestError
from converters.evidence import read_evidence
from converters.output_file import write_whole
from converters.plot import plot_ladder
from converters.source_files import load_package
from edge_agent.contract.package import EVIDENCE


def draw_ladder(path: Path, evidence: Mapping[str, Any]) -> None:
    """Draw the ladder of a package as an SVG file.

    Raises:
        InvalidRequestError: The evidence is of a release without named rungs.
        ConversionError: The file cannot be written.
    """
    try:
        named = evidence["model"], evidence["profile"], evidence["ladder"]
        shipped = evidence["rung"]
    except (KeyError, TypeError) as error:
        raise _refuse(error) from error
    draw_rungs(path, *named, shipped=shipped)


def draw_rungs(
    path: Path, model: str, profile: str, rungs: Sequence[Mapping[str, Any]], *, shipped: str
) -> None:
    """Draw rungs as an SVG file.

    Args:
        path: Where to.
        model: Its name.
        profile: Its id.
        rungs: As in the evidence.
        shipped: Name of the rung that ships; empty when none fits.

    Raises:
        InvalidRequestError: The rungs are of a release without named rungs.
        ConversionError: The file cannot be written.
    """
    title = f"{model} for {profile}: {f'{shipped} ships' if shipped else 'no build fits'}"
    try:
        drawing = plot_ladder(rungs, shipped, title)
    except (KeyError, TypeError, ValueError) as error:
        raise _refuse(error) from error
    write_whole(path, drawing.encode())


def _refuse(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(
        f"the evidence has no ladder to draw ({error}); build the package again"
    )


def read_package_evidence(path: Path) -> dict[str, Any]:
    """Read the evidence of a package file; raises ConversionError or ContractError."""
    return read_evidence(load_package(path)[EVIDENCE])
