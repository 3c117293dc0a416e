"""Whether one identity speaks from two places, judged by the boots the server meets.

Each start of an agent chooses a random boot id. A restart leaves the former boot behind for good;
a copy of the identity on a second machine does not: the two take the connection from each other,
and a boot that was left behind says something *new*. New is a report whose sequence is above all
that was known of that boot, so what a restored broker delivers twice, a retained status and a last
will, which carry no sequence, prove nothing.

A report can also be late: made before the restart, met after it. It is told from a living copy by
the clock in the report (made clearly after the newer boot was first met), or, where a device's
clock says nothing, by a second return after the newer boot has spoken in between.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

BOOTS_MAX = 8
"""Boots left behind that are remembered, per device."""
CLOCK_MARGIN_MS = 120_000
"""Report clocks that differ less from the server's prove nothing."""
RETURNS_MAX = 2
"""Returns of boots left behind that prove a copy when no clock does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootMemory:
    """What is remembered of a device's boots.

    Attributes:
        since_ms: When the newest boot was first met, server clock, epoch milliseconds.
        left: Boots left behind and the highest sequence known of each, oldest first.
        returns: How often a boot left behind has spoken anew after the newest one had.
        returned: The boot whose return was counted last and not interrupted since; empty when none.
    """

    since_ms: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    returns: int = 0
    returned: str = ""

    def encode(self) -> str:
        """Give the JSON text for the database."""
        return json.dumps(
            [self.since_ms, list(self.left.items()), self.returns, self.returned],
            separators=(",", ":"),
        )

    @classmethod
    def decode(cls, text: str) -> "BootMemory":
        """Read it back; what cannot be read is begun anew.

        >>> BootMemory.decode(BootMemory(since_ms=5, left={"a": 3}).encode()).left
        {'a': 3}
        """
        try:
            value: Any = json.loads(text) if text else None
            since_ms, left, returns, returned = value
            known = {str(boot): int(sequence) for boot, sequence in left}
            return cls(since_ms=int(since_ms), left=known, returns=int(returns), returned=returned)
        except (ValueError, TypeError):
            return cls()


def note_new_boot(memory: BootMemory, former: str, sequence: int, *, at_ms: int) -> BootMemory:
    """Remember that a boot never met before has followed ``former``.

    Args:
        memory: As it was; counted returns begin anew.
        former: The boot left behind; empty for a device never met before.
        sequence: Highest report sequence known of it.
        at_ms: Server clock.
    """
    left = {boot: known for boot, known in memory.left.items() if boot != former}
    if former:
        left[former] = sequence
    kept = list(left.items())[-BOOTS_MAX:]
    return BootMemory(since_ms=at_ms, left=dict(kept))


def note_newest_spoke(memory: BootMemory) -> BootMemory:
    """Remember that the newest boot said something new: a run of a returned one is over."""
    return replace(memory, returned="") if memory.returned else memory


def judge_return(
    memory: BootMemory, boot: str, sequence: int, *, made_ms: int, received_ms: int
) -> tuple[BootMemory, str]:
    """Judge a report of a boot that was left behind.

    Args:
        memory: What is remembered.
        boot: Its boot id.
        sequence: Its sequence.
        made_ms: Device clock in the report, epoch milliseconds.
        received_ms: Server clock, epoch milliseconds.

    Returns:
        The memory and the evidence of a copy in one sentence, empty when there is none.

    >>> memory = note_new_boot(BootMemory(), "aaaa", 7, at_ms=0)
    >>> judge_return(memory, "aaaa", 7, made_ms=500_000, received_ms=500_000)[1]
    ''
    >>> judge_return(memory, "aaaa", 8, made_ms=500_000, received_ms=500_000)[1]
    'boot aaaa spoke again 500 s after another boot had taken over'
    """
    known = memory.left.get(boot)
    if known is None or sequence <= known:
        return memory, ""
    is_first = memory.returned != boot
    memory = replace(
        memory,
        left={**memory.left, boot: sequence},
        returns=memory.returns + is_first,
        returned=boot,
    )
    is_after = made_ms > memory.since_ms + CLOCK_MARGIN_MS
    is_plausible = made_ms <= received_ms + CLOCK_MARGIN_MS
    if is_after and is_plausible:
        after_s = (made_ms - memory.since_ms) / 1_000
        return memory, f"boot {boot} spoke again {after_s:.0f} s after another boot had taken over"
    if memory.returns >= RETURNS_MAX:
        return memory, f"boots take turns: one left behind has come back {memory.returns} times"
    return memory, ""
