import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import firwin

from recordings.reading import Samples
from recordings.resampling import ResampleStream, TimeGrid, grid_of, significant, to_grid

DELAY_S = 0.8
OPTIONS = {"delay_s": DELAY_S, "fill_s": 0.5}
RATES = [(12.5, 5.0, 1.5), (100.0, 5.0, 1.5), (25.0, 5.0, None), (5.0, 5.0, None), (5.0, 5.0, 1.5), (1.0, 5.0, None),
         (33.333, 5.0, 1.5), (8000.0, 4.0, None)]


def regular(rate_hz, seconds, f):
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return Samples(t, f(t))


def noise(rate_hz, seconds, seed=0):
    rng = np.random.default_rng(seed)
    return regular(rate_hz, seconds, lambda t: rng.normal(size=len(t)))


def without(samples, *spans):
    """Return the samples outside the [start, end) spans."""
    keep = np.ones(len(samples.t), bool)
    for start, end in spans:
        keep &= (samples.t < start - 1e-9) | (samples.t >= end - 1e-9)
    return Samples(samples.t[keep], samples.values[keep])


def naive_fir(samples, rate_hz, grid, low_pass_hz, delay_s, fill_s):
    """Hold short gaps slot by slot, stuff zeros, convolve by loops: for slots up/down of the grid."""
    up, down = next((u, round(u * rate_hz / grid.rate_hz)) for u in range(1, 99)
                    if abs(u * rate_hz / grid.rate_hz - round(u * rate_hz / grid.rate_hz)) < 1e-9)
    by_slot = {round((t - grid.start_s) * rate_hz): v for t, v in zip(samples.t, samples.values, strict=True)}
    half = round(delay_s * rate_hz * up)
    taps = firwin(2 * half + 1, min(low_pass_hz or np.inf, 0.4 * grid.rate_hz), fs=rate_hz * up)

    def value(slot):
        for back in range(round(fill_s * rate_hz) + 1):
            if slot - back in by_slot:
                return by_slot[slot - back]
        return None

    result = []
    for step in range(grid.steps):
        total, weight = 0.0, 0.0
        for j, tap in enumerate(taps):
            slot, between = divmod(step * down - j, up)
            if between:
                continue
            held = value(slot)
            if held is None:
                total = math.nan
                break
            total, weight = total + tap * held, weight + tap
        result.append(total / weight if weight else math.nan)
    return np.array(result)


# ---------------------------------------------------------------- the grid

def test_the_grid_covers_first_to_last_row():
    grid = grid_of(np.array([2.0, 2.04, 4.0]), 5.0)
    assert (grid.start_s, grid.steps) == (2.0, 11)
    np.testing.assert_allclose(grid.t, 2.0 + 0.2 * np.arange(11))
    assert grid_of(np.array([0.0, 0.99]), 5.0).steps == 5
    assert grid_of(np.arange(3001) / 100 * 0.1, 10.0).steps == 31


# ---------------------------------------------------------------- causality and gaps

@pytest.mark.parametrize(("rate", "grid_rate", "low_pass"), RATES)
@pytest.mark.parametrize("seed", range(3))
def test_later_samples_never_change_earlier_steps(rate, grid_rate, low_pass, seed):
    rng = np.random.default_rng(seed)
    whole = noise(rate, 20.0, seed)
    keep = rng.random(len(whole.t)) > 0.1
    samples = Samples(whole.t[keep], whole.values[keep])
    grid = grid_of(whole.t, grid_rate)
    options = OPTIONS | {"low_pass_hz": low_pass, "flatline_s": 2.0}
    before = to_grid(samples, rate, grid, **options).values
    for now in rng.uniform(2, 18, 4):
        later = samples.t > now
        changed = [
            Samples(samples.t, np.where(later, rng.normal(size=len(samples.t)), samples.values)),
            Samples(samples.t, np.where(later, 7.0, samples.values)),
            Samples(samples.t[~later], samples.values[~later]),
        ]
        for other in changed:
            after = to_grid(other, rate, grid, **options).values
            np.testing.assert_array_equal(after[grid.t <= now], before[grid.t <= now])
    assert np.isfinite(before).any()


def test_a_grid_that_goes_on_changes_no_earlier_step():
    samples = noise(12.5, 30.0)
    long, short = grid_of(samples.t, 5.0), grid_of(samples.t[samples.t <= 20], 5.0)
    for low_pass in (None, 1.5):
        a, b = (to_grid(samples, 12.5, grid, low_pass_hz=low_pass, **OPTIONS).values for grid in (long, short))
        np.testing.assert_array_equal(a[: short.steps], b)


