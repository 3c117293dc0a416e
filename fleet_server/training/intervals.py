"""One-sided 95 % bounds of a metric and of the difference of two models on the same rows.

Shares take Wilson's interval, paired differences of shares the Wald interval with half a row
added on each side; every other metric takes the bootstrap over blocks of rows. The randomness is
seeded: the same answers always give the same bounds.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet_server.training.metrics import Answers, Floats, Metric

CONFIDENCE = 0.95
Z_CONFIDENCE = 1.6448536269514722
Z_POWER = 0.8416212335729143
"""Power .8: what 'about N more rows' is counted for."""
SETTLE_SHARE_MIN = 1e-3
"""Of the standard error: a limit nearer than this is not settled by any number worth telling."""
RESAMPLES = 1_000
BLOCKS_MAX = 2_000
CELLS_MAX = 8_000_000
"""Blocks times columns of one metric."""
_SEED = 20_260_101


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its one-sided bounds.

    Attributes:
        value: On these rows.
        low: With 95 % confidence it is not below this.
        high: With 95 % confidence it is not above this.
        rows: It rests on.
    """

    value: float
    low: float
    high: float
    rows: int

    def rows_to_settle(self, distance: float) -> int:
        """Give about how many further rows settle a limit this far away; 0 when none can be told.

        Args:
            distance: From the value to the limit, above 0, if the value is the truth.
        """
        spread = (self.high - self.low) / (2 * Z_CONFIDENCE)
        if distance <= spread * SETTLE_SHARE_MIN or spread <= 0:
            return 0
        wanted = self.rows * ((Z_CONFIDENCE + Z_POWER) * spread / distance) ** 2
        return max(math.ceil(wanted) - self.rows, 1)


class Resampler:
    """Weights of one bootstrap, shared by every metric and model on the same rows."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._weights: dict[int, Floats] = {}

    def estimate(self, metric: Metric, truth: NDArray[Any], answers: Answers) -> Estimate:
        """Give a metric with its bounds."""
        scores = metric.rows(truth, answers)
        value = float(metric.value(scores.sum(axis=0)))
        if metric.is_share:
            low, high = _wilson(scores[:, 1].sum(), self._rows)
        else:
            low, high = _quantiles(metric.value(self._resample(scores)))
        return Estimate(value=value, low=low, high=high, rows=self._rows)

    def compare(
        self, metric: Metric, truth: NDArray[Any], candidate: Answers, champion: Answers
    ) -> Estimate:
        """Give candidate minus champion, turned so that above 0 the candidate is better."""
        sign = 1.0 if metric.is_larger_better else -1.0
        mine, theirs = metric.rows(truth, candidate), metric.rows(truth, champion)
        value = sign * float(metric.value(mine.sum(axis=0)) - metric.value(theirs.sum(axis=0)))
        if metric.is_share:
            low, high = _paired_shares(mine[:, 1], theirs[:, 1])
        else:
            # One resampling of both, side by side, keeps the pairing.
            both = self._resample(np.concatenate([mine, theirs], axis=1))
            mine_sums, their_sums = np.split(both, 2, axis=1)
            low, high = _quantiles(sign * (metric.value(mine_sums) - metric.value(their_sums)))
        return Estimate(value=value, low=low, high=high, rows=self._rows)

    def _resample(self, scores: Floats) -> Floats:
        """Give column sums of each resample, [RESAMPLES, k]; rows are first summed in blocks.

        Blocks hold rows that have nothing in common (the rows are ordered by their hash), so
        drawing blocks draws rows; it bounds time and memory.
        """
        blocks = min(self._rows, BLOCKS_MAX, max(CELLS_MAX // scores.shape[1], 200))
        starts = np.arange(blocks) * self._rows // blocks
        return np.asarray(self._weights_of(blocks) @ np.add.reduceat(scores, starts, axis=0))

    def _weights_of(self, blocks: int) -> Floats:
        if blocks not in self._weights:
            draws = np.random.default_rng(_SEED).integers(0, blocks, (RESAMPLES, blocks))
            cells = draws + np.arange(RESAMPLES)[:, None] * blocks
            counts = np.bincount(cells.ravel(), minlength=RESAMPLES * blocks)
            self._weights[blocks] = counts.reshape(RESAMPLES, blocks).astype(np.float64)
        return self._weights[blocks]


def _wilson(right: float, rows: int) -> tuple[float, float]:
    share, z2 = right / rows, Z_CONFIDENCE**2
    centre = share + z2 / (2 * rows)
    half = Z_CONFIDENCE * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    scale = 1 + z2 / rows
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _paired_shares(mine: Floats, theirs: Floats) -> tuple[float, float]:
    gained = float(np.sum((mine > 0) & (theirs == 0))) + 0.5
    lost = float(np.sum((mine == 0) & (theirs > 0))) + 0.5
    rows = len(mine) + 2.0
    difference = (gained - lost) / rows
    spread = math.sqrt(gained + lost - (gained - lost) ** 2 / rows) / rows
    return difference - Z_CONFIDENCE * spread, difference + Z_CONFIDENCE * spread


def _quantiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [1 - CONFIDENCE, CONFIDENCE])
    return float(low), float(high)
