"""What the operator of a device may set: ``agent.toml`` in its directory, environment, flags.

Later ones win. Unknown keys are refused by name, never ignored. The docstring of ``AgentSettings``
is the reference: ``edge-agent settings`` prints it and docs/agent.md is held equal to it. What the
device *is* comes from its profile and its identity, not from here.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edge_agent.errors import SettingsError

FILE = "agent.toml"
FILE_BYTES_MAX = 65_536
ENVIRONMENT_PREFIX = "EDGE_AGENT_"
DIRECTORY_VARIABLE = "EDGE_AGENT_DIR"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
SECTIONS = ("mqtt_bridge", "row_samples")
"""Tables of the file with readers of their own: ``bridge_settings``, ``row_settings``."""
DEFAULT_SOURCE, FLAG_SOURCE = "default", "command line"
_LOG_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}\.log\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Settings of one agent.

    Attributes:
        http_host: Address that local applications ask for predictions.
        http_port: TCP port of the same; 0 takes a free one (``edge-agent status`` tells which).
        http_token_file: File with the token that a request must bear, made with
            ``openssl rand -hex 32``; empty for none. When http_host lets other machines ask,
            this or http_client_ca_file must be set. Files are looked for in the agent's directory.
        http_certificate_file: Certificate of the agent for HTTPS, PEM; empty for HTTP.
        http_key_file: Its private key, PEM, unencrypted.
        http_client_ca_file: Authority whose client certificates are let in, PEM; empty to ask
            for none.
        window_s: Longest telemetry window, 1 s to a day; None takes the profile's.
        grace_s: How long a refusal that a missing half would cure stays unreported, 0 to 600.
        restore_memory_bytes: What restoring a package that travelled smaller may need, 0 or
            8000000 to 400000000; 0 fetches every package as it is.
        profiles_dir: Directory of the user's own profile files; empty for ``profiles`` beside
            the identity.
        log_level: One of debug, info, warning, error.
        log_format: How a log line is written: text, or json (one object a line).
        log_file: Name of a log file in the agent's directory, ending in .log; empty for none, then
            the log goes to standard error alone.
        log_bytes_max: Size at which the log file is set aside, 10000 to 1000000000 bytes.
        log_files_kept: Older log files kept beside it, 0 to 100.
    """

    http_host: str = "127.0.0.1"
    http_port: int = 8090
    http_token_file: str = ""
    http_certificate_file: str = ""
    http_key_file: str = ""
    http_client_ca_file: str = ""
    window_s: float | None = None
    grace_s: float = 30.0
    restore_memory_bytes: int = 64_000_000
    profiles_dir: str = ""
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""
    log_bytes_max: int = 1_000_000
    log_files_kept: int = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(0 <= self.http_port <= 65_535, "http_port", self.http_port, "0 to 65535")
        is_window = self.window_s is None or 1 <= self.window_s <= 86_400
        _check(is_window, "window_s", self.window_s, "1 to 86400 seconds")
        _check(0 <= self.grace_s <= 600, "grace_s", self.grace_s, "0 to 600 seconds")
        memory = self.restore_memory_bytes
        is_memory = memory == 0 or 8_000_000 <= memory <= 400_000_000
        _check(is_memory, "restore_memory_bytes", memory, "0 or 8000000 to 400000000")
        is_level = self.log_level in LOG_LEVELS
        _check(is_level, "log_level", self.log_level, f"one of {', '.join(LOG_LEVELS)}")
        is_format = self.log_format in LOG_FORMATS
        _check(is_format, "log_format", self.log_format, f"one of {', '.join(LOG_FORMATS)}")
        is_name = not self.log_file or _LOG_FILE.match(self.log_file) is not None
        _check(is_name, "log_file", self.log_file, "a plain name that ends in .log, or empty")
        is_size = 10_000 <= self.log_bytes_max <= 1_000_000_000
        _check(is_size, "log_bytes_max", self.log_bytes_max, "10000 to 1000000000 bytes")
        _check(0 <= self.log_files_kept <= 100, "log_files_kept", self.log_files_kept, "0 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSettings:
    """Settings and where each comes from.

    Attributes:
        settings: What is in force.
        sources: By name: ``default``, the path of the file, the variable or ``command line``.
    """

    settings: AgentSettings
    sources: Mapping[str, str]


def find_directory(option: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Choose the agent's directory: the flag, ``EDGE_AGENT_DIR``, else ``~/.edge-agent``."""
    chosen = option or environment.get(DIRECTORY_VARIABLE)
    return Path(chosen).absolute() if chosen else Path.home() / ".edge-agent"


def load_settings(
    directory: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> AgentSettings:
    """Read and check all settings; see ``find_settings``."""
    return find_settings(directory, flags=flags, environment=environment).settings


def find_settings(
    directory: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> FoundSettings:
    """Read and check all settings, and say where each comes from.

    Args:
        directory: The agent's directory.
        flags: From the command line; None values are not given.
        environment: Variables; ``EDGE_AGENT_HTTP_PORT`` sets ``http_port``, and so on.

    Raises:
        SettingsError: Names the first setting that is wrong, where it came from and its range.
    """
    names = [field.name for field in fields(AgentSettings)]
    values = _read_file(directory / FILE)
    sources = dict.fromkeys(names, DEFAULT_SOURCE)
    sources |= dict.fromkeys(values, str(directory / FILE))
    for name in names:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if (text := environment.get(variable)) is not None:
            values[name], sources[name] = _parse(name, text), variable
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    sources |= dict.fromkeys(given, FLAG_SOURCE)
    values |= given
    try:
        typed = {name: _typed(name, value) for name, value in values.items()}
        return FoundSettings(settings=AgentSettings(**typed), sources=sources)
    except SettingsError as error:
        source = sources.get(str(error).split(" ", 1)[0], DEFAULT_SOURCE)
        raise SettingsError(f"{error} (from {source})") from error


def read_section(directory: Path, name: str) -> dict[str, Any] | None:
    """Return one of SECTIONS as it stands in the file, None without it; raises SettingsError."""
    section = _read_toml(directory / FILE).get(name)
    if section is not None and not isinstance(section, dict):
        raise SettingsError(f"{directory / FILE}: {name} must be a section, [{name}]")
    return section


def _read_file(path: Path) -> dict[str, Any]:
    values = {name: value for name, value in _read_toml(path).items() if name not in SECTIONS}
    known = [field.name for field in fields(AgentSettings)]
    for name in values:
        if name not in known:
            raise SettingsError(f"{path}: unknown setting {name!r}; known are {', '.join(known)}")
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise SettingsError(f"{path} is no regular file; put a file in its place")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    import tomllib  # the process that serves is told its settings

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _parse(name: str, text: str) -> Any:
    if name not in _NUMBERS:
        return text
    try:
        return _NUMBERS[name](text)
    except ValueError as error:
        variable = ENVIRONMENT_PREFIX + name.upper()
        raise SettingsError(f"{variable} must be a number, got {text[:80]!r}") from error


def _typed(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (_NUMBERS[name] is int and not isinstance(value, int)):
            raise SettingsError(f"{name} must be {_KINDS[_NUMBERS[name]]}, got {value!r:.80}")
        return _NUMBERS[name](value)
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be a text, got {value!r:.80}")
    return value


def _check(is_right: bool, name: str, value: object, allowed: str) -> None:  # noqa: FBT001 - a claim
    if not is_right:
        raise SettingsError(f"{name} must be {allowed}, got {value!r:.80}")


_NUMBERS: Mapping[str, type] = {
    "http_port": int,
    "window_s": float,
    "grace_s": float,
    "restore_memory_bytes": int,
    "log_bytes_max": int,
    "log_files_kept": int,
}
_KINDS: Mapping[type, str] = {int: "a whole number", float: "a number"}
