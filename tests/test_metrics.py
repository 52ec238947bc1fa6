"""Metrics against published values, hand-worked numbers, plain references and properties."""

from __future__ import annotations

import json
import math
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import metrics

SHARED = Path(__file__).resolve().parents[2] / "shared"
CASES = SHARED / "reference" / "metric_cases.json"
NAB_ROOT = SHARED / "data" / "nab"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is absent")
needs_nab = pytest.mark.skipif(not NAB_ROOT.exists() or not CASES.exists(), reason=f"{NAB_ROOT} is absent")

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)

RANK_BASED = (metrics.auc_roc, metrics.auc_pr, metrics.oracle_point_f1,
              lambda labels, scores: metrics.vus(labels, scores, 6)[0],
              lambda labels, scores: metrics.vus(labels, scores, 6)[1])
ORACLES = {
    "point": metrics.oracle_point_f1,
    "tsb_point": metrics.oracle_tsb_point_f1,
    "point_adjusted": lambda y, s, **kw: metrics.oracle_point_adjusted_f1(y, s, **kw)["value"],
    "tsb_point_adjusted": lambda y, s, **kw: metrics.oracle_tsb_point_adjusted_f1(y, s, **kw)["value"],
    "event": lambda y, s, **kw: metrics.oracle_event_f1(y, s, 1.0, 0.0, **kw),
    "tsb_event": metrics.oracle_tsb_event_f1,
    "range": metrics.oracle_range_f1,
    "affiliation": metrics.oracle_affiliation_f1,
}
WITH_THRESHOLDS = [name for name in ORACLES if name not in ("point", "tsb_point")]