@pytest.mark.parametrize(("rate", "low_pass"), [(25.0, 1.5), (100.0, None), (12.5, 1.5)])
def test_a_short_gap_is_held_and_a_long_one_is_missing(rate, low_pass):
    whole = noise(rate, 40.0)
    grid = grid_of(whole.t, 5.0)
    short, long = without(whole, (10.0, 10.48)), without(whole, (10.0, 13.0))
    filled = to_grid(short, rate, grid, low_pass_hz=low_pass, **OPTIONS)
    assert np.isfinite(filled.values[grid.t >= 1.6 + 1 / rate]).all()
    assert filled.held == np.sum((whole.t >= 10.0 - 1e-9) & (whole.t < 10.48 - 1e-9))
    missing = np.isnan(to_grid(long, rate, grid, low_pass_hz=low_pass, **OPTIONS).values)
    after = grid.t[missing & (grid.t > 5)]
    assert after.min() == pytest.approx(10.0 + 0.5, abs=0.2 + 1 / rate)     # held for fill_s, then missing
    assert after.max() == pytest.approx(13.0 + 2 * DELAY_S, abs=0.2)        # until the filter is full again
    assert len(after) == round((after.max() - after.min()) * 5) + 1


@pytest.mark.parametrize(("rate", "low_pass"), [(25.0, 1.5), (12.5, 1.5), (5.0, None), (1.0, None)])
def test_nothing_looks_across_a_long_gap(rate, low_pass):
    samples = without(noise(rate, 40.0), (10.0, 14.0))
    other = Samples(samples.t, np.where(samples.t < 10, samples.values + 1000, samples.values))
    grid = TimeGrid(0.0, 5.0, 200)
    a, b = (to_grid(s, rate, grid, low_pass_hz=low_pass, **OPTIONS).values for s in (samples, other))
    after = grid.t >= 14.0
    np.testing.assert_array_equal(a[after], b[after])
    assert np.isnan(a[(grid.t > 12.5) & (grid.t < 14)]).all() and np.isfinite(a[grid.t > 16.5]).all()


def test_the_first_steps_are_missing_until_the_filter_is_full():
    grid = TimeGrid(0.0, 5.0, 100)
    values = to_grid(noise(25.0, 20.0), 25.0, grid, low_pass_hz=1.5, **OPTIONS).values
    assert np.flatnonzero(np.isfinite(values))[0] == 8               # 2 x 0.8 s at 5 Hz
    held = to_grid(noise(1.0, 20.0), 1.0, grid, **OPTIONS).values
    assert np.flatnonzero(np.isfinite(held))[0] == 4                 # the delay alone


def test_no_samples_at_all_is_all_missing():
    empty = Samples(np.array([]), np.array([]))
    for rate in (25.0, 5.0, 1.0):
        result = to_grid(empty, rate, TimeGrid(0.0, 5.0, 50), low_pass_hz=None, **OPTIONS)
        assert np.isnan(result.values).all() and (result.held, result.flat) == (0, 0)


# ---------------------------------------------------------------- holding, by hand

def test_an_equal_rate_is_the_samples_themselves_delayed():
    samples = noise(5.0, 20.0)
    result = to_grid(samples, 5.0, TimeGrid(0.0, 5.0, 100), **OPTIONS)
    np.testing.assert_array_equal(result.values[4:], samples.values[:-4])
    assert np.isnan(result.values[:4]).all() and result.held == 0


def test_a_slow_channel_holds_its_last_sample_for_a_period_and_fill_s():
    samples = Samples(np.array([0.0, 1.0, 4.0]), np.array([10.0, 11.0, 14.0]))
    values = to_grid(samples, 1.0, TimeGrid(0.0, 5.0, 26), delay_s=0.0, fill_s=0.5).values
    expected = [10.0] * 5 + [11.0] * 8 + [np.nan] * 7 + [14.0] * 6
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(("fill_s", "held"), [(0.0, 0), (0.2, 1), (0.4, 2), (0.6, 3), (5.0, 3)])
def test_exactly_fill_s_is_held_at_an_equal_rate(fill_s, held):
    whole = noise(5.0, 200.0)
    keep = np.ones(1000, bool)
    for start in range(10, 990, 10):
        keep[start : start + 3] = False
    samples = Samples(whole.t[keep], whole.values[keep])
    result = to_grid(samples, 5.0, grid_of(whole.t, 5.0), delay_s=0.0, fill_s=fill_s)
    missing = np.isnan(result.values[:990]).reshape(-1, 10)
    expected = [False] * held + [True] * (3 - held) + [False] * 7
    assert (missing[1:] == expected).all()


