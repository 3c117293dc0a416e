"""Why a device refused or failed, in codes that the server's gate can tell apart."""

from enum import StrEnum


class FailureClass(StrEnum):
    """Whose fault it is and whether trying again helps."""

    RETRYABLE = "retryable"
    """The network, the disk or a missing half: the same release may well work later."""
    NOT_FOR_ME = "not_for_me"
    """Refused by trust or fit; never counts against the release."""
    BROKEN_HERE = "broken_here"
    """The release itself failed on this device; counts against it."""


class Code(StrEnum):
    """Refusals (before anything is installed) and failures (of an installed candidate)."""

    # What was said is not what the approvers signed, or not for this device.
    ASSIGN_SIZE = "assign-size"
    ASSIGN_FORMAT = "assign-format"
    ASSIGN_TYPE = "assign-type"
    ASSIGN_SIGNATURE = "assign-signature"
    ASSIGN_REPLAY = "assign-replay"
    ASSIGN_FORK = "assign-fork"
    ASSIGN_EXPIRED = "assign-expired"
    WRONG_FLEET = "wrong-fleet"
    WRONG_DEVICE = "wrong-device"
    WRONG_PROFILE = "wrong-profile"
    WRONG_SLOT = "wrong-slot"
    NOT_APPROVED = "not-approved"
    WITHDRAWN = "withdrawn"
    WRONG_AUTHORITY = "wrong-authority"
    TUF_EXPIRED = "tuf-expired"
    TUF_ROLLBACK = "tuf-rollback"
    TUF_SIGNATURE = "tuf-signature"
    TUF_HASH = "tuf-hash"
    TUF_SIZE = "tuf-size"
    TUF_MISSING = "tuf-missing"
    TUF_FORMAT = "tuf-format"
    MISFIT = "misfit"
    KNOWN_BAD = "known-bad"
    # Fetching.
    FETCH_TIMEOUT = "fetch-timeout"
    FETCH_BUDGET = "fetch-budget"
    DISK_FULL = "disk-full"
    DISK_ERROR = "disk-error"
    BLOB_HASH = "blob-hash"
    BLOB_SIZE = "blob-size"
    # The candidate itself.
    PACKAGE_FORMAT = "package-format"
    SELFTEST_LOAD = "selftest-load"
    SELFTEST_GOLDEN = "selftest-golden"
    SELFTEST_LATENCY = "selftest-latency"
    SELFTEST_MEMORY = "selftest-memory"
    SELFTEST_CRASH = "selftest-crash"
    SELFTEST_TIMEOUT = "selftest-timeout"
    SHADOW_CRASH = "shadow-crash"
    SHADOW_HANG = "shadow-hang"
    SHADOW_MEMORY = "shadow-memory"
    SHADOW_UNDECIDED = "shadow-undecided"
    PROBATION_ERRORS = "probation-errors"
    PROBATION_LATENCY = "probation-latency"
    PROBATION_OUTPUT = "probation-output"
    PROBATION_BOOTS = "probation-boots"
    PROBATION_CRASH = "probation-crash"
    PROBATION_HANG = "probation-hang"
    PROBATION_MEMORY = "probation-memory"
    OPERATOR_ROLLBACK = "operator-rollback"


_RETRYABLE = frozenset(
    {
        Code.FETCH_TIMEOUT,
        Code.FETCH_BUDGET,
        Code.DISK_FULL,
        Code.DISK_ERROR,
        Code.TUF_MISSING,
        Code.SHADOW_UNDECIDED,
    }
)
_BROKEN_HERE = frozenset(
    {
        Code.KNOWN_BAD,
        Code.BLOB_HASH,
        Code.BLOB_SIZE,
        Code.PACKAGE_FORMAT,
        Code.SELFTEST_LOAD,
        Code.SELFTEST_GOLDEN,
        Code.SELFTEST_LATENCY,
        Code.SELFTEST_MEMORY,
        Code.SELFTEST_CRASH,
        Code.SELFTEST_TIMEOUT,
        Code.SHADOW_CRASH,
        Code.SHADOW_HANG,
        Code.SHADOW_MEMORY,
        Code.PROBATION_ERRORS,
        Code.PROBATION_LATENCY,
        Code.PROBATION_OUTPUT,
        Code.PROBATION_BOOTS,
        Code.PROBATION_CRASH,
        Code.PROBATION_HANG,
        Code.PROBATION_MEMORY,
        Code.OPERATOR_ROLLBACK,
    }
)


def class_of(code: Code) -> FailureClass:
    """Tell how the server's gate counts a code.

    >>> class_of(Code.SELFTEST_GOLDEN)
    <FailureClass.BROKEN_HERE: 'broken_here'>
    """
    if code in _RETRYABLE:
        return FailureClass.RETRYABLE
    return FailureClass.BROKEN_HERE if code in _BROKEN_HERE else FailureClass.NOT_FOR_ME
