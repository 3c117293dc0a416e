"""What ``edgefleet doctor`` concludes from what was seen; pure.

A finding says what is wrong, the value seen and the next step. Findings come in the order in which
things break: program, disk, configuration, keys, certificates, metadata, processes, database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

DISK_FREE_BYTES_MIN = 1_073_741_824
JOURNAL_BYTES_WARN = 268_435_456
EXPIRY_WARN = timedelta(days=7)
ROOT_WARN, TARGETS_WARN = timedelta(days=60), timedelta(days=30)
"""People sign these, so there must be time to find them."""
PENDING_WARN = timedelta(days=1)
HEARTBEAT_FRESH = timedelta(seconds=30)
CERTIFICATE_WARN = timedelta(days=14)
"""Devices ask for the next certificate a month before theirs runs out."""
CUT_LATE = timedelta(minutes=1)
SAMPLES_WAIT_WARN = timedelta(hours=1)
SAMPLES_BYTES_WARN = 268_435_456
NAMED_MAX = 5


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePermission:
    """Who may do what with a file or folder.

    Attributes:
        mode: Permission bits.
        owner: User id.
        group: Group id.
        is_folder: Whether entering is asked instead of reading.
    """

    mode: int
    owner: int
    group: int
    is_folder: bool = False


def judge_expiry(
    what: str,
    expires_at: datetime | None,
    now_at: datetime,
    next_step: str,
    *,
    warn_before: timedelta = EXPIRY_WARN,
) -> Finding:
    """Judge something that expires; within ``warn_before`` of its end it is a warning.

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
    near = expires_at - now_at < warn_before
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


def judge_waiting_samples(
    batches: int, size_bytes: int, oldest_at: datetime | None, now_at: datetime
) -> Finding:
    """Judge the sampled rows that wait for a file: they are filed after ten minutes.

    >>> from datetime import UTC
    >>> now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> judge_waiting_samples(3, 2**20, now - timedelta(hours=2), now).grade
    <Grade.WARNING: 'warning'>
    """
    if oldest_at is None:
        return Finding(Grade.GOOD, "no sampled rows wait for their file")
    text = (
        f"{batches} batches of sampled rows ({size_bytes / 2**20:.1f} MiB) wait for their file,"
        f" the oldest since {oldest_at:%Y-%m-%d %H:%M}"
    )
    if now_at - oldest_at > SAMPLES_WAIT_WARN or size_bytes > SAMPLES_BYTES_WARN:
        return Finding(
            Grade.WARNING,
            f"{text}; beyond a bound further ones are dropped",
            "read server/log/gateway.log; `edgefleet audit ls --act samples.dropped` names devices",
        )
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


def judge_operator_keys(readable: Sequence[str]) -> Finding:
    """Judge whether a break-in at the server could sign approvals.

    Args:
        readable: Keys of people that the user who owns the server's folder can read.
    """
    if readable:
        named = ", ".join(readable[:NAMED_MAX])
        return Finding(
            Grade.WARNING,
            f"the server's user can read {named}: who breaks into this server can approve",
            "move the operator folder to another machine or user; name it with EDGEFLEET_OPERATOR",
        )
    return Finding(Grade.GOOD, "the server's user cannot read a key of people")


def judge_pending(what: str, proposed_at: datetime, now_at: datetime) -> Finding:
    """Judge a proposal that waits for another person's signature."""
    text = f"{what} waits for a signature since {proposed_at:%Y-%m-%d %H:%M}"
    if now_at - proposed_at > PENDING_WARN:
        step = "sign it with --cosign, or drop it: `edgefleet keys forget-pending`"
        return Finding(Grade.WARNING, text, step)
    return Finding(Grade.GOOD, text)


def may_read(permission: FilePermission, *, uid: int, groups: Collection[int]) -> bool:
    """Tell whether a user may read a file, or enter a folder, by its mode bits alone.

    >>> key = FilePermission(mode=0o640, owner=1000, group=50)
    >>> [may_read(key, uid=u, groups=g) for u, g in ((1000, ()), (7, (50,)), (7, (51,)), (0, ()))]
    [True, True, False, True]
    """
    if uid == 0:
        return True
    needed = 0o1 if permission.is_folder else 0o4
    if uid == permission.owner:
        return bool(permission.mode >> 6 & needed)
    if permission.group in groups:
        return bool(permission.mode >> 3 & needed)
    return bool(permission.mode & needed)


def judge_copies(evidence: Mapping[str, str]) -> Finding:
    """Judge devices whose identity is in use twice; ``evidence`` by device id.

    >>> judge_copies({}).what
    'no identity is in use twice'
    """
    if not evidence:
        return Finding(Grade.GOOD, "no identity is in use twice")
    first, why = next(iter(evidence.items()))
    return Finding(
        Grade.BAD,
        f"identity in use twice: {name_some(list(evidence))} ({first}: {why})",
        f"edgefleet device revoke {first}, then edgefleet device add {first} --again",
    )


def judge_cuts(late: Sequence[str]) -> Finding:
    """Judge devices whose session should have ended a while ago."""
    if not late:
        return Finding(Grade.GOOD, "no session is left of a revoked device")
    return Finding(
        Grade.BAD,
        f"sessions of {name_some(late)} should have ended more than"
        f" {CUT_LATE.total_seconds():.0f} s ago",
        "run `edgefleet up`; an external broker must read the new revocation list",
    )


def judge_renewals(expiring: Mapping[str, datetime], now_at: datetime) -> Finding:
    """Judge devices whose certificate runs out soon, or did, earliest first."""
    gone = [name for name, at in expiring.items() if at <= now_at]
    if gone:
        return Finding(
            Grade.WARNING,
            f"certificate expired: {name_some(gone)}",
            f"let it join anew: edgefleet device add {gone[0]} --again",
        )
    if expiring:
        first, at = next(iter(expiring.items()))
        return Finding(
            Grade.WARNING,
            f"certificate not renewed and running out: {name_some(list(expiring))}"
            f" ({first} at {at:%Y-%m-%d})",
            f"edgefleet device show {first} tells why",
        )
    return Finding(Grade.GOOD, "certificates of devices are renewed in time")


def judge_authorities(left: Sequence[str], waiting: Sequence[str]) -> Finding:
    """Judge devices while, or after, one certificate authority followed another.

    Args:
        left: Devices whose certificate is of an authority that counts no more.
        waiting: While both count: devices that have not followed to the new one.
    """
    if left:
        return Finding(
            Grade.WARNING,
            f"certificate of a former authority: {name_some(left)} cannot connect",
            f"let it join anew: edgefleet device add {left[0]} --again",
        )
    if waiting:
        return Finding(
            Grade.WARNING,
            f"two authorities are trusted; not followed yet: {name_some(waiting)}",
            "when all have: edgefleet keys rotate ca --finish",
        )
    return Finding(Grade.GOOD, "devices hold certificates of the newest authority")


def name_some(names: Sequence[str]) -> str:
    """List the first few of many.

    >>> name_some([f"cam-{n}" for n in range(9)])
    'cam-0, cam-1, cam-2, cam-3, cam-4 and 4 more'
    """
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
