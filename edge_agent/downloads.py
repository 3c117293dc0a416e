"""Gets packages piece by piece over the link, one after another.

Joins the pure plans (``core/transfer_plan.py``, ``core/offer_plan.py``) with link, chunk store and
clock. Slots that want the same package share its transfer. A window is made durable before the next
is asked for. Where packages can be restored here, the server is asked first how this one can
travel; whatever comes of that, the package itself is the way that is always left, within the same
budget of bytes, and the note says so. No threads: disk work goes through ``Jobs``, whose results
come back through ``handle``.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, PackageOffer
from edge_agent.core.events import Event, Fetched, FetchFailed, FetchMoved, FetchStarted
from edge_agent.core.offer_plan import (
    Asking,
    expire_question,
    interrupt_question,
    plan_question,
    take_answer,
)
from edge_agent.core.release import Release
from edge_agent.core.transfer_plan import (
    Transfer,
    expire,
    interrupt,
    note_saved,
    plan_request,
    take_frame,
)
from edge_agent.download import Download, PartOpened, PartSaved, Restoring
from edge_agent.errors import NoRoomError, RestoreError, StorageError
from edge_agent.ports import (
    BlobStore,
    ChunkStore,
    Clock,
    Jitter,
    Jobs,
    Lane,
    Link,
)
from edge_agent.restorer_port import PackageRestorer

_LOG = logging.getLogger(__name__)


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
        restoring: Restoring | None = None,
    ) -> None:
        """Begin with nothing to fetch.

        Args:
            clock: Monotonic seconds are used.
            jitter: Spreads what the server puts off.
            blobs: Whole packages.
            chunks: Packages on their way in.
            jobs: Runs disk work.
            link: To the server.
            emit: Takes events for a slot.
            restoring: Restores encoded packages; None to fetch every package as it is.
        """
        self._clock, self._jitter = clock, jitter
        self._blobs, self._chunks = blobs, chunks
        self._jobs, self._link, self._emit = jobs, link, emit
        self._restoring = restoring
        self._queue: list[Download] = []
        self._count = 0
        self.malformed_frames = 0
        self.notes: dict[str, Mapping[str, Any]] = {}
        """Where packages can be restored: how each slot's newest one came, in this life."""

    def fetch(self, slot: str, attempt: int, release: Release) -> None:
        """Get a package for a slot; its former wish is forgotten."""
        self.cancel(slot)
        self.notes.pop(slot, None)
        for download in self._queue:
            if download.release.sha256 == release.sha256:
                download.waiting[slot] = attempt
                if download.own is not None:
                    self._emit(slot, FetchStarted(attempt, self._clock.monotonic()))
                return
        self._count += 1
        self._queue.append(Download(self._count, release, {slot: attempt}))
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
        if download is None:
            return
        before: Asking | Transfer
        after: Asking | Transfer
        now, jitter = self._clock.monotonic(), self._jitter()
        if download.asking is not None:
            before = download.asking
            download.asking = after = take_answer(before, frame, now=now, jitter=jitter)
        elif download.transfer is not None:
            before = download.transfer
            download.transfer = after = take_frame(before, frame, now=now, jitter=jitter)
        else:
            return
        if after.wait_until > before.wait_until:
            # The server said when to come back: until then silence is no stall.
            self._tell(download, lambda attempt: FetchMoved(attempt, after.wait_until))
        self._advance(download)

    def on_link(self, *, is_up: bool) -> None:
        """Forget what was under way when the session broke; go on when there is one."""
        download = self._active()
        if download is None:
            return
        if download.asking is not None:
            download.asking = interrupt_question(download.asking)
        if download.transfer is not None:
            download.transfer = interrupt(download.transfer)
        if is_up:
            self._advance(download)

    def handle(self, done: PartOpened | PartSaved) -> None:
        """Take the result of disk work; one of a package no longer wanted is ignored."""
        download = self._active()
        if download is None or download.number != done.number:
            return
        if isinstance(done, PartOpened):
            self._on_opened(download, done)
        else:
            self._on_saved(download, done.error)

    def tick(self) -> None:
        """Give up a window whose time is over, and ask again when a wait is over."""
        download, now = self._active(), self._clock.monotonic()
        if download is None:
            return
        if download.asking is not None:
            download.asking = expire_question(download.asking, now=now)
        if download.transfer is not None:
            download.transfer = expire(download.transfer, now=now)
        self._advance(download)

    @property
    def next_at(self) -> float | None:
        """When time alone changes what to do, monotonic seconds; None when not in the future."""
        download = self._active()
        if download is None or download.is_busy:
            return None
        plan = download.asking or download.transfer
        due_at = plan.next_at if plan is not None else None
        return due_at if due_at is not None and due_at > self._clock.monotonic() else None

    def _active(self) -> Download | None:
        return self._queue[0] if self._queue else None

    def _begin_next(self) -> None:
        while (download := self._active()) is not None:
            if not self._blobs.has(download.release.sha256):
                self._open(download)
                return
            self._finish(download)

    def _open(self, download: Download) -> None:
        """Look up what is here, of the encoding if one is to be fetched, else of the package."""
        number, release, offer = download.number, download.release, download.offer
        chunks, key, restoring = self._chunks, download.key, self._restoring
        held: list[str] = []
        if restoring is not None:
            held = [h for slot in download.waiting for h in restoring.find_held(slot)]
        download.is_busy = True

        def job() -> PartOpened:
            try:
                if restoring is None:
                    return PartOpened(number, chunks.open(key, release.size_bytes))
                restorer = restoring.restorer
                if offer is not None:
                    restorer.prepare(release.sha256, offer, release.size_bytes)
                    return PartOpened(number, chunks.open(key, offer.size_bytes))
                found = chunks.open(key, release.size_bytes)
                sizes, refusal = restorer.sizes(held), restorer.refusal(release.sha256)
                return PartOpened(number, found, sizes, refusal)
            except (StorageError, RestoreError) as error:
                return PartOpened(number, error)

        self._jobs.submit(Lane.DISK, job)

    def _on_opened(self, download: Download, done: PartOpened) -> None:
        download.is_busy = False
        result = done.result
        if isinstance(result, RestoreError):
            self._fall_back(download, str(result), is_lasting=not isinstance(result, NoRoomError))
        elif isinstance(result, StorageError):
            self._fail(download, result.code, result.detail)
        elif download.offer is not None:
            download.begin_encoding(download.offer, result)
            self._advance(download)
        else:
            now = self._clock.monotonic()
            download.own, download.problem = result, done.refusal
            self._tell(download, lambda attempt: FetchStarted(attempt, now))
            if self._restoring is not None:
                download.begin_question(done, self._restoring.restorer.memory_bytes)
            if download.asking is None:
                download.begin_package()
            self._advance(download)

    def _on_saved(self, download: Download, error: StorageError | RestoreError | None) -> None:
        download.is_busy = False
        if isinstance(error, RestoreError):
            self._fall_back(download, str(error))
        elif error is not None:
            self._fail(download, error.code, error.detail)
        elif download.then is not None:
            download.then()

    def _advance(self, download: Download) -> None:
        if download.is_busy:
            return
        if download.asking is not None:
            self._advance_question(download, download.asking)
            return
        transfer, offer = download.transfer, download.offer
        if transfer is None:
            return
        if transfer.is_complete and offer is not None:
            self._restore(download, offer)
        elif transfer.is_complete:
            self._finish(download)
            self._begin_next()
        elif transfer.failure is not None and offer is not None:
            self._fall_back(download, transfer.failure)
        elif transfer.failure is not None:
            self._fail(download, Code.FETCH_BUDGET, transfer.failure)
        elif transfer.hashes is not None and not download.is_list_saved:
            self._save_list(download, transfer.hashes)
        elif transfer.is_window_over:
            self._save_window(download, transfer.landed)
        elif self._link.is_connected:
            asked, request = plan_request(transfer, now=self._clock.monotonic())
            if self._send(request):
                download.transfer = asked

    def _advance_question(self, download: Download, asking: Asking) -> None:
        if not asking.is_over and self._link.is_connected:
            asked, request = plan_question(asking, now=self._clock.monotonic())
            if request is None or self._send(request):
                download.asking = asking = asked
        if not asking.is_over:
            return
        download.asking, download.offer = None, asking.offer
        if asking.problem:
            _LOG.warning("%s is fetched as it is: %s", download.release.target, asking.problem)
            download.problem = asking.problem
        if asking.offer is not None:
            self._open(download)
        else:
            download.begin_package()
            self._advance(download)

    def _send(self, request: ChunkRequest | None) -> bool:
        # An unsent request is planned again at the next session, or when its window expires.
        if request is None:
            return False
        return self._link.publish(Channel.CHUNK_REQUEST, request.encode(), qos=0)

    def _save_list(self, download: Download, hashes: bytes) -> None:
        key = download.key

        def then() -> None:
            download.is_list_saved = True
            self._moved(download)

        self._work(download, lambda: self._chunks.save_hashes(key, hashes), then)

    def _save_window(self, download: Download, landed: tuple[tuple[int, bytes], ...]) -> None:
        key = download.key

        def then() -> None:
            if download.transfer is not None:
                download.transfer = note_saved(download.transfer)
            self._moved(download)

        self._work(download, lambda: self._chunks.save_chunks(key, landed), then)

    def _restore(self, download: Download, offer: PackageOffer) -> None:
        release, restorer = download.release, self._restorer

        def then() -> None:
            self._finish(download)
            self._begin_next()

        def work() -> None:
            restorer.restore(release.sha256, offer, release.size_bytes)

        self._work(download, work, then)

    @property
    def _restorer(self) -> PackageRestorer:
        if self._restoring is None:
            raise LookupError("an encoding was followed that nothing here restores")
        return self._restoring.restorer

    def _fall_back(self, download: Download, why: str, *, is_lasting: bool = True) -> None:
        """Fetch the package itself; what the encoding cost counts against the same budget.

        Why is written down, so that no later try pays for it again; a disk that is full for the
        moment says nothing about the encoding, and has cost nothing.
        """
        sha256 = download.release.sha256
        _LOG.warning("%s is fetched as it is: %s", download.release.target, why)
        download.give_up_encoding(why)

        def then() -> None:
            download.begin_package()
            self._note(download)
            self._moved(download)

        def work() -> None:
            if is_lasting:
                self._restorer.refuse(sha256, why)
            else:
                self._restorer.forget(sha256)

        self._work(download, work, then)

    def _moved(self, download: Download) -> None:
        now = self._clock.monotonic()
        self._tell(download, lambda attempt: FetchMoved(attempt, now))
        self._advance(download)

    def _work(self, download: Download, work: Callable[[], None], then: Callable[[], None]) -> None:
        number = download.number
        download.is_busy, download.then = True, then

        def job() -> PartSaved:
            try:
                work()
            except (StorageError, RestoreError) as error:
                return PartSaved(number, error)
            return PartSaved(number, None)

        self._jobs.submit(Lane.DISK, job)

    def _finish(self, download: Download) -> None:
        now = self._clock.monotonic()
        self._queue.remove(download)
        self._note(download)
        self._tell(download, lambda attempt: Fetched(attempt, now))

    def _fail(self, download: Download, code: Code, detail: str) -> None:
        now, jitter = self._clock.monotonic(), self._jitter()
        self._queue.remove(download)
        self._note(download)
        self._tell(download, lambda attempt: FetchFailed(attempt, code, detail, now, jitter))
        self._begin_next()

    def _note(self, download: Download) -> None:
        note = download.note() if self._restoring is not None else {}
        if note:
            self.notes |= dict.fromkeys(download.waiting, note)

    def _tell(self, download: Download, make: Callable[[int], Event]) -> None:
        for slot, attempt in download.waiting.items():
            self._emit(slot, make(attempt))
