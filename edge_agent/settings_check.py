"""Every setting and every file it names, read as the agent will read them and nothing made.

What ``edge-agent run`` and ``edge-agent bridge`` would refuse, told before they are started.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.adapters.http_access import access_of
from edge_agent.bridge_settings import SECTION as BRIDGE
from edge_agent.bridge_settings import load_bridge_settings
from edge_agent.errors import SettingsError
from edge_agent.row_settings import SECTION as ROWS
from edge_agent.row_settings import RowSettings
from edge_agent.settings import FILE, FoundSettings, find_settings, read_section


def check_settings(directory: Path) -> FoundSettings:
    """Read all settings, the sections and the files of the HTTP server.

    Raises:
        SettingsError: Names the first that is wrong, where it came from and what is allowed.
    """
    found = find_settings(directory)
    read_sections(directory)
    access_of(directory, found.settings)
    return found


def read_sections(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the sections of ``agent.toml`` that are there and right; raises SettingsError."""
    sections = {name: read_section(directory, name) for name in (ROWS, BRIDGE)}
    if (rows := sections[ROWS]) is not None:
        try:
            RowSettings.from_section(rows)
        except SettingsError as error:
            raise SettingsError(f"{directory / FILE}, [{ROWS}]: {error}") from error
    if sections[BRIDGE] is not None:
        load_bridge_settings(directory)
    return {name: section for name, section in sections.items() if section is not None}
