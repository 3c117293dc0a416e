"""When a device asks for its next certificate, and how long it waits when that did not work.

At two thirds of the certificate's life, spread a little so that a fleet that joined on one day
does not ask in one minute. A clock that is wrong can make a device ask early or seem overdue for
ever; so after each renewal a device waits, whatever its clock says. Instants are aware UTC.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from edge_agent.core.retry import full_jitter_s

DUE_SHARE = 2 / 3
SPREAD_SHARE = 1 / 20
"""Devices spread their requests over this share of the certificate's life."""
ANSWER_S = 30.0
"""An answer that takes longer is taken to be lost."""
RETRY_BASE_S, RETRY_CAP_S = 30.0, 6 * 3_600.0
REST_S = 86_400.0
"""Between two renewals at least, whatever the clock says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a device's certificate says.

    Attributes:
        serial: Lower-case hex.
        not_before: It holds from then.
        not_after: It holds until then.
        authority: sha256 of the authority that issued it; empty when it is none that is trusted.
        newest: sha256 of the newest authority this device trusts; empty when unknown.
    """

    serial: str
    not_before: datetime
    not_after: datetime
    authority: str = ""
    newest: str = ""

    @property
    def is_of_former(self) -> bool:
        """Whether a newer authority is trusted than the one that issued it."""
        return bool(self.authority) and self.authority != self.newest


def find_due_at(facts: CertificateFacts, *, jitter: float) -> datetime:
    """Return when to ask for the next certificate.

    Args:
        facts: Of the present one.
        jitter: In [0, 1).

    >>> from datetime import UTC
    >>> start = datetime(2026, 1, 1, tzinfo=UTC)
    >>> facts = CertificateFacts(
    ...     serial="1", not_before=start, not_after=start + timedelta(days=90)
    ... )
    >>> find_due_at(facts, jitter=0) - start
    datetime.timedelta(days=60)
    """
    life = facts.not_after - facts.not_before
    return facts.not_before + life * (DUE_SHARE + SPREAD_SHARE * jitter)


def find_wait_s(tries: int, *, jitter: float, left: timedelta, retry_after_s: float = 0) -> float:
    """Return seconds until the next try.

    Args:
        tries: Requests in a row that brought no certificate, 1 and up.
        jitter: In [0, 1).
        left: Until the certificate runs out; near the end tries come closer.
        retry_after_s: What the server asked for; 0 when it did not answer.
    """
    if retry_after_s > 0:
        return retry_after_s * (1 + jitter / 10)
    cap_s = max(RETRY_BASE_S, min(RETRY_CAP_S, left.total_seconds() / 8))
    backoff_s = full_jitter_s(tries, base_s=RETRY_BASE_S, cap_s=cap_s, jitter=jitter)
    return RETRY_BASE_S + backoff_s
