import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits

from edge_agent.statistics.layout import CounterLayout
from fleet_server.core.drift_tails import log_chi2, log_fisher_more, log_fisher_two_sided
from fleet_server.core.drift_test import (
    ROWS_MIN,
    CellResults,
    Variation,
    compare_cells,
    compare_mixes,
)
from tests.support.drift import class_reference, count_rows

Ints = NDArray[np.int64]
EQUAL = np.full(10, 0.1)


def draw(
    seed: int, cells: int, n: int, m: int, shares: NDArray[np.float64] = EQUAL
) -> tuple[Ints, Ints]:
    """Windows and references of the same distribution, without missing or outside rows."""
    rng = np.random.default_rng(seed)
    none = np.zeros((cells, 2), np.int64)
    return (
        np.hstack((rng.multinomial(n, shares, cells), none)),
        np.hstack((rng.multinomial(m, shares, cells), none)),
    )


def one(bins: list[int], reference: list[int], **more: int) -> CellResults:
    extra = [more.get("missing", 0), more.get("outside", 0)]
    kept = [more.get("reference_missing", 0), 0]
    return compare_cells(np.array(bins + extra), np.array(reference + kept))


def test_the_three_parts_add_up_to_pearsons_chi_square() -> None:
    c, r = draw(1, 20, 400, 900)
    result = compare_cells(c, r)
    for k in range(20):
        x2 = stats.chi2_contingency(np.stack((c[k, :10], r[k, :10])), correction=False)[0]
        rest = x2 - result.z_location[k] ** 2 - result.z_spread[k] ** 2
        assert result.log_p_rest[k] == pytest.approx(stats.chi2.logsf(rest, 7), rel=1e-6)


def test_the_location_part_is_the_rank_sum_test_with_ties() -> None:
    c, r = draw(2, 5, 60, 90, np.array([0.5, 0.2, 0.2, 0.1]))
    result = compare_cells(c, r)
    for k in range(5):
        new, old = (np.repeat(np.arange(4), x[k, :4]) for x in (c, r))
        h = stats.kruskal(new, old)[0]
        assert result.z_location[k] ** 2 * (150 - 1) / 150 == pytest.approx(h)


@pytest.mark.parametrize(
    ("k", "n", "r", "m"),
    [(3, 10, 1, 20), (1, 30, 0, 1500), (40, 100, 100, 1000), (7, 7, 0, 9), (900, 4000, 9, 900)],
)
def test_counts_get_fishers_exact_test(k: int, n: int, r: int, m: int) -> None:
    values = [np.array([float(v)]) for v in (k, n, r, m)]
    exact = stats.fisher_exact([[k, n - k], [r, m - r]], alternative="greater")[1]
    assert np.exp(log_fisher_more(*values))[0] == pytest.approx(exact, rel=1e-6)
    fewer = stats.fisher_exact([[r, m - r], [k, n - k]], alternative="greater")[1]
    both = min(1.0, 2 * min(exact, fewer))
    assert np.exp(log_fisher_two_sided(*values))[0] == pytest.approx(both, rel=1e-6)


def test_far_tails_are_logarithms_that_do_not_underflow() -> None:
    x = np.array([1_380.0, 5_000.0])
    tails = log_chi2(x, np.array([7.0, 7.0]))
    assert tails[0] == pytest.approx(stats.chi2.logsf(1_380, 7), abs=1e-3)
    assert -2_500 < tails[1] < -2_450
    shifted = one([0] * 9 + [100_000], [10_000] * 10)
    assert -math.inf < shifted.log_p[0] < -10_000


@pytest.mark.parametrize(
    ("bins", "location", "spread"),
    [
        ([50] * 10, 0, 0),
        ([20, 25, 30, 40, 50, 50, 60, 70, 75, 80], 1, 0),
        ([80, 75, 70, 60, 50, 50, 40, 30, 25, 20], -1, 0),
        ([90, 70, 50, 30, 10, 10, 30, 50, 70, 90], 0, 1),
        ([10, 30, 50, 70, 90, 90, 70, 50, 30, 10], 0, -1),
    ],
)
def test_each_kind_of_shift_shows_in_its_own_part(
    bins: list[int], location: int, spread: int
) -> None:
    result = one(bins, [1_000] * 10)
    assert np.sign(np.round(result.z_location[0] / 2)) == location
    assert np.sign(np.round(result.z_spread[0] / 2)) == spread
    assert (result.log_p[0] < math.log(1e-6)) == bool(location or spread)
    assert (result.psi[0] > 0.05) == bool(location or spread)


