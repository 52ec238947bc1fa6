"""From forecasts to scores that mean the same in every series: tail probabilities of how wrong the forecasts were.

A score of 2 says: values this strange make up one in a hundred of this series' own past. It goes on rising beyond the
strangest value so far, as a power law fitted to the past's tail does, so that two records are never just equal.

Everything looks back only: the score of a step depends on the steps up to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pandas as pd

TAIL_SHARE = 0.02                       # of the past that the power law is fitted to
FEWEST_IN_TAIL = 5
FEWEST_IN_PAST = 20                     # values before the first score
STEEPEST = 5.0                          # limit of the exponent: a tail without spread would make any record certain
JUST_BEYOND = 0.01                      # of the range so far: values that count as in the range


def errors_by_lead(values: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Return how far each value lay from each forecast made for it.

    Args:
        values: (T,).
        forecast: (T, H); `forecast[t, h]` was made at step t for step t + 1 + h, NaN where there was none.
    Returns: (T, H) value - forecast, signed, by lead; NaN where there was no forecast.
    """
    errors = np.full(forecast.shape, np.nan)
    for lead in range(1, min(forecast.shape[1] + 1, len(values))):
        errors[lead:, lead - 1] = values[lead:] - forecast[:-lead, lead - 1]
    return errors


def mean_error(values: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Return the mean (T,) of a step's `errors_by_lead`, signed; NaN where a lead is missing."""
    return errors_by_lead(values, forecast).mean(axis=1)


def tail_scores(values: np.ndarray, floor: float, first: int = 0) -> np.ndarray:
    """Return how improbable each value is among those before it, as -log10 of the probability of one so large.

    Among the past's values the probability is a rank; above the lower end of the past's tail it is that of a power
    law (Hill's estimate), which has no upper end.

    Args:
        values: (T,) >= 0, higher = stranger, NaN = none.
        floor: smaller values count as this one in the power law: a past without errors makes the next no miracle.
        first: the first step that gets a score.
    Returns: (T,) scores >= 0; 0 where there is no value or too little past.
    Source: Hill 1975, "A simple general approach to inference about the tail of a distribution".
    """
    scores, past = np.zeros(len(values)), []
    for step, value in enumerate(values.tolist()):
        if value != value:                                                     # NaN
            continue
        if step >= first and len(past) >= FEWEST_IN_PAST:
            scores[step] = _tail_score(past, value, floor)
        insort(past, value)
    return scores


def _tail_score(past: list[float], value: float, floor: float) -> float:
    """Return -log10 of the probability that a value like the sorted `past` is as large as `value`."""
    in_tail = max(int(TAIL_SHARE * len(past)), FEWEST_IN_TAIL)
    lower_end = max(past[-in_tail - 1], floor)
    if value <= past[-in_tail - 1]:
        return -np.log10((len(past) - bisect_left(past, value) + 1) / (len(past) + 1))
    spread = np.mean(np.log(np.maximum(past[-in_tail:], floor) / lower_end))
    exponent = 1 / max(spread, 1 / STEEPEST)
    return -np.log10(in_tail / len(past)) + exponent * np.log10(max(value, floor) / lower_end)


def overshoot(values: np.ndarray) -> np.ndarray:
    """Return how far each value lies outside the range of those before it, in widths of that range (T,), >= 0."""
    highest, lowest = (np.append(values[:1], extreme.accumulate(values)[:-1]) for extreme in (np.maximum, np.minimum))
    width = np.maximum(highest - lowest, 1e-9 * np.maximum(np.abs(highest), 1))
    return np.maximum(np.maximum(values - highest, lowest - values) / width, 0)


def range_scores(overshoots: np.ndarray) -> np.ndarray:
    """Return overshoots on the scale of `tail_scores`: 2 for one of 1 % of the range, 3 for 10 %, 0 below 1 %."""
    beyond = np.maximum(overshoots, JUST_BEYOND)
    return np.where(overshoots >= JUST_BEYOND, 2 + np.log10(beyond / JUST_BEYOND), 0.0)


def keep_peaks(scores: np.ndarray, refractory: int) -> np.ndarray:
    """Return the scores with those set to 0 that do not exceed all of the `refractory` scores before them."""
    earlier = pd.Series(scores).shift(1).rolling(refractory, min_periods=1).max().to_numpy()
    return np.where(scores > np.nan_to_num(earlier, nan=-np.inf), scores, 0.0)
