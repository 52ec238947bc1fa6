import json
import math
from dataclasses import replace

import numpy as np
import pytest

from anomaly_scores import (
    AMPLITUDE_FLOOR,
    COMPONENTS,
    ERROR,
    ERROR_FLOOR,
    JOLT,
    LEVEL,
    LEVEL_FLOOR,
    MOST_SURPRISE,
    QUIET,
    ComparisonStream,
    RunningMedians,
    Spans,
    compute_scores,
    fit_calibration,
    fit_tail,
    normal_scores,
    resolve_weights,
    rule_scores,
    series_rules,
    surprise,
    trailing_mean,
    trailing_median,
    trailing_range,
    trailing_std,
)

NAN = math.nan
HORIZON = 30
SPANS = Spans(
    warm_up=10, settle=15, near=1, jolt=3, error=5, amplitudes=(45, 75), expected=150, baseline=300, level=60
)  # 5 Hz
SMALL = Spans(warm_up=3, settle=4, near=2, jolt=3, error=4, amplitudes=(5, 8), expected=6, baseline=12, level=7)
FLOW, BELT = 0, 1
MEASURES = ("airflow", "effort")
EQUAL = {"drop": 1.0, "error": 1.0, "jolt": 1.0, "level": 1.0, "joint": 1.0}


# ---- trailing windows -----------------------------------------------------------------------


def naive_trailing(x, span, share, of):
    """Return `of` the finite values of each trailing span of x (T, C), by a loop."""
    out = np.full(x.shape, NAN)
    for t in range(span - 1, len(x)):
        for c in range(x.shape[1]):
            values = [v for v in x[t - span + 1 : t + 1, c] if math.isfinite(v)]
            if values and len(values) >= share * span:
                out[t, c] = of(values)
    return out


