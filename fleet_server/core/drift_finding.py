"""One feature of one subject in one judgement, in numbers a person can use, replayable.

``Evidence`` holds the counters a finding was made of; ``judge_evidence`` makes it again.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet_server.core.drift_compare import SubjectResults, find_median_rank
from fleet_server.core.drift_counts import HORIZONS
from fleet_server.core.drift_test import (
    MISSING,
    NO_VARIATION,
    OUTSIDE,
    CellResults,
    Variation,
    compare_cells,
    compare_mixes,
)

LOG_HORIZONS = math.log(len(HORIZONS))


class Change(StrEnum):
    """In which way a feature moved most certainly."""

    UP = "up"
    DOWN = "down"
    WIDER = "wider"
    NARROWER = "narrower"
    SHAPE = "shape"
    MISSING = "missing"
    OUTSIDE = "outside"
    MIX = "mix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares that a sentence quotes, each 0 to 1, now and in the baseline.

    ``top_class`` is the class, or the category, whose share changed most.
    """

    missing: float = 0.0
    missing_before: float = 0.0
    outside: float = 0.0
    outside_before: float = 0.0
    top_class: str = ""
    top: float = 0.0
    top_before: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one cell.

    Attributes:
        feature: Column name, or ``answers``.
        change: The most certain kind of change.
        rows: Behind it.
        windows: Windows added.
        z_location: Location part.
        z_spread: Spread part.
        log_p: Of the cell, corrected for the four horizons.
        psi: Debiased.
        median_rank: Quantile of the baseline at which the median now lies.
        shares: What else a sentence may quote.
        is_answers: The output distribution, not an input.
    """

    feature: str
    change: Change
    rows: int
    windows: int
    z_location: float
    z_spread: float
    log_p: float
    psi: float
    median_rank: float
    shares: Shares
    is_answers: bool = False

    @property
    def p_value(self) -> float:
        """0 where it underflows; ``log_p`` never does."""
        return math.exp(self.log_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Counters behind one finding.

    Attributes:
        feature: Column name, or ``answers``.
        windows: Windows added.
        counts: Cell of 12 counts: bins, missing, outside.
        baseline: The same of what it is compared with.
        mix: Rows a class, for the answers of a classification.
        baseline_mix: The same.
        classes: Names of the classes, or of the bins of a category; empty for numbers.
        is_reference: The baseline is the training reference.
        is_answers: The output distribution, not an input.
    """

    feature: str
    windows: int
    counts: tuple[int, ...]
    baseline: tuple[int, ...]
    mix: tuple[int, ...] = ()
    baseline_mix: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    is_reference: bool = True
    is_answers: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Evidence":
        """Read the JSON form."""
        lists = {k: tuple(v) for k, v in value.items() if isinstance(v, list | tuple)}
        return cls(
            feature=str(value["feature"]),
            windows=int(value["windows"]),
            is_reference=bool(value["is_reference"]),
            is_answers=bool(value["is_answers"]),
            **lists,
        )


def judge_evidence(evidence: Evidence, variation: Variation = NO_VARIATION) -> Finding:
    """Make the finding of stored counters: the same numbers as when it was made first."""
    cells = compare_cells(
        np.array(evidence.counts),
        np.array(evidence.baseline),
        windows=evidence.windows,
        variation=variation,
        outside_extra=int(evidence.is_reference and not evidence.is_answers),
    )
    log_p, psi, log_p_mix = float(cells.log_p[0]), float(cells.psi[0]), 0.0
    if evidence.mix:
        mixes, effects = compare_mixes(
            np.array(evidence.mix),
            np.array(evidence.baseline_mix),
            windows=evidence.windows,
            variation=variation,
        )
        log_p_mix = float(mixes[0])
        log_p = min(min(log_p, log_p_mix) + math.log(2), 0.0)
        psi = max(psi, float(effects[0]))
    return _describe(evidence, cells, (0,), log_p, psi, log_p_mix)


def read_finding(results: SubjectResults, at: tuple[int, int, int], evidence: Evidence) -> Finding:
    """Read a finding out of results: subject, horizon, feature."""
    log_p_mix = float(results.log_p_mix[at]) if evidence.mix else 0.0
    return _describe(
        evidence,
        results.cells,
        at,
        float(results.log_p[at]),
        float(results.psi[at]),
        log_p_mix,
    )


def _describe(
    evidence: Evidence,
    cells: CellResults,
    at: tuple[int, ...],
    log_p: float,
    psi: float,
    log_p_mix: float,
) -> Finding:
    return Finding(
        feature=evidence.feature,
        change=find_change(cells, at, log_p_mix),
        rows=sum(evidence.counts),
        windows=evidence.windows,
        z_location=float(cells.z_location[at]),
        z_spread=float(cells.z_spread[at]),
        log_p=min(log_p + LOG_HORIZONS, 0.0),
        psi=psi,
        median_rank=find_median_rank(evidence.counts, evidence.baseline),
        shares=find_shares(evidence),
        is_answers=evidence.is_answers,
    )


def find_change(cells: CellResults, at: tuple[int, ...], log_p_mix: float = 0.0) -> Change:
    """Name the part of the test with the smallest p-value."""
    parts = {
        Change.UP if cells.z_location[at] >= 0 else Change.DOWN: cells.log_p_location[at],
        Change.WIDER if cells.z_spread[at] >= 0 else Change.NARROWER: cells.log_p_spread[at],
        Change.SHAPE: cells.log_p_rest[at],
        Change.MISSING: cells.log_p_missing[at],
        Change.OUTSIDE: cells.log_p_outside[at],
        Change.MIX: log_p_mix,
    }
    return min(parts, key=lambda change: float(parts[change]))


def find_shares(evidence: Evidence) -> Shares:
    """Give the shares that a sentence about this evidence may quote."""
    new, old = evidence.counts, evidence.baseline
    rows, rows_before = max(1, sum(new)), max(1, sum(old))
    top, top_now, top_before = "", 0.0, 0.0
    mix, mix_before = evidence.mix, evidence.baseline_mix
    if evidence.classes and not evidence.is_answers:
        mix, mix_before = new[: len(evidence.classes)], old[: len(evidence.classes)]
    if mix:
        answers, answers_before = max(1, sum(mix)), max(1, sum(mix_before))
        now = [count / answers for count in mix]
        before = [count / answers_before for count in mix_before]
        k = max(range(len(now)), key=lambda c: abs(now[c] - before[c]))
        top, top_now, top_before = evidence.classes[k], now[k], before[k]
    return Shares(
        missing=new[MISSING] / rows,
        missing_before=old[MISSING] / rows_before,
        outside=new[OUTSIDE] / rows,
        outside_before=old[OUTSIDE] / rows_before,
        top_class=top,
        top=top_now,
        top_before=top_before,
    )


def pick_horizons(results: SubjectResults) -> NDArray[np.intp]:
    """Choose the horizon to show of each subject and feature, [S, features + 1].

    The most certain one, or the longest that was judged when none says anything.
    """
    judged = results.windows > 0
    longest = np.where(judged, np.arange(len(HORIZONS)), 0).max(1)
    is_telling = results.log_p.min(1) < math.log(0.05) - LOG_HORIZONS
    return np.asarray(np.where(is_telling, results.log_p.argmin(1), longest[:, None]))