def test_what_is_neither_location_nor_spread_is_found_too() -> None:
    result = one([80, 20, 80, 20, 50, 50, 20, 80, 20, 80], [1_000] * 10)
    assert result.log_p_rest[0] == min(
        result.log_p_location[0], result.log_p_spread[0], result.log_p_rest[0]
    )
    assert result.log_p[0] < math.log(1e-9)


@pytest.mark.parametrize(
    ("more", "part"),
    [({"missing": 8}, "log_p_missing"), ({"outside": 8}, "log_p_outside")],
)
def test_missing_and_outside_rows_raise_an_alarm_alone(more: dict[str, int], part: str) -> None:
    result = one([10] * 10, [1_000] * 10, **more)
    assert getattr(result, part)[0] < math.log(1e-10)
    assert result.log_p[0] == pytest.approx(getattr(result, part)[0] - math.log(0.1))
    assert result.psi[0] > 0.2


def test_missing_rows_that_vanish_are_a_change_too() -> None:
    result = one([100] * 10, [800] * 10, reference_missing=2_000)
    assert result.log_p_missing[0] < math.log(1e-12)


@pytest.mark.parametrize("rows", [0, ROWS_MIN - 1])
def test_too_few_rows_are_not_tested(rows: int) -> None:
    result = one([0] * 9 + [rows], [1_000] * 10)
    assert (result.log_p[0], result.psi[0], result.z_location[0]) == (0, 0, 0)
    other = one([1_000] * 10, [0] * 9 + [rows])
    assert (other.log_p[0], other.psi[0]) == (0, 0)
    assert one([0] * 9 + [ROWS_MIN], [1_000] * 10).log_p[0] < math.log(1e-9)


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_few_bins_test_what_they_can(bins: int) -> None:
    same = one([300 // bins] * bins, [3_000 // bins] * bins)
    assert same.log_p[0] == 0
    if bins > 1:
        moved = one([0] * (bins - 1) + [300], [3_000 // bins] * bins)
        assert moved.log_p[0] < math.log(1e-20)


def test_a_bin_nobody_has_rows_in_changes_nothing() -> None:
    with_it = one([30, 0, 70, 20], [300, 0, 600, 300])
    without = one([30, 70, 20], [300, 600, 300])
    assert with_it.log_p[0] == pytest.approx(without.log_p[0])
    assert with_it.psi[0] == pytest.approx(without.psi[0])


def test_a_single_row_in_a_bin_the_reference_never_saw_is_no_alarm() -> None:
    result = one([500, 500, 1], [50_000, 50_000, 0])
    assert result.log_p[0] > math.log(1e-3)


@pytest.mark.parametrize(
    ("n", "m", "shares"),
    [
        (30, 1_000, EQUAL),
        (300, 1_000, EQUAL),
        (5_000, 1_000, EQUAL),
        (100, 1_500, np.array([0.9, 0.025, 0.025, 0.025, 0.025])),
        (100, 1_500, np.array([0.98, 0.02])),
        (200, 500, np.array([0.6, 0.2, 0.1, 0.05, 0.03, 0.02])),
    ],
)
def test_without_drift_the_alarm_rate_is_what_was_promised(
    n: int, m: int, shares: NDArray[np.float64]
) -> None:
    cells = 20_000
    log_p = compare_cells(*draw(n + m, cells, n, m, shares)).log_p
    for level in (0.05, 0.001):
        seen = int((log_p <= math.log(level)).sum())
        assert seen <= stats.binom.ppf(0.999, cells, level), f"seed {n + m}, level {level}"
    if len(shares) == 10:
        assert (log_p <= math.log(0.05)).mean() > 0.025  # not bought with blindness


def test_rows_beyond_the_range_of_the_reference_come_at_the_known_rate() -> None:
    rng = np.random.default_rng(3)
    m, n, cells = 300, 400, 4_000
    old, new = rng.normal(size=(cells, m)), rng.normal(size=(cells, n))
    low, high = old.min(1, keepdims=True), old.max(1, keepdims=True)
    outside = ((new < low) | (new > high)).sum(1)
    counts = np.column_stack((n - outside, np.zeros(cells), outside)).astype(np.int64)
    log_p = compare_cells(counts, np.array([m, 0, 0])).log_p_outside
    for level in (0.05, 0.01, 0.001):
        seen = int((log_p <= math.log(level)).sum())
        assert stats.binom.ppf(0.001, cells, level / 3) <= seen
        assert seen <= stats.binom.ppf(0.999, cells, level)


def test_natural_variation_is_allowed_for_when_it_is_known() -> None:
    rng = np.random.default_rng(4)
    cells, n, m, concentration = 4_000, 200, 10_000, 500.0
    shares = rng.dirichlet(np.full(10, concentration / 10), cells)
    c = np.hstack((rng.multinomial(n, shares), np.zeros((cells, 2), np.int64)))
    r = np.hstack((np.full((cells, 10), m // 10), np.zeros((cells, 2), np.int64)))
    ignored = compare_cells(c, r).log_p
    modelled = compare_cells(c, r, variation=Variation(concentration=concentration)).log_p
    assert (ignored <= math.log(0.01)).mean() > 0.02
    assert (modelled <= math.log(0.01)).mean() < 0.015
    doubled = compare_cells(c, r, variation=Variation(design_effect=2.0))
    assert np.all(doubled.log_p >= ignored - 1e-9)


def test_a_variation_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="design_effect"):
        Variation(design_effect=0.5)


def test_power_is_that_of_kolmogorov_smirnov_on_location_and_better_on_spread() -> None:
    rng = np.random.default_rng(5)
    m, n, windows, level = 10_000, 300, 60, math.log(0.05 / 20)
    old = rng.normal(size=(m, 1)).astype(np.float32)
    reference = class_reference(old, classes=1)
    at = CounterLayout.of(reference).features[0]
    found = {}
    for name, shift, scale in (("location", 0.25, 1.0), ("spread", 0.0, 1.3)):
        ours = kolmogorov = 0
        for _ in range(windows):
            new = (rng.normal(size=(n, 1)) * scale + shift).astype(np.float32)
            counts = count_rows(reference, new, 1)[at]
            ours += compare_cells(counts, np.array(reference.features[0].counts)).log_p[0] < level
            kolmogorov += math.log(stats.ks_2samp(new[:, 0], old[:, 0]).pvalue) < level
        found[name] = (ours, kolmogorov)
    assert found["location"][0] >= found["location"][1] - 0.08 * windows
    assert found["spread"][0] >= 2 * found["spread"][1]
    assert found["spread"][0] >= 0.8 * windows


def test_real_pixels_with_ties_and_constants_raise_no_false_alarm() -> None:
    pixels = load_digits().data.astype(np.float32)
    rng = np.random.default_rng(6)
    alarms = cells = 0
    for _ in range(15):
        order = rng.permutation(len(pixels))
        reference = class_reference(pixels[order[:1_200]], classes=2)
        layout = CounterLayout.of(reference)
        counters = count_rows(reference, pixels[order[1_200:]], 2)
        c, r = np.zeros((64, 12), np.int64), np.zeros((64, 12), np.int64)
        for k, (feature, at) in enumerate(zip(reference.features, layout.features, strict=True)):
            c[k, : feature.bins], r[k, : feature.bins] = counters[at][:-2], feature.counts[:-2]
            c[k, -2:], r[k, -2:] = counters[at][-2:], feature.counts[-2:]
        log_p = compare_cells(c, r).log_p
        alarms += int((log_p < math.log(0.01)).sum())
        cells += len(log_p)
        assert log_p.min() > math.log(1e-5)
    assert alarms <= stats.binom.ppf(0.999, cells, 0.01)


@pytest.mark.parametrize(("classes", "n"), [(3, 30), (10, 100), (100, 200)])
def test_the_mix_of_classes_keeps_its_level(classes: int, n: int) -> None:
    c, r = draw(7, 10_000, n, 500, np.full(classes, 1 / classes))
    log_p, _ = compare_mixes(c[:, :classes], r[:, :classes])
    assert (log_p <= math.log(0.01)).sum() <= stats.binom.ppf(0.999, 10_000, 0.01)
    moved, psi = compare_mixes(np.array([n] + [0] * (classes - 1)), r[:1, :classes])
    assert moved[0] < math.log(1e-6)
    assert psi[0] > 0.2


def test_psi_is_the_textbook_number_less_the_noise() -> None:
    c, r = np.array([100, 300, 600, 0, 0]), np.array([2_000, 3_000, 5_000, 0, 0])
    q, p = c[:3] / 1_000, r[:3] / 10_000
    textbook = float(((q - p) * np.log(q / p)).sum())
    noise = 2 * (1 / 1_000 + 1 / 10_000)
    assert compare_cells(c, r).psi[0] == pytest.approx(textbook - noise, rel=0.02)
    assert compare_cells(r, r).psi[0] == 0


def test_many_cells_give_what_each_gives_alone() -> None:
    c, r = draw(8, 9_000, 100, 800)
    together = compare_cells(c, r)
    for k in (0, 8_191, 8_192, 8_999):
        assert together.log_p[k] == pytest.approx(compare_cells(c[k], r[k]).log_p[0])