@st.composite
def labelled_scores(draw, max_size=24):
    """Labels with at least one step of each class, and integer scores with ties."""
    labels = draw(st.lists(st.integers(0, 1), min_size=2, max_size=max_size).filter(lambda y: 0 < sum(y) < len(y)))
    scores = draw(st.lists(st.integers(0, 9), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores, dtype=float)


def mask(n: int, *ranges: tuple[int, int]) -> np.ndarray:
    """Return (n,) zeros with ones in the given ranges of steps, both ends included."""
    result = np.zeros(n, dtype=int)
    for first, last in ranges:
        result[first:last + 1] = 1
    return result


# --- published values ------------------------------------------------------------------------------------------------

@needs_cases
@pytest.mark.parametrize("case", json.loads(CASES.read_text()) if CASES.exists() else [],
                         ids=lambda case: f"{case['case']}-{case['kind']}")
def test_all_values_of_the_reference_cases(case):
    arrays = np.load(CASES.with_suffix(".npz"))
    labels, scores = arrays[f"label_{case['case']}"], arrays[f"score_{case['case']}"]
    ours = metrics.threshold_free(labels, scores, case["window"]) | {
        "point_f1_best": ORACLES["tsb_point"](labels, scores),
        "pa_f1_best": ORACLES["tsb_point_adjusted"](labels, scores),
        "event_f1_best": ORACLES["tsb_event"](labels, scores),
        "range_f1_best": ORACLES["range"](labels, scores),
        "affiliation_f1_best": ORACLES["affiliation"](labels, scores),
    }
    expected = {key: value for key, value in case.items() if key not in ("case", "kind", "n", "window")}
    assert ours == pytest.approx(expected, abs=1e-6)


@few
@given(labelled_scores())
def test_rank_based_metrics_ignore_a_monotone_transform(case):
    labels, scores = case
    for metric in RANK_BASED:
        for transformed in (np.exp(scores) - 5, scores ** 3, 7 * scores):
            assert metric(labels, transformed) == pytest.approx(metric(labels, scores), abs=1e-12)


@few
@given(labelled_scores())
def test_perfect_scores_get_1(case):
    labels, _ = case
    for metric in RANK_BASED:
        assert metric(labels, labels) == pytest.approx(1)
    for name in WITH_THRESHOLDS:
        assert ORACLES[name](labels, labels.astype(float)) == pytest.approx(1), name
    for scores in (metrics.point_scores, metrics.range_based_scores, metrics.affiliation_scores):
        result = scores(labels, labels)
        assert [result[key] for key in ("precision", "recall", "f1")] == pytest.approx([1, 1, 1])


@few
@given(labelled_scores())
def test_metrics_stay_within_0_and_1(case):
    labels, scores = case
    values = [metric(labels, scores) for metric in RANK_BASED]
    values += [ORACLES[name](labels, scores) for name in WITH_THRESHOLDS]
    alarms = scores > 4
    found = metrics.range_based_scores(labels, alarms), metrics.affiliation_scores(labels, alarms)
    values += [value for result in found
               for value in result.values() if not math.isnan(value)]
    assert min(values) >= 0 and max(values) <= 1 + 1e-12


@few
@given(labelled_scores(), st.integers(0, 12))
def test_vus_equals_the_definition(case, buffer):
    labels, scores = case
    assert metrics.vus(labels, scores, buffer) == pytest.approx(naive.vus(labels, scores, buffer), abs=1e-12)


def test_vus_equals_the_definition_on_more_steps_than_thresholds():
    rng = np.random.default_rng(3)
    labels = mask(700, (0, 3), (50, 50), (52, 52), (56, 80), (300, 301), (696, 699))
    scores = np.round(rng.random(700) + 0.5 * labels, 2)
    assert metrics.vus(labels, scores, 9) == pytest.approx(naive.vus(labels, scores, 9), abs=1e-12)


@few
@given(labelled_scores(), st.floats(0, 1), st.sampled_from(list(metrics.POSITION_BIAS)),
       st.sampled_from(["one", "reciprocal"]))
def test_range_scores_equal_the_definition(case, alpha, bias, cardinality):
    labels, scores = case
    alarms = (scores > 4).astype(int)
    ours = metrics.range_based_scores(labels, alarms, alpha, bias, cardinality, precision_bias=bias)
    assert ours["recall"] == pytest.approx(naive.range_recall(labels, alarms, alpha, bias, cardinality), abs=1e-12)
    if alarms.any():
        assert ours["precision"] == pytest.approx(naive.range_recall(alarms, labels, 0, bias, cardinality), abs=1e-12)


@few
@given(labelled_scores(max_size=16))
def test_affiliation_equals_the_definition(case):
    labels, scores = case
    ours = metrics.affiliation_scores(labels, scores > 5)
    expected = naive.affiliation(labels, scores > 5)
    assert (ours["precision"], ours["recall"]) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@few
@given(labelled_scores())
def test_point_adjustment_equals_the_definition(case):
    labels, scores = case
    thresholds = np.arange(-1, 10)
    ours = metrics.oracle_point_adjusted_f1(labels, scores, thresholds=thresholds)["value"]
    assert ours == pytest.approx(naive.point_adjusted_f1(labels, scores, thresholds))


events = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=4).map(
    lambda pairs: [(start, start + length) for start, length in pairs])


@few
@given(events, events, st.integers(0, 5))
def test_matching_is_one_to_one_and_the_best_there_is(found, labelled, tolerance_s):
    result = metrics.match_events(found, labelled, tolerance_s)
    matched = result.match[result.match >= 0]
    assert len(set(matched)) == matched.size == result.is_found.sum()            # nothing is counted twice
    assert set(np.flatnonzero(result.is_found)) == set(matched)
    assert result.is_true[result.match >= 0].all()
    for (start, end), label, delay in zip(found, result.match, result.delay_s):
        if label >= 0:
            assert start <= labelled[label][1] + tolerance_s and end >= labelled[label][0]
            assert delay == max(start - labelled[label][0], 0)
    assert (matched.size, np.nansum(result.delay_s)) == naive.best_matching(found, labelled, tolerance_s)


# --- threshold-free --------------------------------------------------------------------------------------------------

