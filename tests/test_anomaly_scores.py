import json
import math

import numpy as np
import pytest
from breaths import SPANS, breathe, compare, cut

from detection.anomaly_scores import (
    COMPONENTS,
    KNOTS,
    MAX_PATTERNS,
    MAX_SURPRISAL,
    TAIL_LEVEL,
    JointDistance,
    Scorer,
    Tails,
    fit_calibration,
    fit_tail,
    normal_scores,
    resolve_weights,
    series_baselines,
)
from detection.comparisons import LEVEL, LOW_RANGE, LOW_VOLUME, NAMES, RATIO, VOLUME_RATIO

NAN = math.nan
FLOW, BELT = 0, 1
MEASURES = ("airflow", "effort")
EQUAL = dict.fromkeys(COMPONENTS, 1.0)


def surprisal(values, tail):
    """Return the surprisal (T,) of the values (T,) of one column."""
    return Tails([tail]).surprisal(np.asarray(values, float)[:, None])[:, 0]


# ---- surprisal -------------------------------------------------------------------------------


def test_surprisal_is_minus_log10_of_the_share_above():
    tail = fit_tail(np.arange(10001.0))
    got = surprisal(np.array([-5.0, 0, 5000, 9000, 9800, NAN]), tail)
    np.testing.assert_allclose(got, [0, 0, math.log10(2), 1, math.log10(50), NAN], atol=1e-3)


def test_beyond_calibration_the_tail_is_exponential():
    random = np.random.default_rng(0)
    tail = fit_tail(random.exponential(2.0, size=200_000))
    assert tail["scale"] == pytest.approx(2.0, rel=0.05)
    twenty, thirty = surprisal(np.array([20.0, 30.0]), tail)
    assert thirty - twenty == pytest.approx(10 / (tail["scale"] * math.log(10)))
    assert twenty == pytest.approx(20 / 2 / math.log(10), rel=0.05)            # P(x >= 20) = exp(-10)


def test_surprisal_is_capped_rises_with_the_value_and_stays_nan():
    tail = fit_tail(np.random.default_rng(0).normal(size=500))
    values = np.linspace(-9, 9, 400)
    assert (np.diff(surprisal(values, tail)) >= 0).all()
    assert surprisal(np.array([1e30]), tail)[0] == MAX_SURPRISAL
    assert np.isnan(surprisal(np.array([NAN, np.inf, -np.inf]), tail)).all()
    assert np.isnan(surprisal(values, None)).all()


def test_constant_calibration_calls_the_constant_normal():
    tail = fit_tail(np.full(100, 3.0))
    at, above, below = surprisal(np.array([3.0, 4.0, 2.0]), tail)
    assert at == below == 0.0                       # every calibration value is at least as high
    assert math.log10(50) < above < MAX_SURPRISAL


def test_a_frequent_calibration_value_has_a_low_surprisal():
    """A slow sensor that is constant half of the time has its highest `low_range` half of the time."""
    tail = fit_tail(np.r_[np.linspace(0, 1, 500), np.full(500, 2.0)])
    assert surprisal(np.array([2.0]), tail)[0] == pytest.approx(math.log10(2), abs=0.01)


def naive_surprisal(value, tail):
    """Return the surprisal of one value, knot by knot; what equals several knots has the share above the lowest."""
    if tail is None or not math.isfinite(value):
        return NAN
    knots, levels = tail["knots"], np.linspace(0.0, TAIL_LEVEL, KNOTS)
    if value <= knots[0]:
        share = 1.0
    elif value > knots[-1]:
        share = 1 - TAIL_LEVEL
    else:
        k = next(k for k in range(KNOTS) if knots[k] >= value)           # knots[k - 1] < value <= knots[k]
        share = 1 - np.interp(value, knots[k - 1 : k + 1], levels[k - 1 : k + 1])
    beyond = max(value - knots[-1], 0.0) / tail["scale"] / math.log(10)
    return min(-math.log10(share) + beyond, MAX_SURPRISAL)


def draw_tails():
    """Return tails of calibrations with and without ties, of a constant, and of nothing."""
    random = np.random.default_rng(0)
    columns = [
        random.normal(size=500),
        random.integers(0, 6, size=300).astype(float),
        np.full(60, 3.0),
        np.full(20, 1.0),
        np.r_[random.exponential(size=400), np.full(600, 2.0)],
        -(10.0 ** random.uniform(-3, 3, size=90)),
    ]
    return [fit_tail(column) for column in columns]


