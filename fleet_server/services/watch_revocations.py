"""See to it that the revocation list never runs out unseen.

A broker with an expired list refuses *every* device. The running server writes the list anew each
day; when that has failed for so long that the list will run out within ALARM_BEFORE, it is said in
the log at every look that long again, and once in the audit log. `edgefleet doctor` judges the
same date.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar

from fleet_server.errors import FleetError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers

ALARM_BEFORE = timedelta(days=7)
LOG_EVERY = timedelta(hours=1)
_LOG = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RevocationWatch:
    """Looks once a minute or so; cheap when nothing is due.

    Attributes:
        ledgers: Opens transactions.
        refresh: Writes the list anew when it is a day old; tells whether it was.
        expires_at: Of the list on disk, None when there is none.
        is_told: Whether the audit log has an alarm about a subject.
        clock: Time of day.
    """

    ACT: ClassVar[str] = "crl.expiring"

    ledgers: Ledgers
    refresh: Callable[[], bool]
    expires_at: Callable[[], datetime | None]
    is_told: Callable[[str], bool]
    clock: Clock
    _said_at: datetime | None = field(default=None)

    def look(self) -> bool:
        """Write the list anew when due; tell whether it was.

        Raises:
            FleetError: It could not be written; the alarm, when due, was given.
        """
        try:
            return self.refresh()
        except (FleetError, OSError) as error:
            self._judge(str(error))
            if isinstance(error, FleetError):
                raise
            raise FleetError(f"the revocation list cannot be written: {error}") from error

    def _judge(self, reason: str) -> None:
        now_at = self.clock.now()
        try:
            expires_at = self.expires_at()
        except (FleetError, OSError):
            expires_at = None  # damaged: brokers that read it refuse everybody already
        if expires_at is not None and expires_at - now_at > ALARM_BEFORE:
            return
        when = (
            "is missing or damaged"
            if expires_at is None
            else f"expires {expires_at:%Y-%m-%d %H:%M} UTC"
        )
        if self._said_at is None or now_at - self._said_at >= LOG_EVERY:
            self._said_at = now_at
            _LOG.error("the revocation list %s, then no device is let in: %s", when, reason)
        subject = expires_at.isoformat() if expires_at is not None else "missing"
        if not self.is_told(subject):
            with self.ledgers() as ledger:
                ledger.audit.append(
                    at=now_at,
                    actor="controller",
                    act=self.ACT,
                    subject=subject,
                    reason=reason[:500],
                )