def test_areas_worked_out_by_hand():
    labels, scores = [0, 1, 0, 1], [1, 2, 3, 4]
    assert metrics.auc_roc(labels, scores) == 0.75                               # 3 of 4 pairs in order
    assert metrics.auc_pr(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.auc_roc(labels, [5, 5, 5, 5]) == 0.5                          # ties count half
    assert metrics.oracle_point_f1(labels, scores) == pytest.approx(0.8)         # P 2/3, R 1


def test_vus_without_buffer_is_the_area_times_existence():
    labels, scores = [0, 0, 1, 0], [1, 2, 3, 4]
    assert metrics.vus(labels, scores, 0) == pytest.approx((2 / 3, 1 / 2))


def test_vus_forgives_a_near_miss_and_auc_does_not():
    labels = mask(300, (100, 119))
    late, elsewhere = np.roll(labels, 22), np.roll(labels, 150)
    assert metrics.auc_roc(labels, late) == metrics.auc_roc(labels, elsewhere)
    assert np.all(np.array(metrics.vus(labels, late, 60)) > 0.1 + np.array(metrics.vus(labels, elsewhere, 60)))


def test_unscored_steps_are_left_out_of_areas_but_not_of_time():
    labels, scores = mask(40, (10, 19)), np.arange(40.0)
    unscored = scores.copy()
    unscored[:5] = np.nan
    for metric in (metrics.auc_roc, metrics.auc_pr, metrics.oracle_point_f1):
        assert metric(labels, unscored) == metric(labels[5:], scores[5:])
    lowest = np.where(np.isnan(unscored), -1.0, unscored)
    assert metrics.vus(labels, unscored, 8) == metrics.vus(labels, lowest, 8)
    same_grid = np.linspace(5, 39, 100)
    for name in WITH_THRESHOLDS:
        assert ORACLES[name](labels, unscored) == ORACLES[name](labels, lowest, thresholds=same_grid), name


def test_an_unscored_event_is_a_missed_event():
    labels, scores = mask(40, (0, 4), (20, 24)), mask(40, (20, 24)).astype(float)
    scores[:5] = np.nan
    assert metrics.oracle_event_f1(labels, scores, 1.0, 0.0) == pytest.approx(2 / 3)   # precision 1, recall 1/2
    assert metrics.oracle_point_f1(labels, scores) == 1


def test_threshold_free_collects_the_four_areas():
    labels, scores = mask(50, (20, 29)), np.sin(np.arange(50.0))
    vus_roc, vus_pr = metrics.vus(labels, scores, 5)
    assert metrics.threshold_free(labels, scores, 5) == {
        "auc_roc": metrics.auc_roc(labels, scores), "auc_pr": metrics.auc_pr(labels, scores),
        "vus_roc": vus_roc, "vus_pr": vus_pr}


@pytest.mark.parametrize("buffer", [-1, 2.5, True, None])
def test_vus_refuses_a_buffer_that_is_no_count_of_steps(buffer):
    with pytest.raises(ValueError, match="buffer must be an integer"):
        metrics.vus([0, 1], [0, 1], buffer)


def test_suggest_buffer_finds_the_period_whatever_the_level_and_scale():
    wave = np.sin(2 * np.pi * np.arange(2000) / 50)
    assert metrics.suggest_buffer(wave) == 50
    assert metrics.suggest_buffer(1000 - 3 * wave) == 50
    gappy = wave.copy()
    gappy[100:120] = np.nan
    assert metrics.suggest_buffer(gappy) == 50


@pytest.mark.parametrize("values", [[], [1.0], np.ones(500), np.full(9, np.nan), np.arange(900.0),
                                    np.sin(2 * np.pi * np.arange(5000) / 350)],
                         ids=["empty", "one", "constant", "unknown", "trend", "period too long"])
def test_suggest_buffer_falls_back_to_125(values):
    assert metrics.suggest_buffer(values) == 125


def test_suggest_buffer_equals_the_plain_autocorrelation():
    values = np.cumsum(np.random.default_rng(1).normal(size=900)) + 8 * np.sin(np.arange(900) / 6)
    centred = values - values.mean()
    correlation = [centred[lag:] @ centred[:-lag] for lag in range(3, 401)]
    peaks = [k for k in range(1, len(correlation) - 1) if correlation[k] > max(correlation[k - 1], correlation[k + 1])]
    assert metrics.suggest_buffer(values) == 3 + max(peaks, key=lambda k: correlation[k])


# --- alarms ----------------------------------------------------------------------------------------------------------

def test_point_scores_worked_out_by_hand():
    result = metrics.point_scores([1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0])
    assert result == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "true_alarms": 2,
                                    "false_alarms": 1, "missed_steps": 1})