# ---------------------------------------------------------------- the filter

@pytest.mark.parametrize(("rate", "low_pass"), [(12.5, 1.5), (25.0, 1.5), (25.0, None), (5.0, 1.5)])
def test_agrees_with_direct_convolution(rate, low_pass):
    samples = without(noise(rate, 24.0), (6.0, 6.4), (12.0, 14.0))
    grid = TimeGrid(0.0, 5.0, 115)
    values = to_grid(samples, rate, grid, low_pass_hz=low_pass, **OPTIONS).values
    expected = naive_fir(samples, rate, grid, low_pass, DELAY_S, 0.5)
    both = np.isfinite(values) & np.isfinite(expected)
    np.testing.assert_allclose(values[both], expected[both], atol=1e-9)
    assert not (np.isfinite(values) & np.isnan(expected)).any()      # never a value that needs a missing one
    assert (np.isnan(values) & np.isfinite(expected)).sum() <= 4     # and hardly more missing than has to be


@pytest.mark.parametrize(("rate", "grid_rate", "low_pass"), RATES)
def test_a_constant_stays_that_constant(rate, grid_rate, low_pass):
    samples = regular(rate, 20.0, lambda t: np.full(len(t), 97.0))
    values = to_grid(samples, rate, grid_of(samples.t, grid_rate), low_pass_hz=low_pass, **OPTIONS).values
    np.testing.assert_allclose(values[np.isfinite(values)], 97.0, rtol=1e-12)
    assert np.isfinite(values).mean() > 0.85


@pytest.mark.parametrize("rate", [12.5, 25.0, 33.333])
def test_without_a_delay_the_last_sample_or_two_are_all_there_is(rate):
    samples = regular(rate, 20.0, lambda t: 50 + t)
    grid = grid_of(samples.t, 5.0)
    values = to_grid(samples, rate, grid, delay_s=0.0).values
    late = (grid.t + 50 - values)[np.isfinite(values)]
    assert late.min() > -1e-9 and late.max() < 2.1 / rate


@pytest.mark.parametrize("rate", [12.5, 25.0, 100.0, 33.333, 31.25, 256.0, 10_000.0])
@pytest.mark.parametrize(("low_pass", "hz"), [(1.5, 0.25), (1.5, 0.5), (None, 0.8)])
def test_breathing_comes_through_with_exactly_the_declared_delay(rate, low_pass, hz):
    samples = regular(rate, 30.0, lambda t: 10 * np.sin(2 * np.pi * hz * t))
    grid = grid_of(samples.t, 5.0)
    values = to_grid(samples, rate, grid, low_pass_hz=low_pass, **OPTIONS).values
    expected = 10 * np.sin(2 * np.pi * hz * (grid.t - DELAY_S))
    assert np.nanmax(np.abs(values - expected)) < 0.2                # 2 % of the amplitude


@pytest.mark.parametrize("rate", [12.5, 25.0, 100.0])
def test_a_ripple_of_4_hz_is_removed(rate):
    samples = regular(rate, 30.0, lambda t: 10 * np.sin(2 * np.pi * 4.0 * t))
    values = to_grid(samples, rate, grid_of(samples.t, 5.0), low_pass_hz=1.5, **OPTIONS).values
    assert np.nanmax(np.abs(values)) < 10 / 20


@pytest.mark.parametrize("hz", [3.3, 4.9, 5.1, 9.8, 10.2, 20.1])
def test_what_the_grid_cannot_hold_does_not_fold_back(hz):
    samples = regular(100.0, 60.0, lambda t: np.sin(2 * np.pi * hz * t))
    grid = grid_of(samples.t, 5.0)
    values = to_grid(samples, 100.0, grid, **OPTIONS).values
    plain = np.interp(grid.t, samples.t, samples.values)
    assert np.nanmax(np.abs(plain)) > 0.9 and np.nanmax(np.abs(values)) < 0.05


