"""The settings as a person reads them: value, source and meaning, from the one docstring."""

import inspect
import re
from dataclasses import asdict, fields
from typing import Any

from edge_agent.settings import ENVIRONMENT_PREFIX, AgentSettings, FoundSettings

SECRET_ENDINGS = ("_token", "_password", "_secret")
"""Of such a setting only whether it is set is ever shown."""
_ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def explain_settings() -> dict[str, str]:
    """Return what each setting means, by name, as the docstring of ``AgentSettings`` says."""
    text = inspect.getdoc(AgentSettings) or ""
    told = {name: " ".join(words.split()) for name, words in _ENTRY.findall(text)}
    return {field.name: told[field.name] for field in fields(AgentSettings)}


def list_settings(found: FoundSettings) -> list[dict[str, Any]]:
    """Return one row a setting: ``name``, ``value``, ``source``, ``meaning``."""
    words = explain_settings()
    return [
        {
            "name": name,
            "value": _shown(name, value),
            "source": found.sources[name],
            "meaning": words[name],
        }
        for name, value in asdict(found.settings).items()
    ]


def describe_settings(found: FoundSettings) -> str:
    """Write the settings in force as a file one could save as ``agent.toml``."""
    lines = []
    for row in list_settings(found):
        lines += [f"# {row['meaning']}", f"# from: {row['source']}"]
        value = row["value"]
        mark = "# " if value is None or row["source"] == "default" else ""
        lines += [f"{mark}{row['name']} = {_toml(value)}", ""]
    return "\n".join(lines).rstrip()


def settings_table() -> str:
    """Write the table of docs/agent.md."""
    words, default = explain_settings(), AgentSettings()
    lines = ["| key | default | variable | meaning |", "|---|---|---|---|"]
    for name, meaning in words.items():
        value = _toml(getattr(default, name))
        plain = meaning.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{name}` | {value} | `{ENVIRONMENT_PREFIX}{name.upper()}` | {plain} |")
    return "\n".join(lines)


def _shown(name: str, value: object) -> object:
    return "(set)" if value and name.endswith(SECRET_ENDINGS) else value


def _toml(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
