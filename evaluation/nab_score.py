"""The score of the Numenta Anomaly Benchmark (NAB): alarms or scores against label windows, early alarms earn more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics import as_mask, ratio
from recordings.nab_series import SeriesLabels


class NabProfile(NamedTuple):
    """What a found window earns, what a missed one and a false alarm row cost."""

    tp: float
    fn: float
    fp: float


NAB_PROFILES = {
    "standard": NabProfile(1.0, 1.0, 0.11),
    "reward_low_FP_rate": NabProfile(1.0, 1.0, 0.22),
    "reward_low_FN_rate": NabProfile(1.0, 2.0, 0.11),
}


def nab_probation(n_rows: int) -> int:
    """Return how many leading rows NAB does not grade: 15 %, at most 750.

    Source: NAB v1.1, `util.py`.
    """
    return min(int(0.15 * n_rows), 750)


def nab_series_score(windows: ArrayLike, alarms: ArrayLike, profile: str = "standard") -> dict[str, float]:
    """Return the NAB score of one series for given alarms, such as those of a deployed threshold.

    Only the first alarm in a window earns anything, the earlier the more; every alarm row outside costs up to `fp`,
    less shortly after a window. Alarms in the probationary period are ignored.

    Args:
        windows: (W, 2) first and last row of each label window, both included, in order, never overlapping.
        alarms: (T,) 0 and 1, one per row of the whole series. NAB itself alarms from `score >= threshold`.
        profile: a key of NAB_PROFILES.
    Returns: `raw` in the benchmark's own unit, -fn * W without an alarm, tp * W at best, no lower bound;
        `score` = 100 for perfect, 0 for no alarm, NaN for a series without windows, no lower bound.
    Raises: ValueError for an unknown profile, or windows out of order, overlapping or outside the series.
    Source: Lavin & Ahmad 2015, "Evaluating Real-Time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark",
        section II; NAB v1.1 `sweeper.py` for the details.
    """
    if profile not in NAB_PROFILES:
        raise ValueError(f"profile must be one of {', '.join(NAB_PROFILES)}, got {profile!r}")
    tp, fn, _ = NAB_PROFILES[profile]
    alarms = as_mask(alarms, "alarms")
    rows = _nab_row_values(np.asarray(windows), alarms.size)
    raw = _nab_raw(rows, np.flatnonzero(alarms), NAB_PROFILES[profile])
    return {"raw": raw, "score": 100 * ratio(raw + fn * rows.count, (tp + fn) * rows.count)}


def nab_gains(series: SeriesLabels, alarm_sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return what sets of alarm rows gain over no alarm (profiles, K), in windows found at their first row.

    100 times the sum over all series, divided by the number of windows, is the benchmark's score.

    Args:
        alarm_sets: K arrays of rows, such as those of several thresholds.
    """
    rows = _nab_row_values(series.windows, series.n_rows)
    return np.array([
        [(_nab_raw(rows, fired, weights) + weights.fn * rows.count) / (weights.tp + weights.fn) for fired in alarm_sets]
        for weights in NAB_PROFILES.values()
    ])


class _NabRows(NamedTuple):
    """What an alarm at each row of a series is worth, before the profile's weights."""

    window: np.ndarray     # (T,) index of the window it lies in, -1 = outside
    value: np.ndarray      # (T,) inside: share of tp, 0..1; outside: share of fp, -1..0; 0 in probation
    count: int             # windows that reach beyond probation


def _nab_row_values(windows: np.ndarray, n_rows: int) -> _NabRows:
    windows = _as_nab_windows(windows, n_rows)
    probation = nab_probation(n_rows)
    windows = windows[windows[:, 1] >= probation]
    window, value = np.full(n_rows, -1), np.full(n_rows, -1.0)
    for index, (first, last) in enumerate(windows):
        width = last - first + 1
        window[first:last + 1] = index
        value[first:last + 1] = np.tanh(2.5 * np.arange(width, 0, -1) / width) / np.tanh(2.5)
        widths_after = np.arange(1, n_rows - last) / max(width - 1, 1e-9)       # a later window overwrites this
        value[last + 1:] = np.where(widths_after > 3, -1.0, -np.tanh(2.5 * widths_after))
    window[:probation], value[:probation] = -1, 0.0
    return _NabRows(window, value, len(windows))


def _as_nab_windows(windows: np.ndarray, n_rows: int) -> np.ndarray:
    if windows.size == 0:
        return np.empty((0, 2), dtype=int)
    if windows.ndim != 2 or windows.shape[1] != 2 or not np.issubdtype(windows.dtype, np.integer):
        raise ValueError(f"windows must be integer rows of shape (W, 2), got {windows.dtype} {windows.shape}")
    flat = windows.ravel()
    if flat[0] < 0 or flat[-1] >= n_rows or (np.diff(flat)[::2] < 0).any() or (np.diff(flat)[1::2] <= 0).any():
        raise ValueError(f"windows must be in order, apart, and within rows 0..{n_rows - 1}, got {windows.tolist()}")
    return windows


