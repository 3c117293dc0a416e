"""Render mosquitto's configuration, access rules and password file.

Two listeners with settings of their own, both TLS and asking for a certificate of the fleet's CA:

* devices: the certificate's common name is user name *and* client id, so a device can neither
  speak for another nor take its session; it writes the channels of its own ``up/``, reads its own
  ``down/`` and the shared metadata, nothing else;
* server, loopback only unless the broker is external: user name and a secret that only the
  workspace holds, free client ids (one server has several connections). The secret keeps devices,
  whose certificates are as valid, from taking a session here.

Shared rules must be ``pattern`` lines: a plain ``topic`` line before any ``user`` line is for
anonymous clients only. Reads are checked at delivery: a SUBSCRIBE to a foreign filter is granted
and stays silent. The defaults lose data (100 messages a second subscriber drops the 1,001st), so
queues are bounded in bytes, not in messages.

Plain text is for tests on one machine: both listeners on 127.0.0.1, a device is whom its user name
says, the server still needs its secret.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract.topics import PREFIX, Channel
from fleet_server.errors import MisuseError

SERVER_USER = "server"
LOOPBACK = "127.0.0.1"
GENERATED = "# Generated at every start; changes here are lost."
PACKET_BYTES_MAX = 270_000
"""Above the largest message of the contract (262,144 bytes) with its topic."""
INFLIGHT_MESSAGES_MAX = 4_000
"""Unacknowledged deliveries to one client; several ingest batches, so that the broker goes on
sending while one is committed."""
QUEUED_BYTES_MAX = 67_108_864
KEEPALIVE_S_MAX = 600
SESSION_DAYS_MAX = 14
_HASH_ROUNDS = 101
"""mosquitto's own number; the secret is 256 random bits, so rounds add nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """What the generated configuration depends on.

    Attributes:
        host: Address the device listener binds; empty for all.
        port: Port of the device listener.
        server_port: Port of the server's own connections.
        server_host: Address that listener binds; empty for all.
        ca_file: CA that issued devices' and server's certificates, PEM.
        certificate_file: The broker's own certificate, PEM.
        key_file: Its private key, PEM.
        crl_file: Revocation list, PEM; an expired one refuses everybody.
        connections_max: Clients at once on the device listener.
        is_plain: No TLS, on 127.0.0.1 alone.
        autosave_s: A SIGKILL or power cut loses at most this much of the broker's state.
    """

    host: str
    port: int
    server_port: int
    ca_file: Path
    certificate_file: Path
    key_file: Path
    crl_file: Path
    server_host: str = LOOPBACK
    is_plain: bool = False
    connections_max: int = 20_000
    autosave_s: int = 30

    def __post_init__(self) -> None:
        if self.port == self.server_port:
            raise MisuseError(f"broker_port and server_port are both {self.port}; they must differ")
        if self.is_plain and (self.host, self.server_host) != (LOOPBACK, LOOPBACK):
            raise MisuseError(f"a broker without TLS binds {LOOPBACK}, not {self.host!r}")
        for path in (self.ca_file, self.certificate_file, self.key_file, self.crl_file):
            if "\n" in str(path):
                raise MisuseError(f"broker: the path {str(path)!r} has a line break")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFiles:
    """Where the generated files are."""

    directory: Path

    @property
    def config(self) -> Path:
        """mosquitto.conf."""
        return self.directory / "mosquitto.conf"

    @property
    def device_acl(self) -> Path:
        """Access rules of the device listener."""
        return self.directory / "devices.acl"

    @property
    def server_acl(self) -> Path:
        """Access rules of the server listener."""
        return self.directory / "server.acl"

    @property
    def passwords(self) -> Path:
        """Hash of the server's secret."""
        return self.directory / "passwords"

    @property
    def secret(self) -> Path:
        """The server's secret, 0600."""
        return self.directory / "server.secret"

    @property
    def pid(self) -> Path:
        """Process id of the running broker."""
        return self.directory / "mosquitto.pid"

    @property
    def state(self) -> Path:
        """Folder of the broker's saved state."""
        return self.directory / "state"


def render_config(
    settings: BrokerSettings, files: BrokerFiles, *, is_root: bool, header: str = GENERATED
) -> str:
    """Write mosquitto.conf (read by 2.0 and later)."""
    lines = [
        header,
        "per_listener_settings true",
        *(["user root"] if is_root else []),
        "persistence true",
        f"persistence_location {files.state}/",
        f"autosave_interval {settings.autosave_s}",
        f"persistent_client_expiration {SESSION_DAYS_MAX}d",
        "max_queued_messages 0",
        f"max_queued_bytes {QUEUED_BYTES_MAX}",
        f"max_inflight_messages {INFLIGHT_MESSAGES_MAX}",
        f"max_packet_size {PACKET_BYTES_MAX}",
        f"max_keepalive {KEEPALIVE_S_MAX}",
        "set_tcp_nodelay true",
        "sys_interval 10",
        "connection_messages false",
        "log_dest stderr",
        *(f"log_type {kind}" for kind in ("error", "warning", "notice")),
        "log_timestamp_format %Y-%m-%dT%H:%M:%S%z",
        "",
        f"listener {settings.port} {settings.host}".rstrip(),
        *_tls_lines(settings),
        f"allow_anonymous {_word(settings.is_plain)}",  # a user name without a secret is anonymous
        f"max_connections {settings.connections_max}",
        *([] if settings.is_plain else ["use_identity_as_username true"]),
        "use_username_as_clientid true",
        f"acl_file {files.device_acl}",
        "",
        f"listener {settings.server_port} {settings.server_host}".rstrip(),
        *_tls_lines(settings),
        "allow_anonymous false",
        f"password_file {files.passwords}",
        f"acl_file {files.server_acl}",
    ]
    return "\n".join(lines) + "\n"


def render_device_acl() -> str:
    """Write the rules of the device listener; %u is the certificate's common name.

    Each channel by name, so that a device cannot have more topics than the contract has.
    """
    channels = [channel for channel in Channel if channel.startswith("up/")]
    return (
        "".join(f"pattern write {PREFIX}/+/%u/{channel}\n" for channel in channels)
        + f"pattern read {PREFIX}/+/%u/down/#\n"
        + f"pattern read {PREFIX}/meta/#\n"
    )


def render_server_acl() -> str:
    """Write the rules of the server listener."""
    return f"user {SERVER_USER}\ntopic readwrite {PREFIX}/#\ntopic read $SYS/#\n"


def render_passwords(secret: str, salt: bytes) -> str:
    """Write mosquitto's password file for the server's user (PBKDF2-SHA512)."""
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _HASH_ROUNDS)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{SERVER_USER}:$7${_HASH_ROUNDS}${'$'.join(encoded)}\n"


def _word(is_true: bool) -> str:  # noqa: FBT001 - the value is all there is
    return "true" if is_true else "false"


def _tls_lines(settings: BrokerSettings) -> list[str]:
    if settings.is_plain:
        return []
    return [
        f"cafile {settings.ca_file}",
        f"certfile {settings.certificate_file}",
        f"keyfile {settings.key_file}",
        f"crlfile {settings.crl_file}",
        "require_certificate true",
        "tls_version tlsv1.2",
    ]