def test_tsb_point_f1_carries_its_epsilon():
    assert metrics.oracle_tsb_point_f1([0, 1], [0, 1]) == pytest.approx(2 / (2 + 1e-5))


def test_point_adjusted_f1_comes_with_that_of_random_scores():
    labels = mask(5000, *((first, first + 199) for first in range(300, 5000, 500)))
    result = metrics.oracle_point_adjusted_f1(labels, np.random.default_rng(9).random(5000))
    assert set(result) == {"value", "random_scores"}
    assert result["value"] == pytest.approx(result["random_scores"], abs=0.05)
    assert result["random_scores"] > 0.9 > 0.7 > metrics.oracle_point_f1(labels, np.random.default_rng(9).random(5000))
    again, other = (metrics.oracle_point_adjusted_f1(labels, labels, seed=seed) for seed in (0, 1))
    assert again["random_scores"] == result["random_scores"] != other["random_scores"]


def test_tsb_point_adjustment_stops_short_of_step_0():
    labels, scores = mask(10, (0, 3)), mask(10, (2, 2))
    assert metrics.oracle_point_adjusted_f1(labels, scores)["value"] == 1
    assert metrics.oracle_tsb_point_adjusted_f1(labels, scores)["value"] == pytest.approx(6 / 7)   # 3 of 4 steps


def test_event_f1_counts_false_events_where_tsb_counts_false_steps():
    labels = mask(400, (10, 19), (50, 59))
    scores = mask(400, (12, 13), (70, 89)).astype(float)                         # one of two found, one false event
    assert metrics.oracle_event_f1(labels, scores, 1.0, 0.0) == pytest.approx(0.5)          # P 1/2, R 1/2
    assert metrics.oracle_tsb_event_f1(labels, scores) == pytest.approx(2 * (1 / 11) / 2 / (1 / 11 + 1 / 2))


def test_oracle_event_f1_measures_its_tolerance_in_seconds():
    labels, scores = mask(100, (10, 19)), mask(100, (24, 26))                    # 5 steps behind the last labelled one
    assert metrics.oracle_event_f1(labels, scores, period_s=1.0, tolerance_s=5.0) == 1
    assert metrics.oracle_event_f1(labels, scores, period_s=1.0, tolerance_s=4.9) == 0
    assert metrics.oracle_event_f1(labels, scores, period_s=0.2, tolerance_s=1.0) == 1
    with pytest.raises(ValueError, match="period_s must be above 0"):
        metrics.oracle_event_f1(labels, scores, 0.0)


def test_an_alarm_that_never_ends_finds_no_event():
    labels = mask(100, (10, 19))
    scores = -mask(100, (0, 0)).astype(float)                                    # alarms from step 1 to the end
    assert metrics.oracle_event_f1(labels, scores, 1.0) == 0
    assert metrics.oracle_event_f1(labels, scores, 1.0, max_normal_alarmed=1.0) == 1
    with pytest.raises(ValueError, match="max_normal_alarmed"):
        metrics.oracle_event_f1(labels, scores, 1.0, max_normal_alarmed=2)


