"""A workspace: the folder that holds one fleet's configuration, keys, databases and packages.

``edgefleet.toml`` at its top is what a person edits; unknown keys are refused by name.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fleet_server.errors import MisuseError, NotFoundError

CONFIG_NAME = "edgefleet.toml"
CONFIG_BYTES_MAX = 65_536
MANAGED, EXTERNAL = "managed", "external"
WORKSPACE_VARIABLE = "EDGEFLEET_WORKSPACE"
OPERATOR_VARIABLE = "EDGEFLEET_OPERATOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What ``edgefleet.toml`` says.

    Attributes:
        fleet: Name of the fleet; devices of another fleet refuse its assignments.
        public_host: Name or address under which devices reach this server.
        bind_host: Address the broker and the API listen on.
        broker: ``managed``: `edgefleet up` runs mosquitto here; ``external``: somebody else runs
            one with the files of `edgefleet keys broker-config`.
        broker_host: External only: name or address under which devices reach the broker.
        broker_port: Port for devices, 1 to 65535.
        server_host: External only: name or address of the listener for the server's connections.
        server_port: Port for the server's own broker connections; loopback when managed.
        api_port: Port of the HTTPS API.
        controller_period_s: Seconds between two looks of the rollout controller.
        drift_period_s: Seconds between two drift judgements.
        false_alarms_per_day: Drift alarms by chance that the whole fleet may raise in a day.
        retention_days: Days raw telemetry windows are kept.
        samples_days: Days sampled raw rows are kept.
        samples_bytes_max: Bytes of their files; the oldest go first.
        transfer_bytes_per_s: Bytes per second of model transfer, all devices together.
        transfer_devices_max: Devices served with chunks at once.
    """

    fleet: str = "fleet-1"
    public_host: str = "127.0.0.1"
    bind_host: str = "127.0.0.1"
    broker: str = MANAGED
    broker_host: str = ""
    broker_port: int = 8883
    server_host: str = ""
    server_port: int = 8884
    api_port: int = 8443
    controller_period_s: float = 2.0
    drift_period_s: float = 30.0
    false_alarms_per_day: float = 1.0
    retention_days: int = 7
    samples_days: int = 90
    samples_bytes_max: int = 10_737_418_240
    transfer_bytes_per_s: int = 20_000_000
    transfer_devices_max: int = 64

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:  # written so that NaN is refused too
                raise MisuseError(f"{CONFIG_NAME}: {name} must be {low:g} to {high:g}, got {value}")
        if not self.fleet or len(self.fleet) > 64:
            raise MisuseError(f"{CONFIG_NAME}: fleet must have 1 to 64 characters")
        self._check_broker()

    @property
    def is_broker_external(self) -> bool:
        """Tell whether somebody else runs the broker."""
        return self.broker == EXTERNAL

    @property
    def mqtt_host(self) -> str:
        """Name or address under which devices reach the broker."""
        return self.broker_host or self.public_host

    def _check_broker(self) -> None:
        if self.broker not in (MANAGED, EXTERNAL):
            raise MisuseError(
                f"{CONFIG_NAME}: broker must be {MANAGED!r} or {EXTERNAL!r}, got {self.broker!r}"
            )
        for name in ("broker_host", "server_host"):
            if getattr(self, name) and not self.is_broker_external:
                raise MisuseError(
                    f'{CONFIG_NAME}: {name} is for broker = "{EXTERNAL}"; a managed broker is'
                    " reached by public_host and by this machine's loopback"
                )
        if self.is_broker_external and not (self.broker_host and self.server_host):
            raise MisuseError(
                f'{CONFIG_NAME}: broker = "{EXTERNAL}" needs broker_host (where devices find it)'
                " and server_host (where this server does)"
            )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("broker_port", 1, 65_535),
    ("server_port", 1, 65_535),
    ("api_port", 1, 65_535),
    ("controller_period_s", 0.1, 3_600),
    ("drift_period_s", 0.5, 86_400),
    ("false_alarms_per_day", 0.001, 1_000),
    ("retention_days", 1, 3_650),
    ("samples_days", 1, 3_650),
    ("samples_bytes_max", 1_048_576, 2**50),
    ("transfer_bytes_per_s", 1_024, 10**10),
    ("transfer_devices_max", 1, 100_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where everything of one fleet is."""

    root: Path
    config: Config

    @property
    def server_dir(self) -> Path:
        """What the server's user owns."""
        return self.root / "server"

    @property
    def control_db(self) -> Path:
        """Control database."""
        return self.server_dir / "control.db"

    @property
    def telemetry_db(self) -> Path:
        """Telemetry database; may be lost without losing control of the fleet."""
        return self.server_dir / "telemetry.db"

    @property
    def keys_dir(self) -> Path:
        """Online keys and the certificate authority, 0700."""
        return self.server_dir / "keys"

    @property
    def tuf_dir(self) -> Path:
        """Signed metadata."""
        return self.server_dir / "tuf"

    @property
    def objects_dir(self) -> Path:
        """Packages by sha256."""
        return self.server_dir / "objects"

    @property
    def encodings_dir(self) -> Path:
        """Packages as they travel; all of it can be made again."""
        return self.server_dir / "encodings"

    @property
    def samples_dir(self) -> Path:
        """Sampled raw rows of devices, Parquet."""
        return self.server_dir / "samples"

    @property
    def broker_dir(self) -> Path:
        """Generated configuration and state of the broker."""
        return self.server_dir / "broker"

    @property
    def log_dir(self) -> Path:
        """Logs of the processes."""
        return self.server_dir / "log"

    @property
    def lock_file(self) -> Path:
        """Held by ``edgefleet up``."""
        return self.server_dir / "up.lock"

    @property
    def run_file(self) -> Path:
        """What the running ``edgefleet up`` says of itself, JSON."""
        return self.server_dir / "up.json"

    @property
    def operator_dir(self) -> Path:
        """Root and approver keys; belongs to the operator, not to the server."""
        named = os.environ.get(OPERATOR_VARIABLE)
        return Path(named) if named else self.root / "operator"


def parse_config(text: str) -> Config:
    """Read ``edgefleet.toml``.

    Raises:
        MisuseError: Not TOML, an unknown key, a wrong type or a value out of range.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MisuseError(f"{CONFIG_NAME} is not TOML: {error}") from error
    return Config(**_checked(values))


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {f.name: type(f.default) for f in fields(Config)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(kinds))}"
            raise MisuseError(f"{CONFIG_NAME}: unknown key {name!r}; {hint}")
        wanted = kinds[name]
        is_number = wanted is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not wanted and not is_number:
            raise MisuseError(
                f"{CONFIG_NAME}: {name} must be {wanted.__name__}, got {type(value).__name__}"
            )
        checked[name] = value
    return checked


def render_config(config: Config) -> str:
    """Write ``edgefleet.toml`` with every key."""
    lines = ["# edgefleet workspace. Restart `edgefleet up` after a change."]
    for f in fields(Config):
        value = getattr(config, f.name)
        lines.append(f'{f.name} = "{value}"' if isinstance(value, str) else f"{f.name} = {value}")
    return "\n".join(lines) + "\n"


def find_workspace(start: Path | None) -> Path:
    """Find the workspace: as named, by the environment, or upward from the current folder.

    Raises:
        NotFoundError: There is none.
    """
    named = start or (Path(p) if (p := os.environ.get(WORKSPACE_VARIABLE)) else None)
    if named is not None:
        if (named / CONFIG_NAME).is_file():
            return named.resolve()
        raise NotFoundError(
            f"{named} is not a workspace (no {CONFIG_NAME}); edgefleet init {named}"
        )
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise NotFoundError(
        f"no workspace here: no {CONFIG_NAME} in {Path.cwd()} or above; run `edgefleet init DIR`,"
        f" then name it with -w DIR or {WORKSPACE_VARIABLE}"
    )


def open_workspace(start: Path | None = None) -> Workspace:
    """Open an existing workspace.

    Raises:
        NotFoundError: There is none.
        MisuseError: Its configuration cannot be read.
    """
    root = find_workspace(start)
    path = root / CONFIG_NAME
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise MisuseError(f"{path} is larger than {CONFIG_BYTES_MAX} bytes")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(f"cannot read {path}: {error}") from error
    return Workspace(root=root, config=parse_config(text))
