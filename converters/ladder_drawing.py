"""Draw the ladder of a package into a file, from its evidence."""

from collections.abc import Mapping
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
        title = f"{evidence['model']} for {evidence['profile']}: {evidence['rung']} ships"
        drawing = plot_ladder(evidence["ladder"], evidence["rung"], title)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"the evidence has no ladder to draw ({error}); build the package again"
        ) from error
    write_whole(path, drawing.encode())


def read_package_evidence(path: Path) -> dict[str, Any]:
    """Read the evidence of a package file; raises ConversionError or ContractError."""
    return read_evidence(load_package(path)[EVIDENCE])
