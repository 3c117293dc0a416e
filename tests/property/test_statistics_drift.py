"""Laws of the drift test: numbers for any counts, symmetries, sums that add."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fleet_server.core.drift_alarm import AlarmMemory, AlarmState, Look, step_alarm
from fleet_server.core.drift_compare import find_median_rank, find_notable
from fleet_server.core.drift_counts import HORIZONS, add_devices, gather_families
from fleet_server.core.drift_test import compare_cells, compare_mixes
from tests.support.drift import class_reference, device_windows, normal_rows

Ints = NDArray[np.int64]
counts = st.integers(0, 5) | st.integers(0, 10_000) | st.integers(0, 10**9)
cells = arrays(np.int64, 12, elements=counts)
REFERENCE = class_reference(normal_rows(0, 200, 2))
DEVICES = [
    device_windows(f"d{k}", REFERENCE, seed=k, rows=20, windows=w)
    for k, w in enumerate((1, 3, 5, 17, 64))
]


@given(cells, cells, st.integers(1, 64))
@settings(deadline=None)
def test_any_counts_give_numbers(new: Ints, old: Ints, windows: int) -> None:
    result = compare_cells(new, old, windows=windows)
    for name in ("log_p", "log_p_location", "log_p_spread", "log_p_rest", "log_p_missing"):
        value = getattr(result, name)[0]
        assert np.isfinite(value), name
        assert value <= 0, name
    assert 0 <= result.psi[0] < 100
    log_p, psi = compare_mixes(new, old)
    assert np.isfinite(log_p[0])
    assert np.isfinite(psi[0])
    assert 0 <= find_median_rank(new.tolist(), old.tolist()) <= 1


@given(cells)
@settings(deadline=None)
def test_a_distribution_is_never_different_from_itself(counted: Ints) -> None:
    result = compare_cells(counted, counted, outside_extra=0)
    assert result.log_p[0] == 0
    assert result.psi[0] == 0


@given(cells, cells)
@example(new=np.full(12, 3), old=np.array([23_023_871] + [1] * 11))
@settings(deadline=None)
def test_turning_the_order_of_bins_around_turns_the_direction_only(new: Ints, old: Ints) -> None:
    def turn(cell: Ints) -> Ints:
        return np.concatenate((cell[:10][::-1], cell[10:]))

    one, other = compare_cells(new, old), compare_cells(turn(new), turn(old))
    assert np.allclose(one.z_location, -other.z_location, atol=1e-6, rtol=1e-6)
    rounding = 1e-6 * (1 + abs(one.z_location))  # both are sums of the same large terms
    assert np.allclose(one.z_spread, other.z_spread, atol=rounding, rtol=1e-6)
    assert np.allclose(one.log_p_rest, other.log_p_rest, atol=1e-3, rtol=1e-3)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_a_group_is_the_sum_of_its_devices(chosen: list[int]) -> None:
    family = gather_families(DEVICES)[0]
    fresh = np.ones((5, len(HORIZONS)), bool)
    masks = np.zeros((2, 5), bool)
    masks[0, chosen] = True
    masks[1] = ~masks[0]
    sums = add_devices(family, masks, fresh)
    assert np.array_equal(sums.cells.sum(0), family.cells.sum(0))
    assert np.array_equal(sums.answers.sum(0), family.answers.sum(0))


@given(st.integers(0, 4))
def test_a_horizon_is_the_sum_of_its_windows(number: int) -> None:
    family, device = gather_families(DEVICES)[0], DEVICES[number]
    for h, horizon in enumerate(HORIZONS):
        first = slice(0, REFERENCE.features[0].bins)
        total = device.counters[:horizon, first].sum(0)
        assert family.cells[number, h, 0, first].tolist() == total.tolist()
        is_longer = h == 0 or len(device.counters) > HORIZONS[h - 1]
        assert family.windows[number, h] == (min(horizon, len(device.counters)) * is_longer)


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-9, 1)))
def test_what_is_notable_is_never_less_certain_than_what_is_not(p: NDArray[np.float64]) -> None:
    chosen = find_notable(np.log(p), 0.05)
    if chosen.any() and not chosen.all():
        assert p[chosen].max() <= p[~chosen].min()
    assert not chosen[p > 0.05].any()


looks = st.builds(
    Look,
    newest_ms=st.just(0),
    window_ms=st.just(10),
    case_windows=st.sampled_from([0, 0, 1, 4, 16, 64]),
    is_confirmed=st.booleans(),
    is_quiet=st.sampled_from([True, False, None]),
    is_folded=st.booleans(),
)


@given(st.lists(st.tuples(looks, st.integers(0, 25)), max_size=60))
def test_an_alarm_opens_and_closes_in_turns(walk: list[tuple[Look, int]]) -> None:
    memory: AlarmMemory | None = None
    now, is_open = 0, False
    for look, passed in walk:
        now += passed
        stepped = Look(
            newest_ms=now,
            window_ms=look.window_ms,
            case_windows=look.case_windows,
            is_confirmed=look.is_confirmed and look.case_windows > 0,
            is_quiet=look.is_quiet,
            is_folded=look.is_folded,
        )
        memory, event = step_alarm(memory, stepped)
        if event == "opened":
            assert not is_open
            is_open = True
        elif event in ("closed", "folded"):
            assert is_open
            is_open = False
        living = memory is not None and memory.state in (AlarmState.OPEN, AlarmState.CLOSING)
        assert living == is_open
