"""Sockets on which local applications ask for predictions, made before who serves them.

The agent's process makes them once and keeps them, so that connections wait in the kernel's queue
while the process that serves is being replaced, instead of being refused.
"""

import socket

from edge_agent.errors import AgentError

BACKLOG = 128
"""Connections that may wait; Linux lets no more than ``net.core.somaxconn`` wait anyway."""


class ListenError(AgentError):
    """The address cannot be bound; says which one and what to do."""


def listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Listen on every address of a host, on the first one only when any port will do.

    Args:
        host: Name or address.
        port: TCP port; 0 takes a free one.

    Raises:
        ListenError: The address is in use or not ours.
    """
    sockets: list[socket.socket] = []
    try:
        port.to_bytes(2)  # getaddrinfo takes a larger one for another
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((info[0], info[4]) for info in found))
        for family, address in addresses if port else addresses[:1]:
            # asyncio sends at once (TCP_NODELAY) only on sockets that name their protocol.
            each = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            each.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        for each in sockets:
            each.close()
        raise ListenError(
            f"cannot listen on {host} port {port}: {error};"
            " choose another port or stop what uses it"
        ) from error
    return tuple(sockets)
