"""Keep the broker's retained copies equal to what the database says.

Level-triggered: each ``step`` looks at the database and the signed metadata, publishes what the
broker lacks, and notes what it acknowledged. A kill anywhere repeats a publication, which devices
take as the same. Metadata goes first: assignments are read before the metadata, so whatever an
assignment names is in metadata that left before it. Hash bins go before the metadata that names
them, only those that changed.

A broker that was killed may have gone back to an older state. Behind each publication a retained
marker is left; a broker that holds the newest marker holds everything before it, one that does
not is given everything again, in pages. Where there are bins the marker names their state too.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

from edge_agent.contract.errors import ContractError
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.topics import (
    AUTHORITIES_TOPIC,
    META_TOPIC,
    PREFIX,
    Channel,
    device_topic,
    meta_topic,
)
from fleet_server.errors import FleetError, RefusedError
from fleet_server.ports.gateway import (
    AssignmentOutbox,
    BinFile,
    Envelope,
    MetadataSource,
    StateBroker,
)

MARKER_TOPIC = f"{PREFIX}/server/marker"
PAGE = 200
BINS_BYTES_PAGE = 2 * 1_048_576
"""Compressed bins that may wait for their acknowledgements at once."""
_BETWEEN = "+"
_LOG = logging.getLogger(__name__)


class _Metadata(Enum):
    """Whether the broker has the newest metadata."""

    THERE = auto()
    MORE = auto()
    """A page of bins left; the next may follow at once."""
    WAIT = auto()


class PublishState:
    """The publisher; called from one thread."""

    def __init__(
        self,
        outbox: AssignmentOutbox,
        metadata: MetadataSource,
        broker: StateBroker,
        *,
        stamp_of_metadata: Callable[[], object],
        authorities: Callable[[], bytes] | None = None,
    ) -> None:
        """Prepare.

        Args:
            outbox: Assignments.
            metadata: The signed files.
            broker: Where to.
            stamp_of_metadata: A cheap value that changes whenever the files do.
            authorities: Gives the certificates for ``meta/authorities``; None publishes none.
        """
        self._outbox, self._metadata, self._broker = outbox, metadata, broker
        self._stamp_of = stamp_of_metadata
        self._authorities, self._sent_authorities = authorities, b""
        self._epoch = 0
        self._stamp: object = None
        self._sent_sha256 = b""
        self._bins: dict[str, str] = {}
        """sha256 of the newest file of each bin that the broker acknowledged."""
        self._unverified: str | None = None
        """What the present broker should hold, until that is known."""
        self._again_after: int | None = None
        self._is_marker_due = False
        self._complaint = ""
        self.published = 0
        self.repeated = 0
        self.bins = 0

    def step(self) -> bool:
        """Publish one page of what is missing; tell whether there may be more to do at once."""
        epoch = self._broker.epoch
        if not epoch:
            return False
        if epoch != self._epoch:
            self._epoch = epoch
            self._stamp, self._sent_sha256, self._sent_authorities = None, b"", b""
            self._unverified = self._outbox.published_mark()
        waiting = self._outbox.load_unpublished(PAGE)
        metadata = self._publish_metadata()
        if metadata is not _Metadata.THERE:
            return metadata is _Metadata.MORE
        self._publish_authorities()
        if waiting:
            return self._publish(waiting, is_new=True)
        if self._unverified is not None:
            self._compare_marker(self._unverified, ())
        if self._again_after is not None:
            return self._publish_again(self._again_after)
        if self._is_marker_due and self._unverified is None:
            mark = _join(self._outbox.published_mark(), self._bins).encode()
            self._is_marker_due = not all(self._broker.publish_retained([(MARKER_TOPIC, mark)]))
        return False

    def _compare_marker(self, wanted: str, bins: Sequence[BinFile]) -> None:
        """Find out whether the broker of a new connection holds all that was published.

        Args:
            wanted: The mark of the assignments.
            bins: The bins now; an earlier process may have published them.
        """
        held = self._broker.read_marker()
        if held is None:
            return
        self._unverified = None
        mark, _, _ = held.partition(_BETWEEN)
        now = {bin_file.role: bin_file.sha256 for bin_file in bins}
        if held == _join(mark, now):
            self._bins = now
        elif held != _join(mark, self._bins):
            self._bins = {}
        if mark != wanted:
            _LOG.info("the broker holds %s, not %s: publishing again", held or "nothing", wanted)
            self._again_after, self._is_marker_due = 0, True

    def _publish_metadata(self) -> _Metadata:
        """Publish the metadata when it changed: its bins in pages, then what names them."""
        stamp = self._stamp_of()
        if stamp is not None and stamp == self._stamp:
            return _Metadata.THERE
        try:
            files = self._metadata.bundle()
            bins = self._metadata.bins(files)
            if bins and self._unverified is not None:
                self._compare_marker(self._unverified, bins)
                if self._unverified is not None:
                    return _Metadata.WAIT
            missing = [b for b in bins if self._bins.get(b.role) != b.sha256]
            if missing:
                return self._publish_bins(missing)
            bundle = encode_bundle(files)
        except (FleetError, ContractError, ValueError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _LOG.error("the signed metadata cannot be published: %s", error)
            return _Metadata.WAIT
        sha256 = hashlib.sha256(bundle).digest()
        if sha256 != self._sent_sha256:
            if not all(self._broker.publish_retained([(META_TOPIC, bundle)])):
                return _Metadata.WAIT
            self._sent_sha256 = sha256
        self._stamp, self._complaint = stamp, ""
        return _Metadata.THERE

    def _publish_authorities(self) -> None:
        """Publish the authorities' certificates behind the metadata that lists them."""
        data = self._authorities() if self._authorities is not None else b""
        if data != self._sent_authorities and all(
            self._broker.publish_retained([(AUTHORITIES_TOPIC, data)])
        ):
            self._sent_authorities = data

    def _publish_bins(self, missing: Sequence[BinFile]) -> _Metadata:
        """Publish a page of bins; raises FleetError or ContractError when one cannot be read."""
        page: list[tuple[str, bytes]] = []
        size = 0
        for bin_file in missing[:PAGE]:
            data = self._metadata.read_bin(bin_file)
            if hashlib.sha256(data).hexdigest() != bin_file.sha256:
                raise RefusedError(
                    f"{bin_file.version}.{bin_file.role}.json is not what the snapshot names;"
                    " restore the folder from a backup"
                )
            payload = encode_bundle({f"{bin_file.version}.{bin_file.role}.json": data})
            page.append((meta_topic(bin_file.role), payload))
            size += len(payload)
            if size >= BINS_BYTES_PAGE:
                break
        taken = self._broker.publish_retained(page)
        done = [b for b, is_taken in zip(missing, taken, strict=False) if is_taken]
        self._bins |= {b.role: b.sha256 for b in done}
        self._is_marker_due = self._is_marker_due or bool(done)
        self.bins += len(done)
        return _Metadata.MORE if all(taken) else _Metadata.WAIT

    def _publish(self, page: list[Envelope], *, is_new: bool) -> bool:
        taken = self._broker.publish_retained(
            [(device_topic(e.device_id, Channel.DESIRED), e.envelope) for e in page]
        )
        done = [envelope for envelope, is_taken in zip(page, taken, strict=True) if is_taken]
        if is_new:
            self._outbox.mark_published(done)
            self._is_marker_due = self._is_marker_due or bool(done)
            self.published += len(done)
        else:
            self.repeated += len(done)
        return len(done) == len(page)

    def _publish_again(self, after_device: int) -> bool:
        page = self._outbox.load_published(after_device, PAGE)
        if page and not self._publish(page, is_new=False):
            return False
        self._again_after = page[-1].device if page else None
        return True


def _join(mark: str, bins: Mapping[str, str]) -> str:
    """Give the marker's text: that of the assignments alone where there are no bins.

    >>> _join("3:7", {})
    '3:7'
    """
    if not bins:
        return mark
    digest = hashlib.sha256()
    for role, sha256 in sorted(bins.items()):
        digest.update(f"{role} {sha256}\n".encode())
    return f"{mark}{_BETWEEN}{digest.hexdigest()[:32]}"
