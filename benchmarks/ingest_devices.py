"""Many small devices in one process for ``bench_ingest``: real MQTT, an outbox kept until telack.

A paho client costs three times what the broker does for a message and would be what is measured;
these speak the few packets needed over non-blocking sockets. Everything to be sent is encoded
before the clock starts. Prints one JSON line.
"""

import argparse
import json
import selectors
import socket
import ssl
import struct
import time
from collections import deque
from pathlib import Path

from edge_agent.contract.messages import TelemetryAck
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.contract.windows import Window, encode_windows

RESEND_S = 20.0
WRITE_BYTES = 65_536
CONNACK, PUBLISH, PUBACK = 0x20, 0x30, 0x40


class Device:
    """One connection and what it still has to get acknowledged."""

    def __init__(self, name: str, sock: socket.socket, frames: list[tuple[int, bytes]]) -> None:
        """``frames``: number of the last window and the encoded frame, in order."""
        self.name, self.sock = name, sock
        self.topic = device_topic(name, Channel.TELEMETRY).encode()
        self.unsent, self.outbox = deque(frames), dict[int, tuple[float, bytes]]()
        self.out, self.inbound = bytearray(), bytearray()
        self.packet_id, self.resent, self.is_subscribed = 0, 0, False

    @property
    def is_done(self) -> bool:
        return not self.unsent and not self.outbox

    def greet(self) -> None:
        body = b"\x00\x04MQTT\x04\x02" + struct.pack(">H", 600) + _text(self.name.encode())
        topic = device_topic(self.name, Channel.TELEMETRY_ACK).encode()
        self.out += _packet(0x10, body)
        self.out += _packet(0x82, b"\x00\x01" + _text(topic) + b"\x01")

    def fill(self, in_flight_max: int, now: float) -> None:
        """Queue what may be sent: new frames, and old ones nobody acknowledged."""
        for last, (sent_at, frame) in list(self.outbox.items()):
            if now - sent_at < RESEND_S:
                break
            del self.outbox[last]
            self.resent += 1
            self._send(last, frame, now)
        while self.unsent and len(self.outbox) < in_flight_max and len(self.out) < WRITE_BYTES:
            self._send(*self.unsent.popleft(), now)

    def _send(self, last: int, frame: bytes, now: float) -> None:
        self.packet_id = self.packet_id % 65_535 + 1
        self.outbox[last] = (now, frame)
        self.out += _packet(0x32, _text(self.topic) + struct.pack(">H", self.packet_id) + frame)

    def write(self) -> None:
        while self.out:
            try:
                sent = self.sock.send(memoryview(self.out)[:WRITE_BYTES])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self.out[:sent]

    def read(self) -> None:
        while True:
            try:
                data = self.sock.recv(65_536)
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            if not data:
                raise ConnectionError(f"{self.name}: the broker closed the connection")
            self.inbound += data
        for kind, body in _packets(self.inbound):
            if kind & 0xF0 == PUBLISH:
                length = struct.unpack_from(">H", body)[0]
                self.out += bytes((PUBACK, 2)) + body[2 + length : 4 + length]
                self._forget(TelemetryAck.decode(bytes(body[4 + length :])))
            elif kind == 0x90:
                self.is_subscribed = True
            elif kind == CONNACK and body[1]:
                raise ConnectionError(f"{self.name}: refused with {body[1]}")

    def _forget(self, ack: TelemetryAck) -> None:
        for r in ack.ranges:
            for sequence in range(r.first, r.last + 1):
                self.outbox.pop(sequence, None)


def _packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), bytearray((kind,))
    while True:
        length, byte = divmod(length, 128)
        head.append(byte | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def _text(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _packets(buffer: bytearray) -> list[tuple[int, memoryview | bytearray]]:
    """Take whole packets off the front of a buffer."""
    found: list[tuple[int, memoryview | bytearray]] = []
    offset = 0
    while True:
        length, shift, at = 0, 0, offset + 1
        while at < len(buffer):
            length |= (buffer[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not buffer[at - 1] & 0x80:
                break
        else:
            break
        if at + length > len(buffer):
            break
        found.append((buffer[offset], buffer[at : at + length]))
        offset = at + length
    del buffer[:offset]
    return found


def make_frames(boot: int, windows: int, per_message: int, t0_ms: int) -> list[tuple[int, bytes]]:
    """Encode a device's windows: 340 bytes of counters each, like 20 features in service."""
    counters = bytes(range(1, 128)) * 3
    frames = []
    for first in range(0, windows, per_message):
        batch = [
            Window(
                stream=0,
                sequence=n,
                t0_ms=t0_ms + n * 60_000,
                t1_ms=t0_ms + (n + 1) * 60_000,
                reference=b"referenc",
                artifact=b"artifact",
                rows=60,
                counters=counters[:340],
            )
            for n in range(first, min(first + per_message, windows))
        ]
        frames.append((batch[-1].sequence, encode_windows(boot, batch)))
    return frames


def connect(name: str, folder: Path, ca: Path, port: int) -> socket.socket:
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock = context.wrap_socket(raw, server_hostname="127.0.0.1")
    sock.settimeout(0)
    return sock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--identities", type=Path, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--per-message", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--t0-ms", type=int, required=True)
    parser.add_argument("--boot", type=int, default=1_000)
    parser.add_argument("--timeout-s", type=float, default=120)
    options = parser.parse_args()
    devices = []
    for n in range(options.devices):
        frames = make_frames(options.boot, options.windows, options.per_message, options.t0_ms)
        sock = connect(f"bench-{n}", options.identities, options.ca, options.port)
        devices.append(Device(f"bench-{n}", sock, frames))
    cpu_s = time.process_time()
    seconds = run(devices, options.in_flight, options.timeout_s)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "resent": sum(d.resent for d in devices),
                "left": sum(len(d.outbox) + len(d.unsent) for d in devices),
                "cpu_s": time.process_time() - cpu_s,
            }
        )
    )


def run(devices: list[Device], in_flight_max: int, timeout_s: float) -> float:
    """Send everything; return seconds from the first frame to the last acknowledgement."""
    selector = selectors.DefaultSelector()
    for device in devices:
        selector.register(device.sock, selectors.EVENT_READ, device)
        device.greet()
    while not all(d.is_subscribed for d in devices):
        _turn(selector, devices)
    start = time.monotonic()
    while not all(d.is_done for d in devices) and time.monotonic() < start + timeout_s:
        now = time.monotonic()
        for device in devices:
            device.fill(in_flight_max, now)
        _turn(selector, devices)
    return time.monotonic() - start


def _turn(selector: selectors.BaseSelector, devices: list[Device]) -> None:
    for device in devices:
        device.write()
    for key, _ in selector.select(0.005):
        key.data.read()


if __name__ == "__main__":
    main()
