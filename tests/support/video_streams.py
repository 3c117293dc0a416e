"""Films and streams made here: a file, MJPEG over HTTP, MPEG-TS over TCP, RTSP with a password."""

import base64
import io
import itertools
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 64
GREYS = (0, 60, 120, 180, 240)


def make_film(target: Path | io.BytesIO, greys: Sequence[int], *, rate: int = 10) -> None:
    """Encode one plain frame a grey."""
    import av

    kind = "mpegts" if isinstance(target, io.BytesIO) else None
    place: Any = target if isinstance(target, io.BytesIO) else str(target)
    with av.open(place, "w", format=kind) as out:
        stream = out.add_stream("mpeg2video" if kind else "mpeg4", rate=rate)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 1
        for grey in greys:
            pixels = np.full((SIZE, SIZE, 3), grey, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())


def grey_of(image: Any) -> int:
    """Return the mean brightness of a frame."""
    return round(float(image.to_ndarray(format="gray").mean()))


def encode_jpeg(grey: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (SIZE, SIZE), grey).save(buffer, "JPEG")
    return buffer.getvalue()


class StreamServer:
    """Serves one connection after another with ``serve``; counts them."""

    def __init__(self, serve: Callable[[socket.socket, int], None]) -> None:
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.stop = threading.Event()
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "StreamServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    self._serve(connection, self.connections)
                except OSError:
                    continue


def read_request(connection: socket.socket) -> str:
    """Read up to the empty line."""
    text = b""
    while b"\r\n\r\n" not in text:
        part = connection.recv(4_096)
        if not part:
            raise ConnectionError("the client left")
        text += part
    return text.decode()


def serve_mjpeg(connection: socket.socket, greys: Iterator[int], *, pause_s: float) -> None:
    """Answer one HTTP request with a picture after the other."""
    read_request(connection)
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
    )
    for grey in greys:
        picture = encode_jpeg(grey)
        head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        connection.sendall(head.encode() + picture + b"\r\n")
        time.sleep(pause_s)


def serve_rtsp(connection: socket.socket, film: bytes, *, account: str) -> None:
    """Play MPEG-TS within the RTSP connection to who knows the account (``user:password``)."""
    wanted = "Basic " + base64.b64encode(account.encode()).decode()
    while True:
        asked = read_request(connection)
        method = asked.split(" ", 1)[0]
        number = re.search(r"CSeq: *(\d+)", asked)
        head = f"CSeq: {number[1] if number else 0}\r\n"
        if wanted not in asked and method != "OPTIONS":
            head += 'WWW-Authenticate: Basic realm="camera"\r\n'
            connection.sendall(f"RTSP/1.0 401 Unauthorized\r\n{head}\r\n".encode())
            continue
        body = ""
        if method == "OPTIONS":
            head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
            body += "a=control:track1\r\n"
            head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 7\r\n"
        else:
            head += "Session: 7\r\n"
        connection.sendall(f"RTSP/1.0 200 OK\r\n{head}\r\n{body}".encode())
        if method == "PLAY":
            break
    chunk = 7 * 188
    for sequence, at in enumerate(itertools.cycle(range(0, len(film), chunk))):
        packet = struct.pack(">BBHII", 0x80, 33, sequence % 65_536, sequence * 900, 7)
        packet += film[at : at + chunk]
        connection.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
        time.sleep(0.002)