def test_given_thresholds_replace_the_grid():
    labels, scores = mask(200, (50, 59)), np.linspace(0, 1, 200) / 1000 + mask(200, (50, 59)) / 100
    scores[150] = 1e6                                                            # the even grid now sees one alarm
    fine = np.quantile(scores, np.linspace(0, 1, 201))
    for name in WITH_THRESHOLDS:
        assert ORACLES[name](labels, scores, thresholds=fine) > ORACLES[name](labels, scores) + 0.2, name
    with pytest.raises(ValueError, match="thresholds"):
        metrics.oracle_range_f1(labels, scores, thresholds=[])


# --- events ----------------------------------------------------------------------------------------------------------

def test_event_scores_worked_out_by_hand():
    found = [(0, 10), (27, 30), (34, 36), (60, 70)]
    labelled = [(5, 12), (24, 31), (100, 110)]
    assert metrics.event_scores(found, labelled, normal_hours=2.0) == pytest.approx({
        "precision": 3 / 4, "recall": 2 / 3, "f1": 2 * 0.75 * (2 / 3) / (0.75 + 2 / 3),
        "false_events": 1, "false_events_per_hour": 0.5, "delay_median_s": 1.5, "delay_mean_s": 1.5,   # 0 and 3 s
        "found_events": 4, "true_events": 3, "labelled_events": 3, "matched_events": 2})
    match = metrics.match_events(found, labelled)
    assert match.match.tolist() == [0, 1, -1, -1]
    assert match.is_true.tolist() == [True, True, True, False]                   # the third is late, but true
    assert match.is_found.tolist() == [True, True, False]
    np.testing.assert_array_equal(match.delay_s, [0, 3, np.nan, np.nan])


@pytest.mark.parametrize("event, is_true", [((14, 16), True), ((15, 16), True), ((15.01, 16), False),
                                            ((-3, 0), True), ((-3, -0.01), False)])
def test_a_labelled_event_is_widened_at_its_end_only(event, is_true):
    assert metrics.match_events([event], [(0, 10)], tolerance_s=5).is_true.tolist() == [is_true]


def test_one_long_found_event_counts_for_one_labelled_event():
    result = metrics.event_scores([(0, 100)], [(10, 20), (40, 50), (80, 90)], normal_hours=1)
    assert (result["precision"], result["matched_events"], result["recall"]) == (1, 1, pytest.approx(1 / 3))


def test_matching_gives_way_so_that_more_events_are_found():
    match = metrics.match_events([(0, 30), (5, 9)], [(0, 10), (20, 30)], tolerance_s=0)
    assert match.match.tolist() == [1, 0]                                        # the long one leaves the first event


def test_order_of_events_does_not_matter():
    found, labelled = [(0, 10), (27, 30), (60, 70)], [(5, 12), (24, 31), (100, 110)]
    assert metrics.event_scores(found[::-1], labelled[::-1], 2) == metrics.event_scores(found, labelled, 2)


@pytest.mark.parametrize("found, labelled, precision, recall, f1", [
    ([], [], np.nan, np.nan, np.nan), ([], [(0, 1)], np.nan, 0, 0), ([(0, 1)], [], 0, np.nan, 0),
    (np.empty((0, 2)), [(0, 1)], np.nan, 0, 0)])
def test_no_found_or_no_labelled_events(found, labelled, precision, recall, f1):
    result = metrics.event_scores(found, labelled, normal_hours=0)
    assert [result["precision"], result["recall"], result["f1"]] == pytest.approx([precision, recall, f1], nan_ok=True)
    assert math.isnan(result["delay_median_s"]) and math.isnan(result["delay_mean_s"])
    assert math.isnan(result["false_events_per_hour"])


@pytest.mark.parametrize("found, message", [
    ([(3, 1)], "found: event 0 runs from 3.0 to 1.0 s"), ([(0, 1), (np.nan, 2)], "found: event 1"),
    ([1, 2], r"found must have shape \(n, 2\)"), ([(0, np.inf)], "found: event 0")])
def test_events_that_make_no_sense_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        metrics.match_events(found, [(0, 1)])


def test_negative_hours_and_tolerance_are_refused():
    with pytest.raises(ValueError, match="normal_hours"):
        metrics.event_scores([], [], -1)
    with pytest.raises(ValueError, match="tolerance_s"):
        metrics.match_events([], [], -1)


