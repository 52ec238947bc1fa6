"""Forecasts without a network, the baselines of the benchmark.

Each takes the values (T,) of a series and returns (T, H): `forecast[t, h]` is for step t + 1 + h and made from the
values up to t only; NaN where there is none.
"""

from __future__ import annotations

import numpy as np

ORDER = 16                              # of the autoregression
FORGETTING = 0.999                      # of a value by the next one: 1/e after 1000 steps
PRIOR_VARIANCE = 10.0                   # of the coefficients
MAX_FORECAST = 30.0                     # scaled units: bounds an autoregression that is not stable yet


def persistence(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the newest value as the forecast at all leads."""
    return np.repeat(values[:, None], horizon, axis=1)


def past_mean(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the mean of all values so far as the forecast at all leads."""
    return np.repeat((np.cumsum(values) / np.arange(1, len(values) + 1))[:, None], horizon, axis=1)


def autoregression(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the forecasts of an AR(16) fitted online by recursive least squares, iterated over the leads."""
    weights, variance = np.zeros(ORDER + 1), PRIOR_VARIANCE * np.eye(ORDER + 1)
    found = np.full((len(values), horizon), np.nan)
    for step in range(ORDER, len(values)):
        past = np.append(values[step - ORDER : step], 1.0)
        gain = variance @ past / (FORGETTING + past @ variance @ past)
        weights = weights + gain * (values[step] - weights @ past)
        variance = (variance - np.outer(gain, past @ variance)) / FORGETTING
        recent = values[step - ORDER + 1 : step + 1].tolist()
        for lead in range(horizon):
            ahead = float(np.clip(weights @ np.append(recent[-ORDER:], 1.0), -MAX_FORECAST, MAX_FORECAST))
            found[step, lead] = ahead
            recent.append(ahead)
    return found
