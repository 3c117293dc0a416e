"""Compare counters with counters: has this distribution moved, how far, and in which way?

One *cell* is one feature of one device, group or fleet: counts per bin, ``missing``, ``outside``.
It is compared with the counts of a reference that is itself a sample: under the null hypothesis
both are drawn from the pooled shares, so a small reference raises no false alarm, bins may have
any shares, and ties cost nothing. Pearson's chi-square is split into location, spread and rest by
contrasts orthonormal under the pooled shares; missing and outside rows get exact tests. Where the
quick approximations are small they are replaced by the tails of ``drift_tails.py``.

p-values are natural logarithms: a shifted fleet underflows anything else. Left out: thresholds,
horizons and sentences (``drift_verdict.py``). PSI is an effect size here, never a test.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fleet_server.core.drift_tails import (
    Floats,
    log_chi2,
    log_fisher_more,
    log_fisher_two_sided,
    log_saddlepoint,
    log_two_sided_normal,
)

ROWS_MIN = 30
"""Fewer rows on either side are not tested; merge windows first."""
CHUNK_CELLS = 8_192
REFINE_LOG_P = math.log(2e-3)
"""Quick approximations below this are replaced by the careful tails."""
RATE_WEIGHT = 0.1
"""Part of a cell's error spent on missing rows, and as much on outside rows: either comes in
lumps that need little of it, the shape needs the rest (weighted Bonferroni)."""
MISSING, OUTSIDE = -2, -1
"""Columns of a cell's counts behind its bins."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What the null hypothesis must allow on top of sampling noise; the defaults allow nothing.

    Attributes:
        design_effect: Factor on the variance, at least 1: rows of one window that resemble each
            other (autocorrelation) carry less evidence than their number.
        concentration: Windows differ naturally as draws from a Dirichlet of this concentration;
            infinite when they do not.
    """

    design_effect: float = 1.0
    concentration: float = math.inf

    def __post_init__(self) -> None:
        if not self.design_effect >= 1 or not self.concentration > 0:
            raise ValueError(f"{self}: needs design_effect >= 1 and concentration > 0")


NO_VARIATION = Variation()


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResults:
    """One entry a cell.

    Attributes:
        z_location: Standardised shift of the mean rank; above 0 means towards larger values.
        z_spread: Above 0 means more rows at both ends.
        log_p_location: Two-sided.
        log_p_spread: Two-sided.
        log_p_rest: Whatever is neither location nor spread.
        log_p_missing: Two-sided.
        log_p_outside: Only "more than expected" counts.
        log_p: Of the cell: all of the above together, corrected for their number.
        psi: Debiased population stability index, missing and outside rows included.
    """

    z_location: Floats
    z_spread: Floats
    log_p_location: Floats
    log_p_spread: Floats
    log_p_rest: Floats
    log_p_missing: Floats
    log_p_outside: Floats
    log_p: Floats
    psi: Floats


def compare_cells(
    counts: Counts,
    reference: Counts,
    *,
    windows: NDArray[np.int64] | int = 1,
    variation: Variation = NO_VARIATION,
    outside_extra: int = 1,
) -> CellResults:
    """Test cells with ordered bins, each against its own reference.

    Args:
        counts: int64 [cells, bins + 2]: bins (absent ones 0 on both sides), missing, outside.
        reference: The same for the reference; one row serves all cells.
        windows: Windows added into each cell; only natural variation needs it.
        variation: What to allow for.
        outside_extra: 1 when the reference's own extreme rows bound its range (one at each end:
            new rows then fall outside at a known rate); 0 when the reference counted its outside
            rows like anybody else.

    Returns:
        log_p 0 and psi 0 where either side has fewer than ``ROWS_MIN`` rows.
    """
    counts = np.atleast_2d(counts)
    reference = np.broadcast_to(np.atleast_2d(reference), counts.shape)
    merged = np.broadcast_to(np.maximum(windows, 1), counts.shape[:1])
    parts = [
        _compare_chunk(
            counts[at : at + CHUNK_CELLS].T.astype(np.float64),
            reference[at : at + CHUNK_CELLS].T.astype(np.float64),
            merged[at : at + CHUNK_CELLS],
            variation,
            outside_extra,
        )
        for at in range(0, max(1, len(counts)), CHUNK_CELLS)
    ]
    return CellResults(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(CellResults)
        }
    )


def compare_mixes(
    counts: Counts,
    reference: Counts,
    *,
    windows: NDArray[np.int64] | int = 1,
    variation: Variation = NO_VARIATION,
) -> tuple[Floats, Floats]:
    """Test unordered categories, such as predicted classes.

    Returns:
        log_p and debiased PSI, one entry a cell; 0 below ``ROWS_MIN`` rows on either side.
    """
    c = np.atleast_2d(counts)
    r = np.broadcast_to(np.atleast_2d(reference), c.shape)
    merged = np.broadcast_to(np.maximum(windows, 1), c.shape[:1])
    pair = _Pair(c.T.astype(np.float64), r.T.astype(np.float64), merged, variation)
    freedom = np.maximum(pair.kinds - 1.0, 0.0)
    log_p = np.maximum(log_chi2(pair.pearson(), freedom), log_chi2(pair.deviance(), freedom))
    return np.where(pair.is_enough, log_p, 0.0), np.where(pair.is_enough, pair.psi(), 0.0)


class _Pair:
    """Two samples over the same bins: counts ``c`` of ``n`` rows, ``r`` of ``m``; [bins, cells].

    Bins come first so that sums over the few bins run over whole rows of cells.
    """

    def __init__(
        self, c: Floats, r: Floats, windows: NDArray[np.int64], variation: Variation
    ) -> None:
        self.c, self.r = c, r
        new, old = c.sum(0), r.sum(0)
        self.is_enough = (new >= ROWS_MIN) & (old >= ROWS_MIN)
        self.n, self.m = np.maximum(new, 1.0), np.maximum(old, 1.0)
        self.pooled = (c + r) / (self.n + self.m)
        self.difference = c / self.n - r / self.m
        self.kinds = np.count_nonzero(self.pooled, axis=0)
        natural = self.n / windows / variation.concentration
        self.inflation = variation.design_effect + natural / (1 + self.n / self.m)
        self.weight = 1 / (1 / self.n + 1 / self.m) / self.inflation
        """Rows of evidence: n / (1 + n / m) for a plain sample."""

    def take(self, cells: NDArray[np.intp]) -> "_Pair":
        """Return some of the cells."""
        part = object.__new__(_Pair)
        for name, value in vars(self).items():
            setattr(part, name, value[..., cells])
        return part

    def pearson(self) -> Floats:
        """Pearson's two-sample chi-square, variance factors divided out."""
        share = np.where(self.pooled > 0, self.pooled, 1.0)
        return np.asarray(self.weight * (self.difference**2 / share).sum(0))

    def deviance(self) -> Floats:
        """Likelihood-ratio statistic, variance factors divided out.

        Right in the far tail where Pearson's is not: one row in a bin nobody expected.
        """
        from scipy import special

        pooled = np.where(self.pooled > 0, self.pooled, 1.0)
        new = special.xlogy(self.c, self.c / (self.n * pooled))
        old = special.xlogy(self.r, self.r / (self.m * pooled))
        return np.asarray(2 * (new + old).sum(0) / self.inflation)

    def psi(self) -> Floats:
        """Population stability index less what noise alone would show, at least 0."""
        is_seen = self.pooled > 0
        new = (self.c + 0.5) / (self.n + self.kinds / 2)
        old = (self.r + 0.5) / (self.m + self.kinds / 2)
        raw = np.where(is_seen, (new - old) * np.log(new / old), 0.0).sum(0)
        noise = (self.kinds - 1) * (1 / self.n + 1 / self.m) * self.inflation
        return np.asarray(np.maximum(raw - noise, 0.0))


