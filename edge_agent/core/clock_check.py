"""Whether the device's clock can be right, told from dates that are known to have passed.

Verification of metadata does not need it: it takes the time to be no earlier than the newest date
the approvers signed. TLS does, because OpenSSL asks the system's clock, which an agent must not
set; so this says what to do. A clock that is ahead cannot be told from certificates that expired.
"""

from datetime import datetime, timedelta

TOLERANCE = timedelta(hours=1)
"""An approver's clock may be ahead of the device's by this much."""
SET_IT = "set the clock (timedatectl set-ntp true, or a battery clock), certificates depend on it"


def find_clock_fault(
    now_at: datetime,
    *,
    floor_at: datetime | None = None,
    not_before_at: datetime | None = None,
    not_after_at: datetime | None = None,
) -> str:
    """Say what is wrong with the clock and what to do; empty when nothing is known to be.

    Args:
        now_at: What the clock says.
        floor_at: Newest date the approvers signed.
        not_before_at: When the certificate in use begins.
        not_after_at: When it ends.

    >>> from datetime import UTC
    >>> find_clock_fault(datetime(2026, 1, 1, tzinfo=UTC))
    ''
    """
    says = f"the clock says {now_at:%Y-%m-%d %H:%M} UTC"
    if floor_at is not None and now_at < floor_at - TOLERANCE:
        signed = f"the approvers signed something on {floor_at:%Y-%m-%d %H:%M}"
        return f"{says}, but {signed}; {SET_IT}"
    if not_before_at is not None and now_at < not_before_at:
        begins = f"this device's certificate begins on {not_before_at:%Y-%m-%d %H:%M}"
        return f"{says}, but {begins}; {SET_IT}"
    if not_after_at is not None and now_at >= not_after_at:
        ended = f"this device's certificate ended on {not_after_at:%Y-%m-%d %H:%M}"
        return (
            f"{says} and {ended}; if the clock is right, join again"
            " ('edgefleet device add ID --again'); if not, set it"
        )
    return ""
