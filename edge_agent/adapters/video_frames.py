"""Frames of a video device, stream or film through PyAV, which is FFmpeg; loaded when needed.

A stream is read by a thread of its own as fast as it comes, because what is not read piles up at
the camera; of its frames one is kept, the newest. When it ends or breaks it is opened again after
a back-off. A film is read frame by frame and loses none that is due.

Left out: sound, HLS playlists, checking the certificates of cameras (most sign their own).
Invariants: one frame waits at most; nothing said holds a user or a password (FFmpeg's own words
are off, and of its errors only what the system calls them is told).
"""

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from edge_agent.adapters.image_files import PIXELS_MAX
from edge_agent.adapters.video_source import SourceKind, VideoSource
from edge_agent.core.retry import full_jitter_s
from edge_agent.errors import InputError
from edge_agent.ports import Clock, Jitter

OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 10.0
BACK_OFF_BASE_S, BACK_OFF_CAP_S = 1.0, 30.0
STABLE_S = 10.0
"""A stream must have stood this long before the back-off starts anew."""
PROBE_BYTES = 2_000_000
PERIOD_S_MAX = 3_600.0
JOIN_S = 0.5


class VideoFrame(NamedTuple):
    """One frame.

    Attributes:
        image: Of PyAV; ``to_image`` makes it a picture of Pillow.
        at_s: Since the beginning of a film; None of what goes on.
    """

    image: Any
    at_s: float | None


class VideoEndedError(Exception):
    """The stream ended or could not be opened; says why, without its URL."""


def load_av() -> Any:
    """Return the module ``av``, silenced; raises InputError with what to do when it is missing."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise InputError(
            "video is read with PyAV, which is not installed here: pip install 'edgefleet[video]'"
        ) from error
    av.logging.set_level(None)
    return av


class VideoFrames:
    """Yields frames of one source until ``stop`` is set, or a film ends.

    Attributes:
        dropped: Frames that were due and gave way to a newer one.
        reconnects: How often a stream had to be opened again.
    """

    def __init__(
        self,
        source: VideoSource,
        stop: threading.Event,
        clock: Clock,
        jitter: Jitter,
        *,
        every_s: float,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            source: What to read.
            stop: Ends it.
            clock: For the pace and the back-off.
            jitter: Numbers in [0, 1).
            every_s: Least time between two frames, 0 to PERIOD_S_MAX; of a film by its own time.
            tell: Takes a sentence when a stream breaks, and when it is back.

        Raises:
            InputError: PyAV is missing, or ``every_s`` is out of range.
        """
        if not 0 <= every_s <= PERIOD_S_MAX:
            raise InputError(f"--every must be 0 to {PERIOD_S_MAX:g} seconds, got {every_s:g}")
        self._av, self._source, self._stop = load_av(), source, stop
        self._clock, self._jitter, self._tell = clock, jitter, tell
        self._every_s = every_s
        self._changed = threading.Condition()
        self._newest: VideoFrame | None = None
        self._fault: Exception | None = None
        self._due_at = 0.0
        self._is_over = False
        self.dropped = self.reconnects = 0

    def frames(self) -> Iterator[VideoFrame]:
        """Yield frames.

        Raises:
            InputError: A film cannot be read, or a frame is too large.
        """
        if self._source.kind is SourceKind.FILM:
            yield from self._film()
            return
        reader = threading.Thread(target=self._watch, name="video", daemon=True)
        reader.start()
        try:
            while (frame := self._take()) is not None:
                yield frame
        finally:
            self._is_over = True
            reader.join(JOIN_S)

    def _film(self) -> Iterator[VideoFrame]:
        due_s = 0.0
        try:
            for image in self._read():
                at_s = float(image.time or 0.0)
                # Half a frame early is on time: 10 frames a second are not exactly 0.1 s apart.
                if at_s + 1e-6 >= due_s:
                    due_s = at_s + self._every_s
                    yield VideoFrame(image, at_s)
                if self._stop.is_set():
                    return
        except VideoEndedError as error:
            raise InputError(f"{self._source.shown} cannot be read as video: {error}") from error

    def _take(self) -> VideoFrame | None:
        """Wait for a frame and for its time; None when stopped."""
        while not self._stop.is_set():
            wait_s = self._due_at - self._clock.monotonic()
            if wait_s > 0:
                self._stop.wait(min(wait_s, 1.0))
                continue
            with self._changed:
                if self._fault is not None:
                    raise self._fault
                frame, self._newest = self._newest, None
                if frame is None:
                    self._changed.wait(0.2)
            if frame is not None:
                self._due_at = self._clock.monotonic() + self._every_s
                return frame
        return None

    def _watch(self) -> None:
        """Keep the newest frame at hand; what ends this is raised where frames are taken."""
        try:
            self._keep_up()
        except Exception as error:  # noqa: BLE001 - a thread's door
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _keep_up(self) -> None:
        """Read, whatever the stream does, until stopped; raises InputError as ``frames``."""
        failures, said = 0, ""
        while not (self._stop.is_set() or self._is_over):
            began, was_there = self._clock.monotonic(), False
            try:
                for image in self._read():
                    if not was_there and said:
                        self._tell(f"{self._source.shown} is back")
                        said = ""
                    was_there = True
                    self._keep(VideoFrame(image, None))
                    if self._stop.is_set() or self._is_over:
                        return
                why = "it ended"
            except VideoEndedError as error:
                why = str(error)
            if why != said:
                self._tell(f"{self._source.shown}: {why}; it is tried again")
                said = why
            is_stable = was_there and self._clock.monotonic() - began >= STABLE_S
            failures = 0 if is_stable else failures + 1
            self.reconnects += was_there
            self._stop.wait(
                full_jitter_s(
                    failures, base_s=BACK_OFF_BASE_S, cap_s=BACK_OFF_CAP_S, jitter=self._jitter()
                )
            )

    def _keep(self, frame: VideoFrame) -> None:
        is_due = self._clock.monotonic() >= self._due_at
        with self._changed:
            self.dropped += is_due and self._newest is not None
            self._newest = frame
            self._changed.notify_all()

    def _read(self) -> Iterator[Any]:
        """Open the source and yield its frames to the end.

        Raises:
            VideoEndedError: It cannot be opened or read on.
            InputError: Its frames are too large.
        """
        error_kind = self._av.error.FFmpegError
        try:
            with closing(self._open()) as container:
                stream = next(iter(container.streams.video), None)
                if stream is None:
                    raise VideoEndedError("it holds no pictures")
                codec = stream.codec_context
                if codec.width * codec.height > PIXELS_MAX:
                    raise InputError(
                        f"frames of {self._source.shown} have {codec.width} x {codec.height}"
                        f" pixels, the limit is {PIXELS_MAX}"
                    )
                # What comes later may say otherwise, and be refused by the decoder.
                codec.options = {"max_pixels": str(PIXELS_MAX)}
                codec.thread_count = 1
                for frame in container.decode(stream):
                    yield frame
                    if self._stop.is_set() or self._is_over:
                        return
        except (error_kind, OSError, ValueError) as error:
            raise VideoEndedError(_name_error(error)) from None

    def _open(self) -> Any:
        source = self._source
        options = {"probesize": str(PROBE_BYTES), **source.options}
        return self._av.open(
            source.place,
            format="v4l2" if source.kind is SourceKind.DEVICE else None,
            options=options,
            timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
            metadata_errors="replace",
        )


def _name_error(error: Exception) -> str:
    """Say what the system calls it; the rest of FFmpeg's words may hold the URL."""
    words = getattr(error, "strerror", None)
    return words if isinstance(words, str) and words else "the film's reader gives no reason"
