"""Renewal and quotas: tables of cases and laws."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.renewal import RenewalCode
from fleet_server.core.quota import Quota
from fleet_server.core.renewal import (
    ISSUED_PER_DAY_MAX,
    CertificateRecord,
    RenewalStep,
    judge_renewal,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def a_certificate(
    serial: str, *, days_ago: float, seen: bool, revoked: bool = False
) -> CertificateRecord:
    at = NOW - days_ago * DAY
    return CertificateRecord(
        serial=serial,
        device=1,
        key_sha256=f"key-{serial}",
        issued_at=at,
        expires_at=at + 90 * DAY,
        seen_at=at if seen else None,
        revoked_at=NOW if revoked else None,
        pem="" if seen else f"pem-{serial}",
    )


USED = a_certificate("a", days_ago=60, seen=True)
UNSEEN = a_certificate("b", days_ago=1, seen=False)
SEEN = a_certificate("b", days_ago=20, seen=True)
REPLACED = a_certificate("a", days_ago=60, seen=True, revoked=True)
STEPS = {
    "its newest asks": ("a", "new", [USED], RenewalStep.ISSUE, None, False),
    "the answer was lost": ("a", "key-b", [USED, UNSEEN], RenewalStep.REPEAT, None, False),
    "answer and key were lost": ("a", "new", [USED, UNSEEN], RenewalStep.ISSUE, None, False),
    "nobody knows the serial": (
        "f", "new", [USED], RenewalStep.REFUSE, RenewalCode.UNKNOWN_SERIAL, False
    ),
    "a device without certificates": (
        "a", "new", [], RenewalStep.REFUSE, RenewalCode.UNKNOWN_SERIAL, False
    ),
    "the key in use once more": (
        "a", "key-a", [USED], RenewalStep.REFUSE, RenewalCode.REUSED_KEY, False
    ),
    "a serial that was replaced long ago": (
        "a", "new", [REPLACED, SEEN], RenewalStep.REFUSE, RenewalCode.REPLACED_SERIAL, True
    ),
    "the request that was answered, from a restored broker": (
        "a", "key-b", [REPLACED, SEEN], RenewalStep.REFUSE, RenewalCode.REPLACED_SERIAL, False
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("serial", "key", "known", "step", "code", "is_copy"), STEPS.values(), ids=STEPS
)
def test_who_gets_a_certificate(
    serial: str,
    key: str,
    known: list[CertificateRecord],
    step: RenewalStep,
    code: RenewalCode | None,
    is_copy: bool,
) -> None:
    verdict = judge_renewal(serial, key, known, now_at=NOW)
    assert (verdict.step, verdict.code, bool(verdict.evidence)) == (step, code, is_copy)


@pytest.mark.parametrize("hours", [0.5, 23.5])
def test_certificates_of_a_day_are_bounded(hours: float) -> None:
    known = [
        a_certificate(f"{n:x}", days_ago=hours / 24, seen=True) for n in range(ISSUED_PER_DAY_MAX)
    ]
    verdict = judge_renewal(known[-1].serial, "new", known, now_at=NOW)
    assert verdict.code is RenewalCode.TOO_OFTEN
    assert verdict.retry_after == DAY - timedelta(hours=hours)
    allowed = judge_renewal(known[-1].serial, "new", known[1:], now_at=NOW)
    assert allowed.step is RenewalStep.ISSUE


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50)), max_size=200))
def test_a_quota_lets_no_more_through_in_any_window(events: list[tuple[str, float]]) -> None:
    quota, now, taken = Quota(count_max=3, period_s=100, keys_max=10), 0.0, []
    for key, pause in events:
        now += pause
        if quota.take(key, now):
            taken.append((key, now))
    for key, at in taken:
        within = [t for k, t in taken if k == key and at <= t < at + 100]
        assert len(within) <= 2 * 3, "two windows touch at most"


def test_a_quota_forgets_the_oldest_and_never_grows() -> None:
    quota = Quota(count_max=1, period_s=100, keys_max=50)
    for n in range(10_000):
        assert quota.take(f"address {n}", float(n) / 1_000)
        assert len(quota) <= 50
    assert not quota.take("address 9999", 10.0)
    assert quota.wait_s("address 9999", 60.0) == pytest.approx(49.999)


def test_what_turned_out_well_is_given_back() -> None:
    quota = Quota(count_max=2, period_s=100)
    for _ in range(100):
        assert quota.take("a", 0)
        quota.give_back("a")
    assert quota.take("a", 0)
    assert quota.take("a", 0)
    assert not quota.take("a", 0)
    assert quota.take_refused("a") == 1
    assert quota.take_refused("a") == 0
