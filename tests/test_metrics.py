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
needs_cases = pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is absent")

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)

RANK_BASED = (metrics.auc_roc, metrics.auc_pr, metrics.oracle_point_f1,
              lambda labels, scores: metrics.vus(labels, scores, 6)[0],
              lambda labels, scores: metrics.vus(labels, scores, 6)[1])


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
def test_values_of_the_reference_cases(case):
    arrays = np.load(CASES.with_suffix(".npz"))
    labels, scores = arrays[f"label_{case['case']}"], arrays[f"score_{case['case']}"]
    thresholds = np.linspace(scores.min(), scores.max(), 100)
    ours = metrics.threshold_free(labels, scores, case["window"]) | {
        "range_f1_best": max(metrics.range_based_scores(labels, scores > level)["f1"] for level in thresholds),
        "affiliation_f1_best": max(metrics.affiliation_scores(labels, scores > level)["f1"] for level in thresholds),
    }
    assert ours == pytest.approx({key: case[key] for key in ours}, abs=1e-6)
    best = metrics.oracle_point_f1(labels, scores)                               # TSB-AD's has 1e-5 in its denominator
    assert best == pytest.approx(case["point_f1_best"], abs=2e-5) and best >= case["point_f1_best"]


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
    for scores in (metrics.point_scores, metrics.range_based_scores, metrics.affiliation_scores):
        result = scores(labels, labels)
        assert [result[key] for key in ("precision", "recall", "f1")] == pytest.approx([1, 1, 1])


@few
@given(labelled_scores())
def test_metrics_stay_within_0_and_1(case):
    labels, scores = case
    values = [metric(labels, scores) for metric in RANK_BASED]
    alarms = scores > 4
    found = metrics.range_based_scores(labels, alarms), metrics.affiliation_scores(labels, alarms)
    values += [value for result in found
               for value in result.values() if not math.isnan(value)]
    assert min(values) >= 0 and max(values) <= 1 + 1e-12


def test_vus_equals_the_definition_on_more_steps_than_thresholds():
    rng = np.random.default_rng(3)
    labels = mask(700, (0, 3), (50, 50), (52, 52), (56, 80), (300, 301), (696, 699))
    scores = np.round(rng.random(700) + 0.5 * labels, 2)
    assert metrics.vus(labels, scores, 9) == pytest.approx(naive.vus([(labels, scores)], 9), abs=1e-12)