def _compare_chunk(
    c: Floats,
    r: Floats,
    windows: NDArray[np.int64],
    variation: Variation,
    outside_extra: int,
) -> CellResults:
    everything = _Pair(c, r, windows, variation)
    z, log_p, kinds = _compare_shapes(_Pair(c[:MISSING], r[:MISSING], windows, variation))
    scale = everything.inflation
    k, n = np.floor(c[MISSING:] / scale), np.floor(everything.n / scale)
    missing = log_fisher_two_sided(k[0], n, r[MISSING], everything.m)
    present = everything.m - r[MISSING]
    outside = log_fisher_more(k[1], n - k[0], r[OUTSIDE] + outside_extra, present)
    is_enough = everything.is_enough
    missing, outside = np.where(is_enough, missing, 0.0), np.where(is_enough, outside, 0.0)
    shape = np.minimum(log_p.min(0) + np.log(np.clip(kinds - 1, 1, 3)), 0.0)
    rates = np.minimum(missing, outside) - math.log(RATE_WEIGHT)
    cell = np.minimum(shape - math.log(1 - 2 * RATE_WEIGHT), rates)
    return CellResults(
        z_location=z[0],
        z_spread=z[1],
        log_p_location=log_p[0],
        log_p_spread=log_p[1],
        log_p_rest=log_p[2],
        log_p_missing=missing,
        log_p_outside=outside,
        log_p=np.minimum(cell, 0.0),
        psi=np.where(is_enough, everything.psi(), 0.0),
    )


