"""The settings as a person reads them: value, source and meaning, from the one docstring."""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from edge_agent.settings import ENVIRONMENT_PREFIX, AgentSettings, FoundSettings

SECRET_ENDINGS = ("_token", "_password", "_secret")
"""Of such a setting only whether it is set is ever shown."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
Sections = Mapping[str, Mapping[str, Any]]
"""What stands in the sections of ``agent.toml``, by their names."""
_NO_SECTIONS: Sections = {}
_ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def explain_settings() -> dict[str, str]:
    """Return what each setting means, by name, as the docstring of ``AgentSettings`` says."""
    text = inspect.getdoc(AgentSettings) or ""
    told = {name: " ".join(words.split()) for name, words in _ENTRY.findall(text)}
    return {field.name: told[field.name] for field in fields(AgentSettings)}


def list_settings(found: FoundSettings, sections: Sections = _NO_SECTIONS) -> list[dict[str, Any]]:
    """Return one row a setting or section: ``name``, ``value``, ``source``, ``meaning``."""
    words = explain_settings()
    rows = [
        {
            "name": name,
            "value": _shown(name, value),
            "source": found.sources[name],
            "meaning": words[name],
        }
        for name, value in asdict(found.settings).items()
    ]
    source, meaning = "agent.toml", "A section; docs/agent.md and docs/serving.md list its keys."
    return rows + [
        {"name": name, "value": section, "source": source, "meaning": meaning}
        for name, section in sections.items()
    ]


def describe_settings(found: FoundSettings, sections: Sections = _NO_SECTIONS) -> str:
    """Write the settings in force as a file one could save as ``agent.toml``."""
    lines = []
    for row in list_settings(found):
        lines += [f"# {row['meaning']}", f"# from: {row['source']}"]
        value = row["value"]
        mark = "# " if value is None or row["source"] == "default" else ""
        lines += [f"{mark}{row['name']} = {_toml(value)}", ""]
    for name, section in sections.items():
        lines += _write_section(name, section)
    return "\n".join(lines).rstrip()


def _write_section(name: str, section: Mapping[str, Any]) -> list[str]:
    """Write a section as TOML, its own sections behind its values."""
    inner = {key: value for key, value in section.items() if isinstance(value, dict)}
    plain = {key: value for key, value in section.items() if key not in inner}
    lines = [f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in plain.items()), ""]
    for key, value in inner.items():
        lines += _write_section(f"{name}.{_key(key)}", value)
    return lines


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml(name)


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
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