# --- ranges and affiliation ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bias, recall", [("flat", 2 / 4), ("front", 3 / 10), ("back", 7 / 10), ("middle", 3 / 6)])
def test_range_recall_by_position_worked_out_by_hand(bias, recall):
    labels, alarms = mask(10, (2, 5)), mask(10, (4, 7))                          # positions 3 and 4 of 4 are covered
    assert metrics.range_based_scores(labels, alarms, alpha=0, bias=bias)["recall"] == pytest.approx(recall)
    assert metrics.range_based_scores(labels, alarms, 0.2, bias)["recall"] == pytest.approx(0.2 + 0.8 * recall)
    assert metrics.range_based_scores(labels, alarms, bias=bias)["precision"] == 0.5   # flat, whatever recall uses
    assert metrics.range_based_scores(labels, alarms, precision_bias="front")["precision"] == pytest.approx(7 / 10)


def test_range_recall_is_cut_by_fragments():
    labels, alarms = mask(10, (2, 5)), mask(10, (2, 2), (5, 5))
    assert metrics.range_based_scores(labels, alarms, alpha=0)["recall"] == 0.25       # half covered, in two pieces
    assert metrics.range_based_scores(labels, alarms, alpha=0, cardinality="one")["recall"] == 0.5
    assert metrics.range_based_scores(labels, alarms)["precision"] == 1


def test_unknown_range_words_are_refused():
    for options in ({"bias": "centre"}, {"precision_bias": "centre"}, {"cardinality": "two"}, {"alpha": 1.1}):
        with pytest.raises(ValueError, match="must be"):
            metrics.range_based_scores([0, 1], [0, 1], **options)


def test_affiliation_worked_out_by_hand():
    # Event [4, 6), alarm [2, 3), zone [0, 10). Precision: the alarm is d = 1..2 away, (4 - d + 4 - d) / 10 of the zone
    # is farther, 0.5 on average. Recall: y in [4, 6) is y - 3 from the alarm, (3 + 13 - 2 y) / 10 is farther, 0.6.
    result = metrics.affiliation_scores(mask(10, (4, 5)), mask(10, (2, 2)))
    assert result == pytest.approx({"precision": 0.5, "recall": 0.6, "f1": 0.6 / 1.1})


def test_affiliation_judges_each_zone_by_itself():
    labels = mask(8, (1, 1), (6, 6))                                             # zones [0, 4) and [4, 8)
    assert metrics.affiliation_scores(labels, mask(8, (1, 1))) == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3})
    both = metrics.affiliation_scores(labels, mask(8, (1, 1), (7, 7)))
    assert both["precision"] == pytest.approx((1 + 0.5) / 2)                     # [7, 8): (2 - d + 1 - d) / 4, d = 0..1


def test_affiliation_sees_no_alarm_of_the_neighbouring_zone():
    labels, alarms = mask(10, (0, 0), (3, 9)), mask(10, (1, 1))                  # zones [0, 2) and [2, 10)
    result = metrics.affiliation_scores(labels, alarms)
    assert result["precision"] == pytest.approx(0.25)                            # (1 - d) / 2 for d = 0..1
    assert result["recall"] == pytest.approx(0.625 / 2)                          # (max(2 y - 1, 0) + 1) / 2, y = 0..1


def test_affiliation_splits_an_alarm_at_the_border_of_zones():
    labels, alarms = mask(5, (0, 0), (4, 4)), mask(5, (2, 2))                    # border at 2.5, inside the alarm
    result = metrics.affiliation_scores(labels, alarms)
    assert (result["precision"], result["recall"]) == pytest.approx(naive.affiliation(labels, alarms))
    assert result["precision"] == pytest.approx(0.1)                             # (1.5 - d) / 2.5 for d = 1..1.5