def draw_gappy(length=60, missing=0.2, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(3, 2, size=(length, 2))
    x[random.uniform(size=x.shape) < missing] = NAN
    x[20:35, 1] = NAN
    return x


@pytest.mark.parametrize("span", [1, 2, 3, 7, 16, 61])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_trailing_mean_is_that_of_a_slow_loop(span, share):
    x = draw_gappy()
    np.testing.assert_allclose(trailing_mean(x, span, share), naive_trailing(x, span, share, np.mean), atol=1e-12)


@pytest.mark.parametrize("span", [2, 3, 5, 8, 13, 61])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_trailing_std_and_range_are_those_of_a_slow_loop(span, missing):
    x = draw_gappy(missing=missing)
    np.testing.assert_allclose(trailing_std(x, span), naive_trailing(x, span, 0.8, np.std), atol=1e-7)
    np.testing.assert_array_equal(trailing_range(x, span), naive_trailing(x, span, 0.8, np.ptp))


def test_trailing_range_by_hand():
    x = np.array([[1.0], [4], [2], [2], [NAN], [-1]])
    assert trailing_range(x, 3)[:4].ravel().tolist()[2:] == [3, 2]
    assert np.isnan(trailing_range(x, 3)[4:]).all()                          # 2 of 3 are less than 80 %


@pytest.mark.parametrize("span", [1, 2, 7, 16, 90])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_trailing_median_is_that_of_a_slow_loop_and_its_first_spans_are_shorter(span, share):
    x = draw_gappy()
    padded = np.concatenate([np.full((span - 1, 2), NAN), x])
    expected = naive_trailing(padded, span, share, np.median)[span - 1 :]
    np.testing.assert_allclose(trailing_median(x, span, share), expected, atol=1e-12)


@pytest.mark.parametrize("lag", [1, 4])
def test_running_medians_are_those_of_a_slow_loop(lag):
    x, span = draw_gappy(), 10
    medians = RunningMedians(2, span, lag)
    got = np.concatenate([medians.less_median(piece) for piece in np.split(x, [1, 8, 30])])
    for t in range(len(x)):
        for c in range(2):
            old = [v for v in x[max(t - lag - span + 1, 0) : max(t - lag + 1, 0), c] if math.isfinite(v)]
            usual = np.median(old) * len(old) / (len(old) + span / 4) if old else 0.0
            assert got[t, c] == pytest.approx(x[t, c] - usual, abs=1e-12, nan_ok=True)


# ---- comparisons ----------------------------------------------------------------------------


def breathe(length, seed, channels=2, horizon=HORIZON):
    """Return breathing with noise (T, C) and imperfect forecasts of it (T, H, C)."""
    random, t = np.random.default_rng(seed), np.arange(length + horizon)[:, None]
    clean = np.sin(2 * np.pi * t / 20 + np.arange(channels)) * np.exp(0.1 * np.sin(t / 150))
    observed = clean[:length] + 0.1 * random.normal(size=(length, channels))
    ahead = np.arange(length)[:, None] + 1 + np.arange(horizon)
    forecast = 0.9 * clean[ahead] + 0.05 * random.normal(size=(length, horizon, channels))
    return observed, forecast


def compare(observed, forecast, spans=SPANS, pieces=None):
    stream = ComparisonStream(observed.shape[1], forecast.shape[1], spans)
    parts, first = [], 0
    for n in pieces if pieces is not None else [len(observed)]:
        parts.append(stream.update(observed[first : first + n], forecast[first : first + n]))
        first += n
    return [np.concatenate([getattr(p, k) for p in parts]) for k in ("features", "residual", "forecast")]


def naive_comparisons(x, forecast, spans):
    """Return features, residual and the half-way forecast by loops over steps, leads and channels."""
    length, horizon, channels = forecast.shape
    used = np.full(forecast.shape, NAN)
    for t in range(spans.warm_up, length):
        for c in range(channels):
            if t >= spans.settle - 1 and np.isfinite(x[t - spans.settle + 1 : t + 1, c]).all():
                used[t, :, c] = forecast[t, :, c]
    made = np.full(forecast.shape, NAN)
    for t in range(length):
        for lead in range(1, min(horizon, t) + 1):
            made[t, lead - 1] = used[t - lead, lead - 1]
    square = (x[:, None] - made) ** 2
    residual = np.sqrt([[np.mean(square[t, :, c]) for c in range(channels)] for t in range(length)])
    near = square[:, : spans.near].mean(axis=1)
    expected = np.log(used.std(axis=1) + AMPLITUDE_FLOOR)
    features = np.full((length, channels, len(spans.names)), NAN)
    for k, span in enumerate(spans.amplitudes):
        before = np.full_like(expected, NAN)
        padded = np.concatenate([np.full((spans.expected - 1, channels), NAN), expected])
        before[span:] = naive_trailing(padded, spans.expected, 0.3, np.median)[spans.expected - 1 : -span]
        features[:, :, k] = before - np.log(naive_trailing(x, span, 0.8, np.std) + AMPLITUDE_FLOOR)
    features[:, :, QUIET] = -np.log(naive_trailing(x, spans.amplitudes[0], 0.8, np.ptp) + AMPLITUDE_FLOOR)
    features[:, :, ERROR] = np.log(np.sqrt(naive_trailing(residual**2, spans.error, 0.8, np.mean)) + ERROR_FLOOR)
    features[:, :, JOLT] = np.log(np.sqrt(naive_trailing(near, spans.jolt, 0.8, np.mean)) + ERROR_FLOOR)
    features[:, :, LEVEL] = np.log(np.abs(naive_trailing(x, spans.level, 0.8, np.mean)) + LEVEL_FLOOR)
    for f in (*range(len(spans.amplitudes)), JOLT):
        medians = RunningMedians(channels, spans.baseline, spans.amplitudes[0])
        features[:, :, f] = medians.less_median(features[:, :, f])
    return features, residual, made[:, (horizon - 1) // 2]


@pytest.mark.parametrize(("warm_up", "settle"), [(0, 1), (3, 6), (9, 4)])
def test_comparisons_are_those_of_slow_loops(warm_up, settle):
    spans = replace(SMALL, warm_up=warm_up, settle=settle)
    observed, forecast = breathe(90, seed=0, horizon=4)
    observed[30:33, 0] = NAN
    observed[50:70, 1] = NAN
    got = compare(observed, forecast, spans)
    for ours, expected in zip(got, naive_comparisons(observed, forecast, spans), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-7)
    assert np.isfinite(got[0]).mean() > 0.4


def test_names_stand_for_the_last_axis():
    assert SPANS.names == ("ratio_0", "ratio_1", "quiet", "error", "jolt", "level")
    assert compare(*breathe(20, 0))[0].shape == (20, 2, 6)


RANDOM_PIECES = [3, 1, 250, 17, 499, 2, 64, 1, 163]


@pytest.mark.parametrize("pieces", [[1] * 1000, [7] * 142 + [6], [1000], RANDOM_PIECES], ids=lambda p: str(p[0]))
def test_pieces_of_any_size_give_what_one_pass_gives(pieces):
    observed, forecast = breathe(1000, seed=0)
    observed[300:420, 0] = NAN
    observed[600, :] = NAN
    observed[700:703, 1] = NAN
    observed[800:900, 1] = 0.25                                  # where rounding would show: flat behind breathing
    for whole, joined in zip(compare(observed, forecast), compare(observed, forecast, pieces=pieces), strict=True):
        np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-9)           # NaN in the same places, too


def test_changing_later_steps_changes_no_earlier_comparison():
    observed, forecast = breathe(600, seed=0)
    before = compare(observed, forecast)
    observed[400:] += 5
    observed[450:470] = NAN
    forecast[400:] *= 3
    for old, new in zip(before, compare(observed, forecast), strict=True):
        np.testing.assert_array_equal(old[:400], new[:400])
        assert not np.array_equal(old[400:], new[400:], equal_nan=True)


def test_a_glitch_is_forgotten_when_it_left_the_spans():
    observed, forecast = breathe(1500, seed=0)
    calm = compare(observed, forecast)[0]
    observed[500] = 1e9
    shaken = compare(observed, forecast)[0]
    later = slice(500 + SPANS.amplitudes[-1], None)
    quiet, error = SPANS.names.index("quiet"), SPANS.names.index("error")
    np.testing.assert_allclose(shaken[later, :, quiet], calm[later, :, quiet], atol=1e-9)
    np.testing.assert_allclose(shaken[later, :, error], calm[later, :, error], atol=1e-6)
    std = trailing_std(observed, 45)                                           # what the ratios are made of
    np.testing.assert_array_equal(std[501 + 44 :], trailing_std(observed[501:], 45)[44:])


# ---- surprise -------------------------------------------------------------------------------


def test_surprise_is_minus_log10_of_the_share_above():
    tail = fit_tail(np.arange(10001.0))
    got = surprise(np.array([-5.0, 0, 5000, 9000, 9800, NAN]), tail)
    np.testing.assert_allclose(got, [0, 0, math.log10(2), 1, math.log10(50), NAN], atol=1e-3)


def test_beyond_calibration_the_tail_is_exponential():
    random = np.random.default_rng(0)
    tail = fit_tail(random.exponential(2.0, size=200_000))
    assert tail["scale"] == pytest.approx(2.0, rel=0.05)
    twenty, thirty = surprise(np.array([20.0, 30.0]), tail)
    assert thirty - twenty == pytest.approx(10 / (tail["scale"] * math.log(10)))
    assert twenty == pytest.approx(20 / 2 / math.log(10), rel=0.05)            # P(x >= 20) = exp(-10)


def test_surprise_is_capped_rises_with_the_value_and_stays_nan():
    tail = fit_tail(np.random.default_rng(0).normal(size=500))
    values = np.linspace(-9, 9, 400)
    assert (np.diff(surprise(values, tail)) >= 0).all()
    assert surprise(np.array([1e30]), tail)[0] == MOST_SURPRISE
    assert np.isnan(surprise(np.array([NAN, np.inf, -np.inf]), tail)).all()
    assert np.isnan(surprise(values, None)).all()


def test_constant_calibration_calls_the_constant_normal():
    tail = fit_tail(np.full(100, 3.0))
    at, above, below = surprise(np.array([3.0, 4.0, 2.0]), tail)
    assert at == below == 0.0                       # every calibration value is at least as high
    assert math.log10(50) < above < MOST_SURPRISE


def test_a_value_that_calibration_often_had_is_no_surprise():
    """A slow sensor that stands still half of the time has its highest `quiet` half of the time."""
    tail = fit_tail(np.r_[np.linspace(0, 1, 500), np.full(500, 2.0)])
    assert surprise(np.array([2.0]), tail)[0] == pytest.approx(math.log10(2), abs=0.01)


@pytest.mark.parametrize("count", [0, 49, 50])
def test_a_tail_needs_fifty_values(count):
    values = np.r_[np.arange(float(count)), [NAN] * 30]
    assert (fit_tail(values) is None) == (count < 50)


def test_normal_scores_are_normal_quantiles():
    np.testing.assert_allclose(normal_scores(np.array([math.log10(2), -math.log10(0.02275)])), [0, 2], atol=1e-3)
    assert np.isfinite(normal_scores(np.array([0.0, MOST_SURPRISE]))).all()


# ---- scores ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration():
    return fit_calibration([compare(*breathe(3000, seed))[0] for seed in (1, 2)])


def scored(observed, forecast, calibration, weights=EQUAL):
    return compute_scores(compare(observed, forecast)[0], calibration, resolve_weights(weights, MEASURES))


def test_ordinary_breathing_stays_low(calibration):
    score = scored(*breathe(3000, seed=3), calibration).score
    assert np.isnan(score[:10]).all() and np.isfinite(score[300:]).all()
    assert (score >= 0)[300:].all()
    assert np.median(score[300:]) < 1.5 and np.quantile(score[300:], 0.99) < 4


def test_a_drop_needs_all_of_its_comparisons(calibration):
    drop = scored(*breathe(400, seed=3), calibration, {"drop": 1.0}).score
    first = SPANS.amplitudes[-1] + SPANS.settle - 1 + round(0.3 * SPANS.expected) - 1       # `quiet` is there at 44
    assert np.isnan(drop[:first]).all() and np.isfinite(drop[first:]).all()


def test_a_stop_of_breathing_raises_drop(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1100, 0] = 0.01 * np.random.default_rng(0).normal(size=100)
    forecast[1020:1100, :, 0] *= 0.1                      # the network soon expects nothing any more
    drop = scored(observed, forecast, calibration, {"drop": 1.0})
    assert drop.score[1045:1100].min() > 4 > 3 > np.nanmax(drop.score[300:1000])
    assert set(drop.channel[1045:1100]) == {FLOW}
    assert set(drop.component[1045:1100]) == {COMPONENTS.index("drop")}


def test_a_spike_raises_error_and_jolt(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1003, 1] += 4
    for component in ("error", "jolt"):
        result = scored(observed, forecast, calibration, {component: 1.0})
        peak = 1000 + int(np.nanargmax(result.score[1000:1010]))
        assert result.score[peak] > 5 > np.nanmax(result.score[300:1000])
        assert result.channel[peak] == BELT
        assert result.component[peak] == COMPONENTS.index(component)


@pytest.mark.parametrize("dead", [NAN, 0.3])
def test_a_dead_channel_does_not_silence_the_other(calibration, dead):
    observed, forecast = breathe(2000, seed=3)
    observed[1500:1600, 0] = 0
    alone = scored(observed, forecast, calibration).score
    observed[800:, 1] = dead
    beside = scored(observed, forecast, calibration)
    assert np.isfinite(beside.score[300:]).all()
    assert beside.score[1545:1600].min() > 4
    only_flow = {"drop:airflow": 1.0, "error:airflow": 1.0}
    flow = scored(observed, forecast, calibration, only_flow).score
    assert (beside.score[1545:1600] >= flow[1545:1600] - 1e-9).all() and (flow[1545:1600] > 4).all()
    if math.isnan(dead):
        assert np.nanmax(beside.score[1000:1500]) < 5 < np.nanmax(alone[1500:1600])


def test_without_any_value_there_is_no_score(calibration):
    observed, forecast = breathe(500, seed=3)
    result = scored(np.full_like(observed, NAN), forecast, calibration)
    assert np.isnan(result.score).all() and (result.channel == -1).all() and (result.component == -1).all()


def test_weights_are_resolved_by_what_a_channel_measures_and_the_largest_is_one():
    weights = {"drop": 0.02, "drop:airflow": 0.5, "error:effort": 0.1, "joint": 0.05}
    resolved = resolve_weights(weights, ("airflow", "effort", "other"))
    expected = {"drop": [1, 0.04, 0.04], "error": [0, 0.2, 0], "jolt": [0, 0, 0], "level": [0, 0, 0], "joint": [0.1]}
    assert resolved.keys() == expected.keys()
    for name, values in expected.items():
        assert resolved[name].tolist() == pytest.approx(values)
    nothing = resolve_weights({"drop:airflow": 1.0}, ("other",))
    assert not any(values.any() for values in nothing.values())


def test_score_is_the_largest_weighted_surprise(calibration):
    features = compare(*breathe(600, seed=3))[0]
    weights = resolve_weights({"drop": 0.5, "error": 0.2, "jolt": 1.0, "joint": 0.1}, MEASURES)
    zero = {name: np.zeros_like(values) for name, values in weights.items()}
    apart = [compute_scores(features, calibration, zero | {name: weights[name]}).score for name in weights]
    np.testing.assert_allclose(compute_scores(features, calibration, weights).score, np.fmax.reduce(apart))


def test_a_hundredth_of_the_weight_lowers_the_score_by_two(calibration):
    features = compare(*breathe(600, seed=3))[0]
    weights = resolve_weights({"error": 1.0}, MEASURES)
    full = compute_scores(features, calibration, weights).score
    hundredth = compute_scores(features, calibration, weights | {"error": weights["error"] / 100}).score
    np.testing.assert_allclose(hundredth, np.maximum(full - 2, 0))
    assert (full > 2).any()


def test_the_weight_of_a_measure_goes_first_and_zero_leaves_out(calibration):
    observed, forecast = breathe(600, seed=3)
    observed[400, BELT] += 4
    belt = scored(observed, forecast, calibration, {"error:effort": 1.0})
    assert set(belt.channel) == {-1, BELT}
    both = scored(observed, forecast, calibration, {"error": 1.0})
    assert both.score[402] == belt.score[402] > 5
    less = scored(observed, forecast, calibration, {"error": 1.0, "error:effort": 0.01})
    assert less.score[402] == pytest.approx(both.score[402] - 2)
    without = scored(observed, forecast, calibration, {"error": 1.0, "error:effort": 0.0})
    assert set(without.channel) == {-1, FLOW} and without.score[402] < 2
    assert np.isnan(scored(observed, forecast, calibration, {"error": 0.0}).score).all()
    assert np.isnan(scored(observed, forecast, calibration, {"error:other": 1.0}).score).all()


def test_the_joint_distance_names_the_strangest_channel(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1003, 1] += 4
    result = scored(observed, forecast, calibration, {"joint": 1.0})
    peak = 1000 + int(np.nanargmax(result.score[1000:1010]))
    assert result.score[peak] > 3 and result.channel[peak] == BELT


def test_drop_is_the_sum_of_the_normal_scores_of_ratios_and_quiet(calibration):
    features = compare(*breathe(800, seed=3))[0]
    parts = [*range(len(SPANS.amplitudes)), len(SPANS.amplitudes)]
    z = [normal_scores(surprise(features[:, FLOW, f], calibration["tails"][FLOW][f])) for f in parts]
    drop = sum(z) / calibration["spread"][FLOW]
    expected = surprise(drop, calibration["components"]["drop"][FLOW])
    score = compute_scores(features, calibration, resolve_weights({"drop:airflow": 1.0}, MEASURES)).score
    np.testing.assert_allclose(score, expected, atol=1e-12)


def test_joint_distance_is_the_mahalanobis_distance_a_comparison(calibration):
    """Its order over steps is that of scikit-learn's own distance where every comparison is there."""
    features = compare(*breathe(800, seed=3))[0]
    z = np.full((*features.shape[:2], 5), NAN)                # all comparisons but the level
    for c in range(2):
        for f in range(5):
            z[:, c, f] = normal_scores(surprise(features[:, c, f], calibration["tails"][c][f]))
    flat = z.reshape(len(z), -1) - np.array(calibration["means"])
    whole = np.isfinite(flat).all(axis=1)
    expected = [row @ np.linalg.solve(np.array(calibration["covariance"]), row) for row in flat[whole]]
    score = compute_scores(features, calibration, resolve_weights({"joint": 1.0}, MEASURES)).score[whole]
    tail = calibration["components"]["joint"][0]
    np.testing.assert_allclose(score, surprise(np.cbrt(np.array(expected) / 10), tail), atol=1e-9)


def test_the_rule_uses_no_forecast(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1100, FLOW] = 0
    weights = resolve_weights(EQUAL, MEASURES)
    rule = rule_scores(compare(observed, forecast)[0], calibration, weights)
    np.testing.assert_array_equal(rule, rule_scores(compare(observed, 7 - forecast)[0], calibration, weights))
    assert rule[1045:1100].min() > 3 > np.nanmax(rule[:1000])
    no_drop = resolve_weights({"error": 1.0}, MEASURES)
    assert np.isnan(rule_scores(compare(observed, forecast)[0], calibration, no_drop)).all()


def test_a_shift_of_the_level_raises_level_to_either_side(calibration):
    for shift in (5.0, -5.0):
        observed, forecast = breathe(1500, seed=3)
        observed[1000:, BELT] += shift
        level = scored(observed, forecast + (observed - breathe(1500, seed=3)[0])[:, None], calibration, {"level": 1.0})
        assert level.score[1059:].min() > 4 > np.nanmax(level.score[:1000])
        assert set(level.channel[1059:]) == {BELT}
        assert set(level.component[1059:]) == {COMPONENTS.index("level")}


def test_series_rules_by_hand():
    observed = np.array([[1.0], [3], [NAN], [-2], [-2]])
    rules = series_rules(observed, span=3)
    assert rules["sum of squares"].tolist() == [1, 10, 10, 13, 8]
    np.testing.assert_array_equal(rules["difference from the last value"], [0, 2, NAN, NAN, 0])


def test_calibration_survives_json(calibration):
    observed, forecast = breathe(600, seed=3)
    again = json.loads(json.dumps(calibration, allow_nan=False))
    np.testing.assert_array_equal(
        scored(observed, forecast, calibration).score, scored(observed, forecast, again).score
    )


def test_too_little_calibration_is_an_error_with_counts():
    features = np.full((60, 2, 6), NAN)
    features[:31, 0] = 1.0
    with pytest.raises(ValueError, match=r"31 calibration steps .* at least 50"):
        fit_calibration([features])


def test_a_channel_without_calibration_takes_no_part():
    parts = [breathe(2000, seed) for seed in (1, 2)]
    for observed, _ in parts:
        observed[:, 1] = NAN
    state = fit_calibration([compare(*part)[0] for part in parts])
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1100, :] = 0
    result = scored(observed, forecast, state)
    assert result.score[1045:1100].min() > 4 and set(result.channel) <= {-1, FLOW}


@pytest.mark.parametrize("extreme", [1e30, -1e30, np.inf, -np.inf])
def test_extreme_values_never_crash(calibration, extreme):
    observed, forecast = breathe(600, seed=3)
    observed[300:310, 0] = extreme
    features = compare(observed, forecast)[0]
    features[400:405, 1, 2] = extreme
    score = compute_scores(features, calibration, resolve_weights(EQUAL, MEASURES)).score
    assert not np.isinf(score).any() and np.isfinite(score[320:]).all()
    again = fit_calibration([features, features])
    assert np.isfinite(json.loads(json.dumps(again))["spread"]).all()
    observed += 1e30                                       # a sensor far off its scale
    assert not np.isinf(scored(observed, forecast, calibration).score).any()
