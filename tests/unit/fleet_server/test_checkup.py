"""What doctor concludes, at each limit and one past it."""

from datetime import UTC, datetime, timedelta

import pytest

from fleet_server.core.checkup import (
    CERTIFICATE_WARN,
    DISK_FREE_BYTES_MIN,
    JOURNAL_BYTES_WARN,
    FilePermission,
    Grade,
    judge_copies,
    judge_cuts,
    judge_disk,
    judge_expiry,
    judge_journal,
    judge_key_mode,
    judge_operator_keys,
    judge_pending,
    judge_renewals,
    judge_worker,
    may_read,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires_at", "grade"),
    [
        (None, Grade.BAD),
        (NOW, Grade.BAD),
        (NOW + timedelta(seconds=1), Grade.WARNING),
        (NOW + timedelta(days=7) - timedelta(seconds=1), Grade.WARNING),
        (NOW + timedelta(days=7), Grade.GOOD),
    ],
)
def test_what_expires_is_judged_by_the_time_left(expires_at: datetime | None, grade: Grade) -> None:
    assert judge_expiry("CRL", expires_at, NOW, "sign").grade is grade


@pytest.mark.parametrize(
    ("age_s", "is_up", "grade"),
    [
        (30, True, Grade.GOOD),
        (31, True, Grade.BAD),
        (None, True, Grade.BAD),
        (None, False, Grade.GOOD),
    ],
)
def test_a_worker_is_judged_by_its_heartbeat_while_the_server_is_up(
    age_s: int | None, is_up: bool, grade: Grade
) -> None:
    seen = None if age_s is None else NOW - timedelta(seconds=age_s)
    assert judge_worker("gateway", seen, NOW, is_up=is_up).grade is grade


def test_limits_of_disk_journal_and_keys() -> None:
    assert judge_disk(DISK_FREE_BYTES_MIN).grade is Grade.GOOD
    assert judge_disk(DISK_FREE_BYTES_MIN - 1).grade is Grade.BAD
    assert judge_journal(JOURNAL_BYTES_WARN).grade is Grade.GOOD
    assert judge_journal(JOURNAL_BYTES_WARN + 1).grade is Grade.WARNING
    assert judge_key_mode("ca.key", 0o600).grade is Grade.GOOD
    assert judge_key_mode("ca.key", 0o640).grade is Grade.BAD
    assert judge_key_mode("ca.key", None).grade is Grade.BAD
    assert judge_operator_keys(["operator/approver.pem"]).grade is Grade.WARNING
    assert judge_operator_keys([]).grade is Grade.GOOD
    day = timedelta(days=1)
    assert judge_pending("digits/3", NOW - day, NOW).grade is Grade.GOOD
    assert judge_pending("digits/3", NOW - day - timedelta(seconds=1), NOW).grade is Grade.WARNING


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "is_folder", "expected"),
    [
        (0o600, 1000, (), False, True),
        (0o600, 7, (50,), False, False),
        (0o640, 7, (50,), False, True),
        (0o604, 7, (50,), False, False),  # the group's bits count for who is in the group
        (0o604, 7, (), False, True),
        (0o044, 1000, (50,), False, False),  # and the owner's for the owner
        (0o000, 0, (), False, True),
        (0o701, 7, (), True, True),
        (0o706, 7, (), True, False),
    ],
)
def test_who_may_read_a_key_is_told_by_its_mode(
    mode: int, uid: int, groups: tuple[int, ...], is_folder: bool, expected: bool
) -> None:
    permission = FilePermission(mode=mode, owner=1000, group=50, is_folder=is_folder)
    assert may_read(permission, uid=uid, groups=groups) is expected


def test_each_finding_that_is_not_good_names_the_next_step() -> None:
    findings = [
        judge_expiry("CRL", NOW, NOW, "run up"),
        judge_disk(0),
        judge_worker("api", None, NOW, is_up=True),
        judge_journal(2**40),
        judge_key_mode("ca.key", None),
        judge_operator_keys(["operator/approver.pem"]),
        judge_pending("digits/3", NOW - timedelta(days=9), NOW),
    ]
    assert all(f.next_step for f in findings)


def test_a_copied_identity_is_bad_and_names_the_way_out() -> None:
    finding = judge_copies({"cam-7": "boots take turns", "cam-8": "also"})
    assert finding.grade is Grade.BAD
    assert "cam-7, cam-8 (cam-7: boots take turns)" in finding.what
    assert finding.next_step == (
        "edgefleet device revoke cam-7, then edgefleet device add cam-7 --again"
    )
    assert judge_copies({}).grade is Grade.GOOD


def test_a_session_that_does_not_end_is_bad() -> None:
    assert judge_cuts([]).grade is Grade.GOOD
    assert judge_cuts(["cam-7"]).grade is Grade.BAD


def test_certificates_that_run_out_are_told_before_and_after() -> None:
    soon = {"cam-1": NOW + CERTIFICATE_WARN, "cam-2": NOW + CERTIFICATE_WARN}
    assert judge_renewals({}, NOW).grade is Grade.GOOD
    assert "cam-1 at 2026-01-15" in judge_renewals(soon, NOW).what
    gone = judge_renewals({"cam-3": NOW, **soon}, NOW)
    assert gone.what == "certificate expired: cam-3"
    assert gone.grade is Grade.WARNING
