"""Series in, overlapping blocks of rows out: four phases, four channels, the order in which they end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evaluation.nab_score import nab_probation
from recordings.nab_series import NabSeries

PHASES = 4                              # a block begins at every quarter of a block
CHANNELS = ("mean", "max", "min", "roughness")
MIN_SPREAD = 0.02                       # of the blocks, as a share of the probationary range
LINEAR_UP_TO = 2.0                      # spreads; beyond, the scaled value grows logarithmically


class Blocks(NamedTuple):
    """Blocks of all phases of a series, in the order (block, phase), so that step t + PHASES continues step t.

    values (T, 4) scaled CHANNELS, ends (T,) last row of each block, known: blocks of a phase in probation.
    """

    values: np.ndarray
    ends: np.ndarray
    known: int


def probation(series: NabSeries) -> int:
    """Return the number of rows in the probationary period."""
    return nab_probation(len(series.value))


def scaled_blocks(series: NabSeries, in_probation: int) -> Blocks:
    """Return the blocks of a series, about `in_probation` of each phase in the probationary period.

    Roughness is the standard deviation of the change from row to row. Center and scale are those of the first phase's
    means in the probationary period, whose rows are not graded, so that later rows do not change earlier blocks.
    Extreme values are compressed, so that a single spike does not saturate a network.
    """
    value, probationary = series.value, probation(series)
    rows = max(round(probationary / in_probation), 1)
    change = np.diff(value, prepend=value[0])
    means = _cut(value[:probationary], rows, 0).mean(axis=1)
    center, scale = center_and_scale(means, value[:probationary])
    values, ends = [], []
    for first in (round(phase * rows / PHASES) for phase in range(PHASES)):
        inside = _cut(value, rows, first) - center
        levels = inside.mean(axis=1), inside.max(axis=1), inside.min(axis=1)
        values.append(np.stack([*levels, _cut(change, rows, first).std(axis=1)], axis=1) / scale)       # (K, 4)
        ends.append(first + rows * np.arange(1, len(inside) + 1) - 1)
    return Blocks(compressed(interleave(values)), interleave(ends), len(means))


def center_and_scale(means: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """Return what blocks are scaled by: center and spread of their means (K,) in the probationary rows `value` (P,)."""
    center = np.median(means)
    return center, max(means.std(), MIN_SPREAD * np.ptp(value), 1e-6 * abs(center), 1e-9)


def compressed(scaled: np.ndarray) -> np.ndarray:
    """Return values in spreads (...), about linear up to LINEAR_UP_TO and logarithmic beyond."""
    return np.sign(scaled) * LINEAR_UP_TO * np.log1p(np.abs(scaled) / LINEAR_UP_TO)


def _cut(value: np.ndarray, rows: int, first: int) -> np.ndarray:
    """Return the whole blocks (K, rows) from row `first` on."""
    count = (len(value) - first) // rows
    return value[first : first + count * rows].reshape(count, rows)


def interleave(phases: list[np.ndarray]) -> np.ndarray:
    """Return arrays (K or K - 1, ...) of the phases as one (T, ...) in the order (block, phase)."""
    whole = np.empty((sum(map(len, phases)), *phases[0].shape[1:]), phases[0].dtype)
    for phase, part in enumerate(phases):
        whole[phase :: len(phases)] = part
    return whole


def held_to_rows(scores: np.ndarray, ends: np.ndarray, rows: int) -> np.ndarray:
    """Return at each of `rows` rows the score of the newest block that has ended, of one phase; 0 before the first.

    Args:
        scores: (K, ...) and ends (K,) of the blocks.
    """
    newest = np.searchsorted(ends, np.arange(rows), side="right") - 1
    held = scores[np.maximum(newest, 0)]
    held[newest < 0] = 0
    return held
