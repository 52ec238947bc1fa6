import math
from dataclasses import replace

import naive
import numpy as np
import pytest
from breaths import HORIZON, SPANS, breathe, compare, cut, new_comparisons

from detection.comparisons import (
    AMPLITUDE_FLOOR,
    ERROR,
    ERROR_FLOOR,
    LEVEL,
    LEVEL_FLOOR,
    LOW_RANGE,
    LOW_VOLUME,
    MOVEMENT_FLOOR,
    NAMES,
    PACE,
    RATIO,
    SHARED,
    TRANSIENT,
    VOLUME_RATIO,
    Comparisons,
    Spans,
    StepBuffer,
)
from live.stream import FORMAT, load_state, save_state

NAN = math.nan
SMALL = Spans(
    warm_up=3, settle=4, near=2, transient=3, error=4, amplitude=5, expected=6, baseline=12, level=7
)
SIZES = ([1], [2], [7], [15], [16], [17], [1000], [3, 1, 250, 17, 499, 2, 64, 1, 163])


def naive_less_baseline(x, span, lag):
    """Return x (T, C) less the median of the span that ended `lag` steps before, shrunk to zero while it fills."""
    out = np.full(x.shape, NAN)
    for t in range(len(x)):
        for c in range(x.shape[1]):
            old = [v for v in x[max(t - lag - span + 1, 0) : max(t - lag + 1, 0), c] if math.isfinite(v)]
            out[t, c] = x[t, c] - (np.median(old) * len(old) / (len(old) + span / 4) if old else 0.0)
    return out


