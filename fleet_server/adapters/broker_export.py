"""Write everything an external mosquitto needs into one folder, with a page that says what to do.

The same rules as for a managed broker (``broker_config.py``); only the paths, the addresses and who
starts it differ. The folder holds a private key and a password hash, so it is for its owner only.
Writing it again is safe: the secret stays, certificate and revocation list are those of the day.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from fleet_server.adapters.authority_files import CertificateFiles
from fleet_server.adapters.broker_config import (
    LOOPBACK,
    PACKET_BYTES_MAX,
    BrokerFiles,
    BrokerSettings,
    render_config,
    render_device_acl,
    render_passwords,
    render_server_acl,
)
from fleet_server.durable_files import write_durable
from fleet_server.errors import MisuseError
from fleet_server.workspace import Config

_LOCAL = (LOOPBACK, "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is written where.

    Attributes:
        directory: Where the files are written now; made when missing.
        place: Where they will lie on the broker's machine; absolute.
        config: Of the workspace; names hosts and ports.
        secret: Of the server's user; only its hash is written.
    """

    directory: Path
    place: Path
    config: Config
    secret: str

    def __post_init__(self) -> None:
        if not self.place.is_absolute() or any(c.isspace() for c in str(self.place)):
            raise MisuseError(f"--at must be an absolute path without spaces, got {self.place}")


def export_broker(plan: ExportPlan, sources: CertificateFiles) -> list[Path]:
    """Write the folder; return its files in the order of their names.

    Raises:
        MisuseError: The folder cannot be written.
    """
    config, files = plan.config, BrokerFiles(directory=plan.place)
    settings = BrokerSettings(
        host="",
        port=config.broker_port,
        server_port=config.server_port,
        server_host=LOOPBACK if config.server_host in _LOCAL else "",
        ca_file=plan.place / "ca.pem",
        certificate_file=plan.place / "broker.pem",
        key_file=plan.place / "broker.key",
        crl_file=plan.place / "crl.pem",
    )
    header = "# By `edgefleet keys broker-config`; write it anew rather than edit it."
    contents = {
        files.config.name: render_config(settings, files, is_root=False, header=header).encode(),
        files.device_acl.name: render_device_acl().encode(),
        files.server_acl.name: render_server_acl().encode(),
        files.passwords.name: render_passwords(plan.secret, secrets.token_bytes(12)).encode(),
        settings.ca_file.name: sources.ca.read_bytes(),
        settings.certificate_file.name: sources.certificate("broker").read_bytes(),
        settings.key_file.name: sources.key("broker").read_bytes(),
        settings.crl_file.name: sources.crl.read_bytes(),
        "README.md": render_readme(plan, sources).encode(),
    }
    try:
        plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in sorted(contents.items()):
            write_durable(plan.directory / name, data, mode=0o600)
    except OSError as error:
        raise MisuseError(f"cannot write {plan.directory}: {error}") from error
    return [plan.directory / name for name in sorted(contents)]


def render_readme(plan: ExportPlan, sources: CertificateFiles) -> str:
    """Write the page for whoever runs the broker."""
    config, place = plan.config, plan.place
    return f"""\
# The broker of fleet {config.fleet}

For mosquitto 2.0 or later on the machine that devices reach as `{config.mqtt_host}` and this
fleet's server as `{config.server_host}`.

## Install

Copy this folder to that machine as `{place}`, then there, as root:

    chown -R mosquitto:mosquitto {place}
    chmod 700 {place}
    install -d -o mosquitto -g mosquitto -m 700 {place}/state
    mosquitto -c {place}/mosquitto.conf

or, where systemd runs it, put `{place}/mosquitto.conf` in place of
`/etc/mosquitto/mosquitto.conf` (it does not go into `conf.d`: settings here are for each listener)
and `systemctl restart mosquitto`.

| port | for | let in |
|---|---|---|
| {config.broker_port} | devices | from wherever devices are |
| {config.server_port} | the server's own connections | from the fleet's server alone |

Both speak TLS 1.2 or later and ask for a certificate of this fleet (`ca.pem`). Devices are whom
their certificate names; the server also shows a secret of which `passwords` has the hash.

`broker.key` and `passwords` are private: remove this copy once they are in place.

## The revocation list

`crl.pem` holds 30 days, and mosquitto with an expired list refuses **everybody**. The
fleet's server writes it anew each day and whenever a device is revoked. Until it has been copied
here, a revoked device still connects. So copy it, each day and after each
`edgefleet device revoke`, from the server:

    scp {sources.crl} BROKER:{place}/crl.pem.new
    ssh BROKER 'cd {place} && chown mosquitto: crl.pem.new && mv crl.pem.new crl.pem \\
      && systemctl reload mosquitto'

Reloading is SIGHUP (`kill -HUP $(pidof mosquitto)` without systemd). It also reads the access rules
and `passwords` again; a new `broker.pem` or `ca.pem` needs a restart, which ends all sessions.

`broker.pem` is renewed a month before it expires, at a start of `edgefleet up`: then write this
folder anew and copy it. `edgefleet doctor` says when, and whether this broker answers.

## Another broker than mosquitto

It must do what these files say. On the devices' port: mutual TLS with `ca.pem` and `crl.pem`; the
certificate's common name as user name *and* as client id, whatever the client asks for; the rules
of `devices.acl` (`%u` is the user name); QoS 0 and 1, retained messages, kept sessions; packets up
to {PACKET_BYTES_MAX:,} bytes. On the server's port: the same TLS, user name and secret, free client
ids, the rules of `server.acl`. `$share`, QoS 2 and MQTT 5 are not needed.
"""