def draw_values(tails, count=3000):
    """Return values (T, K) between, on, below and above all knots, missing and infinite ones among them."""
    random = np.random.default_rng(1)
    values = random.normal(scale=3, size=(count, len(tails)))
    for k, tail in enumerate(tails):
        on_knots = random.random(count) < 0.3
        values[on_knots, k] = random.choice(tail["knots"] if tail else [0.0], size=on_knots.sum())
    special = [NAN, np.inf, -np.inf, 1e300, -1e300, 0.0, -0.0, 1e-320]
    at = random.random(values.shape) < 0.1
    values[at] = random.choice(special, size=at.sum())
    return values


def test_surprisal_is_that_of_a_slow_look_at_every_knot():
    tails = draw_tails()
    values = draw_values(tails, 400)
    expected = [[naive_surprisal(value, tail) for value, tail in zip(row, tails, strict=True)] for row in values]
    np.testing.assert_allclose(Tails(tails).surprisal(values), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [0, 49, 50])
def test_a_tail_needs_fifty_values(count):
    values = np.r_[np.arange(float(count)), [NAN] * 30]
    assert (fit_tail(values) is None) == (count < 50)


def test_normal_scores_are_normal_quantiles():
    np.testing.assert_allclose(normal_scores(np.array([math.log10(2), -math.log10(0.02275)])), [0, 2], atol=1e-3)
    assert np.isfinite(normal_scores(np.array([0.0, MAX_SURPRISAL]))).all()


# ---- scores ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration():
    return fit_calibration([compare(*breathe(3000, seed))[0] for seed in (1, 2)])


def scored(observed, forecast, calibration, weights=EQUAL):
    return Scorer(calibration, resolve_weights(weights, MEASURES)).score(compare(observed, forecast)[0])


def test_ordinary_breathing_stays_low(calibration):
    score = scored(*breathe(3000, seed=3), calibration).score
    assert np.isnan(score[:10]).all() and np.isfinite(score[300:]).all()
    assert (score >= 0)[300:].all()
    assert np.median(score[300:]) < 1.5 and np.quantile(score[300:], 0.99) < 4


def test_a_drop_needs_all_of_its_comparisons(calibration):
    drop = scored(*breathe(400, seed=3), calibration, {"amplitude_drop": 1.0}).score
    first = SPANS.amplitude + SPANS.settle - 1 + round(0.3 * SPANS.expected) - 1       # `low_range` is there at 44
    assert np.isnan(drop[:first]).all() and np.isfinite(drop[first:]).all()


def test_a_stop_of_breathing_raises_drop(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1100, 0] = 0.01 * np.random.default_rng(0).normal(size=100)
    forecast[1020:1100, :, 0] *= 0.1                      # the network soon expects no movement
    drop = scored(observed, forecast, calibration, {"amplitude_drop": 1.0})
    assert drop.score[1045:1100].min() > 5 > 4 > np.nanmax(drop.score[300:1000])
    assert set(drop.channel[1045:1100]) == {FLOW}
    assert set(drop.component[1045:1100]) == {COMPONENTS.index("amplitude_drop")}


def test_a_spike_raises_error_and_transient_error(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1003, 1] += 4
    for component in ("error", "transient_error"):
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
    only_flow = {"amplitude_drop:airflow": 1.0, "error:airflow": 1.0}
    flow = scored(observed, forecast, calibration, only_flow).score
    assert (beside.score[1545:1600] >= flow[1545:1600] - 1e-9).all() and (flow[1545:1600] > 4).all()
    if math.isnan(dead):
        assert np.nanmax(beside.score[1000:1500]) < 5 < np.nanmax(alone[1500:1600])


def test_without_any_value_there_is_no_score(calibration):
    observed, forecast = breathe(500, seed=3)
    result = scored(np.full_like(observed, NAN), forecast, calibration)
    assert np.isnan(result.score).all() and (result.channel == -1).all() and (result.component == -1).all()


def test_weights_follow_what_a_channel_measures_and_the_largest_is_one():
    weights = {"amplitude_drop": 0.02, "amplitude_drop:airflow": 0.5, "error:effort": 0.1, "joint": 0.05}
    resolved = resolve_weights(weights, ("airflow", "effort", "other"))
    expected = {"amplitude_drop": [1, 0.04, 0.04], "error": [0, 0.2, 0], "joint": [0.1]}
    expected |= {name: [0, 0, 0] for name in ("transient_error", "level", "pace", "volume_drop", "shared_transient")}
    assert resolved.keys() == expected.keys()
    for name, values in expected.items():
        assert resolved[name].tolist() == pytest.approx(values)
    belts = {"amplitude_drop:effort": 0.01, "amplitude_drop:effort_alone": 0.5, "amplitude_drop:airflow": 1, "error": 1}
    for measures, expected in ((("airflow", "effort"), [1, 0.01]), (("effort", "other"), [0.5, 0])):
        assert resolve_weights(belts, measures)["amplitude_drop"].tolist() == expected
    nothing = resolve_weights({"amplitude_drop:airflow": 1.0}, ("other",))
    assert not any(values.any() for values in nothing.values())


