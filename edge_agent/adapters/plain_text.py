"""Plain text between an agent and a server on one machine: where it may go, and how it ends.

Only a join string can ask for it (``edgefleet up --insecure-loopback``), and only towards this
machine itself: every address of the name must be a loopback, and the connection is made to the
address that was checked, so that a name that changes its mind leads nowhere. A device keeps key and
certificate all the same; once its server speaks TLS again it follows, and never goes back.
"""

import ipaddress
import socket
import ssl

from edge_agent.errors import PlainTextError
from edge_agent.ports import Identity

PROBE_TIMEOUT_S = 3.0
INSECURE = "INSECURE: no TLS, nothing proves who is at the other end; for tests on one machine only"


def find_loopback(host: str, port: int) -> str:
    """Return an address of ``host`` that plain text may be sent to.

    Raises:
        PlainTextError: Some address of the host is not this machine's loopback.
        OSError: The name has no address.

    >>> find_loopback("127.0.0.1", 1883)
    '127.0.0.1'
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not ipaddress.ip_address(address.split("%", 1)[0]).is_loopback:
            raise PlainTextError(
                f"{host} is {address}, which is not this machine: without TLS an agent talks to"
                " 127.0.0.0/8 and ::1 only; run `edgefleet up` without --insecure-loopback, make"
                " a join string there, and join anew with `edge-agent join --force`"
            )
    return addresses[0]


def offers_tls(identity: Identity, tls: ssl.SSLContext) -> bool:
    """Tell whether the broker by now speaks TLS that ``tls`` verifies.

    Raises:
        PlainTextError: The host is not this machine.
        OSError: Nobody answers there.
    """
    address = (find_loopback(identity.host, identity.mqtt_port), identity.mqtt_port)
    with socket.create_connection(address, PROBE_TIMEOUT_S) as raw:
        try:
            with tls.wrap_socket(raw, server_hostname=identity.host):
                return True
        except OSError:  # plain text answers a handshake by hanging up
            return False
