"""What a slot is to run and what a bank holds, by digest."""

from dataclasses import dataclass

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.codes import Code
from edge_agent.contract.package import OnWithdrawn
from edge_agent.contract.shadow import ShadowPolicy

_PROBATION = ProbationPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageKey:
    """What the approvers sign, or withdraw: a path and the bytes behind it.

    Attributes:
        target: ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package.
    """

    target: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A signed package whose bytes are on this device.

    Attributes:
        target: ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package.
        is_proven: Whether it was confirmed here once; it may serve as a fallback.
        on_withdrawn: What the approvers signed to happen when they withdraw it.
        is_withdrawn: Whether they did, and it goes on all the same.
    """

    target: str
    sha256: str
    is_proven: bool = False
    on_withdrawn: OnWithdrawn = OnWithdrawn.STOP
    is_withdrawn: bool = False

    @property
    def key(self) -> PackageKey:
        """What was signed of it."""
        return PackageKey(target=self.target, sha256=self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A package that a verified assignment names for a slot.

    Attributes:
        target: ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package, signed.
        size_bytes: Of the package, signed.
        chunks: sha256 over the chunk hashes, signed.
        schema: sha256 of schema.json, signed.
        rollout: Rollout that asked for it, 0 when none.
        retry: Raised by the operator to try a known bad package again.
        probation: Limits of its probation.
        shadow: How it is compared with what is confirmed before; None when it is not.
        on_withdrawn: What is to happen when the approvers withdraw it, signed.
    """

    target: str
    sha256: str
    size_bytes: int
    chunks: str
    schema: str
    rollout: int = 0
    retry: int = 0
    probation: ProbationPolicy = _PROBATION
    shadow: ShadowPolicy | None = None
    on_withdrawn: OnWithdrawn = OnWithdrawn.STOP

    @property
    def key(self) -> PackageKey:
        """What was signed of it."""
        return PackageKey(target=self.target, sha256=self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPackage:
    """A package that failed on this device.

    Attributes:
        sha256: Of the package.
        retry: The offer's ``retry`` when it failed; only a larger one is tried again.
        code: Why.
    """

    sha256: str
    retry: int
    code: Code


BAD_PACKAGES_MAX = 16
"""A slot remembers this many, the oldest goes first."""


def find_bad(bad: tuple[BadPackage, ...], release: Release) -> BadPackage | None:
    """Return why a release is not to be tried here, None when it may be."""
    for package in bad:
        if package.sha256 == release.sha256 and release.retry <= package.retry:
            return package
    return None


def forget_bad(bad: tuple[BadPackage, ...], sha256: str) -> tuple[BadPackage, ...]:
    """Leave out a package that has held here since: what is confirmed is not bad."""
    return tuple(package for package in bad if package.sha256 != sha256)


def remember_bad(
    bad: tuple[BadPackage, ...], release: Release, code: Code
) -> tuple[BadPackage, ...]:
    """Add a release that failed; a package appears once."""
    others = forget_bad(bad, release.sha256)
    newest = BadPackage(sha256=release.sha256, retry=release.retry, code=code)
    return (*others, newest)[-BAD_PACKAGES_MAX:]
