"""A broker that somebody else runs with the files of ``edgefleet keys broker-config``.

Nothing is started, stopped or reloaded from here; what can be done is to ask whether it answers as
it must, and to say when its revocation list is to be replaced.
"""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet_server.adapters import mqtt_packets as mqtt
from fleet_server.adapters.broker_config import SERVER_USER
from fleet_server.errors import FleetError, RefusedError, UnreachableError

TIMEOUT_S = 5.0
CHECK_CLIENT = "server-check"
_CONNACK_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDoor:
    """The two listeners of an external broker, and what this server shows there.

    Attributes:
        host: Of the listener for the server's connections.
        port: Of it.
        device_host: Where devices find the broker.
        device_port: Likewise.
        ca_file: Authority of the broker's certificate.
        certificate_file: The server's.
        key_file: Its key.
        read_secret: Gives the secret of the server's user; raises NotFoundError without one.
    """

    host: str
    port: int
    device_host: str
    device_port: int
    ca_file: Path
    certificate_file: Path
    key_file: Path
    read_secret: Callable[[], str]


class ExternalBroker:
    """The ``Broker`` of a supervisor that has none of its own."""

    def __init__(self, door: BrokerDoor, *, say: Callable[[str], None]) -> None:
        """Prepare; ``say`` takes one sentence for the person."""
        self._door, self._say = door, say

    @property
    def pid(self) -> None:
        """It is no process of ours."""
        return None

    def start(self) -> None:
        """Say where it is and whether it answers; the workers try again by themselves.

        Raises:
            NotFoundError: The broker's files were never written.
        """
        self._door.read_secret()
        where = f"{self._door.device_host}:{self._door.device_port}"
        self._say(f"the broker {where} is external: nothing of it is started or stopped here")
        try:
            check_broker(self._door)
        except (UnreachableError, RefusedError) as error:
            self._say(f"{error}; the workers try again")

    def stop(self) -> None:
        """Leave it alone."""

    def reload(self) -> None:
        """Say that its revocation list is not the newest any more."""
        self._say(
            f"the revocation list changed: copy {self._door.ca_file.with_name('crl.pem')} to the"
            f" external broker {self._door.device_host} and reload it, or revoked devices still"
            " connect (README.md of `edgefleet keys broker-config`)"
        )

    def is_alive(self) -> bool:
        """Tell that there is nothing to start again."""
        return True


def check_broker(door: BrokerDoor) -> None:
    """Ask both listeners: the server's for a session, the devices' for its certificate.

    Raises:
        UnreachableError: Nobody answers, or not with a certificate of the fleet's authority.
        RefusedError: It knows the server's certificate but not its secret.
        NotFoundError: The broker's files were never written.
    """
    secret = door.read_secret()
    hello = mqtt.encode_connect(
        CHECK_CLIENT, user=SERVER_USER, secret=secret, keepalive_s=10, is_clean=True
    )
    answer = _talk(door, door.host, door.port, hello)
    if len(answer) < _CONNACK_BYTES:
        raise UnreachableError(
            f"the broker's server listener {door.host}:{door.port} hung up; does it ask for"
            " certificates of this fleet (ca.pem), and is its crl.pem expired?"
        )
    try:
        mqtt.read_connack(answer[0], answer[2:])
    except FleetError as error:
        raise RefusedError(
            f"the broker's server listener {door.host}:{door.port}: {error}; copy the passwords"
            " file of `edgefleet keys broker-config` there"
        ) from error
    _talk(door, door.device_host, door.device_port, b"")


def _talk(door: BrokerDoor, host: str, port: int, words: bytes) -> bytes:
    tls = ssl.create_default_context(cafile=str(door.ca_file))
    tls.load_cert_chain(door.certificate_file, door.key_file)
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as raw,
            tls.wrap_socket(raw, server_hostname=host) as line,
        ):
            if not words:
                return b""
            line.sendall(words)
            return line.recv(_CONNACK_BYTES)
    except OSError as error:
        raise UnreachableError(
            f"the external broker does not answer at {host}:{port} ({error}); is it up, and has it"
            " broker.pem and broker.key of `edgefleet keys broker-config`?"
        ) from error
