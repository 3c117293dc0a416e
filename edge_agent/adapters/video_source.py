"""What a camera's source is, from what a person wrote: a device, a film, or a stream by its URL.

A URL may hold a password, so a source has a second form that is shown; nothing else of it may be
said anywhere. What a stream may open by itself is told beforehand: a playlist of a hostile server
must not reach files of this device or other hosts by other protocols.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from edge_agent.errors import InputError

SOURCE_CHARS_MAX = 2_048
PROTOCOLS: Mapping[str, str] = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
    "http": "http,tcp",
    "https": "https,http,tls,tcp",
    "tcp": "tcp",
    "udp": "udp",
}
"""Scheme to what may be opened on its behalf."""


class SourceKind(StrEnum):
    """How frames come."""

    DEVICE = "device"
    FILM = "film"
    STREAM = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """Where frames come from.

    Attributes:
        kind: Films end and lose no frame; the others go on and give the newest.
        place: What is opened; may hold a password.
        shown: The same for people, without user, password and query.
        options: Of FFmpeg.
    """

    kind: SourceKind
    place: str
    shown: str
    options: Mapping[str, str]


def find_video_source(text: str) -> VideoSource:
    """Read a source.

    Raises:
        InputError: A scheme that is not read, no host, or too long.

    >>> find_video_source("rtsp://admin:secret@10.0.0.7/live?token=x").shown
    'rtsp://10.0.0.7/live'
    >>> find_video_source("/dev/video0").kind
    <SourceKind.DEVICE: 'device'>
    """
    if not text or len(text) > SOURCE_CHARS_MAX or not text.isprintable():
        raise InputError(f"a video source has 1 to {SOURCE_CHARS_MAX} plain characters")
    if text.startswith("/dev/"):
        return VideoSource(kind=SourceKind.DEVICE, place=text, shown=text, options={})
    if "://" not in text:
        options = {"protocol_whitelist": "file"}
        return VideoSource(kind=SourceKind.FILM, place=text, shown=text, options=options)
    scheme = text.partition("://")[0].lower()
    allowed = PROTOCOLS.get(scheme)
    if allowed is None:
        raise InputError(
            f"video of {scheme[:20]}:// is not read; use a file, /dev/video0 or"
            f" {', '.join(f'{name}://' for name in PROTOCOLS)}"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise InputError(f"the URL of a video, {scheme}://, names no host and port")
    name = f"[{host}]" if ":" in host else host
    shown = f"{scheme}://{name}{f':{port}' if port else ''}{parts.path}"
    options = {"protocol_whitelist": allowed}
    if scheme.startswith("rtsp"):
        # Over one connection: most cameras stand behind walls that no UDP passes.
        options["rtsp_transport"] = "tcp"
    return VideoSource(kind=SourceKind.STREAM, place=text, shown=shown, options=options)
