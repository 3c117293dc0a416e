"""Keep the broker's retained copies equal to what the database says.

Level-triggered: each ``step`` looks at the database and the signed metadata, publishes what the
broker lacks, and notes what it acknowledged. A kill anywhere repeats a publication, which devices
take as the same. Metadata goes first: assignments are read before the metadata, so whatever an
assignment names is in metadata that left before it.

A broker that was killed may have gone back to an older state. Behind each publication a retained
marker is left; a broker that holds the newest marker holds everything before it, one that does
not is given everything again, in pages.
"""

import hashlib
import logging
from collections.abc import Callable

from edge_agent.contract.errors import ContractError
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.topics import META_TOPIC, PREFIX, Channel, device_topic
from fleet_server.errors import FleetError
from fleet_server.ports.gateway import AssignmentOutbox, Envelope, MetadataSource, StateBroker

MARKER_TOPIC = f"{PREFIX}/server/marker"
PAGE = 200
_LOG = logging.getLogger(__name__)


class PublishState:
    """The publisher; called from one thread."""

    def __init__(
        self,
        outbox: AssignmentOutbox,
        metadata: MetadataSource,
        broker: StateBroker,
        *,
        stamp_of_metadata: Callable[[], object],
    ) -> None:
        """Prepare.

        Args:
            outbox: Assignments.
            metadata: The signed files.
            broker: Where to.
            stamp_of_metadata: A cheap value that changes whenever the files do.
        """
        self._outbox, self._metadata, self._broker = outbox, metadata, broker
        self._stamp_of = stamp_of_metadata
        self._epoch = 0
        self._stamp: object = None
        self._sent_sha256 = b""
        self._unverified: str | None = None
        """What the present broker should hold, until that is known."""
        self._again_after: int | None = None
        self._is_marker_due = False
        self._complaint = ""
        self.published = 0
        self.repeated = 0

    def step(self) -> bool:
        """Publish one page of what is missing; tell whether there may be more to do at once."""
        epoch = self._broker.epoch
        if not epoch:
            return False
        if epoch != self._epoch:
            self._epoch = epoch
            self._stamp, self._sent_sha256 = None, b""
            self._unverified = self._outbox.published_mark()
        waiting = self._outbox.load_unpublished(PAGE)
        if not self._publish_metadata():
            return False
        if waiting:
            return self._publish(waiting, is_new=True)
        if self._unverified is not None:
            self._compare_marker(self._unverified)
        if self._again_after is not None:
            return self._publish_again(self._again_after)
        if self._is_marker_due and self._unverified is None:
            mark = self._outbox.published_mark().encode()
            self._is_marker_due = not all(self._broker.publish_retained([(MARKER_TOPIC, mark)]))
        return False

    def _compare_marker(self, wanted: str) -> None:
        """Find out whether the broker of a new connection holds all that was published."""
        held = self._broker.read_marker()
        if held is None:
            return
        self._unverified = None
        if held != wanted:
            _LOG.info("the broker holds %s, not %s: publishing again", held or "nothing", wanted)
            self._again_after, self._is_marker_due = 0, True

    def _publish_metadata(self) -> bool:
        """Publish the metadata when it changed; tell whether the broker has the newest."""
        stamp = self._stamp_of()
        if stamp is not None and stamp == self._stamp:
            return True
        try:
            bundle = encode_bundle(self._metadata.bundle())
        except (FleetError, ContractError, ValueError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _LOG.error("the signed metadata cannot be published: %s", error)
            return False
        sha256 = hashlib.sha256(bundle).digest()
        if sha256 != self._sent_sha256:
            if not all(self._broker.publish_retained([(META_TOPIC, bundle)])):
                return False
            self._sent_sha256 = sha256
        self._stamp, self._complaint = stamp, ""
        return True

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
