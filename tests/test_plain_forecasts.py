import numpy as np
import pytest

from nab.plain_forecasts import ORDER, autoregression, past_mean, persistence


def test_persistence_repeats_the_newest_value():
    np.testing.assert_array_equal(persistence(np.array([[3.0], [7.0]]), 2)[..., 0], [[3, 3], [7, 7]])


def test_past_mean_is_that_of_all_values_so_far():
    np.testing.assert_allclose(past_mean(np.array([[2.0], [4.0], [9.0]]), 2)[..., 0], [[2, 2], [3, 3], [5, 5]])


def test_autoregression_learns_a_sine_at_all_leads():
    values = np.sin(np.arange(400) / 3)
    forecast = autoregression(values[:, None], 4)[..., 0]
    ahead = np.sin((np.arange(400)[:, None] + 1 + np.arange(4)) / 3)
    np.testing.assert_allclose(forecast[200:], ahead[200:], atol=1e-2)
    assert np.isnan(forecast[:ORDER]).all()


@pytest.mark.parametrize("forecaster", [persistence, past_mean, autoregression])
def test_forecasts_see_no_later_value(forecaster):
    values = np.random.default_rng(0).normal(size=(120, 2))
    other = np.concatenate([values[:80], 9 - values[80:]])
    first, second = forecaster(values, 3), forecaster(other, 3)
    np.testing.assert_array_equal(first[:80], second[:80])
    assert not np.array_equal(first[80:], second[80:])
