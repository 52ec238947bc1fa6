"""NAB scores with parameters and threshold chosen on one half of the series and applied to the other half.

NAB itself optimizes the threshold on the labels that it scores with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HALVES = 20                             # random splits


def random_halves(names: Sequence[str], count: int = HALVES) -> np.ndarray:
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


def score_by_halves(gains: np.ndarray, windows: int, halves: np.ndarray) -> np.ndarray:
    """Return the NAB score (R,) of each split, with the best choice on either half applied to the other.

    Args:
        gains: (P, S, K) of `nab_gains`, for each choice of parameters, series and threshold.
        windows: number of label windows of all series, worth 100 points together.
        halves: (R, S) from `random_halves`.
    """
    scores = []
    for half in halves:
        graded = 0.0
        for chosen_on in (half, ~half):
            totals = gains[:, chosen_on].sum(axis=1)                                                 # (P, K)
            best, threshold = np.unravel_index(np.argmax(totals), totals.shape)
            graded += gains[best, ~chosen_on, threshold].sum()
        scores.append(100 * graded / windows)
    return np.array(scores)
