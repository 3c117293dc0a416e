"""A folder into which a camera writes pictures, as a source of frames; looked at again and again.

Looking needs nothing of the operating system and works on network folders as well. Left out:
V4L2 and RTSP; let the camera's own program, or ffmpeg, write pictures into a folder in memory.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

from edge_agent.adapters.image_files import SUFFIXES
from edge_agent.core.folder_watch import Look, begin_watch, find_fresh
from edge_agent.errors import InputError

FILES_MAX = 100_000


class CameraFolder:
    """Yields new pictures of one folder until ``stop`` is set.

    Attributes:
        dropped: Pictures that were left out because too many came at once.
    """

    def __init__(
        self, folder: Path, stop: Event, *, every_s: float, is_taking_existing: bool
    ) -> None:
        """Prepare.

        Args:
            folder: Watched; folders in it are not.
            stop: Ends it.
            every_s: Between two looks, 0.01 to 3600.
            is_taking_existing: Whether pictures that are there already are frames too.

        Raises:
            InputError: ``every_s`` is out of range.
        """
        if not 0.01 <= every_s <= 3_600:
            raise InputError(f"--every must be 0.01 to 3600 seconds, got {every_s:g}")
        self._folder, self._stop, self._every_s = folder, stop, every_s
        self._is_taking_existing = is_taking_existing
        self.dropped = 0

    def frames(self) -> Iterator[Path]:
        """Yield paths, oldest first; raises InputError when the folder cannot be read."""
        watch = begin_watch(self._look(), is_taking_existing=self._is_taking_existing)
        while not self._stop.wait(self._every_s):
            fresh = find_fresh(watch, self._look())
            watch = fresh.watch
            self.dropped += fresh.dropped
            for name in fresh.names:
                if self._stop.is_set():
                    return
                yield self._folder / name

    def _look(self) -> Look:
        found: dict[str, tuple[int, int]] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if (
                        entry.name.startswith(".")
                        or Path(entry.name).suffix.lower() not in SUFFIXES
                    ):
                        continue
                    with suppress(FileNotFoundError):  # taken away between name and look
                        facts = entry.stat()
                        if stat.S_ISREG(facts.st_mode):
                            found[entry.name] = (facts.st_mtime_ns, facts.st_size)
        except OSError as error:
            raise InputError(f"{self._folder} cannot be read: {error.strerror}") from error
        if len(found) > FILES_MAX:
            raise InputError(
                f"{self._folder} holds more than {FILES_MAX} pictures; let the camera's program"
                " remove old ones, or use --delete"
            )
        return found
