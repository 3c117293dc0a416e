"""Everything the update machine can ask of the world.

The shell commits the new state before it carries out an effect, so an effect may happen twice
(before and after a power cut) but never without its state.
"""

from dataclasses import dataclass

from edge_agent.contract.shadow import ShadowPolicy
from edge_agent.core.release import Package, Release


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the bytes of a release, piece by piece; ends in Fetched or FetchFailed."""

    attempt: int
    release: Release


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Stop getting the bytes; what is here stays for a resume."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Hash the whole and look inside; ends in Verified or VerifyFailed."""

    attempt: int
    release: Release


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Run the golden vectors in a child process; ends in SelfTested."""

    attempt: int
    release: Release


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a package answer; ends in Answering or ActivationFailed."""

    package: Package


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Let nothing answer; ends in Answering with None.

    Attributes:
        reason: Why, for whoever asks for a prediction; may be empty.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartProbation:
    """Count what is answered anew: from here on it is the candidate."""


@dataclass(frozen=True, slots=True)
class StartShadow:
    """Compare a package, which answers nothing, with the one beside it that answers.

    Brings ShadowSeen.
    """

    attempt: int
    package: Package
    beside: Package
    policy: ShadowPolicy


@dataclass(frozen=True, slots=True)
class StopShadow:
    """Compare no more."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Remove bytes that no bank and no running attempt names."""


Effect = (
    Fetch
    | CancelFetch
    | Verify
    | SelfTest
    | Activate
    | Deactivate
    | StartShadow
    | StopShadow
    | StartProbation
    | Collect
)