def test_a_rate_that_is_no_simple_ratio_does_not_drift_over_hours():
    rate = 33.333
    samples = regular(rate, 4 * 3600.0, lambda t: t)
    grid = grid_of(samples.t, 5.0)
    values = to_grid(samples, rate, grid, low_pass_hz=1.5, **OPTIONS).values
    assert np.nanmax(np.abs(grid.t - values - DELAY_S)) < 1 / rate


def test_the_origin_of_time_does_not_matter():
    samples = noise(12.5, 20.0)
    shifted = Samples(samples.t + 1e6, samples.values)
    for low_pass in (1.5, None):
        a = to_grid(samples, 12.5, grid_of(samples.t, 5.0), low_pass_hz=low_pass, **OPTIONS).values
        b = to_grid(shifted, 12.5, grid_of(shifted.t, 5.0), low_pass_hz=low_pass, **OPTIONS).values
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- flatlines

def test_a_flatline_is_missing_after_flatline_s():
    values = np.arange(100.0)
    values[40:70] = 40.0                                             # 6 s of the very same value
    samples = Samples(np.arange(100) / 5, values)
    result = to_grid(samples, 5.0, TimeGrid(0.0, 5.0, 100), delay_s=0.0, fill_s=0.0, flatline_s=2.0)
    assert np.flatnonzero(np.isnan(result.values)).tolist() == list(range(50, 70))
    assert result.flat == 20
    assert to_grid(samples, 5.0, TimeGrid(0.0, 5.0, 100), flatline_s=6.0).flat == 0
    assert to_grid(samples, 5.0, TimeGrid(0.0, 5.0, 100)).flat == 0


def test_a_flatline_of_a_fast_channel_is_missing_too():
    samples = noise(25.0, 40.0)
    samples.values[250:500] = 3.0                                    # 10 to 20 s
    grid = TimeGrid(0.0, 5.0, 200)
    result = to_grid(samples, 25.0, grid, low_pass_hz=1.5, flatline_s=3.0, **OPTIONS)
    missing = grid.t[np.isnan(result.values) & (grid.t > 5)]
    assert result.flat == 175
    assert (missing.min(), missing.max()) == (pytest.approx(13.6, abs=0.21), pytest.approx(21.4, abs=0.21))


# ---------------------------------------------------------------- one row at a time

RECORDER_RATES = [1.0, 4.0, 5.0, 5.5, 7.3, 12.5, 25.0, 100.0]


def channel(rate_hz, low_pass_hz=None, flatline_s=None, sentinels=()):
    facts = {"rate_hz": rate_hz, "low_pass_hz": low_pass_hz, "longest_flat_s": flatline_s}
    return SimpleNamespace(**facts, sentinels=list(sentinels))


def draw_recording(random, seconds=60):
    """Return channels, row times (n,) and raw values (n, C) with jitter, gaps of rows and of channels, sentinels."""
    rates = random.choice(RECORDER_RATES, size=3)
    base = max(rates)
    t = random.choice([0.0, 1e5, 3.7]) + np.arange(int(seconds * base)) / base
    t = np.unique(np.round(t + random.choice([0.0, 0.3]) * random.uniform(-1, 1, size=len(t)) / base, 6))
    keep = np.ones(len(t), bool)
    for _ in range(random.integers(0, 4)):
        first = random.integers(1, len(t))
        keep[first : first + int(random.integers(1, base * 8))] = False
    t = t[keep]
    values = np.full((len(t), 3), np.nan)
    channels = []
    for k, rate in enumerate(rates):
        every = max(round(base / rate), 1)
        values[::every, k] = np.round(random.normal(size=len(values[::every])), random.integers(0, 3))
        values[random.random(len(t)) < 0.02, k] = random.choice([127.0, np.inf, -np.inf])
        for _ in range(random.integers(0, 3)):
            first = random.integers(0, len(t))
            values[first : first + int(random.integers(1, base * 6)), k] = random.choice([np.nan, 2.0, -1.0])
        low_pass, flatline_s = random.choice([None, rate / 3]), random.choice([None, 1.0, 3.0])
        channels.append(channel(float(rate), low_pass, flatline_s, [127.0, -1.0][: random.integers(0, 3)]))
    return channels, t, values


def on_whole_grid(channels, t, values, grid_hz, delay_s, fill_s):
    """Return the grid of a whole recording and its values there (T, C), as preprocessing has them."""
    grid, columns = grid_of(t, grid_hz), []
    for one, column in zip(channels, values.T, strict=True):
        there = np.isfinite(column) & ~np.isin(column, one.sentinels)
        options = {"low_pass_hz": one.low_pass_hz, "flatline_s": one.longest_flat_s, "delay_s": delay_s}
        options["fill_s"] = fill_s
        columns.append(significant(to_grid(Samples(t[there], column[there]), one.rate_hz, grid, **options).values))
    return grid, np.column_stack(columns)


