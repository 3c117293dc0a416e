"""Which operators an onnxruntime release implements, by execution provider. Pure.

The table was asked of the runtimes themselves (``operator_kernels.py``). A release between two
measured ones is taken to implement what the older of them does: no release of the range dropped a
kernel. Of providers other than the CPU's nothing was measured; what they lack the CPU does, which
onnxruntime always appends, so the CPU's operators are what a graph may have anywhere.
"""

from collections.abc import Mapping
from functools import cache

from device_profiles.operator_kernels import CPU
from device_profiles.versions import parse_range, parse_release

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""What a package may use; operators of other domains need a library that no device has."""
Operators = Mapping[str, frozenset[int]]
"""Versions of its definition that run, by operator."""


def find_operators(release: str) -> tuple[str, Operators] | None:
    """Give the newest measured release that is not newer than this one, and its operators.

    >>> find_operators("1.26.0")[0]
    '1.24.4'

    Returns:
        None when this one is older than every measured one, or no release number.
    """
    try:
        wanted = parse_release(release)
    except ValueError:
        return None
    known = [name for name in CPU if parse_release(name) <= wanted]
    return (known[-1], _read(known[-1])) if known else None


def find_oldest(wanted: str) -> str:
    """Give the oldest release that a range such as ``>=1.22,<2`` lets in; empty when open below.

    >>> find_oldest(">=1.22,<2"), find_oldest("<2")
    ('1.22', '')
    """
    bounds = [bound for operator, bound in parse_range(wanted) if operator in (">=", "==", ">")]
    return ".".join(map(str, max(bounds))) if bounds else ""


def find_missing(needed: Mapping[str, int], operators: Operators) -> dict[str, str]:
    """Tell which operators do not run, and what there is of each.

    Args:
        needed: Version by operator; 0 where only the name is known.
        operators: Of one release.

    Returns:
        What there is instead, in words, by ``Gemm 13`` or ``DOMAIN:NAME 1``.
    """
    missing = {}
    for name, version in sorted(needed.items()):
        domain, _, _ = name.rpartition(":")
        label = f"{name} {version}" if version else name
        if domain not in DOMAINS:
            missing[label] = f"no operators of {domain}"
            continue
        there = operators.get(name.removeprefix("ai.onnx:"))
        if there is None:
            missing[label] = "none"
        elif version and version not in there:
            missing[label] = f"versions {', '.join(map(str, sorted(there)))}"
    return missing


@cache
def _read(release: str) -> Operators:
    """Add up the changes until a release."""
    found: dict[str, frozenset[int]] = {}
    for name, text in CPU.items():
        for word in text.split():
            operator, _, versions = word.rpartition(":")
            numbers = frozenset(int(number) for number in versions.split(",") if number)
            if numbers:
                found[operator] = numbers
            else:
                found.pop(operator, None)
        if name == release:
            break
    return found
