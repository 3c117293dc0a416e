"""What ``edgefleet doctor`` concludes from what was seen; pure.

A finding says what is wrong, the value seen and the next step. Findings come in the order in which
things break: program, disk, configuration, keys, certificates, metadata, processes, database.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

DISK_FREE_BYTES_MIN = 1_073_741_824
JOURNAL_BYTES_WARN = 268_435_456
EXPIRY_WARN = timedelta(days=7)
HEARTBEAT_FRESH = timedelta(seconds=30)


class Grade(StrEnum):
    """How bad a finding is; only ``bad`` makes doctor fail."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the checkup."""

    grade: Grade
    what: str
    next_step: str = ""


def judge_expiry(
    what: str, expires_at: datetime | None, now_at: datetime, next_step: str
) -> Finding:
    """Judge something that expires.

    >>> from datetime import UTC
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> judge_expiry("CRL", day + timedelta(days=20), day, "run up").what
    'CRL valid until 2026-01-21'
    """
    if expires_at is None:
        return Finding(Grade.BAD, f"{what} is missing", next_step)
    if expires_at <= now_at:
        return Finding(Grade.BAD, f"{what} expired {expires_at:%Y-%m-%d %H:%M}", next_step)
    text = f"{what} valid until {expires_at:%Y-%m-%d}"
    near = expires_at - now_at < EXPIRY_WARN
    return Finding(Grade.WARNING, text, next_step) if near else Finding(Grade.GOOD, text)


def judge_disk(free_bytes: int) -> Finding:
    """Judge the space left for the workspace."""
    text = f"{free_bytes / 2**30:.1f} GiB free"
    if free_bytes < DISK_FREE_BYTES_MIN:
        return Finding(Grade.BAD, f"{text}; telemetry needs room", "free at least 1 GiB")
    return Finding(Grade.GOOD, text)


def judge_worker(name: str, seen_at: datetime | None, now_at: datetime, *, is_up: bool) -> Finding:
    """Judge one worker by its heartbeat."""
    if not is_up:
        return Finding(Grade.GOOD, f"{name} does not run (the server is not up)")
    if seen_at is None or now_at - seen_at > HEARTBEAT_FRESH:
        since = "never" if seen_at is None else f"{(now_at - seen_at).total_seconds():.0f} s ago"
        return Finding(Grade.BAD, f"{name} was last at work {since}", f"read server/log/{name}.log")
    return Finding(Grade.GOOD, f"{name} at work")


def judge_journal(size_bytes: int) -> Finding:
    """Judge the write-ahead log: one that grows means a reader that never ends."""
    text = f"write-ahead log {size_bytes / 2**20:.1f} MiB"
    if size_bytes > JOURNAL_BYTES_WARN:
        return Finding(Grade.WARNING, text, "restart `edgefleet up`; a reader never ended")
    return Finding(Grade.GOOD, text)


def judge_key_mode(name: str, mode: int | None) -> Finding:
    """Judge who may read a private key; ``mode`` None means that it is missing."""
    if mode is None:
        return Finding(Grade.BAD, f"key {name} is missing", "restore it from a backup")
    if mode & 0o077:
        return Finding(
            Grade.BAD, f"key {name} may be read by others (mode {mode:o})", f"chmod 600 {name}"
        )
    return Finding(Grade.GOOD, f"key {name} is private")


def judge_operator_keys(*, is_readable_by_server: bool) -> Finding:
    """Judge whether a break-in at the server could sign approvals."""
    if is_readable_by_server:
        return Finding(
            Grade.WARNING,
            "the approver's key can be read here: who breaks into this server can approve",
            "move the operator folder to another machine or user; name it with EDGEFLEET_OPERATOR",
        )
    return Finding(Grade.GOOD, "the approver's key is not on this machine's server account")
