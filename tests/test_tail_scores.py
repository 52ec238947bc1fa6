import numpy as np
import pytest

from nab.tail_scores import MIN_IN_PAST, errors_by_lead, overshoot, overshoot_scores, tail_scores

FLOOR = 0.05


def test_a_rank_inside_the_past_is_its_share():
    past = np.arange(1.0, 100.0)                                     # 99 values
    scores = tail_scores(np.append(past, 90.0), FLOOR)
    assert scores[-1] == pytest.approx(-np.log10(11 / 100))          # 90..99 and itself, of 100


def test_a_record_is_graded_by_a_power_law():
    """The tail of 99 values are the largest 5, above 94: share 5/99, exponent 1 / mean log ratio, at most 5."""
    past = np.exp(np.arange(1.0, 100.0))                             # log ratios 1..5 above the tail's lower end
    record = np.exp(94 + 9.0)
    scores = tail_scores(np.append(past, record), FLOOR)
    assert scores[-1] == pytest.approx(-np.log10(5 / 99) + 9 * np.log10(np.e) / 3)


def test_scores_rise_with_the_value_and_never_end():
    past = np.random.default_rng(0).exponential(size=200)
    scores = [tail_scores(np.append(past, value), FLOOR)[-1] for value in (0.1, 1, 3, 10, 100, 1e4, 1e6)]
    assert (np.diff(scores) > 0).all()


def test_scores_mean_the_same_whatever_the_unit():
    values = np.random.default_rng(1).exponential(size=300)
    np.testing.assert_allclose(tail_scores(50 * values, 50 * FLOOR), tail_scores(values, FLOOR))


def test_a_small_error_after_a_past_without_errors_is_not_extreme():
    values = np.append(np.zeros(100), [0.9 * FLOOR, 100 * FLOOR])
    tiny, large = tail_scores(values, FLOOR)[-2:]
    assert tiny < 2 < 5 < large


def test_there_is_no_score_without_a_past():
    values = np.append(np.full(5, np.nan), np.arange(60.0))
    scores = tail_scores(values, FLOOR, first=40)
    assert (scores[:40] == 0).all() and (scores[40:] > 0).all()
    assert (tail_scores(values, FLOOR)[: 5 + MIN_IN_PAST] == 0).all()


def test_errors_are_those_of_the_forecasts_made_for_a_step():
    values = np.array([0.0, 10.0, 20.0, 30.0])
    forecast = np.array([[1.0, 2.0], [3.0, 5.0], [8.0, 0.0], [0.0, 0.0]])
    expected = [[np.nan, np.nan], [10 - 1, np.nan], [20 - 3, 20 - 2], [30 - 8, 30 - 5]]
    np.testing.assert_allclose(errors_by_lead(values, forecast), expected)


def test_leads_beyond_the_length_of_a_series_have_no_error():
    assert np.isnan(errors_by_lead(np.ones(3), np.ones((3, 8)))[:, 2:]).all()


def test_overshoot_is_in_widths_of_the_range_so_far():
    np.testing.assert_allclose(overshoot(np.array([0.0, 10.0, 11.0, 5.0, -1.1]))[2:], [0.1, 0, 0.1])


def test_overshoot_scores_by_hand():
    np.testing.assert_allclose(overshoot_scores(np.array([0, 0.009, 0.01, 0.1, 1.0])), [0, 0, 2, 3, 4])


@pytest.mark.parametrize("score", [
    lambda v: tail_scores(np.abs(v), FLOOR),
    overshoot,
    lambda v: errors_by_lead(v, np.stack([v, 2 * v], axis=1)),
])  # fmt: skip
def test_later_values_change_no_earlier_score(score):
    values = np.random.default_rng(2).normal(size=150)
    other = values.copy()
    other[100:] = -50 * other[100:] + 3
    np.testing.assert_array_equal(score(values)[:100], score(other)[:100])
    assert not np.array_equal(score(values)[100:], score(other)[100:])
