"""Forecasts that need no network: what the benchmark holds against the LSTM.

Each takes the values (T,) of a series and returns (T, H): `forecast[t, h]` is for step t + 1 + h and was made from the
values up to t only; NaN where there is none.
"""

from __future__ import annotations

import numpy as np

ORDER = 16                              # past values that the autoregression sees
FORGETTING = 0.999                      # a value of 1000 steps ago counts about a third
PRIOR_VARIANCE = 10.0                   # of the coefficients
LARGEST = 30.0                          # scaled units: an autoregression that is not stable yet must not run away


def persistence(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the newest value as the forecast of all later ones."""
    return np.repeat(values[:, None], horizon, axis=1)


def past_mean(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the mean of all values so far as the forecast of all later ones."""
    return np.repeat((np.cumsum(values) / np.arange(1, len(values) + 1))[:, None], horizon, axis=1)


def autoregression(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the forecasts of an AR(16) that learns online, by recursive least squares; later leads are iterated."""
    weights, variance = np.zeros(ORDER + 1), PRIOR_VARIANCE * np.eye(ORDER + 1)
    found = np.full((len(values), horizon), np.nan)
    for step in range(ORDER, len(values)):
        past = np.append(values[step - ORDER : step], 1.0)
        gain = variance @ past / (FORGETTING + past @ variance @ past)
        weights = weights + gain * (values[step] - weights @ past)
        variance = (variance - np.outer(gain, past @ variance)) / FORGETTING
        recent = values[step - ORDER + 1 : step + 1].tolist()
        for lead in range(horizon):
            ahead = float(np.clip(weights @ np.append(recent[-ORDER:], 1.0), -LARGEST, LARGEST))
            found[step, lead] = ahead
            recent.append(ahead)
    return found
