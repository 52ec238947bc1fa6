"""From forecasts to scores that are comparable across series: tail probabilities of the forecast errors.

A score of 2 means that errors this large make up 1 % of the series' past. Beyond the largest error so far, scores
follow a power law fitted to the tail of the past, so that they never saturate.

Everything is causal: the score of a step depends on the steps up to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

TAIL_SHARE = 0.02                       # of the past, that the power law is fitted to
MIN_IN_TAIL = 5
MIN_IN_PAST = 20                        # values before the first score
MAX_EXPONENT = 5.0                      # without a limit, any new maximum after a tail without spread scores infinite
TOLERANCE = 0.01                        # of the range so far: values this far outside count as inside


def errors_by_lead(values: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Return the errors of all forecasts made for each step.

    Args:
        values: (T, ...).
        forecast: (T, H, ...); `forecast[t, h]` was made at step t for step t + 1 + h, NaN = none.
    Returns: (T, H, ...) value - forecast, signed, by lead; NaN where there was no forecast.
    """
    errors = np.full(forecast.shape, np.nan)
    for lead in range(1, min(forecast.shape[1] + 1, len(values))):
        errors[lead:, lead - 1] = values[lead:] - forecast[:-lead, lead - 1]
    return errors


def tail_scores(values: np.ndarray, floor: float, first: int = 0) -> np.ndarray:
    """Return -log10 of the probability of a value at least as large as each one, given the earlier values.

    Below the tail of the past, the probability is estimated by rank; in the tail and beyond, by a power law fitted to
    it (Hill's estimator).

    Args:
        values: (T,) >= 0, higher = more anomalous, NaN = none.
        floor: in the power law, smaller values count as this one, so that a past without errors does not make a tiny
            one extreme.
        first: the first step to score.
    Returns: (T,) scores >= 0; 0 where there is no value or too little past.
    Source: Hill 1975, "A simple general approach to inference about the tail of a distribution".
    """
    scores, past = np.zeros(len(values)), []
    for step, value in enumerate(values.tolist()):
        if value != value:                                                     # NaN
            continue
        if step >= first and len(past) >= MIN_IN_PAST:
            scores[step] = _tail_score(past, value, floor)
        insort(past, value)
    return scores


def _tail_score(past: list[float], value: float, floor: float) -> float:
    """Return -log10 of the probability of a value of at least `value`, given the sorted `past`."""
    in_tail = max(int(TAIL_SHARE * len(past)), MIN_IN_TAIL)
    lower_end = max(past[-in_tail - 1], floor)
    if value <= past[-in_tail - 1]:
        return -np.log10((len(past) - bisect_left(past, value) + 1) / (len(past) + 1))
    spread = np.mean(np.log(np.maximum(past[-in_tail:], floor) / lower_end))
    exponent = 1 / max(spread, 1 / MAX_EXPONENT)
    return -np.log10(in_tail / len(past)) + exponent * np.log10(max(value, floor) / lower_end)


def overshoot(values: np.ndarray) -> np.ndarray:
    """Return how far each value is outside the range of the earlier ones, in widths of that range (T,), >= 0."""
    highest, lowest = (np.append(values[:1], extreme.accumulate(values)[:-1]) for extreme in (np.maximum, np.minimum))
    width = np.maximum(highest - lowest, 1e-9 * np.maximum(np.abs(highest), 1))
    return np.maximum(np.maximum(values - highest, lowest - values) / width, 0)


def overshoot_scores(overshoots: np.ndarray) -> np.ndarray:
    """Return overshoots on the scale of `tail_scores`: 2 for one of 1 % of the range, 3 for 10 %, 0 below 1 %."""
    beyond = np.maximum(overshoots, TOLERANCE)
    return np.where(overshoots >= TOLERANCE, 2 + np.log10(beyond / TOLERANCE), 0.0)
