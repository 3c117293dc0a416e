"""Section ``[mqtt_bridge]`` of ``agent.toml``: which broker, which topics, which slot.

Unknown keys are refused by name. The docstring of ``BridgeSettings`` is the reference.
"""

import stat
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_agent.core.bridge_route import BridgeRoute
from edge_agent.errors import SettingsError
from edge_agent.settings import FILE, read_section

SECTION = "mqtt_bridge"
PASSWORD_BYTES_MAX = 4_096
FIELDS_MAX = 4_096
KEPT_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """Settings of the bridge between a local broker and the agent.

    Attributes:
        topic_in: Topic listened to; one level may be a named wildcard: ``plant/{machine}/in``.
        topic_out: Topic of answers; may use the wildcard: ``plant/{machine}/prediction``.
        topic_error: Topic of errors with single messages; empty for none.
        topic_status: Topic of a retained message that tells whether the bridge is online, and its
            counts once a minute; empty for none.
        host: The broker.
        port: TCP port of the same, 1 to 65535.
        username: Account at the broker; empty for none.
        password_file: File with its password, not readable by everybody. Files are looked for in
            the agent's directory.
        ca_file: Authority of the broker's certificate, PEM; empty for a connection without TLS.
        certificate_file: Certificate of the bridge, PEM; empty for none.
        key_file: Its private key, PEM.
        client_id: How the bridge calls itself; empty lets the broker choose.
        qos: Of the subscription and of answers, 0 or 1.
        slot: Slot or model that answers; empty for the only one.
        queue_max: Messages that wait for the agent, 1 to 100000; the oldest is dropped for a new
            one.
        fields: From field of the model to the path of its value in the payload, levels apart by a
            dot: ``{heat = "t.inside"}``; without it, members have the names of fields.
        keep: Members of the payload that are copied into the answer, as ``["time"]``.
    """

    topic_in: str
    topic_out: str
    topic_error: str = ""
    topic_status: str = ""
    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    client_id: str = ""
    qos: int = 1
    slot: str = ""
    queue_max: int = 256
    fields: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges; raises SettingsError."""
        _check(bool(self.host), "host", self.host, "the name or address of a broker")
        _check(1 <= self.port <= 65_535, "port", self.port, "1 to 65535")
        _check(self.qos in (0, 1), "qos", self.qos, "0 or 1")
        _check(1 <= self.queue_max <= 100_000, "queue_max", self.queue_max, "1 to 100000")
        _check(len(self.fields) <= FIELDS_MAX, "fields", len(self.fields), f"{FIELDS_MAX} at most")
        _check(len(self.keep) <= KEPT_MAX, "keep", len(self.keep), f"{KEPT_MAX} names at most")
        has_both = bool(self.certificate_file) == bool(self.key_file)
        _check(has_both, "key_file", self.key_file, "set together with certificate_file")
        has_ca = bool(self.ca_file) or not self.certificate_file
        _check(has_ca, "ca_file", self.ca_file, "set when certificate_file is")
        has_user = bool(self.username) or not self.password_file
        _check(has_user, "username", self.username, "set when password_file is")
        route = self.route
        if self.topic_status:
            BridgeRoute(topic_in=route.topic_in, topic_out=self.topic_status)
            is_plain = "{" not in self.topic_status
            _check(is_plain, "topic_status", self.topic_status, "one topic without a wildcard")

    @property
    def route(self) -> BridgeRoute:
        """The topics."""
        return BridgeRoute(
            topic_in=self.topic_in, topic_out=self.topic_out, topic_error=self.topic_error
        )


def load_bridge_settings(directory: Path) -> BridgeSettings:
    """Read and check the section; raises SettingsError, which names setting, value and range."""
    path = directory / FILE
    given = read_section(directory, SECTION)
    if given is None:
        raise SettingsError(
            f"{path} has no section [{SECTION}]; it needs at least topic_in and topic_out"
        )
    known = {one.name: one for one in fields(BridgeSettings)}
    try:
        _refuse_unknown(given, known)
        for name, one in known.items():
            is_needed = one.default is MISSING and one.default_factory is MISSING
            _check(name in given or not is_needed, name, None, "set")
        return BridgeSettings(**{name: _typed(name, value) for name, value in given.items()})
    except SettingsError as error:
        raise SettingsError(f"{path}, [{SECTION}]: {error}") from error


def read_password(path: Path) -> str:
    """Read a password file, without the end of its line; raises SettingsError."""
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise SettingsError(
                f"password_file {path} is open to every user; run: chmod 640 {path}"
            )
        with path.open("rb") as file:
            password = file.read(PASSWORD_BYTES_MAX + 1).rstrip(b"\r\n")
        if not 1 <= len(password) <= PASSWORD_BYTES_MAX:
            raise SettingsError(f"password_file {path} must hold 1 to {PASSWORD_BYTES_MAX} bytes")
        return password.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"password_file {path} cannot be read: {error}") from error


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}; known are {', '.join(known)}")


def _typed(name: str, value: Any) -> Any:
    if name in ("port", "qos", "queue_max"):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        _check(is_number, name, value, "a whole number")
    elif name == "fields":
        is_map = isinstance(value, dict) and all(isinstance(v, str) and v for v in value.values())
        _check(is_map, name, value, "a table of field names to paths")
    elif name == "keep":
        is_list = isinstance(value, list) and all(isinstance(v, str) for v in value)
        _check(is_list, name, value, "a list of names")
        return tuple(value)
    else:
        _check(isinstance(value, str), name, value, "a text")
    return value


def _check(is_right: bool, name: str, value: object, allowed: str) -> None:  # noqa: FBT001 - a claim
    if not is_right:
        raise SettingsError(f"{name} must be {allowed}, got {value!r:.80}")
