"""The two install banks of a slot, by digest.

Bytes live in the content-addressed store; a bank only names them. "Confirmed" says which bank a
power cut returns to. The confirmed bank is never written, so there is always a way back.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from edge_agent.contract.package import OnWithdrawn
from edge_agent.core.release import Package, PackageKey, Release


class Bank(StrEnum):
    """One of the two places a slot alternates between."""

    A = "a"
    B = "b"

    @property
    def other(self) -> "Bank":
        """The bank that this one is not."""
        return Bank.B if self is Bank.A else Bank.A


@dataclass(frozen=True, slots=True, kw_only=True)
class Banks:
    """What the banks of one slot hold.

    Attributes:
        a: Package in bank A, None when empty.
        b: Package in bank B, None when empty.
        confirmed: The bank a power cut returns to, None before the first confirmation.
    """

    a: Package | None = None
    b: Package | None = None
    confirmed: Bank | None = None

    def __post_init__(self) -> None:
        """Check that the confirmed bank holds something."""
        if self.confirmed is not None and self.at(self.confirmed) is None:
            raise ValueError(f"bank {self.confirmed} is confirmed and empty")

    def at(self, bank: Bank | None) -> Package | None:
        """Return what a bank holds."""
        if bank is None:
            return None
        return self.a if bank is Bank.A else self.b

    @property
    def confirmed_package(self) -> Package | None:
        """The package a power cut returns to."""
        return self.at(self.confirmed)

    @property
    def digests(self) -> frozenset[str]:
        """Every sha256 a bank names; these blobs must stay."""
        return frozenset(package.sha256 for package in (self.a, self.b) if package is not None)

    def find(self, sha256: str) -> Bank | None:
        """Return the bank that holds a digest."""
        for bank in Bank:
            package = self.at(bank)
            if package is not None and package.sha256 == sha256:
                return bank
        return None


def place_candidate(banks: Banks, package: Package, *, running: str | None) -> tuple[Banks, Bank]:
    """Put a candidate into a bank that is neither confirmed nor, if possible, answering.

    Args:
        banks: As they are.
        package: The candidate, not the confirmed package.
        running: sha256 of what answers now.

    >>> place_candidate(Banks(), Package(target="m/1/p.tar", sha256="0" * 64), running=None)[1]
    <Bank.A: 'a'>
    """
    bank = banks.find(package.sha256) or _find_free(banks, running)
    if bank is banks.confirmed:
        raise ValueError(f"bank {bank} is confirmed and must not be written")
    return _write(banks, bank, package), bank


def confirm(banks: Banks, bank: Bank) -> Banks:
    """Make a bank the one a power cut returns to; the former one stays as a fallback.

    A former one that was withdrawn does not stay: it answered only because it was confirmed.
    """
    package, former = banks.at(bank), banks.at(bank.other)
    if package is None:
        raise ValueError(f"bank {bank} is empty and cannot be confirmed")
    banks = replace(_write(banks, bank, replace(package, is_proven=True)), confirmed=bank)
    return _write(banks, bank.other, None) if former and former.is_withdrawn else banks


def rename_confirmed(banks: Banks, release: Release) -> Banks:
    """Give the confirmed bytes the name and the policy they are assigned by now."""
    package = banks.confirmed_package
    if banks.confirmed is None or package is None:
        return banks
    named = replace(
        package, target=release.target, on_withdrawn=release.on_withdrawn, is_withdrawn=False
    )
    return banks if named == package else _write(banks, banks.confirmed, named)


def withdraw(banks: Banks, gone: frozenset[PackageKey]) -> tuple[Banks, Package | None]:
    """Forget what the approvers withdrew; return the banks and the confirmed package if it went.

    Nothing takes the place of a confirmed package that went: another bank was not asked for. One
    signed to be kept stays and is marked.
    """
    lost: Package | None = None
    for bank in Bank:
        package = banks.at(bank)
        if package is None or package.key not in gone:
            continue
        if bank is not banks.confirmed:
            banks = _write(banks, bank, None)
        elif package.on_withdrawn is OnWithdrawn.KEEP:
            banks = _write(banks, bank, replace(package, is_withdrawn=True))
        else:
            lost, banks = package, _write(replace(banks, confirmed=None), bank, None)
    return banks, lost


def reinstate(banks: Banks, approved: frozenset[PackageKey]) -> Banks:
    """Take the mark off what the approvers sign again."""
    for bank in Bank:
        package = banks.at(bank)
        if package is not None and package.is_withdrawn and package.key in approved:
            banks = _write(banks, bank, replace(package, is_withdrawn=False))
    return banks


def clear(banks: Banks, bank: Bank) -> Banks:
    """Empty a bank that is not confirmed."""
    if bank is banks.confirmed:
        raise ValueError(f"bank {bank} is confirmed and must stay")
    return _write(banks, bank, None)


def lose_confirmed(banks: Banks) -> Banks:
    """Drop confirmed bytes that the disk has damaged; fall back to a proven package if any."""
    if banks.confirmed is None:
        return banks
    lost, fallback = banks.confirmed, banks.confirmed.other
    package = banks.at(fallback)
    left = _write(replace(banks, confirmed=None), lost, None)
    return replace(left, confirmed=fallback) if package and package.is_proven else left


def return_to_former(banks: Banks) -> Banks:
    """Make the bank that was confirmed before the confirmed one; both keep what they hold."""
    former = banks.at(banks.confirmed.other) if banks.confirmed is not None else None
    if banks.confirmed is None or former is None or not former.is_proven:
        raise ValueError("no bank was confirmed before")
    return replace(banks, confirmed=banks.confirmed.other)


def _find_free(banks: Banks, running: str | None) -> Bank:
    free = [bank for bank in Bank if bank is not banks.confirmed]
    for bank in free:
        package = banks.at(bank)
        if package is None or package.sha256 != running:
            return bank
    return free[0]


def _write(banks: Banks, bank: Bank, package: Package | None) -> Banks:
    return replace(banks, a=package) if bank is Bank.A else replace(banks, b=package)
