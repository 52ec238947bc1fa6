"""Scores in, alarms out: a bar that rises with the alarms so far and with time, and a pause after each alarm."""

from __future__ import annotations

import numpy as np

ALARM_RATE = 0.5                        # of log10(1 + alarms so far), added to the threshold
AGE_RATE = 0.25                         # of log10(row / probationary rows), added to the threshold
MIN_SCORE = 0.3                         # no alarm at or below
PAUSES_IN_PROBATION = 5                 # no alarm within probationary rows / this after an alarm
THRESHOLDS = np.append(np.inf, np.round(np.arange(2.0, 0.49, -0.025), 3))         # to choose from; inf: no alarm


def alarm_rows(scores: np.ndarray, probationary: int, threshold: float) -> np.ndarray:
    """Return the rows (K,) that alarm, in order.

    After k alarms, row t >= P alarms if its score is above 0.3 and at least `threshold` + 0.5 log10(1 + k) + 0.25
    log10(t / P), and the last alarm is more than P / 5 rows ago. Alarms of a higher threshold are not a subset of
    those of a lower one.

    Args:
        scores: (n,). probationary: P, rows without an alarm, >= 1.
    """
    rows = np.arange(probationary, len(scores))
    graded = scores[probationary:]
    aged = np.where(graded > MIN_SCORE, graded - AGE_RATE * np.log10(rows / probationary), -np.inf)
    pause = max(probationary // PAUSES_IN_PROBATION, 1)
    found, first = [], 0
    while first < len(aged):
        fires = aged[first:] >= threshold + ALARM_RATE * np.log10(1 + len(found))
        if not fires.any():
            break
        found.append(first + int(np.argmax(fires)))
        first = found[-1] + pause + 1
    return probationary + np.array(found, dtype=int)