def _nab_raw(rows: _NabRows, fired: np.ndarray, weights: NabProfile) -> float:
    inside = fired[rows.window[fired] >= 0]
    earned = np.full(rows.count, -weights.fn)
    np.maximum.at(earned, rows.window[inside], weights.tp * rows.value[inside])
    return float(earned.sum() + weights.fp * rows.value[fired[rows.window[fired] < 0]].sum())


def nab_score(scores_by_series: Mapping[str, ArrayLike], series: Mapping[str, SeriesLabels]) -> dict[str, dict]:
    """Return the benchmark's published score for each of its three profiles: 100 = perfect, 0 = silent.

    One threshold for all series is picked per profile to maximise the score ON THE LABELS it is scored with: that is
    NAB's protocol and every leaderboard row is made so, but it is an oracle; `nab_series_score` takes real alarms.

    Args:
        scores_by_series: {'category/file.csv' or 'category/file': (T,) finite scores, one per data row}, exactly the
            series of the benchmark. Any range is fine (NAB itself asks for 0..1); higher = stranger.
        series: length and label windows of every series, such as `recordings.nab_series.NabSeries.labels`.
    Returns: {profile: {"score": points, "threshold": rows with score >= it alarm, inf = no alarm at all,
        "series": {'category/file.csv': points}}}. Per-series values are points of the benchmark score: they add up to
        "score"; a series without windows can only lose points.
    Raises: ValueError naming the series that are missing, unknown, given twice, of the wrong length or not finite.
    Source: NAB v1.1 at commit ea702d75, `runner.py`, `optimizer.py`, `sweeper.py`; Lavin & Ahmad 2015, section II.
    """
    scores = _as_nab_scores(scores_by_series, series)
    rows = {name: _nab_row_values(windows, n_rows) for name, (n_rows, windows) in series.items()}
    sweep = _nab_sweep(list(rows.values()), list(scores.values()))
    windows = sum(row.count for row in rows.values())
    result = {}
    for profile, weights in NAB_PROFILES.items():
        threshold = sweep.best_threshold(weights)
        point = ratio(100, (weights.tp + weights.fn) * windows)
        fired = {name: np.flatnonzero(scores[name] >= threshold) for name in rows}
        points = {name: point * (_nab_raw(row, fired[name], weights) + weights.fn * row.count)
                  for name, row in rows.items()}
        result[profile] = {"score": sum(points.values()), "threshold": threshold, "series": points}
    return result


def _as_nab_scores(given: Mapping[str, ArrayLike], series: Mapping[str, SeriesLabels]) -> dict[str, np.ndarray]:
    """Return {name with .csv: (T,) finite scores} in the order of `series`."""
    scores: dict[str, np.ndarray] = {}
    for key, values in given.items():
        name = key if key.endswith(".csv") else f"{key}.csv"
        if name in scores:
            raise ValueError(f"{name}: given twice, with and without .csv")
        scores[name] = np.asarray(values, dtype=float)
    for problem, names in (("missing", series.keys() - scores.keys()), ("unknown", scores.keys() - series.keys())):
        if names:
            raise ValueError(f"{len(names)} of {len(series)} series {problem}, the first is {min(names)}")
    for name, (n_rows, _) in series.items():
        if scores[name].shape != (n_rows,):
            raise ValueError(f"{name}: scores have shape {scores[name].shape}; expected ({n_rows},), one per data row")
        wrong = np.flatnonzero(~np.isfinite(scores[name]))
        if wrong.size:
            raise ValueError(f"{name}: {wrong.size} scores are not finite, the first at row {wrong[0]}; "
                             "use the lowest score where there is none yet")
    return {name: scores[name] for name in series}


class _NabSweep(NamedTuple):
    """What the alarms of the whole corpus are worth together at each candidate threshold, highest first."""

    thresholds: np.ndarray   # (K,), the first is inf
    earned: np.ndarray       # (K,) best values of the windows found, sum
    found: np.ndarray        # (K,) windows found
    lost: np.ndarray         # (K,) values of the alarms outside windows, sum, <= 0

    def best_threshold(self, weights: NabProfile) -> float:
        total = weights.tp * self.earned + weights.fn * self.found + weights.fp * self.lost
        return float(self.thresholds[np.argmax(total)])                          # the first of equals: the highest


def _nab_sweep(rows: list[_NabRows], scores: list[np.ndarray]) -> _NabSweep:
    first_window = np.cumsum([0] + [row.count for row in rows])
    window = np.concatenate([np.where(row.window < 0, -1, row.window + first)
                             for row, first in zip(rows, first_window)])
    value = np.concatenate([row.value for row in rows])   # 0 in probation: such a row never makes the best threshold
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    window, value, score = window[order], value[order], score[order]
    gain, is_first = np.zeros((2, score.size))
    for index in range(first_window[-1]):
        inside = np.flatnonzero(window == index)
        gain[inside] = np.diff(np.maximum.accumulate(value[inside]), prepend=0)
        is_first[inside[:1]] = 1
    block_end = np.flatnonzero(np.append(score[1:] != score[:-1], score.size > 0))
    earned, found, lost = (np.append(0, np.cumsum(part)[block_end])
                           for part in (gain, is_first, np.where(window < 0, value, 0)))
    return _NabSweep(np.append(np.inf, score[block_end]), earned, found, lost)