def on_live_grid(stream, t, values, steps, restore=lambda stream: stream):
    """Return what a ResampleStream makes of the rows (T, C); the steps come in their order."""
    found, last = np.full((steps, values.shape[1]), np.nan), -1
    for row in range(len(t) + 1):
        stream = restore(stream) if row % 50 == 7 else stream
        for step, on_grid in stream.push(float(t[row]), values[row].tolist()) if row < len(t) else stream.finish():
            assert step > last
            last, found[step] = step, on_grid
    assert last == steps - 1
    return found


def saved_and_loaded(make):
    def restore(stream):
        again = make()
        text = json.dumps(stream.state_dict(), default=np.ndarray.tolist)
        again.load_state_dict(json.loads(text, object_hook=arrays))
        return again

    return restore


def arrays(state):
    return {name: np.array(value) if name == "window" else value for name, value in state.items()}


@pytest.mark.parametrize("seed", range(40))
def test_rows_one_by_one_give_the_grid_of_the_whole_recording(seed):
    random = np.random.default_rng(seed)
    channels, t, values = draw_recording(random)
    grid_hz = float(random.choice([4.0, 5.0, 10.0]))
    delay_s, fill_s = float(random.choice([0.0, 0.4, 0.8])), float(random.choice([0.0, 0.5, 2.0]))
    grid, expected = on_whole_grid(channels, t, values, grid_hz, delay_s, fill_s)

    def make():
        return ResampleStream(channels, grid_hz, delay_s, fill_s)

    found = on_live_grid(make(), t, values, grid.steps, saved_and_loaded(make))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)          # NaN in the same places, too
    assert np.isfinite(expected).mean() > 0.1


def test_the_random_recordings_contain_every_kind_of_fault():
    drawn = [draw_recording(np.random.default_rng(seed)) for seed in range(40)]
    channels = [one for several, _, _ in drawn for one in several]
    assert {one.rate_hz for one in channels} == set(RECORDER_RATES)
    for name in ("low_pass_hz", "longest_flat_s"):
        assert {getattr(one, name) is None for one in channels} == {True, False}
    assert sum(np.diff(t).max() > 1 for _, t, _ in drawn) > 10
    assert sum((values == 127).any() for _, _, values in drawn) > 10


@pytest.mark.parametrize("hours", [10, 100_000])
def test_a_gap_of_hours_costs_no_time(hours):
    channels = [channel(25.0, 1.5), channel(5.0), channel(1.0)]
    stream = ResampleStream(channels, 5.0, 0.8, 0.5)
    t = np.r_[np.arange(500) / 25, hours * 3600 + np.arange(500) / 25]
    random = np.random.default_rng(0)
    began, steps = time.perf_counter(), []
    for at in t.tolist():
        steps += stream.push(at, random.normal(size=3).tolist())
    assert time.perf_counter() - began < 2
    steps += stream.finish()
    known = [step for step, values in steps if np.isfinite(values).any()]
    assert len(steps) < 300 and len(known) > 150
    assert known[-1] == hours * 3600 * 5 + 99 and min(k for k in known if k > 200) == hours * 3600 * 5 + 4


def test_a_step_comes_as_soon_as_no_later_row_can_change_it():
    stream = ResampleStream([channel(5.0)], 5.0, 0.0, 0.0)
    came = [stream.push(at, [at]) for at in (10.0, 10.2, 10.4, 10.7)]
    assert [[step for step, _ in steps] for steps in came] == [[], [0], [1], [2, 3]]


def test_flatlines_and_sentinels_are_missing_in_a_stream():
    stream = ResampleStream([channel(5.0, flatline_s=0.6, sentinels=[127.0])], 5.0, 0.0, 0.0)
    raw = [1.0, 127.0, 2, 2, 127, 2, 2, 2, 3]
    steps = [pair for k, value in enumerate(raw) for pair in stream.push(k / 5, [value])] + stream.finish()
    values = [on_grid.item() for _, on_grid in steps]
    np.testing.assert_array_equal(values, [1, np.nan, 2, 2, np.nan, 2, np.nan, np.nan, 3])
