import itertools
import math

import numpy as np
import pytest

from evaluation.event_overlap import intersection_over_union, judged, pair_events, respiratory_measures


def test_the_overlap_of_spans_by_hand():
    overlap = intersection_over_union([(0, 10), (20, 30)], [(5, 15), (20, 30), (30, 40)])
    np.testing.assert_allclose(overlap, [[5 / 15, 0, 0], [0, 1, 0]])
    assert intersection_over_union([], [(0, 1)]).shape == (0, 1)


def test_a_long_event_takes_one_label_and_a_label_one_event():
    assert pair_events([(0, 100)], [(0, 30), (40, 90)], 0.2) == [(0, 1)]
    assert pair_events([(0, 6), (8, 20)], [(0, 20)], 0.2) == [(1, 0)]


def test_a_bad_pair_does_not_keep_a_good_one_from_its_label():
    found, labelled = [(0, 10), (9, 19)], [(1, 11), (30, 40)]
    assert pair_events(found, labelled, 0.2) == [(0, 0)]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_the_best_of_all_that_can_be_made(seed):
    random = np.random.default_rng(seed)
    spans = [[(a, a + d) for a, d in zip(random.uniform(0, 60, n), random.uniform(5, 25, n))] for n in (4, 4)]
    overlap = intersection_over_union(*spans)
    best = max(
        sum(overlap[k, j] for k, j in enumerate(order) if overlap[k, j] >= 0.2)
        for order in itertools.permutations(range(4))
    )
    assert sum(overlap[k, j] for k, j in pair_events(*spans, 0.2)) == pytest.approx(best)


def test_an_event_in_uncounted_time_counts_if_it_has_a_label():
    found, periodic = [(0, 10), (40, 50), (80, 90), (120, 130)], [(35, 95)]
    assert judged(found, [(41, 51)], periodic) == ({1: 0}, [True, True, False, True])


def test_measures_of_two_recordings_by_hand():
    found = [[((0.0, 10.0), "central_apnea"), ((50.0, 62.0), "hypopnea")], [((5.0, 9.0), "apnea")]]
    labelled = [[((1.0, 11.0), "central_apnea"), ((50.0, 90.0), "obstructive_apnea")], []]
    measures = respiratory_measures("device", found, labelled, [2.0, 0.5], ["one", "two"])
    assert (measures.labelled, measures.found, measures.paired) == (2, 3, {"0.2": 2, "0.5": 1})
    assert measures.f1 == {"0.2": pytest.approx(4 / 5), "0.5": pytest.approx(2 / 5)}
    assert measures.onset_error_s == -0.5 and measures.duration_error_s == -14.0
    assert (measures.ahi_bias, measures.ahi_mae) == (1.0, 1.0)       # 0 of 2 h, and 1 in half an hour too many
    assert measures.kinds == {"central_apnea": {"central_apnea": 1}, "obstructive_apnea": {"hypopnea": 1}}


def test_nothing_found_and_nothing_labelled_has_no_numbers():
    nothing = respiratory_measures("device", [[]], [[]], [0.0], ["one"])
    assert math.isnan(nothing.f1["0.2"]) and math.isnan(nothing.onset_error_s)
    missed = respiratory_measures("device", [[]], [[((0.0, 10.0), "hypopnea")]], [2.0], ["one"])
    assert missed.f1["0.5"] == 0 and missed.kinds == {"hypopnea": {"": 1}}
