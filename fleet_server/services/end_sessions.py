"""Shut revoked certificates out: first the list, then the open session.

A broker asks for the revocation list only when a connection begins, so a revoked device that is
connected would stay. Level-triggered on the database, in this order:

1. every revoked certificate is written into the list, with one more that was made to be refused;
2. wait until the broker refuses that one: now no revoked device can come back;
3. take each session over, which ends the device's connection, and forget what waits for it;
4. remove a revoked device's retained assignment;
5. note it.

A kill anywhere repeats the whole. When the broker does not read the list in time (one that
somebody else runs may take minutes), sessions are cut all the same and the work stays undone.
"""

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from fleet_server.ports.certificates import (
    RevocationList,
    RevokedPair,
    SessionBroker,
    WantedCut,
)
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers

CUTS_AT_ONCE = 200
LISTED_AT_ONCE = 5_000
IN_FORCE_S_MAX = 10.0
PROBE_EVERY_S = 0.1
AGAIN = timedelta(seconds=30)
"""Between two attempts at sessions that could not be ended for good."""
_LOG = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SessionEnder:
    """Ends the sessions that the database wants ended; called from one thread.

    Attributes:
        ledgers: Opens transactions.
        revocations: The list the broker reads.
        broker: The broker.
        clock: Time.
        stop: Ends waiting.
        is_list_read: False for a broker without TLS, which asks for no certificates.
    """

    ledgers: Ledgers
    revocations: RevocationList
    broker: SessionBroker
    clock: Clock
    stop: Event
    is_list_read: bool = True
    done: int = 0
    _failed: dict[int, float] = field(default_factory=dict)

    def step(self) -> bool:
        """Do what is wanted; tell whether anything was.

        Raises:
            FleetError: Nothing was noted; it is done again.
        """
        with self.ledgers() as ledger:
            cuts = ledger.devices.list_cuts(CUTS_AT_ONCE)
        cuts = [cut for cut in cuts if self._is_due(cut)]
        if not cuts:
            return False
        is_in_force = not self.is_list_read or self._put_in_force()
        ended = [cut for cut in cuts if self.broker.cut(cut.device_id)]
        revoked = [cut.device_id for cut in ended if cut.is_revoked]
        is_clear = not revoked or self.broker.clear_desired(revoked)
        if is_in_force and is_clear:
            self._finish(ended)
        self._postpone(cuts, [] if not (is_in_force and is_clear) else ended)
        return True

    def list_revoked(self) -> int:
        """Write what was revoked into the list, without hurry; return how many were new."""
        with self.ledgers() as ledger:
            serials = ledger.certificates.list_unlisted(LISTED_AT_ONCE)
        if serials:
            self.revocations.revoke(serials)
            self._mark_listed(serials)
        return len(serials)

    def _put_in_force(self) -> bool:
        with self.ledgers() as ledger:
            serials = ledger.certificates.list_unlisted(LISTED_AT_ONCE)
        probe = self.revocations.revoke_probe(serials)
        self._mark_listed(serials)
        if self._wait_until_refused(probe):
            return True
        _LOG.error(
            "the broker still lets in what was revoked %g s ago; sessions are cut, but may come"
            " back until it reads the revocation list again",
            IN_FORCE_S_MAX,
        )
        return False

    def _wait_until_refused(self, probe: RevokedPair) -> bool:
        end_s = self.clock.monotonic() + IN_FORCE_S_MAX
        while not self.broker.refuses(probe):
            if self.clock.monotonic() >= end_s or self.stop.wait(PROBE_EVERY_S):
                return False
        return True

    def _mark_listed(self, serials: list[str]) -> None:
        if serials:
            with self.ledgers() as ledger:
                ledger.certificates.mark_listed(serials, at=self.clock.now())

    def _finish(self, cuts: list[WantedCut]) -> None:
        now_at = self.clock.now()
        with self.ledgers() as ledger:
            for cut in cuts:
                if not ledger.devices.finish_cut(cut):
                    continue
                self.done += 1
                ledger.audit.append(
                    at=now_at,
                    actor="gateway",
                    act="device.cut",
                    subject=cut.device_id,
                    detail={"wanted_at": cut.wanted_at, "is_revoked": cut.is_revoked},
                )

    def _is_due(self, cut: WantedCut) -> bool:
        return self.clock.monotonic() >= self._failed.get(cut.device, 0.0)

    def _postpone(self, cuts: list[WantedCut], done: list[WantedCut]) -> None:
        self._failed = {
            device: until
            for device, until in self._failed.items()
            if until > self.clock.monotonic()
        }
        again_s = self.clock.monotonic() + AGAIN.total_seconds()
        finished = {cut.device for cut in done}
        self._failed |= {cut.device: again_s for cut in cuts if cut.device not in finished}
