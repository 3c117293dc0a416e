"""Gets packages piece by piece over the link, one after another.

Joins the pure plan (``core/transfer_plan.py``) with link, chunk store and clock. Slots that want
the same package share its transfer. A window is made durable before the next is asked for. No
threads: disk work goes through ``Jobs``, whose results come back through ``handle``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import ChunkFrame
from edge_agent.core.events import Event, Fetched, FetchFailed, FetchMoved, FetchStarted
from edge_agent.core.release import Release
from edge_agent.core.transfer_plan import (
    Transfer,
    expire,
    interrupt,
    note_saved,
    plan_request,
    take_frame,
)
from edge_agent.errors import StorageError
from edge_agent.ports import (
    BlobStore,
    ChunkStore,
    Clock,
    Jitter,
    Jobs,
    Lane,
    Link,
    PartialBlob,
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartOpened:
    """What of a package is here already, or why it cannot be begun."""

    number: int
    result: PartialBlob | StorageError


@dataclass(frozen=True, slots=True)
class PartSaved:
    """The landed pieces are durable, or why they are not."""

    number: int
    error: StorageError | None


@dataclass(slots=True)
class _Download:
    """One package and the slots that wait for it, with the attempt of each."""

    number: int
    release: Release
    waiting: dict[str, int] = field(default_factory=dict)
    transfer: Transfer | None = None
    is_list_saved: bool = False
    is_saving: bool = False


class Downloads:
    """The transfers of one device."""

    def __init__(
        self,
        *,
        clock: Clock,
        jitter: Jitter,
        blobs: BlobStore,
        chunks: ChunkStore,
        jobs: Jobs,
        link: Link,
        emit: Callable[[str, Event], None],
    ) -> None:
        """Begin with nothing to fetch; ``emit`` takes events for a slot."""
        self._clock, self._jitter = clock, jitter
        self._blobs, self._chunks = blobs, chunks
        self._jobs, self._link, self._emit = jobs, link, emit
        self._queue: list[_Download] = []
        self._count = 0
        self.malformed_frames = 0

    def fetch(self, slot: str, attempt: int, release: Release) -> None:
        """Get a package for a slot; its former wish is forgotten."""
        self.cancel(slot)
        for download in self._queue:
            if download.release.sha256 == release.sha256:
                download.waiting[slot] = attempt
                if download.transfer is not None:
                    self._emit(slot, FetchStarted(attempt, self._clock.monotonic()))
                return
        self._count += 1
        self._queue.append(_Download(self._count, release, {slot: attempt}))
        if len(self._queue) == 1:
            self._begin_next()

    def cancel(self, slot: str) -> None:
        """Stop getting what a slot wanted; pieces that are durable stay for a resume."""
        for download in list(self._queue):
            if download.waiting.pop(slot, None) is not None and not download.waiting:
                was_first = download is self._queue[0]
                self._queue.remove(download)
                if was_first:
                    self._begin_next()

    def on_frame(self, payload: bytes) -> None:
        """Take a ``down/xfer`` message; a malformed one is counted and ignored."""
        try:
            frame = ChunkFrame.decode(payload)
        except ContractError as error:
            self.malformed_frames += 1
            _LOG.warning("chunk frame ignored: %s", error)
            return
        download = self._active()
        if download is None or download.transfer is None:
            return
        before, now = download.transfer, self._clock.monotonic()
        after = take_frame(before, frame, now=now, jitter=self._jitter())
        download.transfer = after
        if after.wait_until > before.wait_until:
            # The server said when to come back: until then silence is no stall.
            self._tell(download, lambda attempt: FetchMoved(attempt, after.wait_until))
        self._advance(download)

    def on_link(self, *, is_up: bool) -> None:
        """Forget what was under way when the session broke; go on when there is one."""
        download = self._active()
        if download is None or download.transfer is None:
            return
        download.transfer = interrupt(download.transfer)
        if is_up:
            self._advance(download)

    def handle(self, done: PartOpened | PartSaved) -> None:
        """Take the result of disk work; one of a package no longer wanted is ignored."""
        download = self._active()
        if download is None or download.number != done.number:
            return
        if isinstance(done, PartOpened):
            self._on_opened(download, done.result)
        else:
            self._on_saved(download, done.error)

    def tick(self) -> None:
        """Give up a window whose time is over, and ask again when a wait is over."""
        download = self._active()
        if download is not None and download.transfer is not None:
            download.transfer = expire(download.transfer, now=self._clock.monotonic())
            self._advance(download)

    @property
    def next_at(self) -> float | None:
        """When time alone changes what to do, monotonic seconds; None when not in the future."""
        download = self._active()
        if download is None or download.transfer is None or download.is_saving:
            return None
        due_at = download.transfer.next_at
        return due_at if due_at is not None and due_at > self._clock.monotonic() else None

    def _active(self) -> _Download | None:
        return self._queue[0] if self._queue else None

    def _begin_next(self) -> None:
        while (download := self._active()) is not None:
            if not self._blobs.has(download.release.sha256):
                self._open(download.number, download.release)
                return
            self._finish(download)

    def _open(self, number: int, release: Release) -> None:
        def job() -> PartOpened:
            try:
                return PartOpened(number, self._chunks.open(release.sha256, release.size_bytes))
            except StorageError as error:
                return PartOpened(number, error)

        self._jobs.submit(Lane.DISK, job)

    def _on_opened(self, download: _Download, result: PartialBlob | StorageError) -> None:
        if isinstance(result, StorageError):
            self._fail(download, result.code, result.detail)
            return
        release, now = download.release, self._clock.monotonic()
        download.is_list_saved = result.hashes is not None
        download.transfer = Transfer(
            sha256=release.sha256,
            size_bytes=release.size_bytes,
            chunks=release.chunks,
            hashes=result.hashes,
            have=result.bitmap,
        )
        self._tell(download, lambda attempt: FetchStarted(attempt, now))
        self._advance(download)

    def _on_saved(self, download: _Download, error: StorageError | None) -> None:
        download.is_saving = False
        if error is not None:
            self._fail(download, error.code, error.detail)
            return
        if download.transfer is not None and download.is_list_saved:
            download.transfer = note_saved(download.transfer)
        download.is_list_saved = True
        now = self._clock.monotonic()
        self._tell(download, lambda attempt: FetchMoved(attempt, now))
        self._advance(download)

    def _advance(self, download: _Download) -> None:
        transfer = download.transfer
        if transfer is None or download.is_saving:
            return
        if transfer.is_complete:
            self._finish(download)
            self._begin_next()
        elif transfer.failure is not None:
            self._fail(download, Code.FETCH_BUDGET, transfer.failure)
        elif transfer.hashes is not None and not download.is_list_saved:
            hashes = transfer.hashes
            self._save(download, lambda: self._chunks.save_hashes(transfer.sha256, hashes))
        elif transfer.is_window_over:
            landed = transfer.landed
            self._save(download, lambda: self._chunks.save_chunks(transfer.sha256, landed))
        elif self._link.is_connected:
            self._ask(download, transfer)

    def _ask(self, download: _Download, transfer: Transfer) -> None:
        asked, request = plan_request(transfer, now=self._clock.monotonic())
        # An unsent request is planned again at the next session, or when its window expires.
        if request is None:
            return
        if self._link.publish(Channel.CHUNK_REQUEST, request.encode(), qos=0):
            download.transfer = asked

    def _save(self, download: _Download, save: Callable[[], None]) -> None:
        number = download.number
        download.is_saving = True

        def job() -> PartSaved:
            try:
                save()
            except StorageError as error:
                return PartSaved(number, error)
            return PartSaved(number, None)

        self._jobs.submit(Lane.DISK, job)

    def _finish(self, download: _Download) -> None:
        now = self._clock.monotonic()
        self._queue.remove(download)
        self._tell(download, lambda attempt: Fetched(attempt, now))

    def _fail(self, download: _Download, code: Code, detail: str) -> None:
        now, jitter = self._clock.monotonic(), self._jitter()
        self._queue.remove(download)
        self._tell(download, lambda attempt: FetchFailed(attempt, code, detail, now, jitter))
        self._begin_next()

    def _tell(self, download: _Download, make: Callable[[int], Event]) -> None:
        for slot, attempt in download.waiting.items():
            self._emit(slot, make(attempt))
