"""Everything that can happen to a slot.

``now`` is a monotonic instant in seconds, ``jitter`` a number in [0, 1): the core reads neither a
clock nor randomness. ``attempt`` names the piece of work a completion belongs to; one of work that
is over or superseded is ignored.
"""

from dataclasses import dataclass

from edge_agent.contract.codes import Code
from edge_agent.contract.shadow import ShadowReport
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import PackageKey, Release


@dataclass(frozen=True, slots=True)
class Booted:
    """The agent started; nothing answers yet."""

    now: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The agent stops in good order; this life does not count as a failed boot."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A session with the broker stands."""

    now: float


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The session broke."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A verified assignment names this release for the slot; the newest supersedes."""

    release: Release
    now: float


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Verified metadata no longer holds these packages."""

    packages: frozenset[PackageKey]
    now: float


@dataclass(frozen=True, slots=True)
class Reapproved:
    """Verified metadata holds these packages, which were withdrawn before."""

    packages: frozenset[PackageKey]


@dataclass(frozen=True, slots=True)
class FetchStarted:
    """The first piece was asked for."""

    attempt: int
    now: float


@dataclass(frozen=True, slots=True)
class FetchMoved:
    """Something durable was added, or the server said when to come back."""

    attempt: int
    now: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """All pieces are here, each as signed."""

    attempt: int
    now: float


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """Fetching cannot go on for now."""

    attempt: int
    code: Code
    detail: str
    now: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Verified:
    """The whole is what was signed and is a package."""

    attempt: int
    now: float


@dataclass(frozen=True, slots=True)
class VerifyFailed:
    """The whole is not what was signed, or no package, or the disk failed."""

    attempt: int
    code: Code
    detail: str
    now: float
    jitter: float


@dataclass(frozen=True, slots=True)
class SelfTested:
    """The self-test ended; ``code`` is None when it passed."""

    attempt: int
    code: Code | None
    detail: str
    now: float


@dataclass(frozen=True, slots=True)
class Answering:
    """From now on this answers; None when nothing does."""

    target: str
    sha256: str | None
    now: float


@dataclass(frozen=True, slots=True)
class ActivationFailed:
    """A package could not be made to answer; what answered before still does."""

    sha256: str
    code: Code
    detail: str
    now: float


@dataclass(frozen=True, slots=True)
class ServingLost:
    """The process that answered is gone; nothing answers until it is there again.

    Attributes:
        code: ``PROBATION_CRASH``, ``PROBATION_HANG`` or ``PROBATION_MEMORY``.
        detail: What ended it.
        now: Monotonic seconds.
    """

    code: Code
    detail: str
    now: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What the candidate has answered so far.

    Attributes:
        stats: Since it took over.
        latency_ms_p95_max: The device profile's limit.
        now: Monotonic seconds.
    """

    stats: ProbationStats
    latency_ms_p95_max: float
    now: float


@dataclass(frozen=True, slots=True)
class ShadowSeen:
    """How the comparing of a candidate goes.

    Attributes:
        attempt: It was begun with.
        report: Counted so far.
        code: What ended it; None while it goes on.
        detail: One sentence beside the code.
        now: Monotonic seconds.
    """

    attempt: int
    report: ShadowReport
    code: Code | None
    detail: str
    now: float


@dataclass(frozen=True, slots=True)
class OperatorRollback:
    """A person on the device asks for the package that was confirmed before."""

    now: float


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed; only due things happen."""

    now: float
    jitter: float


Event = (
    Booted
    | Stopped
    | LinkUp
    | LinkDown
    | Assigned
    | Withdrawn
    | Reapproved
    | FetchStarted
    | FetchMoved
    | Fetched
    | FetchFailed
    | Verified
    | VerifyFailed
    | SelfTested
    | Answering
    | ActivationFailed
    | ServingLost
    | Observed
    | ShadowSeen
    | OperatorRollback
    | Ticked
)
