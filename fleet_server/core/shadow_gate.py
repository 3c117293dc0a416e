"""Decide from what devices compared in shadow whether a stage's candidate may answer. Pure.

A sequential test of *goal* against *never above* over devices (``shadow_limits``), which may be
looked at after every report. It halts a stage while its devices still are in shadow, where the
candidate has answered nobody. A stage that can still grow is waited for; one that cannot and is
undecided halts at or above *never above*, passes within the goal, and is else inconclusive. A
stage in which nothing could be compared is inconclusive, too: it was asked for and did not happen;
so is one within the goal of which a device did not compare as much as was asked for in its time.
After it has passed, the same evidence watches on at a part of alpha.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from fleet_server.core.rollout_gate import Basis, StageJudgement, Verdict
from fleet_server.core.rollout_limits import OnInconclusive
from fleet_server.core.rollout_words import Z_95, say_devices, say_instant, say_share
from fleet_server.core.shadow_limits import DisagreementTest


class Compared(NamedTuple):
    """Devices whose counts are the same."""

    rows: int
    differing: int
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCounts:
    """What one stage has compared.

    Attributes:
        compared: Devices with rows, by their counts, ascending.
        through: Devices whose comparing is over or has done what was asked for.
        to_come: Devices that are still to be offered, on their way, or comparing.
        short: Of those through, held although their time-out is over with less than was asked for.
    """

    compared: tuple[Compared, ...] = ()
    through: int = 0
    to_come: int = 0
    short: int = 0

    def __post_init__(self) -> None:
        if min(self.through, self.to_come, self.short) < 0 or any(
            not (0 <= same.differing <= same.rows and same.rows > 0 and same.devices > 0)
            for same in self.compared
        ):
            raise ValueError(f"what was compared must fit: {self}")

    @property
    def devices(self) -> int:
        """Devices with rows."""
        return sum(same.devices for same in self.compared)

    @property
    def rows(self) -> int:
        """Rows compared."""
        return sum(same.rows * same.devices for same in self.compared)

    @property
    def differing(self) -> int:
        """Rows that differ."""
        return sum(same.differing * same.devices for same in self.compared)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        compared = [list(same) for same in self.compared]
        places = {"through": self.through, "to_come": self.to_come, "short": self.short}
        return {"compared": compared, **places}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShadowCounts":
        """Read the JSON form that ``to_json`` gave."""
        return cls(
            compared=tuple(Compared(*same) for same in value["compared"]),
            through=value["through"],
            to_come=value["to_come"],
            short=value.get("short", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettled:
    """That a stage's candidate was found close enough, when and on what."""

    at: datetime
    basis: Basis
    devices: int
    rows: int
    differing: int

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "at": self.at.isoformat(),
            "basis": str(self.basis),
            "devices": self.devices,
            "rows": self.rows,
            "differing": self.differing,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> "ShadowSettled | None":
        """Read the JSON form that ``to_json`` gave."""
        if value is None:
            return None
        at, basis = datetime.fromisoformat(value["at"]), Basis(value["basis"])
        counted = {name: value[name] for name in ("devices", "rows", "differing")}
        return cls(at=at, basis=basis, **counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowJudgement:
    """A verdict, the sentence beside it and what to remember for the next look."""

    verdict: Verdict
    sentence: str
    settled: ShadowSettled | None


def count_compared(devices: Iterable[tuple[int, int]]) -> tuple[Compared, ...]:
    """Put devices, each with rows and how many differ, together by their counts.

    >>> count_compared([(9, 1), (4, 0), (9, 1), (0, 0)])
    (Compared(rows=4, differing=0, devices=1), Compared(rows=9, differing=1, devices=2))
    """
    found: dict[tuple[int, int], int] = {}
    for rows, differing in devices:
        if rows:
            found[rows, differing] = found.get((rows, differing), 0) + 1
    return tuple(Compared(*key, found[key]) for key in sorted(found))


def weigh_stage(counts: ShadowCounts, test: DisagreementTest) -> float:
    """Add up the evidence of the devices; grows with every row that differs."""
    return sum(same.devices * test.weigh(same.rows, same.differing) for same in counts.compared)


def judge_shadow(
    counts: ShadowCounts,
    test: DisagreementTest,
    settled: ShadowSettled | None,
    *,
    now: datetime,
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE,
) -> ShadowJudgement:
    """Judge what one stage has compared.

    >>> now = datetime.fromisoformat("2026-01-01T12:00:00+00:00")
    >>> counts = ShadowCounts(compared=count_compared([(200, 90)]), to_come=5)
    >>> judge_shadow(counts, DisagreementTest(), None, now=now).verdict
    <Verdict.HALT: 'halt'>
    """
    figure, rule = say_compared(counts, test), _say_rule(test)
    if reason := _find_harm(counts, test, settled):
        return ShadowJudgement(
            verdict=Verdict.HALT, sentence=f"{figure} {rule}: {reason}", settled=settled
        )
    if settled is None:
        basis = _find_basis(counts, test, on_inconclusive)
        settled = settle_shadow(counts, basis, now=now) if basis is not None else None
    if settled is not None:
        said = f"{_say_settled(settled, test)} {figure}"
        return ShadowJudgement(verdict=Verdict.ADVANCE, sentence=said, settled=settled)
    if counts.to_come:
        verdict = Verdict.WAIT if counts.compared else Verdict.WAIT_NO_DATA
        said = f"{figure} {rule}: not decided yet, {counts.to_come} still to compare."
        return ShadowJudgement(verdict=verdict, sentence=said, settled=None)
    if not counts.through:
        said = f"{figure} Nobody here compares."
        return ShadowJudgement(verdict=Verdict.ADVANCE, sentence=said, settled=None)
    what = "the evidence decides neither" if counts.compared else "nothing to judge"
    said = f"{figure} {rule}: all are through{_say_short(counts)}, {what}."
    if on_inconclusive is OnInconclusive.HALT:
        said += " The policy halts an undecided stage."
        return ShadowJudgement(verdict=Verdict.HALT, sentence=said, settled=None)
    return ShadowJudgement(verdict=Verdict.INCONCLUSIVE, sentence=said, settled=None)


def settle_shadow(counts: ShadowCounts, basis: Basis, *, now: datetime) -> ShadowSettled:
    """Remember that a stage passed."""
    return ShadowSettled(
        at=now,
        basis=basis,
        devices=counts.devices,
        rows=counts.rows,
        differing=counts.differing,
    )


def join_verdicts(stage: StageJudgement, shadow: ShadowJudgement) -> tuple[Verdict, str]:
    """Give the verdict of both gates: the less kind one, and nothing passes only one of them."""
    both = f"{stage.sentence} In shadow: {shadow.sentence}"
    if stage.verdict is Verdict.HALT:
        return Verdict.HALT, stage.sentence
    if shadow.verdict is Verdict.HALT:
        return Verdict.HALT, f"In shadow: {shadow.sentence}"
    if Verdict.INCONCLUSIVE in (stage.verdict, shadow.verdict):
        is_shadow = shadow.verdict is Verdict.INCONCLUSIVE
        return Verdict.INCONCLUSIVE, f"In shadow: {shadow.sentence}" if is_shadow else both
    if stage.verdict is Verdict.ADVANCE:
        return shadow.verdict, both
    is_fed = stage.verdict is Verdict.WAIT or shadow.verdict is Verdict.WAIT
    return Verdict.WAIT if is_fed else Verdict.WAIT_NO_DATA, both


def find_share_interval(counts: ShadowCounts, likeness: float) -> tuple[float, float]:
    """Give the 95 % interval of the share that differs, each end 0 to 1; needs rows.

    Wilson's, on the rows that as many independent ones would be worth: the variance of a share
    over clusters is ``1 + (rows - 1) * likeness`` times that of independent rows of a device.
    """
    if not counts.rows:
        raise ValueError("nothing was compared: there is no share")
    inflated = sum(
        same.devices * same.rows * (1 + (same.rows - 1) * likeness) for same in counts.compared
    )
    worth, share = counts.rows**2 / inflated, counts.differing / counts.rows
    weight = Z_95 * Z_95 / worth
    middle = (share + weight / 2) / (1 + weight)
    half = Z_95 / (1 + weight) * math.sqrt(share * (1 - share) / worth + weight / 4 / worth)
    low = 0.0 if counts.differing == 0 else max(0.0, middle - half)
    return low, 1.0 if counts.differing == counts.rows else min(1.0, middle + half)


def say_compared(counts: ShadowCounts, test: DisagreementTest) -> str:
    """Say how many rows differ, with the interval, or that none were compared.

    >>> say_compared(ShadowCounts(compared=(Compared(200, 4, 3),)), DisagreementTest())
    '12 of 600 rows on 3 devices differ: 2 % (0.4 to 9.9 %).'
    """
    if not counts.rows:
        return "No rows were compared."
    low, high = find_share_interval(counts, test.likeness)
    by = f" by {test.difference_min:g} or more" if test.difference_min else ""
    return (
        f"{counts.differing:,} of {counts.rows:,} rows on {say_devices(counts.devices)} differ{by}:"
        f" {say_share(counts.differing / counts.rows)}"
        f" ({say_share(low).removesuffix(' %')} to {say_share(high)})."
    )


def say_limits(test: DisagreementTest) -> str:
    """Say the limits in a plan.

    >>> say_limits(DisagreementTest(difference_min=0.01))
    'goal 2 % of rows differing by 0.01 or more, never above 10 %'
    """
    by = f" by {test.difference_min:g} or more" if test.difference_min else ""
    return (
        f"goal {say_share(test.goal)} of rows differing{by}, never above"
        f" {say_share(test.never_above)}"
    )


def _find_harm(counts: ShadowCounts, test: DisagreementTest, settled: ShadowSettled | None) -> str:
    """Say why the candidate must stop; empty when it need not."""
    evidence = weigh_stage(counts, test)
    if settled is not None:
        if evidence < test.watch_halt_at:
            return ""
        return f"it passed at {say_instant(settled.at)}, but now the evidence says too many differ."
    if evidence >= test.halt_at:
        return "the evidence says too many differ."
    is_over = counts.rows > 0 and counts.to_come == 0
    if is_over and counts.differing >= test.never_above * counts.rows:
        return "too many of all compared rows differ."
    return ""


def _find_basis(
    counts: ShadowCounts, test: DisagreementTest, on_inconclusive: OnInconclusive
) -> Basis | None:
    """Say on what the candidate is found close enough; None when it is not."""
    if counts.rows and weigh_stage(counts, test) <= test.advance_at:
        return Basis.EVIDENCE
    if counts.to_come or not counts.through:
        return None
    if counts.rows and not counts.short and counts.differing <= test.goal * counts.rows:
        return Basis.ALL_FINISHED
    return Basis.POLICY if on_inconclusive is OnInconclusive.ADVANCE else None


def _say_short(counts: ShadowCounts) -> str:
    """Say who is held with too little compared.

    >>> _say_short(ShadowCounts(through=3, short=2))
    ' (2 devices are held: their time is over, with less than was asked for)'
    """
    if not counts.short:
        return ""
    are = "device is held: its" if counts.short == 1 else "devices are held: their"
    return f" ({counts.short:,} {are} time is over, with less than was asked for)"


def _say_rule(test: DisagreementTest) -> str:
    return f"Never above {say_share(test.never_above)} (goal {say_share(test.goal)})"


def _say_settled(settled: ShadowSettled, test: DisagreementTest) -> str:
    when = f"Decided {say_instant(settled.at)} on {say_devices(settled.devices)}:"
    match settled.basis:
        case Basis.OPERATOR:
            return f"{when} let pass by the operator."
        case Basis.POLICY:
            return f"{when} the evidence decides neither, the policy lets it pass."
        case Basis.EVIDENCE:
            return f"{when} the evidence says below {say_share(test.never_above)}."
        case _:
            return (
                f"{when} all within the goal of {say_share(test.goal)}"
                " (too few to decide statistically)."
            )