def naive_comparisons(x, forecast, spans):
    """Return features, residual and the half-way forecast by loops over steps, leads and channels."""
    length, horizon, channels = forecast.shape
    used = np.full(forecast.shape, NAN)
    for t in range(spans.warm_up, length):
        for c in range(channels):
            if t >= spans.settle - 1 and np.isfinite(x[t - spans.settle + 1 : t + 1, c]).all():
                used[t, :, c] = forecast[t, :, c]
    aligned = np.full(forecast.shape, NAN)
    for t in range(length):
        for lead in range(1, min(horizon, t) + 1):
            aligned[t, lead - 1] = used[t - lead, lead - 1]
    square = (x[:, None] - aligned) ** 2
    residual = np.sqrt([[np.mean(square[t, :, c]) for c in range(channels)] for t in range(length)])
    near = square[:, : spans.near].mean(axis=1)
    features, span = np.full((length, channels, len(NAMES)), NAN), spans.amplitude

    def before(expected):
        """Return the median of what is expected (T, C) over the span that ends where the observed one begins."""
        padded, median = np.concatenate([np.full((spans.expected - 1, channels), NAN), expected]), np.full_like(x, NAN)
        median[span:] = naive.trailing(padded, spans.expected, 0.3, np.median)[spans.expected - 1 : -span]
        return median

    ranges = np.ptp(used, axis=1) + AMPLITUDE_FLOOR
    paces = (np.abs(np.diff(used, axis=1)).mean(axis=1) + MOVEMENT_FLOOR) / ranges
    moved = np.abs(np.diff(x, axis=0, prepend=NAN))
    features[:, :, LOW_RANGE] = -np.log(naive.trailing(x, span, 0.8, np.ptp) + AMPLITUDE_FLOOR)
    features[:, :, RATIO] = before(np.log(ranges)) + features[:, :, LOW_RANGE]
    movement = np.log(naive.trailing(moved, span, 0.8, np.mean) + MOVEMENT_FLOOR)
    features[:, :, PACE] = movement + features[:, :, LOW_RANGE] - before(np.log(paces))
    features[:, :, ERROR] = np.log(np.sqrt(naive.trailing(residual**2, spans.error, 0.8, np.mean)) + ERROR_FLOOR)
    features[:, :, TRANSIENT] = np.log(np.sqrt(naive.trailing(near, spans.transient, 0.8, np.mean)) + ERROR_FLOOR)
    features[:, :, LEVEL] = np.log(np.abs(naive.trailing(x, spans.level, 0.8, np.mean)) + LEVEL_FLOOR)
    features[:, 0, SHARED] = features[:, 0, TRANSIENT]                    # of one airflow and two belts
    features[:, 1:, SHARED] = np.nanmean(features[:, 1:, TRANSIENT], axis=1, keepdims=True)
    volume, expected = naive_volumes(x[:, 0], used[:, :, 0], spans)
    features[:, 0, LOW_VOLUME] = -np.log(volume)
    features[:, 0, VOLUME_RATIO] = before(np.repeat(np.log(expected)[:, None], channels, axis=1))[:, 0] - np.log(volume)
    for f in (RATIO, TRANSIENT, PACE, SHARED, VOLUME_RATIO):
        features[:, :, f] = naive_less_baseline(features[:, :, f], spans.baseline, span)
    expected_range = np.exp(features[:, :, RATIO] - features[:, :, LOW_RANGE]) - AMPLITUDE_FLOOR
    return features, residual, aligned[:, (horizon - 1) // 2], expected_range


def naive_volumes(flow, forecast, spans):
    """Return the volume observed and that of the forecasts (T,), of flow (T,), the first channel, and (T, H)."""
    above, expected = np.full((2, len(flow)), NAN)
    for t in range(spans.level - 1, len(flow)):
        recent = [value for value in flow[t - spans.level + 1 : t + 1] if math.isfinite(value)]
        if len(recent) >= 0.8 * spans.level:
            above[t] = flow[t] - np.mean(recent)
            expected[t] = np.ptp(np.cumsum(forecast[t] - np.mean(recent)))
    running = np.where(np.isfinite(above), np.nancumsum(above), NAN)
    volume = naive.trailing(running[:, None], spans.amplitude, 0.8, np.ptp)[:, 0]
    return volume + AMPLITUDE_FLOOR * spans.amplitude, expected + AMPLITUDE_FLOOR * spans.amplitude


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize(("warm_up", "settle"), [(0, 1), (3, 6), (9, 4)])
def test_comparisons_are_those_of_slow_loops(warm_up, settle):
    spans = replace(SMALL, warm_up=warm_up, settle=settle)
    observed, forecast = breathe(90, seed=0, channels=3, horizon=4)
    observed[30:33, 0] = NAN
    observed[50:70, 1] = NAN
    got = compare(observed, forecast, spans)
    for found, expected in zip(got, naive_comparisons(observed, forecast, spans), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.isfinite(got[0]).mean() > 0.4


def test_names_stand_for_the_last_axis():
    places = (RATIO, LOW_RANGE, ERROR, TRANSIENT, LEVEL, PACE, SHARED, VOLUME_RATIO, LOW_VOLUME)
    assert [NAMES[k] for k in places] == list(NAMES)
    assert compare(*breathe(20, 0))[0].shape == (20, 2, len(NAMES))


def draw_faulty():
    """Return breathing and forecasts with missing segments, a huge value, and a flat line after breathing."""
    observed, forecast = breathe(1000, seed=0)
    observed[300:420, 0] = NAN
    observed[600, :] = NAN
    observed[700:703, 1] = NAN
    observed[650, 0] = 1e9
    observed[800:900, 1] = 0.25                                  # where rounding would show
    return observed, forecast


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pieces_of_any_size_give_the_same_comparisons(sizes):
    observed, forecast = draw_faulty()
    joined = compare(observed, forecast, pieces=cut(1000, sizes))
    for whole, part in zip(compare(observed, forecast), joined, strict=True):
        np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("at", [0, 1, 40, 310, 655, 850])
@pytest.mark.parametrize("size", [1, 100])
def test_a_saved_and_loaded_state_resumes_bit_for_bit(at, size, tmp_path):
    observed, forecast = draw_faulty()
    first, second = (new_comparisons(("airflow", "effort"), forecast.shape[1]) for _ in range(2))
    parts, done = [], 0
    for n in [*cut(at, [size]), *cut(1000 - at, [size])]:
        if done == at:
            save_state(tmp_path / "state", {"format": FORMAT, "checkpoint": "", "stream": first.state_dict()})
            second.load_state_dict(load_state(tmp_path / "state", "")["stream"])
        parts.append((second if done >= at else first).update(observed[done : done + n], forecast[done : done + n]))
        done += n
    joined = joined_arrays(parts)
    whole = Comparisons(*compare(observed, forecast))
    for name in vars(whole):
        np.testing.assert_array_equal(joined[name], getattr(whole, name))


def test_the_state_does_not_grow_with_the_stream():
    observed, forecast = breathe(900, seed=0)
    stream = new_comparisons(("airflow", "effort"), forecast.shape[1])
    sizes = []
    for first in range(0, 900, 300):
        stream.update(observed[first : first + 300], forecast[first : first + 300])
        sizes.append(values_in(stream.state_dict()))
    assert sizes[0] == sizes[1] == sizes[2] < 15_000


def values_in(state):
    """Return how many numbers a state holds."""
    return sum(map(values_in, state.values())) if isinstance(state, dict) else np.size(state)


def test_a_glitch_is_forgotten_once_it_has_left_the_spans():
    observed, forecast = breathe(1500, seed=0)
    without = compare(observed, forecast)[0]
    observed[500] = 1e9
    with_it = compare(observed, forecast)[0]
    later = slice(500 + SPANS.amplitude, None)
    np.testing.assert_allclose(with_it[later, :, LOW_RANGE], without[later, :, LOW_RANGE], atol=1e-9)
    np.testing.assert_allclose(with_it[later, :, ERROR], without[later, :, ERROR], atol=1e-6)


def joined_arrays(parts):
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}


@pytest.mark.parametrize("pieces", [(100,), (1, 99), (30, 30, 40), (1,) * 100])
def test_buffered_pieces_are_the_joined_ones(pieces):
    random = np.random.default_rng(0)
    parts = [Comparisons(*(random.normal(size=(n, 2, 3)[:dims]) for dims in (3, 2, 2, 2))) for n in pieces]
    buffer = StepBuffer(100)
    for part in parts:
        buffer.add(part)
    for name, array in joined_arrays(parts).items():
        np.testing.assert_array_equal(getattr(buffer.whole(), name), array)


def test_breathing_of_twice_the_pace_shows_in_pace_alone():
    t = np.arange(900) / 5
    phase = 2 * np.pi * (t / 5 + np.where(t > 150, (t - 150) / 5, 0.0))         # 12 a minute, then 24
    observed = np.sin(phase)[:, None]
    ahead = (t[:, None] + np.arange(1, 31) / 5)[:, :, None]
    features = compare(observed, np.sin(2 * np.pi * ahead / 5))[0]
    late = features[-20:, 0]                                                    # the span holds the fast breaths alone
    np.testing.assert_allclose(late[:, PACE], math.log(2), atol=0.15)
    np.testing.assert_allclose(late[:, RATIO], 0.0, atol=0.05)
    np.testing.assert_allclose(features[600:740, 0, PACE], 0.0, atol=0.1)


def test_breaths_of_less_air_and_equal_peaks_show_in_volume_alone():
    step = np.arange(1400)
    square = np.where(step % 20 < 10, 1.0, -1.0)                     # ten steps in, ten out: a volume of 10
    pulses = np.where(step % 20 < 10, step % 20 < 2, -1.0 * (step % 20 < 12))                # two in, two out
    ahead = (step[:, None] + np.arange(1, HORIZON + 1)) % 20
    features = compare(np.where(step < 1200, square, pulses)[:, None], np.where(ahead < 10, 1.0, -1.0)[:, :, None])[0]
    floor = AMPLITUDE_FLOOR * SPANS.amplitude
    before, after = features[900:1200, 0], features[1350:1360, 0]
    np.testing.assert_allclose(before[:, [RATIO, VOLUME_RATIO]], 0.0, atol=1e-9)
    np.testing.assert_allclose(before[:, LOW_VOLUME], -math.log(10 + floor))
    np.testing.assert_allclose(after[:, RATIO], 0.0, atol=1e-9)
    np.testing.assert_allclose(after[:, LOW_VOLUME], -math.log(2 + floor))
    np.testing.assert_allclose(after[:, VOLUME_RATIO], math.log((10 + floor) / (2 + floor)), atol=0.02)


def test_what_no_component_uses_is_not_computed_and_changes_nothing_else():
    observed, forecast = draw_faulty()
    names = {"pace": [PACE], "volume_drop": [VOLUME_RATIO, LOW_VOLUME], "shared_transient": [SHARED]}
    whole = compare(observed, forecast)
    for unused, columns in [*names.items(), (tuple(names), sum(names.values(), []))]:
        some = compare(observed, forecast, unused=[unused] if isinstance(unused, str) else unused)
        assert np.isnan(some[0][:, :, columns]).all() and not np.isnan(whole[0][:, :, columns]).all()
        np.testing.assert_array_equal(np.delete(some[0], columns, axis=2), np.delete(whole[0], columns, axis=2))
        for part, other in zip(some[1:], whole[1:], strict=True):
            np.testing.assert_array_equal(part, other)


def test_ranges_and_transients_are_computed_where_a_component_looks():
    observed, forecast = draw_faulty()
    measures = ("airflow", "oximetry")
    whole = compare(observed, forecast, measures=measures)
    some = compare(observed, forecast, measures=measures, unused=("joint", "amplitude_drop", "volume_drop", "pace"))
    assert np.isnan(some[0][:, 1, [RATIO, LOW_RANGE]]).all() and np.isnan(some[3][:, 1]).all()
    np.testing.assert_array_equal(some[0][:, 0, [RATIO, LOW_RANGE]], whole[0][:, 0, [RATIO, LOW_RANGE]])
    np.testing.assert_array_equal(some[3][:, 0], whole[3][:, 0])                          # of breathing, always
    calm = compare(observed, forecast, measures=measures, unused=("joint", "transient_error"))[0]
    assert np.isnan(calm[:, :, TRANSIENT]).all()
    np.testing.assert_array_equal(np.delete(calm, TRANSIENT, axis=2), np.delete(whole[0], TRANSIENT, axis=2))


def test_a_jolt_of_one_belt_counts_half_for_both():
    observed, forecast = breathe(900, seed=0, channels=3)
    shaken = observed.copy()
    shaken[600:620, 1] += np.random.default_rng(1).normal(size=20) * 3
    calm, jolted = (compare(values, forecast)[0][619] for values in (observed, shaken))
    assert jolted[1, SHARED] == jolted[2, SHARED] > calm[1, SHARED] + 0.5
    assert jolted[1, TRANSIENT] > calm[1, TRANSIENT] + 1.5 * (jolted[1, SHARED] - calm[1, SHARED])
    assert jolted[0, SHARED] == calm[0, SHARED]                                           # of the airflow


def test_each_airflow_has_its_own_volume_and_other_channels_none():
    observed, forecast = breathe(600, seed=0, channels=3)
    flows = compare(observed, forecast, measures=("airflow", "effort", "airflow"))[0]
    for k in (0, 2):
        alone = compare(observed[:, [k]], forecast[:, :, [k]])[0]
        np.testing.assert_array_equal(flows[:, k, VOLUME_RATIO:], alone[:, 0, VOLUME_RATIO:])
    none = compare(observed, forecast, measures=("effort", "effort", "other"))[0]
    assert np.isnan(flows[:, 1, VOLUME_RATIO:]).all() and np.isnan(none[:, :, VOLUME_RATIO:]).all()
    np.testing.assert_array_equal(none[:, :, : PACE + 1], flows[:, :, : PACE + 1])