@few
@given(st.lists(labelled_scores(max_size=16), min_size=1, max_size=4), st.integers(0, 12))
def test_measures_of_one_or_several_segments_equal_the_definition(segments, buffer):
    lengths = np.cumsum([len(labels) for labels, _ in segments])
    labels, scores = (np.concatenate(parts) for parts in zip(*segments))
    alarms, seams = scores > 5, lengths[:-1]
    assert metrics.vus(labels, scores, buffer, seams) == pytest.approx(naive.vus(segments, buffer), abs=1e-12)
    alarmed = [(y, s > 5) for y, s in segments]
    ours = metrics.range_based_scores(labels, alarms, seams)
    expected = naive.range_recall([(a, y) for y, a in alarmed], 0), naive.range_recall(alarmed, 0.2)
    assert (ours["precision"], ours["recall"]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    ours = metrics.affiliation_scores(labels, alarms, seams)
    expected = naive.affiliation(alarmed)
    assert (ours["precision"], ours["recall"]) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_nothing_leaks_over_a_seam():
    labels, alarms = mask(20, (9, 9), (11, 11)), mask(20, (10, 10))              # two recordings of 10 steps
    assert metrics.range_based_scores(labels, mask(20, (9, 10)), [10])["precision"] == 0.5       # of two alarmed runs
    assert metrics.affiliation_scores(labels, alarms, [10])["recall"] == pytest.approx(0.9 / 2)  # only in the second
    assert metrics.affiliation_scores(labels, alarms)["recall"] > 0.8
    two = mask(20, (9, 10))                                                      # an event on each side
    found_one = np.where(np.arange(20) == 9, 2.0, 1.0)
    assert metrics.vus(two, found_one, 0, [10]) == pytest.approx(naive.vus([(two[:10], found_one[:10]),
                                                                            (two[10:], found_one[10:])], 0))
    assert metrics.vus(two, found_one, 0, [10])[1] < metrics.vus(two, found_one, 0)[1]


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
    for (start, end), label in zip(found, result.match):
        if label >= 0:
            assert start <= labelled[label][1] + tolerance_s and end >= labelled[label][0]
            assert result.delay_s[label] == max(start - labelled[label][0], 0)
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


def test_threshold_free_collects_the_four_areas():
    labels, scores = mask(50, (20, 29)), np.sin(np.arange(50.0))
    vus_roc, vus_pr = metrics.vus(labels, scores, 5)
    assert metrics.threshold_free(labels, scores, 5) == {
        "auc_roc": metrics.auc_roc(labels, scores), "auc_pr": metrics.auc_pr(labels, scores),
        "vus_roc": vus_roc, "vus_pr": vus_pr}
    without = metrics.threshold_free(labels, scores, None)
    assert without["auc_pr"] == metrics.auc_pr(labels, scores)
    assert math.isnan(without["vus_roc"]) and math.isnan(without["vus_pr"])


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


# --- events ----------------------------------------------------------------------------------------------------------

def test_a_match_worked_out_by_hand():
    found = [(0, 10), (27, 30), (34, 36), (60, 70)]
    labelled = [(5, 12), (24, 31), (100, 110)]
    match = metrics.match_events(found, labelled)
    assert match.match.tolist() == [0, 1, -1, -1]
    assert match.is_true.tolist() == [True, True, True, False]                   # the third is late, but true
    assert match.is_found.tolist() == [True, True, False]
    np.testing.assert_array_equal(match.delay_s, [0, 3, np.nan])


@pytest.mark.parametrize("event, is_true", [((14, 16), True), ((15, 16), True), ((15.01, 16), False),
                                            ((-3, 0), True), ((-3, -0.01), False)])
def test_a_labelled_event_is_widened_at_its_end_only(event, is_true):
    assert metrics.match_events([event], [(0, 10)], tolerance_s=5).is_true.tolist() == [is_true]


def test_one_long_found_event_counts_for_one_labelled_event():
    match = metrics.match_events([(0, 100)], [(10, 20), (40, 50), (80, 90)])
    assert match.is_true.all() and match.is_found.sum() == 1


def test_matching_gives_way_so_that_more_events_are_found():
    match = metrics.match_events([(0, 30), (5, 9)], [(0, 10), (20, 30)], tolerance_s=0)
    assert match.match.tolist() == [1, 0]                                        # the long one leaves the first event


def test_order_of_events_does_not_matter():
    found, labelled = [(0, 10), (27, 30), (60, 70)], [(5, 12), (24, 31), (100, 110)]
    ahead, back = metrics.match_events(found, labelled), metrics.match_events(found[::-1], labelled[::-1])
    assert back.is_found[::-1].tolist() == ahead.is_found.tolist() == [True, True, False]
    assert back.is_true[::-1].tolist() == ahead.is_true.tolist()


@pytest.mark.parametrize("found, labelled", [([], []), ([], [(0, 1)]), ([(0, 1)], []), (np.empty((0, 2)), [(0, 1)])])
def test_no_found_or_no_labelled_events(found, labelled):
    match = metrics.match_events(found, labelled)
    assert not match.is_true.any() and not match.is_found.any() and np.isnan(match.delay_s).all()
    assert (len(match.match), len(match.is_found)) == (len(found), len(labelled)) and (match.match == -1).all()


@pytest.mark.parametrize("found, message", [
    ([(3, 1)], "found: event 0 runs from 3.0 to 1.0 s"), ([(0, 1), (np.nan, 2)], "found: event 1"),
    ([1, 2], r"found must have shape \(n, 2\)"), ([(0, np.inf)], "found: event 0")])
def test_events_that_make_no_sense_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        metrics.match_events(found, [(0, 1)])


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance_s"):
        metrics.match_events([], [], -1)


# --- ranges and affiliation ------------------------------------------------------------------------------------------

def test_range_scores_worked_out_by_hand():
    labels, alarms = mask(10, (2, 5)), mask(10, (4, 7))                          # half of each is covered
    result = metrics.range_based_scores(labels, alarms)
    assert (result["precision"], result["recall"]) == (0.5, pytest.approx(0.2 + 0.8 * 0.5))


def test_range_recall_is_cut_by_fragments():
    labels, alarms = mask(10, (2, 5)), mask(10, (2, 2), (5, 5))                  # half covered, in two pieces
    result = metrics.range_based_scores(labels, alarms)
    assert (result["precision"], result["recall"]) == (1, pytest.approx(0.2 + 0.8 * 0.25))


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
    assert (result["precision"], result["recall"]) == pytest.approx(naive.affiliation([(labels, alarms)]))
    assert result["precision"] == pytest.approx(0.1)                             # (1.5 - d) / 2.5 for d = 1..1.5


# --- input that is hardly any ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("labels, scores", [([], []), ([0], [1.0]), ([0, 0, 0], [1.0, 2.0, 3.0]),
                                            ([1, 0], [np.nan, np.nan])],
                         ids=["empty", "one", "no positive", "unscored"])
def test_without_a_scored_positive_every_value_is_nan(labels, scores):
    for metric in RANK_BASED:
        assert math.isnan(metric(labels, scores))


@pytest.mark.parametrize("labels, scores", [([1], [3.0]), ([1, 1, 1], [1.0, 2.0, 2.0])])
def test_when_every_step_is_labelled_only_roc_is_undefined(labels, scores):
    assert math.isnan(metrics.auc_roc(labels, scores)) and math.isnan(metrics.vus(labels, scores, 4)[0])
    assert metrics.auc_pr(labels, scores) == 1 and metrics.vus(labels, scores, 4)[1] == pytest.approx(1)
    assert metrics.oracle_point_f1(labels, scores) == 1


def test_constant_scores_say_nothing():
    labels, scores = mask(20, (5, 9)), np.full(20, 0.3)
    assert metrics.auc_roc(labels, scores) == 0.5 and metrics.auc_pr(labels, scores) == 0.25


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
    for metric in RANK_BASED:
        with pytest.raises(ValueError, match=message):
            metric(labels, scores)


@pytest.mark.parametrize("scores_of", [metrics.point_scores, metrics.range_based_scores, metrics.affiliation_scores])
def test_alarms_that_make_no_sense_are_refused(scores_of):
    with pytest.raises(ValueError, match="alarms must be 0 or 1"):
        scores_of([0, 1], [0.2, 0.8])
    with pytest.raises(ValueError, match="equally long"):
        scores_of([0, 1], [0])
