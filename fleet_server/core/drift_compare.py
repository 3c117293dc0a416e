"""Compare subjects (devices, groups, the fleet) with a baseline, over horizons and features.

The answers are judged as one more feature, ``answers``: for a classification the mix of classes
and the confidence together, for a regression the value; several labels or targets are a feature
each. A result is kept for every horizon; choosing among them costs a factor, which
``drift_verdict.py`` pays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.reference import BINS_MAX, OutputReference
from fleet_server.core.drift_counts import (
    CELL_WIDTH,
    Counts,
    Sums,
    name_answers,
    split_answers,
)
from fleet_server.core.drift_tails import Floats
from fleet_server.core.drift_test import (
    NO_VARIATION,
    CellResults,
    Variation,
    compare_cells,
    compare_mixes,
)

ANSWERS = "answers"
"""Name of the output distribution among the features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectResults:
    """Arrays [S, 4, features + answers]; behind the features come the answers, or each of several.

    Attributes:
        cells: Every number of the test, reshaped.
        log_p_mix: Of the mix of classes; 0 for a feature or value.
        rows: Rows behind each cell.
        windows: [S, 4]; 0 where nothing was judged.
        since_ms: [S, 4].
    """

    cells: CellResults
    log_p_mix: Floats
    rows: Counts
    windows: Counts
    since_ms: Counts

    @property
    def log_p(self) -> Floats:
        """Of each cell, not yet corrected for horizons or features."""
        return self.cells.log_p

    @property
    def psi(self) -> Floats:
        """Debiased, of each cell."""
        return self.cells.psi


def compare_subjects(
    sums: Sums,
    baseline_cells: Counts,
    baseline_answers: Counts,
    outputs: tuple[OutputReference, ...],
    *,
    variation: Variation = NO_VARIATION,
    is_reference: bool = True,
) -> SubjectResults:
    """Test every cell of every subject.

    Args:
        sums: The subjects' counters.
        baseline_cells: [features, 12], or as ``sums.cells``.
        baseline_answers: [outputs, width] (each subject takes its own), or as ``sums.answers``.
        outputs: Answer references, indexed by ``sums.output_of``.
        variation: What to allow for.
        is_reference: The baseline is the training reference, not the rest of the fleet.
    """
    shape = sums.cells.shape[:3]
    extra = int(is_reference)
    merged = np.repeat(sums.windows[:, :, None], shape[2], axis=2)
    results = compare_cells(
        sums.cells.reshape(-1, CELL_WIDTH),
        np.broadcast_to(baseline_cells, sums.cells.shape).reshape(-1, CELL_WIDTH),
        windows=merged.reshape(-1),
        variation=variation,
        outside_extra=extra,
    )
    answers, log_p_mix, answer_rows = _compare_answers(
        sums, baseline_answers, outputs, variation, is_reference=is_reference
    )
    is_judged = sums.windows > 0
    joined = {
        field.name: np.concatenate(
            (
                getattr(results, field.name).reshape(shape),
                getattr(answers, field.name),
            ),
            axis=2,
        )
        for field in fields(CellResults)
    }
    for name in ("log_p", "psi"):
        joined[name] = np.where(is_judged[:, :, None], joined[name], 0.0)
    return SubjectResults(
        cells=CellResults(**joined),
        log_p_mix=np.where(
            is_judged[:, :, None], np.concatenate((np.zeros(shape), log_p_mix), axis=2), 0.0
        ),
        rows=np.concatenate((sums.cells.sum(3), answer_rows), axis=2),
        windows=sums.windows,
        since_ms=sums.since_ms,
    )


def _compare_answers(
    sums: Sums,
    baseline: Counts,
    outputs: tuple[OutputReference, ...],
    variation: Variation,
    *,
    is_reference: bool,
) -> tuple[CellResults, Floats, Counts]:
    names = name_answers(outputs)
    shape = (*sums.answers.shape[:2], len(names))
    parts = {field.name: np.zeros(shape) for field in fields(CellResults)}
    log_p_mix, rows = np.zeros(shape), np.zeros(shape, np.int64)
    for number, output in enumerate(outputs):
        chosen = np.flatnonzero(sums.output_of == number)
        if not len(chosen):
            continue
        own = sums.answers[chosen]
        against = np.broadcast_to(baseline[number] if is_reference else baseline[chosen], own.shape)
        (new, mixes), (old, old_mixes) = split_answers(output, own), split_answers(output, against)
        columns = [names.index(name) for name in name_answers((output,))]
        merged = sums.windows[chosen].reshape(-1)
        results = compare_cells(
            new.reshape(-1, CELL_WIDTH),
            old.reshape(-1, CELL_WIDTH),
            windows=np.repeat(merged, len(columns)),
            variation=variation,
            outside_extra=0,
        )
        for field in fields(CellResults):
            found = getattr(results, field.name).reshape(-1, shape[1], len(columns))
            for place, column in enumerate(columns):
                parts[field.name][chosen, :, column] = found[:, :, place]
        for place, column in enumerate(columns):
            rows[chosen, :, column] = new[:, :, place].sum(-1)
        for column, mix, old_mix in zip(columns, mixes, old_mixes, strict=False):
            log_p, psi = compare_mixes(
                mix.reshape(-1, mix.shape[-1]),
                old_mix.reshape(-1, mix.shape[-1]),
                windows=merged,
                variation=variation,
            )
            log_p_mix[chosen, :, column] = log_p.reshape(-1, shape[1])
            effects = np.maximum(parts["psi"][chosen, :, column], psi.reshape(-1, shape[1]))
            parts["psi"][chosen, :, column] = effects
            least = np.minimum(parts["log_p"][chosen, :, column], log_p_mix[chosen, :, column])
            parts["log_p"][chosen, :, column] = np.minimum(least + math.log(2), 0.0)
    return CellResults(**parts), log_p_mix, rows


def find_strength(log_p: Floats | float) -> Floats:
    """Say a p-value as the standard normal deviate that is as unlikely, 0 and up.

    >>> round(float(find_strength(math.log(0.0455))), 2)
    2.0
    """
    from scipy import special

    return np.asarray(np.maximum(-special.ndtri_exp(np.minimum(log_p, 0.0) - math.log(2)), 0.0))


def find_median_rank(counts: Sequence[int], reference: Sequence[int]) -> float:
    """Say at which quantile of the reference, 0 to 1, the median of ``counts`` now lies.

    Args:
        counts: One cell; only its bins are used.
        reference: The reference's cell.

    >>> find_median_rank([0, 0, 10, 10], [10, 10, 10, 10])
    0.75
    """
    new, old = counts[:BINS_MAX], reference[:BINS_MAX]
    half, rows_before = sum(new) / 2, sum(old)
    if not half or not rows_before:
        return 0.5
    seen = below = 0
    for count, before in zip(new, old, strict=True):
        if seen + count >= half:
            return (below + (half - seen) / count * before) / rows_before
        seen, below = seen + count, below + before
    return 1.0


def find_notable(log_p: Floats, rate: float) -> NDArray[np.bool_]:
    """Select by Benjamini-Hochberg along the last axis: at most ``rate`` of them by chance.

    >>> find_notable(np.log(np.array([0.001, 0.9, 0.02])), 0.05).tolist()
    [True, False, True]
    """
    count = log_p.shape[-1]
    if not count:
        return np.zeros(log_p.shape, bool)
    ordered = np.sort(log_p, axis=-1)
    limits = np.log(rate * np.arange(1, count + 1) / count)
    passed = np.where(ordered <= limits, ordered, -np.inf).max(axis=-1, keepdims=True)
    return np.asarray(log_p <= passed)
