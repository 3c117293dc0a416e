"""Make a workspace and the supervisor of its processes."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleet_server.adapters.authority_files import CertificateFiles
from fleet_server.adapters.broker_config import LOOPBACK, BrokerSettings
from fleet_server.adapters.broker_process import BrokerProcess, load_server_secret
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.api_tokens import make_token
from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.engine import open_engine, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.external_broker import BrokerDoor, ExternalBroker
from fleet_server.adapters.system_clock import SystemClock
from fleet_server.adapters.tuf_repository import create_repository
from fleet_server.durable_files import write_durable
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.free_ports import find_free_ports, is_free
from fleet_server.ports.clock import Clock
from fleet_server.workspace import CONFIG_NAME, Config, Workspace, render_config

TOKEN_NAME = "admin"  # noqa: S105 - the name of a token, not one
TOKEN_FILE = "api-token"  # noqa: S105 - a file name
PORTS = ("broker_port", "server_port", "api_port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A new workspace and what its owner should keep.

    Attributes:
        workspace: Ready for ``edgefleet up``.
        root_sha256: Fingerprint of the first root, which devices pin.
        token_file: Holds the API token of the administrator, 0600.
    """

    workspace: Workspace
    root_sha256: str
    token_file: Path


def init_workspace(
    root: Path, config: Config, *, passphrase: bytes | None = None, clock: Clock | None = None
) -> Made:
    """Create keys, first metadata, certificates, databases and configuration.

    ``edgefleet.toml`` is written last: a folder without it is no workspace, and what an
    interrupted call left is removed by the next one's failure or completed by its success.

    Raises:
        RefusedError: The folder is a workspace already, or holds a ``server`` folder of one.
        MisuseError: The folder cannot be written.
    """
    clock = clock or SystemClock()
    root = root.resolve()
    if (root / CONFIG_NAME).exists():
        raise RefusedError(f"{root} is a workspace already; `edgefleet up -w {root}` runs it")
    workspace = Workspace(root=root, config=config)
    if workspace.server_dir.exists():
        raise RefusedError(
            f"{workspace.server_dir} exists without {CONFIG_NAME}; move it away, then init again"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        workspace.server_dir.mkdir(mode=0o700)
    except OSError as error:
        raise MisuseError(
            f"cannot write {root}: {error.strerror}; choose another folder"
        ) from error
    had_operator = workspace.operator_dir.exists()
    try:
        return _fill(workspace, passphrase, clock)
    except BaseException:
        shutil.rmtree(workspace.server_dir)
        if not had_operator:
            shutil.rmtree(workspace.operator_dir, ignore_errors=True)
        raise


def _fill(workspace: Workspace, passphrase: bytes | None, clock: Clock) -> Made:
    workspace.keys_dir.mkdir(mode=0o700)
    workspace.operator_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    repository = create_repository(
        workspace.tuf_dir,
        keys_dir=workspace.keys_dir,
        operator_dir=workspace.operator_dir,
        clock=clock,
        passphrase=passphrase,
    )
    ensure_certificates(workspace, clock)
    migrate(workspace.control_db)
    engine = open_engine(workspace.control_db)
    with write_session(engine) as session:
        token = make_token(session, name=TOKEN_NAME, role="admin", now=clock.now())
        append_audit(
            session,
            at=clock.now(),
            actor="operator",
            act="workspace.init",
            object=workspace.config.fleet,
            detail={"root_sha256": repository.root_sha256()},
        )
    engine.dispose()
    token_file = workspace.operator_dir / TOKEN_FILE
    write_durable(token_file, token.encode(), mode=0o600)
    write_durable(workspace.root / CONFIG_NAME, render_config(workspace.config).encode())
    return Made(workspace=workspace, root_sha256=repository.root_sha256(), token_file=token_file)


def ensure_certificates(
    workspace: Workspace, clock: Clock, *, is_newest: bool = False
) -> CertificateAuthority:
    """Make or renew the server's certificates for the configured hosts.

    ``is_newest``: by the authority that is to follow, where one authority follows another.
    """
    config = workspace.config
    authority = CertificateAuthority(workspace.keys_dir, clock)
    hosts = [h for h in (config.public_host, config.bind_host) if h != "0.0.0.0"]  # noqa: S104 - compared, not bound
    external = [config.broker_host, config.server_host] if config.is_broker_external else None
    authority.create(hosts, broker_hosts=external, is_newest=is_newest)
    return authority


def check_insecure(config: Config) -> None:
    """Refuse to run without TLS where anything but this machine could be reached by it.

    Raises:
        MisuseError: An address that is not 127.0.0.1, or a broker elsewhere.
    """
    way_out = "leave --insecure-loopback out, or keep another workspace for tests"
    if config.is_broker_external:
        raise MisuseError(f"--insecure-loopback: the broker is external; {way_out}")
    for name in ("bind_host", "public_host"):
        host = getattr(config, name)
        if host != LOOPBACK:
            raise MisuseError(
                f"--insecure-loopback works on {LOOPBACK} alone, but {name} is {host!r} in"
                f" {CONFIG_NAME}; {way_out}"
            )


def supervised_broker(
    workspace: Workspace, clock: Clock, *, say: Callable[[str], None], is_insecure: bool = False
) -> BrokerProcess | ExternalBroker:
    """Build what `edgefleet up` watches; ``say`` takes one sentence for the person."""
    if workspace.config.is_broker_external:
        return ExternalBroker(find_broker_door(workspace), say=say)
    return broker_of(workspace, clock, is_insecure=is_insecure)


def find_broker_door(workspace: Workspace) -> BrokerDoor:
    """Say how an external broker is reached."""
    config, files = workspace.config, CertificateFiles(workspace.keys_dir)
    return BrokerDoor(
        host=config.server_host,
        port=config.server_port,
        device_host=config.mqtt_host,
        device_port=config.broker_port,
        ca_file=files.ca,
        certificate_file=files.certificate("server"),
        key_file=files.key("server"),
        read_secret=lambda: load_server_secret(workspace.broker_dir),
    )


def broker_of(workspace: Workspace, clock: Clock, *, is_insecure: bool = False) -> BrokerProcess:
    """Build the broker that runs as our child; nothing is started."""
    config, files = workspace.config, CertificateAuthority(workspace.keys_dir, clock).files
    settings = BrokerSettings(
        host=config.bind_host,
        port=config.broker_port,
        server_port=config.server_port,
        ca_file=files.ca,
        certificate_file=files.certificate("broker"),
        key_file=files.key("broker"),
        crl_file=files.crl,
        is_plain=is_insecure,
    )
    return BrokerProcess(workspace.broker_dir, settings, log_file=workspace.log_dir / "broker.log")


def choose_ports(config: Config, given: Sequence[int | None]) -> Config:
    """Take the ports that were given; where none was, the default or a free one.

    Args:
        config: Holds the defaults.
        given: Broker, server and API port; None to choose.

    Raises:
        MisuseError: The same port twice.
    """
    taken = {port for port in given if port is not None}
    chosen: dict[str, int] = {}
    for name, port in zip(PORTS, given, strict=True):
        chosen[name] = _choose(getattr(config, name), taken) if port is None else port
        taken.add(chosen[name])
    if len(set(chosen.values())) != len(PORTS):
        raise MisuseError(f"each of {', '.join(PORTS)} needs a port of its own, got {chosen}")
    return replace(config, **chosen)  # type: ignore[arg-type]  # all three are integers


def _choose(default: int, taken: set[int]) -> int:
    if default not in taken and is_free(default):
        return default
    (port,) = find_free_ports(1, taken)
    return port
