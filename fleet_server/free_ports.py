"""Ports to listen on that no outgoing connection can take meanwhile.

A port below the range from which the system picks the ends of outgoing connections stays free for
a server that restarts; one from within that range may be somebody's connection by then.
"""

import contextlib
import random
import socket
from collections.abc import Collection
from pathlib import Path

FIRST = 20_000
BEYOND_DEFAULT = 32_768
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def find_free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Return distinct TCP ports that nobody listens on now on the loopback, in random order.

    Raises:
        OSError: There are not that many.
    """
    candidates = [port for port in range(FIRST, _beyond()) if port not in taken]
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"only {len(found)} of {count} ports from {FIRST} to {_beyond()} are free")
    return found


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _beyond() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        low = int(_RANGE.read_text().split()[0])
        if low > FIRST + 1_000:
            return low
    return BEYOND_DEFAULT
