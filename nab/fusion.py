"""Row scores from the parts of `nab.frozen_lstm` and two plain statistics: causal ones, and offline ones.

Parts: `errors` and `states` (distances of `nab.frozen_lstm`), `deviation` (distance from the median, in median absolute
deviations) and `shift` (difference between the means after and before a row). A causal score of a row after those
learned from depends on the rows up to it; an offline one uses the whole series.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nab.blocks import held_to_rows
from nab.frozen_lstm import Learned, error_distances, rows_of_block, state_distances

SPAN = 200                              # rows of an offline mean, and of the zone without neighbours
CAUSAL_SPAN = 100                       # rows of a causal mean
SHIFT_SPAN = 100                        # rows on either side
MIN_RATIO = 0.1                         # of a causal part to its mean on the rows learned from
MIN_SPREAD = 0.02                       # of a median absolute deviation, in standard deviations
MAX_DEVIATION = 1000.0                  # of a channel: one that was constant so far does not hide all others
Parts = dict[str, np.ndarray]


class Fusion(NamedTuple):
    """Weights of the parts."""

    errors: float = 0.0
    states: float = 0.0
    deviation: float = 0.0
    shift: float = 0.0


FUSED = {"causal": Fusion(errors=1, deviation=1), "offline": Fusion(errors=2, states=1, shift=1)}      # by kind


def parts_of(values: np.ndarray, learned: Learned, learned_rows: int) -> dict[str, Parts]:
    """Return the parts at each row (n,) of the values (n, C), by kind of score, "causal" and "offline"."""
    rows, n_rows = rows_of_block(learned_rows), len(values)
    known, excluded = learned_rows // rows, -(-SPAN // rows)
    errors = error_distances(learned.errors, known)
    ends = rows * np.arange(1, len(errors) + 1) - 1

    def at_rows(states: np.ndarray) -> Parts:
        return {"errors": held_to_rows(errors, ends, n_rows), "states": held_to_rows(states, ends, n_rows)}

    return {
        "causal": at_rows(state_distances(learned.states, excluded, known))
        | {"deviation": median_deviation(values, learned_rows)},
        "offline": at_rows(state_distances(learned.states, excluded))
        | {"deviation": median_deviation(values, n_rows), "shift": mean_shift(values)},
    }


def median_deviation(values: np.ndarray, reference_rows: int) -> np.ndarray:
    """Return |x - median| in median absolute deviations of the first rows (n,), mean over the channels (n, C)."""
    reference = values[:reference_rows]
    middle = np.median(reference, axis=0)
    scale = np.maximum(np.median(np.abs(reference - middle), axis=0), MIN_SPREAD * reference.std(axis=0))
    return np.minimum(np.abs(values - middle) / np.maximum(scale, 1e-9), MAX_DEVIATION).mean(axis=1)


def mean_shift(values: np.ndarray) -> np.ndarray:
    """Return |mean of the next 100 rows - mean of the last 100| in standard deviations (n,), mean over channels."""
    n = len(values)
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(scaled, axis=0)])
    row = np.arange(1, n)
    first, last = np.maximum(row - SHIFT_SPAN, 0), np.minimum(row + SHIFT_SPAN, n)
    before = (total[row] - total[first]) / (row - first)[:, None]
    after = (total[last] - total[row]) / (last - row)[:, None]
    return np.append(0.0, np.abs(after - before).mean(axis=1))


def fused_score(parts: Mapping[str, Parts], kind: str, fusion: Fusion, learned_rows: int) -> np.ndarray:
    """Return the score (n,) of a kind from the parts of `parts_of`."""
    return causal_score(parts[kind], fusion, learned_rows) if kind == "causal" else offline_score(parts[kind], fusion)


def causal_score(parts: Mapping[str, np.ndarray], fusion: Fusion, learned_rows: int) -> np.ndarray:
    """Return the weighted sum of log(0.1 + trailing mean / mean on the rows learned from) of the parts (n,)."""
    score = np.zeros(len(next(iter(parts.values()))))
    for name, weight in _weights(parts, fusion):
        mean = pd.Series(parts[name]).rolling(CAUSAL_SPAN, min_periods=1).mean().to_numpy()
        score += weight * np.log(MIN_RATIO + mean / max(mean[:learned_rows].mean(), 1e-9))
    return score


def offline_score(parts: Mapping[str, np.ndarray], fusion: Fusion) -> np.ndarray:
    """Return the weighted sum of the parts' centred means (n,), each in standard deviations from its own mean."""
    score = np.zeros(len(next(iter(parts.values()))))
    for name, weight in _weights(parts, fusion):
        span = SHIFT_SPAN if name == "shift" else SPAN
        mean = pd.Series(parts[name]).rolling(span, center=True, min_periods=1).mean().to_numpy()
        score += weight * (mean - mean.mean()) / max(mean.std(), 1e-9)
    return score


def _weights(parts: Mapping[str, np.ndarray], fusion: Fusion) -> list[tuple[str, float]]:
    """Return the parts with a weight; a detector may lack some."""
    return [(name, weight) for name, weight in fusion._asdict().items() if weight and name in parts]