def test_score_is_the_largest_weighted_surprisal(calibration):
    features = compare(*breathe(600, seed=3))[0]
    weights = resolve_weights({"amplitude_drop": 0.5, "error": 0.2, "transient_error": 1.0, "joint": 0.1}, MEASURES)
    zero = {name: np.zeros_like(values) for name, values in weights.items()}
    apart = [Scorer(calibration, zero | {name: weights[name]}).score(features).score for name in weights]
    np.testing.assert_allclose(Scorer(calibration, weights).score(features).score, np.fmax.reduce(apart))


def test_a_hundredth_of_the_weight_lowers_the_score_by_two(calibration):
    features = compare(*breathe(600, seed=3))[0]
    weights = resolve_weights({"error": 1.0}, MEASURES)
    full = Scorer(calibration, weights).score(features).score
    hundredth = Scorer(calibration, weights | {"error": weights["error"] / 100}).score(features).score
    np.testing.assert_allclose(hundredth, np.maximum(full - 2, 0))
    assert (full > 2).any()


def test_the_weight_of_a_measure_takes_precedence_and_zero_leaves_out(calibration):
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


def test_the_joint_distance_names_the_most_anomalous_channel(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1003, 1] += 4
    result = scored(observed, forecast, calibration, {"joint": 1.0})
    peak = 1000 + int(np.nanargmax(result.score[1000:1010]))
    assert result.score[peak] > 3 and result.channel[peak] == BELT


def test_drop_is_the_sum_of_normal_scores_of_ratio_and_low_range(calibration):
    features = compare(*breathe(800, seed=3))[0]
    z = [normal_scores(surprisal(features[:, FLOW, f], calibration["tails"][FLOW][f])) for f in (RATIO, LOW_RANGE)]
    drop = sum(z) / calibration["spread"][FLOW]
    expected = surprisal(drop, calibration["components"]["amplitude_drop"][FLOW])
    score = Scorer(calibration, resolve_weights({"amplitude_drop:airflow": 1.0}, MEASURES)).score(features).score
    np.testing.assert_allclose(score, expected, atol=1e-12)


def test_volume_drop_is_the_sum_of_the_normal_scores_that_are_there(calibration):
    features = compare(*breathe(800, seed=3))[0]
    score = Scorer(calibration, resolve_weights({"volume_drop:airflow": 1.0}, MEASURES)).score(features).score
    four = (RATIO, LOW_RANGE, VOLUME_RATIO, LOW_VOLUME)
    z = np.array([normal_scores(surprisal(features[:, FLOW, f], calibration["tails"][FLOW][f])) for f in four])
    tail = calibration["components"]["volume_drop"][FLOW]
    np.testing.assert_allclose(score[300:], surprisal(z[:, 300:].sum(axis=0) / 2, tail), atol=1e-12)
    early = slice(SPANS.amplitude - 1, SPANS.level)                    # the range is known, nothing is expected yet
    assert np.isnan(z[[0, 2, 3], early]).all()
    np.testing.assert_allclose(score[early], surprisal(z[1, early], tail), atol=1e-12)


def test_joint_distance_is_the_mahalanobis_distance_per_comparison(calibration):
    """Its order over steps is that of scikit-learn's own distance where every comparison is there."""
    features = compare(*breathe(800, seed=3))[0]
    z = np.full((*features.shape[:2], LEVEL), NAN)                # all comparisons but the level
    for c in range(2):
        for f in range(LEVEL):
            z[:, c, f] = normal_scores(surprisal(features[:, c, f], calibration["tails"][c][f]))
    flat = z.reshape(len(z), -1) - np.array(calibration["means"])
    whole = np.isfinite(flat).all(axis=1)
    expected = [row @ np.linalg.solve(np.array(calibration["covariance"]), row) for row in flat[whole]]
    score = Scorer(calibration, resolve_weights({"joint": 1.0}, MEASURES)).score(features).score[whole]
    tail = calibration["components"]["joint"][0]
    np.testing.assert_allclose(score, surprisal(np.cbrt(np.array(expected) / (2 * LEVEL)), tail), atol=1e-9)


