"""Tail probabilities of drift statistics that stay right where the usual approximations fail.

A false-alarm budget of one a day over a large fleet asks for p-values near 1e-9. There a normal
approximation of a rank sum over rare bins is wrong by orders of magnitude, so: Fisher's exact test
for single counts, saddlepoints for weighted sums of counts, logarithms throughout. Vectorised over
cells, plain float64.

scipy is loaded by the first test made: every process of the server knows the drift policy, few ever
judge one.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEWTON_STEPS = 12
TERMS_MAX = 20_000
_LOG_2 = math.log(2)
_FAR = 60.0
"""Exponents beyond it are left at the bound, which is still a valid tail bound."""


def log_two_sided_normal(z: Floats) -> Floats:
    """Log of P(|Z| >= |z|).

    >>> round(float(np.exp(log_two_sided_normal(np.array([1.96])))[0]), 3)
    0.05
    """
    from scipy import special

    return np.asarray(np.minimum(_LOG_2 + special.log_ndtr(-np.abs(z)), 0.0))


def log_chi2(x: Floats, freedom: Floats) -> Floats:
    """Log of P(chi-square with ``freedom`` degrees >= x); 0 where there are no degrees.

    >>> round(float(np.exp(log_chi2(np.array([3.841]), np.array([1.0])))[0]), 3)
    0.05
    """
    from scipy import special

    half, shape = np.maximum(x, 0.0) / 2, np.maximum(freedom, 1.0) / 2
    tail = special.gammaincc(shape, half)
    with np.errstate(divide="ignore"):
        result = np.log(tail)
    far = tail < 1e-290
    if np.any(far):
        # The leading term of the asymptotic series; half >> shape here.
        a, y = shape[far], half[far]
        result[far] = (a - 1) * np.log(y) - y - special.gammaln(a) + np.log1p((a - 1) / y)
    return np.where(freedom > 0, result, 0.0)


def log_fisher_more(k: Floats, n: Floats, r: Floats, m: Floats) -> Floats:
    """Exact log P(at least ``k`` new rows have a property | ``k + r`` of all ``n + m`` have it).

    Args:
        k: New rows that have the property.
        n: New rows.
        r: Reference rows that have it.
        m: Reference rows.

    Returns:
        0 (certain) where the new share is not above the reference's.

    >>> round(float(np.exp(log_fisher_more(*np.array([[3.0], [10.0], [1.0], [20.0]])))[0]), 4)
    0.0952
    """
    k, n, r, m = np.broadcast_arrays(k, n, r, m)
    result = np.zeros(k.shape)
    busy = np.flatnonzero((k > 0) & (k * m > r * n))
    if not len(busy):
        return result
    k, n, r, m = (a[busy].astype(np.float64) for a in (k, n, r, m))
    first = log_choose(n, k) + log_choose(m, r) - log_choose(n + m, k + r)
    total, term = np.ones(len(busy)), np.ones(len(busy))
    for _ in range(TERMS_MAX):
        term = term * (n - k) * r / ((k + 1) * (m - r + 1))
        k, r = k + 1, r - 1
        total = total + term
        if not np.any(term > 1e-14 * total):
            break
    result[busy] = np.minimum(first + np.log(total), 0.0)
    return result


def log_fisher_two_sided(k: Floats, n: Floats, r: Floats, m: Floats) -> Floats:
    """Twice the smaller one-sided tail, at most 1, as a logarithm."""
    smaller = np.minimum(log_fisher_more(k, n, r, m), log_fisher_more(r, m, k, n))
    return np.minimum(smaller + _LOG_2, 0.0)


def log_choose(n: Floats, k: Floats) -> Floats:
    """Log of the binomial coefficient."""
    from scipy import special

    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def log_saddlepoint(
    difference: Floats,
    scores: Floats,
    shares: Floats,
    n: Floats,
    m: Floats,
    inflation: Floats,
) -> tuple[Floats, Floats]:
    """Two-sided log tail of a difference of mean scores between two samples of the same shares.

    Args:
        difference: Mean score of the new rows minus that of the reference rows, [cells].
        scores: Score of each bin, [bins, cells]; mean 0 and variance 1 under ``shares``.
        shares: Pooled shares, [bins, cells]; a bin with share 0 plays no part.
        n: New rows, [cells].
        m: Reference rows, [cells].
        inflation: Factor on the variance of a plain sample, [cells].

    Returns:
        The log tail, and the deviance along the scores (twice the exponent), both [cells].
    """
    h = scores * np.where(difference < 0, -1.0, 1.0)
    t, exponent, curvature = _solve(np.abs(difference), h, shares, n, m)
    exponent, curvature, t = exponent / inflation, curvature * inflation, t / inflation
    # Sums of counts jump by the smallest difference of two scores: P(>= x) is a sum over steps.
    step = _smallest_gap(h, shares) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        per_step = np.where(step > 0, -np.expm1(-t * step) / step, t)
        log_tail = exponent - 0.5 * np.log(2 * math.pi * curvature) - np.log(per_step)
    log_tail = np.where(np.isfinite(log_tail), np.minimum(log_tail, 0.0), exponent)
    return np.minimum(log_tail + _LOG_2, 0.0), -2 * exponent


def _solve(
    target: Floats, h: Floats, shares: Floats, n: Floats, m: Floats
) -> tuple[Floats, Floats, Floats]:
    """Find t with K'(t) = target; returns t, K(t) - t target, K''(t).

    Any t gives a valid bound, so a search that has not ended errs on the side of no alarm.
    """
    low, high = np.zeros_like(target), np.full_like(target, np.inf)
    bound = _FAR * np.minimum(n, m) / np.maximum(np.abs(h).max(axis=0), 1.0)
    t = np.minimum(target / (1 / n + 1 / m), bound)
    best_t, best = np.zeros_like(t), np.zeros_like(t)
    best_curvature = 1 / n + 1 / m
    for _ in range(NEWTON_STEPS):
        new, old = _tilt(h, shares, t / n), _tilt(h, shares, -t / m)
        exponent = n * new[0] + m * old[0] - t * target
        slope, curvature = new[1] - old[1], new[2] / n + old[2] / m
        is_better = exponent < best
        best = np.where(is_better, exponent, best)
        best_t = np.where(is_better, t, best_t)
        best_curvature = np.where(is_better, curvature, best_curvature)
        miss = target - slope
        if np.all((np.abs(miss) <= 1e-7 * target) | (t >= bound)):
            break
        low, high = np.where(miss > 0, t, low), np.where(miss > 0, high, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = t + miss / curvature
        middle = np.where(np.isinf(high), 2 * t, (low + high) / 2)
        t = np.minimum(np.where((newton > low) & (newton < high), newton, middle), bound)
    return best_t, best, np.maximum(best_curvature, 1e-300)


def _tilt(h: Floats, shares: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Log moment generating function at x with its first two derivatives."""
    weights = np.exp(np.clip(h * x, -700, 700)) * shares
    total = weights.sum(0)
    mean = np.einsum("ij,ij->j", h, weights) / total
    variance = np.einsum("ij,ij,ij->j", h, h, weights) / total - mean * mean
    return np.log(total), mean, np.maximum(variance, 0.0)


def _smallest_gap(h: Floats, shares: Floats) -> Floats:
    gaps = np.diff(np.sort(np.where(shares > 0, h, np.nan), axis=0), axis=0)
    smallest = np.where(gaps > 1e-9, gaps, np.inf).min(axis=0)
    return np.where(np.isfinite(smallest), smallest, 0.0)