def _compare_shapes(pair: _Pair) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Location, spread and rest: z [2, cells], log p [3, cells]; and how many bins count."""
    location, spread = _contrasts(pair.pooled)
    means = np.stack(((location * pair.difference).sum(0), (spread * pair.difference).sum(0)))
    z = np.where(pair.is_enough, means * np.sqrt(pair.weight), 0.0)
    rest = pair.pearson() - z[0] ** 2 - z[1] ** 2
    log_p = np.stack(
        (
            log_two_sided_normal(z[0]),
            log_two_sided_normal(z[1]),
            np.where(pair.is_enough, log_chi2(rest, np.maximum(pair.kinds - 3.0, 0.0)), 0.0),
        )
    )
    small = np.flatnonzero(log_p.min(0) < REFINE_LOG_P)
    if len(small):
        scores = location[:, small], spread[:, small]
        log_p[:, small] = _refine(pair.take(small), scores, means[:, small], log_p[:, small])
    return z, log_p, pair.kinds


def _refine(pair: _Pair, scores: tuple[Floats, Floats], means: Floats, quick: Floats) -> Floats:
    sample = pair.pooled, pair.n, pair.m, pair.inflation
    location, along_location = log_saddlepoint(means[0], scores[0], *sample)
    spread, along_spread = log_saddlepoint(means[1], scores[1], *sample)
    left = pair.deviance() - along_location - along_spread
    rest = np.maximum(quick[2], log_chi2(left, np.maximum(pair.kinds - 3.0, 0.0)))
    return np.where(quick < REFINE_LOG_P, np.stack((location, spread, rest)), quick)


def _contrasts(shares: Floats) -> tuple[Floats, Floats]:
    """Scores of location and spread, mean 0, variance 1, orthogonal under ``shares``.

    A contrast that the bins cannot carry (one bin; two for the spread) is 0.
    """
    location = np.cumsum(shares, axis=0) - shares / 2 - 0.5
    location *= _inverse_sd(location, shares)
    square = location * location
    skew = (square * location * shares).sum(0)
    spread = square - 1 - skew * location
    spread *= _inverse_sd(spread, shares)
    return location, spread


def _inverse_sd(scores: Floats, shares: Floats) -> Floats:
    variance = (scores * scores * shares).sum(0)
    is_carried = variance > 1e-12
    return np.where(is_carried, 1 / np.sqrt(np.where(is_carried, variance, 1.0)), 0.0)