def test_the_amplitude_baseline_uses_no_forecast(calibration):
    observed, forecast = breathe(1500, seed=3)
    observed[1000:1100, FLOW] = 0
    weights = resolve_weights(EQUAL, MEASURES)
    scorer = Scorer(calibration, weights)
    score = scorer.amplitude_baseline(compare(observed, forecast)[0])
    np.testing.assert_array_equal(score, scorer.amplitude_baseline(compare(observed, 7 - forecast)[0]))
    assert score[1045:1100].min() > 3 > np.nanmax(score[:1000])
    behind = Scorer(calibration, weights | {"amplitude_drop": weights["amplitude_drop"] / 10})
    np.testing.assert_array_equal(score, behind.amplitude_baseline(compare(observed, forecast)[0]))
    no_drop = resolve_weights({"error": 1.0}, MEASURES)
    assert np.isnan(Scorer(calibration, no_drop).amplitude_baseline(compare(observed, forecast)[0])).all()


def test_a_shift_of_the_level_raises_level_to_either_side(calibration):
    for shift in (5.0, -5.0):
        observed, forecast = breathe(1500, seed=3)
        observed[1000:, BELT] += shift
        level = scored(observed, forecast + (observed - breathe(1500, seed=3)[0])[:, None], calibration, {"level": 1.0})
        assert level.score[1059:].min() > 4 > np.nanmax(level.score[:1000])
        assert set(level.channel[1059:]) == {BELT}
        assert set(level.component[1059:]) == {COMPONENTS.index("level")}


def test_series_baselines_by_hand():
    observed = np.array([[1.0], [3], [NAN], [-2], [-2]])
    scores = series_baselines(observed, span=3)
    assert scores["sum of squares"].tolist() == [1, 10, 10, 13, 8]
    np.testing.assert_array_equal(scores["difference from the last value"], [0, 2, NAN, NAN, 0])


@pytest.mark.parametrize("sizes", [[1], [4], [5], [1, 300, 2]], ids=str)
def test_a_step_has_the_same_score_alone_and_among_others(calibration, sizes):
    observed, forecast = breathe(600, seed=3)
    observed[300:400, BELT] = NAN
    observed[450, FLOW] += 8
    features, scorer = compare(observed, forecast)[0], Scorer(calibration, resolve_weights(EQUAL, MEASURES))
    whole, edges = scorer.score(features), np.cumsum(cut(600, sizes))[:-1]
    parts = [scorer.score(part) for part in np.split(features, edges)]
    np.testing.assert_allclose(np.concatenate([part.score for part in parts]), whole.score, rtol=0, atol=1e-12)
    for name in ("channel", "component"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    baselines = [scorer.amplitude_baseline(part) for part in np.split(features, edges)]
    np.testing.assert_array_equal(np.concatenate(baselines), scorer.amplitude_baseline(features))


def test_the_joint_distance_leaves_missing_comparisons_out(calibration):
    """Missing comparisons in every pattern, more than are kept; the distance is that in the others alone."""
    random = np.random.default_rng(0)
    z = random.normal(size=(1500, 2, len(NAMES)))
    z[random.random(z.shape) < 0.4] = NAN
    z[7] = NAN
    z[8] = random.normal(size=(2, len(NAMES)))
    joint = JointDistance(calibration)
    got, covariance = joint.distance(z), np.array(calibration["covariance"])
    flat = z[:, :, :LEVEL].reshape(1500, 2 * LEVEL) - calibration["means"]
    assert len(np.unique(np.isfinite(flat), axis=0)) > MAX_PATTERNS >= joint._inverse.cache_info().currsize
    for step in [*range(40), 1499]:
        there = np.isfinite(flat[step])
        part = flat[step, there]
        squared = part @ np.linalg.solve(covariance[np.ix_(there, there)], part) / there.sum() if len(part) else NAN
        assert got[step] == pytest.approx(np.cbrt(squared), abs=1e-9, nan_ok=True)
        np.testing.assert_allclose(joint.distance(z[step : step + 1]), got[step : step + 1], rtol=0, atol=1e-12)


def test_too_little_calibration_is_an_error_with_counts():
    features = np.full((60, 2, 6), NAN)
    features[:31, 0] = 1.0
    with pytest.raises(ValueError, match=r"calibration steps with a comparison: 31; .* at least 50"):
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
    score = Scorer(calibration, resolve_weights(EQUAL, MEASURES)).score(features).score
    assert not np.isinf(score).any() and np.isfinite(score[320:]).all()
    again = fit_calibration([features, features])
    assert np.isfinite(json.loads(json.dumps(again))["spread"]).all()
    observed += 1e30                                       # a sensor far off its scale
    assert not np.isinf(scored(observed, forecast, calibration).score).any()
