"""Sign what changed: every stale assignment gets a new envelope with the next counter.

Level-triggered and idempotent: a batch is one transaction, so a kill loses or keeps all of it,
and what was not signed is still stale. Assignments are also renewed long before they expire, so
that a device that was offline for days can still act on the newest one.
"""

import logging
from collections.abc import Container
from dataclasses import dataclass
from datetime import timedelta

from edge_agent.contract.assignment import Assignment
from fleet_server.errors import RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers, SealedAssignment, StaleAssignment
from fleet_server.ports.trust import AssignmentSigner, SignedPackages

ASSIGNMENT_DAYS = 7
RENEW_BEFORE = timedelta(days=4)
RECONNECT_SPREAD_S = 10.0
BATCH = 1_000
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentDesk:
    """Signs the assignments of one fleet.

    Attributes:
        ledgers: Opens transactions.
        signer: The director.
        packages: What is approved now.
        clock: Time of day.
        fleet: Name of the fleet.
        reconnect_spread_s: Devices spread their first reconnect over this long.
    """

    ledgers: Ledgers
    signer: AssignmentSigner
    packages: SignedPackages
    clock: Clock
    fleet: str
    reconnect_spread_s: float = RECONNECT_SPREAD_S

    def sign_stale(self, limit: int = BATCH) -> int:
        """Sign up to ``limit`` assignments in one transaction; return how many were signed.

        A slot whose package is no longer approved is left out: the device leaves it as it is,
        instead of refusing the whole assignment. One that cannot be signed holds up no other.
        """
        approved = self.packages.approved()
        sealed: list[SealedAssignment] = []
        with self.ledgers() as ledger:
            expiring_before = self.clock.now() + RENEW_BEFORE
            for stale in ledger.assignments.find_stale(
                expiring_before=expiring_before, limit=limit
            ):
                try:
                    sealed.append(self._seal(stale, approved))
                except RefusedError as error:
                    LOG.warning("not signed: %s", error)
            ledger.assignments.save(sealed)
        return len(sealed)

    def _seal(self, stale: StaleAssignment, approved: Container[str]) -> SealedAssignment:
        slots = {name: slot for name, slot in stale.slots.items() if slot.target in approved}
        if not slots and not stale.counter:
            return SealedAssignment(device=stale.device, counter=0)
        issued_at = self.clock.now()
        assignment = Assignment(
            fleet=self.fleet,
            device=stale.device_id,
            counter=stale.counter + 1,
            issued_at=issued_at,
            expires_at=issued_at + timedelta(days=ASSIGNMENT_DAYS),
            slots=slots,
            reconnect_spread_s=self.reconnect_spread_s,
        )
        return SealedAssignment(
            device=stale.device,
            counter=assignment.counter,
            envelope=self.signer.seal(assignment).decode(),
            issued_at=assignment.issued_at,
            expires_at=assignment.expires_at,
        )
