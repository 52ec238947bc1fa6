"""NAB scores where parameters and threshold are chosen on half the series and graded on the other half.

NAB picks its threshold on the labels it scores with. Here nothing that a half is scored with was chosen on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.nab_score import NAB_PROFILES, nab_series_score
from recordings.nab_series import SeriesLabels

STANDARD = NAB_PROFILES["standard"]


@dataclass(frozen=True)
class Curve:
    """What the alarms of one series earn above no alarm, in windows: `gains[k]` from `thresholds[k]` down.

    thresholds (K,) fall, the first is infinite: no alarm. A threshold between two of them has the gain of the higher.
    """

    thresholds: np.ndarray
    gains: np.ndarray

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the gains at any thresholds."""
        return self.gains[np.searchsorted(-self.thresholds, -thresholds, side="right") - 1]


def gain_curve(series: SeriesLabels, scores: np.ndarray) -> Curve:
    """Return what the standard profile gives one series at every threshold above 0; a score of 0 never alarms."""
    thresholds = np.append(np.inf, np.unique(scores[scores > 0])[::-1])
    worth = STANDARD.tp + STANDARD.fn
    raw = [nab_series_score(series.windows, scores >= threshold)["raw"] for threshold in thresholds]
    return Curve(thresholds, (np.array(raw) - raw[0]) / worth)


def random_halves(names: Sequence[str], count: int, seed: int = 0) -> np.ndarray:
    """Return which series (count, S) belong to the first half: half of each category, an odd one by chance.

    Args:
        names: 'category/file.csv' of each series.
    """
    generator = np.random.default_rng(seed)
    categories = np.array([name.partition("/")[0] for name in names])
    halves = np.zeros((count, len(names)), dtype=bool)
    for half in halves:
        for category in np.unique(categories):
            members = generator.permutation(np.flatnonzero(categories == category))
            half[members[: (len(members) + generator.integers(2)) // 2]] = True
    return halves


def score_by_halves(candidates: Sequence[Mapping[str, Curve]], windows: int, halves: np.ndarray) -> np.ndarray:
    """Return the NAB score (R,) of each split: what was chosen on either half, graded on the other.

    Args:
        candidates: for each choice of parameters, a curve for each series.
        windows: label windows of all series, which is what 100 points are.
        halves: (R, S) from `random_halves`, for the series in the candidates' order.
    """
    every = np.unique(np.concatenate([curve.thresholds for curves in candidates for curve in curves.values()]))[::-1]
    gains = np.array([[curve.at(every) for curve in curves.values()] for curves in candidates])      # (P, S, K)
    scores = []
    for half in halves:
        graded = 0.0
        for chosen_on in (half, ~half):
            totals = gains[:, chosen_on].sum(axis=1)                                                 # (P, K)
            best, threshold = np.unravel_index(np.argmax(totals), totals.shape)
            graded += gains[best, ~chosen_on, threshold].sum()
        scores.append(100 * graded / windows)
    return np.array(scores)
