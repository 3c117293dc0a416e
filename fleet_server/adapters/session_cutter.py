"""End a device's session on the broker without restarting it.

mosquitto 2.0 keeps the session of a device that was revoked meanwhile, and has no command to end
one. But one client id has one session: on the server's listener, which asks for the server's
secret and leaves client ids free, a connection under the device's id takes the session over. The
broker closes the device's socket, says its last will, and, because the connection asks for a clean
session, forgets what waited for it. The connection then ends in good order.
"""

import contextlib
import socket
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters import mqtt_packets as mqtt
from fleet_server.adapters.broker_config import SERVER_USER
from fleet_server.adapters.mqtt_gateway import LinkSettings, StateLink
from fleet_server.ports.certificates import RevokedPair

TIMEOUT_S = 5.0
KEEPALIVE_S = 10
ANSWER_BYTES_MAX = 4_096
PROBE_CLIENT = "revoked-probe"


class SessionCutter:
    """The ``SessionBroker`` over short connections and the gateway's own."""

    def __init__(
        self, settings: LinkSettings, state: StateLink, *, device_host: str, device_port: int
    ) -> None:
        """Prepare.

        Args:
            settings: Of the server's listener; client id and filters do not matter.
            state: Publishes retained messages.
            device_host: Where devices connect.
            device_port: Of it.
        """
        self._settings, self._state = settings, state
        self._device_host, self._device_port = device_host, device_port

    def refuses(self, pair: RevokedPair) -> bool | None:
        """Tell whether devices with this certificate are refused; None when nobody answers."""
        context = ssl.create_default_context(cafile=str(self._settings.ca_file))
        with tempfile.TemporaryDirectory(prefix="edgefleet-") as folder:
            path = Path(folder) / "probe.pem"
            path.touch(mode=0o600)
            path.write_bytes(pair.certificate + pair.key)
            context.load_cert_chain(path)
        hello = mqtt.encode_connect(
            PROBE_CLIENT, user="", secret="", keepalive_s=KEEPALIVE_S, is_clean=True
        )
        try:
            raw = socket.create_connection((self._device_host, self._device_port), TIMEOUT_S)
        except OSError:
            return None
        with raw:
            try:
                with context.wrap_socket(raw, server_hostname=self._device_host) as line:
                    line.sendall(hello)
                    return not line.recv(ANSWER_BYTES_MAX)
            except TimeoutError:
                return None
            except ssl.SSLCertVerificationError:
                return None  # whoever answers there is not the broker
            except OSError:
                return True

    def cut(self, device_id: str) -> bool:
        """End a device's session and forget what waits for it; False when it did not work."""
        settings = self._settings
        try:
            with contextlib.ExitStack() as stack:
                line: socket.socket = stack.enter_context(
                    socket.create_connection((settings.host, settings.port), TIMEOUT_S)
                )
                if not settings.is_plain:
                    context = ssl.create_default_context(cafile=str(settings.ca_file))
                    context.load_cert_chain(settings.certificate_file, settings.key_file)
                    line = stack.enter_context(
                        context.wrap_socket(line, server_hostname=settings.host)
                    )
                line.sendall(
                    mqtt.encode_connect(
                        device_id,
                        user=SERVER_USER,
                        secret=settings.secret,
                        keepalive_s=KEEPALIVE_S,
                        is_clean=True,
                    )
                )
                _read_connack(line)
                line.sendall(mqtt.DISCONNECT)
        except (OSError, mqtt.ProtocolError):
            return False
        return True

    def clear_desired(self, device_ids: Sequence[str]) -> bool:
        """Remove the retained assignments of devices; False when it did not work."""
        if not self._state.epoch:
            return False
        topics = [device_topic(device_id, Channel.DESIRED) for device_id in device_ids]
        return all(self._state.publish_retained([(topic, b"") for topic in topics]))


def _read_connack(line: socket.socket) -> None:
    """Wait for the broker's yes; raises ProtocolError or OSError."""
    buffer = b""
    while True:
        data = line.recv(ANSWER_BYTES_MAX)
        if not data:
            raise mqtt.ProtocolError("the broker closed the connection")
        packets, buffer = mqtt.take_packets(buffer + data)
        if packets:
            mqtt.read_connack(*packets[0])
            return