# --- input that is hardly any ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("labels, scores", [([], []), ([0], [1.0]), ([0, 0, 0], [1.0, 2.0, 3.0]),
                                            ([1, 0], [np.nan, np.nan])],
                         ids=["empty", "one", "no positive", "unscored"])
def test_without_a_scored_positive_every_value_is_nan(labels, scores):
    for metric in RANK_BASED:
        assert math.isnan(metric(labels, scores))
    for name, oracle in ORACLES.items():
        assert math.isnan(oracle(labels, scores)), name
    assert math.isnan(metrics.oracle_point_adjusted_f1(labels, scores)["random_scores"])


@pytest.mark.parametrize("labels, scores", [([1], [3.0]), ([1, 1, 1], [1.0, 2.0, 2.0])])
def test_when_every_step_is_labelled_only_roc_is_undefined(labels, scores):
    assert math.isnan(metrics.auc_roc(labels, scores)) and math.isnan(metrics.vus(labels, scores, 4)[0])
    assert metrics.auc_pr(labels, scores) == 1 and metrics.vus(labels, scores, 4)[1] == pytest.approx(1)
    assert metrics.oracle_point_f1(labels, scores) == 1


def test_constant_scores_say_nothing():
    labels, scores = mask(20, (5, 9)), np.full(20, 0.3)
    assert metrics.auc_roc(labels, scores) == 0.5 and metrics.auc_pr(labels, scores) == 0.25
    for name in WITH_THRESHOLDS:
        assert ORACLES[name](labels, scores) == 0, name                          # no score is above the highest


@pytest.mark.parametrize("scores_of", [metrics.point_scores, metrics.range_based_scores])
@pytest.mark.parametrize("labels, alarms, precision, recall, f1", [
    ([], [], np.nan, np.nan, np.nan), ([0], [0], np.nan, np.nan, np.nan), ([1], [1], 1, 1, 1),
    ([0, 1], [0, 0], np.nan, 0, 0), ([0, 0], [0, 1], 0, np.nan, 0), ([0, 1], [1, 0], 0, 0, 0)])
def test_alarms_without_labels_and_labels_without_alarms(scores_of, labels, alarms, precision, recall, f1):
    result = scores_of(labels, alarms)
    assert [result[key] for key in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1], nan_ok=True)


def test_affiliation_without_labels_or_alarms():
    assert all(math.isnan(value) for value in metrics.affiliation_scores([0, 0], [0, 1]).values())
    assert all(math.isnan(value) for value in metrics.affiliation_scores([], []).values())
    silent = metrics.affiliation_scores([0, 1, 0], [0, 0, 0])
    assert math.isnan(silent["precision"]) and silent["recall"] == silent["f1"] == 0
    assert metrics.affiliation_scores([1], [1])["f1"] == 1


@pytest.mark.parametrize("labels, scores, message", [
    ([0, 1], [0.0], "equally long, got 2 and 1"),
    ([0, 2], [0.0, 1.0], "labels must be 0 or 1; 1 are not, the first is 2"),
    ([0, np.nan], [0.0, 1.0], "labels must be 0 or 1"), ([[0, 1]], [0.0, 1.0], r"labels must have shape \(T,\)"),
    ([0, 1], [[0.0], [1.0]], r"scores must have shape \(T,\)"),
    ([0, 1], [0.0, np.inf], "infinite; 1 are, the first at step 1"), ([0, 1], [-np.inf, 0.0], "infinite")])
def test_input_that_makes_no_sense_is_refused(labels, scores, message):
    for metric in (*RANK_BASED, *ORACLES.values()):
        with pytest.raises(ValueError, match=message):
            metric(labels, scores)


@pytest.mark.parametrize("scores_of", [metrics.point_scores, metrics.range_based_scores, metrics.affiliation_scores])
def test_alarms_that_make_no_sense_are_refused(scores_of):
    with pytest.raises(ValueError, match="alarms must be 0 or 1"):
        scores_of([0, 1], [0.2, 0.8])
    with pytest.raises(ValueError, match="equally long"):
        scores_of([0, 1], [0])
