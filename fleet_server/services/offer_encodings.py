"""Say how a package can travel to a device, and have made what is not there yet.

Nothing is remembered that a restart would miss: who asks for what has not been made puts it into
the queue, and is told to ask again. Encodings are made once a pair. A device is offered one made
from a package it names only when that is another version of the same model for the same profile:
from an encoding and the package one can work out the base, and no device shall learn another
model's numbers that way.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Condition

from edge_agent.contract.encoding import needed_bytes
from edge_agent.contract.transfer import ChunkRequest, Encoding, PackageOffer
from fleet_server.errors import FleetError, NotFoundError
from fleet_server.ports.clock import Clock
from fleet_server.ports.encodings import EncodingStore, Lineage, Pair, StoredEncoding
from fleet_server.ports.gateway import PackageSource

QUEUE_MAX = 64
"""Pairs waiting to be made; beyond, what is there already is offered."""
RETRY_AFTER_S_MAX = 30
FAILURE_KEPT_S = 3_600.0
FAILURES_MAX = 1_000
BYTES_MIN = 4_096
"""Smaller packages travel as they are."""
IDENTITY = PackageOffer(encoding=Encoding.IDENTITY)
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class OfferCounts:
    """Totals since the start."""

    made: int = 0
    failed: int = 0
    offered: int = 0
    offered_saved_bytes: int = 0


class OfferEncodings:
    """Answers offers from one thread; hands out work to another."""

    def __init__(
        self, packages: PackageSource, store: EncodingStore, lineage: Lineage, clock: Clock
    ) -> None:
        self._packages, self._store, self._lineage, self._clock = packages, store, lineage, clock
        self._waiting: OrderedDict[Pair, None] = OrderedDict()
        self._is_new = Condition()
        self._making: Pair | None = None
        self._failed: OrderedDict[Pair, float] = OrderedDict()
        self.counts = OfferCounts()

    def answer(self, request: ChunkRequest) -> PackageOffer | int:
        """Return the offer, or the seconds after which to ask again.

        The device's right to the package was checked before.
        """
        try:
            size = self._packages.size_bytes(request.sha256)
            if size < BYTES_MIN or not request.memory_bytes:
                return IDENTITY
            pairs = self._find_pairs(request)
        except FleetError as error:
            _LOG.warning("no encoding of %s is offered: %s", request.sha256[:12], error)
            return IDENTITY
        found = [encoding for pair in pairs if (encoding := self._store.find(pair)) is not None]
        missing = [p for p in pairs if p not in {e.pair for e in found} and not self._has_failed(p)]
        if missing and self._want(missing):
            return min(RETRY_AFTER_S_MAX, 1 + len(self._waiting) // 2)
        return self._choose(request, size, found)

    def owner_of(self, sha256: str) -> str:
        """Return the package an encoded blob belongs to, or what was given."""
        return self._store.owner_of(sha256) or sha256

    def take_work(self, timeout_s: float) -> Pair | None:
        """Wait for a pair to be made; None when there is none in time.

        What an earlier life has made is checked here, and need not be made again when it is whole.
        """
        with self._is_new:
            if not self._waiting:
                self._is_new.wait(timeout_s)
        while True:
            with self._is_new:
                if not self._waiting:
                    self._making = None
                    return None
                pair, _ = self._waiting.popitem(last=False)
                self._making = pair
            if self._store.check(pair) is None:
                return pair

    def finish_work(self, encoding: StoredEncoding, data: bytes) -> None:
        """Keep what was made; raises FleetError when the disk refuses."""
        self._store.put(encoding, data)
        self.counts.made += 1
        self._making = None

    def fail_work(self, pair: Pair, reason: str) -> None:
        """Note that a pair cannot be made: for an hour it is not tried again."""
        _LOG.warning(
            "no encoding of %s from %s: %s", pair.target[:12], pair.base[:12] or "nothing", reason
        )
        self._failed[pair] = self._clock.monotonic()
        if len(self._failed) > FAILURES_MAX:
            self._failed.popitem(last=False)
        self.counts.failed += 1
        self._making = None

    def find_plain(self, target: str) -> StoredEncoding | None:
        """Return what is known of a package without a base: the measure for those with one."""
        return self._store.check(Pair(target))

    def describe(self) -> Mapping[str, int]:
        """Say for the heartbeat what was made and offered since the start."""
        return {
            "encodings_made": self.counts.made,
            "encodings_failed": self.counts.failed,
            "encodings_waiting": len(self._waiting),
            "transfer_offered": self.counts.offered,
            "transfer_offered_saved_bytes": self.counts.offered_saved_bytes,
        }

    def _find_pairs(self, request: ChunkRequest) -> list[Pair]:
        """Return the pairs worth having: without a base, and from the likeliest one."""
        pairs = [Pair(request.sha256)]
        others = [base for base in request.bases if base != request.sha256]
        related = self._lineage.related(request.sha256, others) if others else frozenset()
        for base in others:
            if base in related and self._is_here(base):
                return [*pairs, Pair(request.sha256, base)]
        return pairs

    def _is_here(self, sha256: str) -> bool:
        try:
            return self._packages.size_bytes(sha256) > 0
        except NotFoundError:
            return False

    def _has_failed(self, pair: Pair) -> bool:
        failed_s = self._failed.get(pair)
        return failed_s is not None and self._clock.monotonic() - failed_s < FAILURE_KEPT_S

    def _want(self, pairs: Sequence[Pair]) -> bool:
        """Queue pairs; False when there is no room and none of them is under way."""
        with self._is_new:
            for pair in pairs:
                if pair != self._making and len(self._waiting) < QUEUE_MAX:
                    self._waiting.setdefault(pair)
            self._is_new.notify()
            return any(pair == self._making or pair in self._waiting for pair in pairs)

    def _choose(
        self, request: ChunkRequest, size: int, found: Sequence[StoredEncoding]
    ) -> PackageOffer:
        fitting = [
            encoding.offer
            for encoding in found
            if encoding.offer.encoding is not Encoding.IDENTITY
            and self._needed(encoding) <= request.memory_bytes
        ]
        offer = min(fitting, key=lambda o: o.size_bytes, default=IDENTITY)
        if offer is not IDENTITY:
            self.counts.offered += 1
            self.counts.offered_saved_bytes += size - offer.size_bytes
        return offer

    def _needed(self, encoding: StoredEncoding) -> int:
        base = encoding.pair.base
        return needed_bytes(
            base_bytes=self._packages.size_bytes(base) if base else 0,
            window_log=encoding.offer.window_log,
        )
