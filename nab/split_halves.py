"""NAB scores with parameters and threshold chosen on one half of the series and applied to the other half.

NAB itself optimizes the threshold on the labels that it scores with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.nab_score import NAB_PROFILES, nab_series_score

STANDARD = NAB_PROFILES["standard"]


@dataclass(frozen=True)
class GainCurve:
    """Gain in NAB score of the alarms of one series over no alarm, in windows, as a step function of the threshold.

    thresholds (K,) decrease from infinity (no alarm); a threshold between two of them has the gain of the higher one.
    """

    thresholds: np.ndarray
    gains: np.ndarray

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the gains at any thresholds."""
        return self.gains[np.searchsorted(-self.thresholds, -thresholds, side="right") - 1]


def gain_curve(windows: np.ndarray, scores: np.ndarray) -> GainCurve:
    """Return the gain in the standard profile at every threshold > 0, for label windows (W, 2) and scores (n,)."""
    thresholds = np.append(np.inf, np.unique(scores[scores > 0])[::-1])
    worth = STANDARD.tp + STANDARD.fn
    raw = [nab_series_score(windows, scores >= threshold)["raw"] for threshold in thresholds]
    return GainCurve(thresholds, (np.array(raw) - raw[0]) / worth)


def random_halves(names: Sequence[str], count: int) -> np.ndarray:
    """Return which series (count, S) are in the first half: half of each category, at random if it is odd.

    Args:
        names: 'category/file.csv' of each series.
    """
    generator = np.random.default_rng(0)
    categories = np.array([name.partition("/")[0] for name in names])
    halves = np.zeros((count, len(names)), dtype=bool)
    for half in halves:
        for category in np.unique(categories):
            members = generator.permutation(np.flatnonzero(categories == category))
            half[members[: (len(members) + generator.integers(2)) // 2]] = True
    return halves


def score_by_halves(candidates: Sequence[Mapping[str, GainCurve]], windows: int, halves: np.ndarray) -> np.ndarray:
    """Return the NAB score (R,) of each split, with the best choice on either half applied to the other.

    Args:
        candidates: for each choice of parameters, a curve for each series.
        windows: number of label windows of all series, worth 100 points together.
        halves: (R, S) from `random_halves`, for the series in the candidates' order.
    """
    every = [curve.thresholds for curves in candidates for curve in curves.values()]
    thresholds = np.unique(np.concatenate(every))[::-1]                                              # (K,)
    gains = np.array([[curve.at(thresholds) for curve in curves.values()] for curves in candidates])      # (P, S, K)
    scores = []
    for half in halves:
        graded = 0.0
        for chosen_on in (half, ~half):
            totals = gains[:, chosen_on].sum(axis=1)                                                 # (P, K)
            best, threshold = np.unravel_index(np.argmax(totals), totals.shape)
            graded += gains[best, ~chosen_on, threshold].sum()
        scores.append(100 * graded / windows)
    return np.array(scores)
