"""Whether a device that asks for its next certificate gets one; pure.

The serial in the request says which certificate the device uses; the name comes from the broker.
Until a device has said that it uses its newest certificate, the one before counts as well: the
answer may have been lost. A certificate that was replaced *and* whose successor was seen in use is
held by nobody who follows the rules: whoever asks with it, for a key never seen, holds a copy.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from edge_agent.contract.renewal import RenewalCode

ISSUED_PER_DAY_MAX = 5
"""New certificates a device is given within a day."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """A certificate that was issued to a device.

    Attributes:
        serial: Hex.
        device: Number of the device.
        key_sha256: Of its public key, DER; empty when not recorded.
        issued_at: Aware UTC.
        expires_at: Aware UTC.
        seen_at: When the device first said that it uses it; None before.
        revoked_at: None while it is good.
        pem: The certificate, until it is seen.
    """

    serial: str
    device: int
    key_sha256: str
    issued_at: datetime
    expires_at: datetime
    seen_at: datetime | None = None
    revoked_at: datetime | None = None
    pem: str = ""


class RenewalStep(StrEnum):
    """What to do."""

    ISSUE = "issue"
    REPEAT = "repeat"
    """Send the newest certificate once more: the same key asks again."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalVerdict:
    """What to do and why.

    Attributes:
        step: Issue, repeat or refuse.
        code: Why it is refused; None when it is not.
        detail: One sentence beside the code.
        retry_after: How long asking again is no use; zero when not refused.
        evidence: Why the identity seems to be in use twice; empty when it does not.
    """

    step: RenewalStep
    code: RenewalCode | None = None
    detail: str = ""
    retry_after: timedelta = timedelta()
    evidence: str = ""


def judge_renewal(
    serial: str,
    key_sha256: str,
    known: list[CertificateRecord],
    *,
    now_at: datetime,
) -> RenewalVerdict:
    """Judge one request.

    Args:
        serial: Of the certificate the device says it uses.
        key_sha256: Of the key it asks for.
        known: Every certificate of the device that has not expired, oldest first.
        now_at: Server clock.
    """
    asked = next((c for c in known if c.serial == serial), None)
    if asked is None:
        return _refuse(
            RenewalCode.UNKNOWN_SERIAL,
            f"this server knows no certificate {serial} of this device;"
            " let it join again: edgefleet device add ID --again",
            DAY,
        )
    newest = known[-1]
    is_known_key = any(c.key_sha256 == key_sha256 for c in known)
    if asked is newest and asked.revoked_at is None:
        if is_known_key:
            return _refuse(
                RenewalCode.REUSED_KEY, "a renewal needs a new key; this one had a certificate", DAY
            )
        return _issue_unless_too_often(known, now_at)
    if newest.key_sha256 == key_sha256 and newest.revoked_at is None and newest.pem:
        return RenewalVerdict(step=RenewalStep.REPEAT)
    if asked.revoked_at is None and newest.seen_at is None and not is_known_key:
        return _issue_unless_too_often(known, now_at)
    evidence = (
        "" if is_known_key else f"certificate {serial} asks for renewal after it was replaced"
    )
    return _refuse(
        RenewalCode.REPLACED_SERIAL,
        f"certificate {serial} was replaced by {newest.serial}, which is in use",
        DAY,
        evidence,
    )


def _issue_unless_too_often(known: list[CertificateRecord], now_at: datetime) -> RenewalVerdict:
    recent = [c for c in known if c.issued_at > now_at - DAY]
    if len(recent) < ISSUED_PER_DAY_MAX:
        return RenewalVerdict(step=RenewalStep.ISSUE)
    return _refuse(
        RenewalCode.TOO_OFTEN,
        f"{len(recent)} certificates within a day, the limit is {ISSUED_PER_DAY_MAX}",
        max(recent[0].issued_at + DAY - now_at, timedelta(minutes=1)),
    )


def _refuse(
    code: RenewalCode, detail: str, retry_after: timedelta, evidence: str = ""
) -> RenewalVerdict:
    return RenewalVerdict(
        step=RenewalStep.REFUSE,
        code=code,
        detail=detail,
        retry_after=retry_after,
        evidence=evidence,
    )
