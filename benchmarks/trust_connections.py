"""Connections a second to a real mosquitto: mutual TLS and MQTT CONNECT, beside none of the TLS."""

import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fleet_server.adapters.broker_process import BrokerProcess
from fleet_server.adapters.mqtt_packets import take_packets
from fleet_server.free_ports import find_free_ports
from tests.support.gateway import BrokerLab

CONNECTS = 600
THREADS = 2
DEVICE = "bench-1"
ACCEPTED = b"\x20\x02\x00\x00"


def measure(folder: Path, rounds: int) -> tuple[float, float, float]:
    """Return connects a second with mutual TLS and without TLS, and broker CPU ms for the first."""
    lab = BrokerLab(folder)
    identity = lab.authority.issue(DEVICE)
    tls = ssl.create_default_context(cafile=str(lab.authority.ca_file))
    tls.load_cert_chain(identity.certificate, identity.key)
    port, server_port = find_free_ports(2)
    settings = replace(lab.settings, port=port, server_port=server_port, is_plain=True)
    plain = BrokerProcess(folder / "plain", settings)
    try:
        lab.broker.start()
        plain.start()
        rates, floors, spent = [], [], []
        for _ in range(rounds):
            before = cpu_s(lab.broker.pid)
            rates.append(connect_many(lab.port, tls))
            spent.append((cpu_s(lab.broker.pid) - before) / CONNECTS * 1_000)
            floors.append(connect_many(port, None))
    finally:
        lab.stop()
        plain.stop()
    return max(rates), max(floors), min(spent)


def connect_many(port: int, tls: ssl.SSLContext | None) -> float:
    """Connect and hang up CONNECTS times from THREADS threads; return connects a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        shares = [CONNECTS // THREADS] * THREADS
        for done in pool.map(lambda count: connect_share(port, tls, count), shares):
            assert done == CONNECTS // THREADS
    return CONNECTS / (time.perf_counter() - began)


def connect_share(port: int, tls: ssl.SSLContext | None, count: int) -> int:
    return sum(connect(port, tls) for _ in range(count))


def connect(port: int, tls: ssl.SSLContext | None) -> bool:
    """Connect as a device; tell whether the broker took it."""
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = raw if tls is None else tls.wrap_socket(raw, server_hostname="127.0.0.1")
        with line:
            line.sendall(hello())
            return take_packets(line.recv(64))[0][:1] == [(ACCEPTED[0], ACCEPTED[2:])]


def hello() -> bytes:
    """Write CONNECT with a user name and no secret, clean."""
    texts = b"".join(len(t).to_bytes(2, "big") + t for t in (b"", DEVICE.encode()))
    body = b"\x00\x04MQTT\x04\x82\x00\x3c" + texts
    return bytes((0x10, len(body))) + body


def cpu_s(pid: int | None) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
