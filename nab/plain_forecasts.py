"""Forecasts without a network, the baselines of the benchmark.

Each takes the values (T, C) of a sequence of blocks and returns (T, H, C): `forecast[t, h]` is for step t + 1 + h and
made from the values up to t only; NaN where there is none. Channels are forecast separately.
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
    means = np.cumsum(values, axis=0) / np.arange(1, len(values) + 1)[:, None]
    return np.repeat(means[:, None], horizon, axis=1)


def autoregression(values: np.ndarray, horizon: int) -> np.ndarray:
    """Return the forecasts of an AR(16) fitted online by recursive least squares, iterated over the leads."""
    channels = values.shape[1]
    weights = np.zeros((channels, ORDER + 1))
    variance = np.tile(PRIOR_VARIANCE * np.eye(ORDER + 1), (channels, 1, 1))
    found = np.full((len(values), horizon, channels), np.nan)
    past = np.ones((channels, ORDER + 1))                                      # the last one is the constant
    for step in range(ORDER, len(values)):
        past[:, :ORDER] = values[step - ORDER : step].T
        spread = np.einsum("cij,cj->ci", variance, past)
        gain = spread / (FORGETTING + np.einsum("ci,ci->c", past, spread))[:, None]
        weights += gain * (values[step] - np.einsum("ci,ci->c", weights, past))[:, None]
        variance = (variance - gain[:, :, None] * spread[:, None, :]) / FORGETTING
        past[:, :ORDER] = values[step - ORDER + 1 : step + 1].T
        for lead in range(horizon):
            ahead = np.clip(np.einsum("ci,ci->c", weights, past), -MAX_FORECAST, MAX_FORECAST)
            found[step, lead] = ahead
            past[:, : ORDER - 1], past[:, ORDER - 1] = past[:, 1:ORDER].copy(), ahead
    return found


BASELINES = {"past mean": past_mean, "persistence": persistence, "AR(16)": autoregression}
