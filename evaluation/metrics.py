"""How good are scores, alarms and events, measured against labels?

Everything here maps arrays to numbers. Conventions, valid for every function unless its docstring says otherwise:

* `labels` (T,) holds 0 and 1; `scores` (T,) are higher = stranger; an `alarm` is `score > threshold`.
* All values lie in 0..1 and more is better, except where a unit is given.
* A value that has no meaning is NaN: recall without a label, precision without an alarm, and any `oracle_*`
  value or area without a single positive label. An F1 is 0 as soon as labels or alarms exist but do not meet.
* A NaN score means "no score yet". Metrics that look at single steps (`auc_*`, `oracle_*point_f1`) leave such steps
  out. Metrics that look at time (VUS, events, ranges, affiliation, point adjustment) keep them, so that the time axis
  stays whole, and never see an alarm there: NaN ranks below every score.
* An infinite score, a label other than 0 and 1, or arrays that are not (T,) of equal length raise ValueError.
* `oracle_*` values pick the threshold on the labels they are scored with: upper bounds, not performance. With heavy
  tails, 100 even thresholds miss the good ones; pass for example `thresholds=np.nanquantile(scores, levels)`.
  Names with `tsb_` follow TSB-AD (Liu & Paparrizos 2024) where it departs from the paper that defined the measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NAN = float("nan")


# --- input checks and shared helpers ---------------------------------------------------------------------------------

def as_mask(values: ArrayLike, name: str) -> np.ndarray:
    """Return `values` (T,) as booleans; ValueError if they are not one-dimensional or not 0 and 1."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (T,), got {values.shape}")
    wrong = np.flatnonzero(~((values == 0) | (values == 1)))
    if wrong.size:
        raise ValueError(f"{name} must be 0 or 1; {wrong.size} are not, "
                         f"the first is {values[wrong[0]]} at step {wrong[0]}")
    return values.astype(bool)


def _check_same_length(first: np.ndarray, second: np.ndarray, names: str) -> None:
    if first.size != second.size:
        raise ValueError(f"{names} must be equally long, got {first.size} and {second.size} steps")


def _as_labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = as_mask(labels, "labels"), np.asarray(scores, dtype=float)
    if scores.ndim != 1:
        raise ValueError(f"scores must have shape (T,), got {scores.shape}")
    _check_same_length(labels, scores, "labels and scores")
    infinite = np.flatnonzero(np.isinf(scores))
    if infinite.size:
        raise ValueError(f"scores must not be infinite; {infinite.size} are, the first at step {infinite[0]}")
    return labels, scores


def _as_labels_and_alarms(labels: ArrayLike, alarms: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, alarms = as_mask(labels, "labels"), as_mask(alarms, "alarms")
    _check_same_length(labels, alarms, "labels and alarms")
    return labels, alarms


def _drop_unscored(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = _as_labels_and_scores(labels, scores)
    scored = ~np.isnan(scores)
    return labels[scored], scores[scored]


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first steps and ends (one past the last step) of the maximal runs of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def _harmonic_mean(precision: float, recall: float) -> float:
    """F1 of two rates; an undefined one (NaN) counts as 0 unless both are undefined."""
    if np.isnan(precision) and np.isnan(recall):
        return NAN
    precision, recall = np.nan_to_num((precision, recall))
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else NAN


# --- threshold-free --------------------------------------------------------------------------------------------------

def auc_roc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that a labelled step outscores a normal one, ties half.

    Returns: 0..1, 0.5 = random; NaN unless both classes have a scored step.
    Source: scikit-learn `roc_auc_score`; Fawcett 2006, "An introduction to ROC analysis", section 7.
    """
    from sklearn.metrics import roc_auc_score

    labels, scores = _drop_unscored(labels, scores)
    if labels.all() or not labels.any():
        return NAN
    return float(roc_auc_score(labels, scores))


def auc_pr(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision: precision summed over the steps of recall, without interpolation.

    Returns: 0..1, random = share of labelled steps; 1 if all steps are labelled; NaN if none is.
    Source: scikit-learn `average_precision_score`.
    """
    from sklearn.metrics import average_precision_score

    labels, scores = _drop_unscored(labels, scores)
    return float(average_precision_score(labels, scores)) if labels.any() else NAN


VUS_THRESHOLDS = 250


def vus(labels: ArrayLike, scores: ArrayLike, buffer: int) -> tuple[float, float]:
    """Return the volumes under the ROC and the PR surface: areas that forgive misplaced labels, averaged over buffers.

    For each buffer b = 0..buffer the labels get soft shoulders of b // 2 steps, sqrt(1 - distance / b) high, and
    recall is multiplied by the share of events (with shoulders, joined where those meet) that hold an alarm.
    Time is O(T log T + buffer * shoulder steps), memory O(T + buffer * VUS_THRESHOLDS + shoulder steps).

    Args:
        buffer: largest buffer in steps, an integer >= 0; `suggest_buffer` gives TSB-AD's choice.
    Returns: (vus_roc, vus_pr), each 0..1; both NaN if no step is labelled or none is scored, and vus_roc NaN if
        every step is labelled. vus_pr of random scores is above the share of labelled steps: shoulders count too.
    Source: Paparrizos et al. 2022, "Volume Under the Surface", PVLDB 15(11), Range-AUC and VUS; 250 thresholds at
        even ranks of the scores, as in TSB-AD 1.5.
    """
    labels, scores = _as_labels_and_scores(labels, scores)
    if isinstance(buffer, bool) or not isinstance(buffer, (int, np.integer)) or buffer < 0:
        raise ValueError(f"buffer must be an integer of at least 0 steps, got {buffer!r}")
    if not labels.any() or np.isnan(scores).all():
        return NAN, NAN
    first_alarm, alarms = _first_alarms(scores)
    label_tp = _cumulative_counts(first_alarm[labels])                           # (K,)
    buffer_tp, existence = _buffer_curves(labels, first_alarm, buffer)           # (buffer + 1, K) each
    tp = label_tp + buffer_tp
    positives = labels.sum() + buffer_tp / 2
    recall = np.minimum(tp / positives, 1) * existence
    precision = tp / alarms
    negatives = labels.size - positives
    false_rate = np.divide(alarms - tp, negatives, out=np.full_like(tp, np.nan), where=negatives > 0)
    pr_areas = (np.diff(recall, axis=1, prepend=0) * precision).sum(axis=1)      # (buffer + 1,)
    corners = ((0, 0), (1, 1))
    roc_areas = np.trapezoid(np.pad(recall, corners, constant_values=(0, 1)),
                             np.pad(false_rate, corners, constant_values=(0, 1)), axis=1)
    return float(roc_areas.mean()), float(pr_areas.mean())


def _first_alarms(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per step the first of the K falling thresholds that it reaches (T,), and the alarms at each (K,)."""
    falling = -np.where(np.isnan(scores), -np.inf, scores)                       # NaN is reached last
    ranks = np.linspace(0, scores.size - 1, VUS_THRESHOLDS).astype(int)
    thresholds = np.sort(falling)[ranks]
    first_alarm = np.searchsorted(thresholds, falling, side="left")
    return first_alarm, _cumulative_counts(first_alarm)


def _cumulative_counts(first_alarm: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return for each threshold the (weighted) number of steps that alarm at it, (K,)."""
    return np.cumsum(np.bincount(first_alarm, weights=weights, minlength=VUS_THRESHOLDS))


def _buffer_curves(labels: np.ndarray, first_alarm: np.ndarray, buffer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each buffer and threshold, the soft labels alarmed in shoulders and the share of events alarmed."""
    starts, ends = _runs(labels)
    step, distance = _shoulder_steps(labels, starts, ends, buffer // 2)
    steps, slot = np.unique(step, return_inverse=True)
    event_alarm = np.minimum.reduceat(np.append(first_alarm, VUS_THRESHOLDS),
                                      np.column_stack((starts, ends)).ravel())[::2]
    buffer_tp, existence = np.zeros((2, buffer + 1, VUS_THRESHOLDS))
    for b in range(buffer + 1):
        reach = b // 2
        if reach and b % 2 == 0:                                                 # the shoulders grew by one step
            before, behind = np.maximum(starts - reach, 0), np.minimum(ends - 1 + reach, labels.size - 1)
            event_alarm = np.minimum(event_alarm, np.minimum(first_alarm[before], first_alarm[behind]))
        if reach:
            near = np.searchsorted(distance, reach, side="right")
            height = np.sqrt(1 - np.arange(reach + 1) / b)[distance[:near]]
            soft = np.minimum(np.bincount(slot[:near], weights=height, minlength=steps.size), 1)
            buffer_tp[b] = _cumulative_counts(first_alarm[steps], soft)
        joined_first = np.flatnonzero(np.append(True, ends[:-1] - 1 + reach < starts[1:] - reach))
        group_alarm = np.minimum.reduceat(event_alarm, joined_first)
        existence[b] = _cumulative_counts(group_alarm) / group_alarm.size
    return buffer_tp, existence


def _shoulder_steps(labels: np.ndarray, starts: np.ndarray, ends: np.ndarray,
                    reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal steps within `reach` of an event and their distance, once an event side, nearest first."""
    distances = np.arange(1, min(reach, labels.size) + 1)
    step = np.concatenate(((starts[:, None] - distances).ravel(), (ends[:, None] - 1 + distances).ravel()))
    distance = np.tile(distances, 2 * starts.size)
    keep = (step >= 0) & (step < labels.size)
    keep[keep] = ~labels[step[keep]]
    order = np.argsort(distance[keep], kind="stable")
    return step[keep][order], distance[keep][order]


def suggest_buffer(values: ArrayLike) -> int:
    """Return the VUS buffer that TSB-AD uses for a series: its period, read off the autocorrelation.

    Args:
        values: (T,) the series itself, not its scores. Only the first 20,000 are read; NaN counts as their mean.
    Returns: steps, 6..303: the lag of the highest local maximum of the autocorrelation over lags 3..400, or 125 if
        there is none or it lies outside 6..303.
    Raises: ValueError if `values` is not (T,) or holds an infinite value.
    Source: TSB-AD 1.5, `find_length_rank`.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or np.isinf(values).any():
        raise ValueError(f"values must be (T,) and not infinite, got shape {values.shape}")
    values = values[:20_000]
    if np.isnan(values).all():
        return 125
    centred = np.nan_to_num(values - np.nanmean(values))
    power = np.abs(np.fft.rfft(centred, 2 * centred.size)) ** 2                  # zero-padded: no wrap-around
    correlation = np.fft.irfft(power)[:min(centred.size, 401)][3:]
    peaks = 1 + np.flatnonzero((correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] > correlation[2:]))
    if not peaks.size:
        return 125
    highest = int(peaks[np.argmax(correlation[peaks])])                          # counted from lag 3
    return highest + 3 if 3 <= highest <= 300 else 125


def threshold_free(labels: ArrayLike, scores: ArrayLike, buffer: int) -> dict[str, float]:
    """Return auc_roc, auc_pr, vus_roc and vus_pr in one dict.

    Source: the functions of these names.
    """
    vus_roc, vus_pr = vus(labels, scores, buffer)
    return {"auc_roc": auc_roc(labels, scores), "auc_pr": auc_pr(labels, scores), "vus_roc": vus_roc, "vus_pr": vus_pr}


# --- alarms, step by step --------------------------------------------------------------------------------------------

def point_scores(labels: ArrayLike, alarms: ArrayLike) -> dict[str, float]:
    """Return precision, recall and F1 over single steps, and the counts behind them.

    Args:
        alarms: (T,) 0 and 1.
    Returns: `precision`, `recall`, `f1`; `true_alarms`, `false_alarms`, `missed_steps` in steps.
    Source: van Rijsbergen 1979, "Information Retrieval", chapter 7.
    """
    labels, alarms = _as_labels_and_alarms(labels, alarms)
    hit, false, missed = (int(np.sum(mask)) for mask in (labels & alarms, ~labels & alarms, labels & ~alarms))
    return {
        "precision": ratio(hit, hit + false),
        "recall": ratio(hit, hit + missed),
        "f1": ratio(2 * hit, 2 * hit + false + missed),
        "true_alarms": hit, "false_alarms": false, "missed_steps": missed,
    }


def oracle_point_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the best F1 over single steps that any threshold could have given.

    Source: `point_scores` at each point of scikit-learn's `precision_recall_curve`.
    """
    return _oracle_point_f1(labels, scores, 0.0)


def oracle_tsb_point_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return `oracle_point_f1` with 1e-5 added to the denominator, so that perfect scores get 0.999995.

    Source: TSB-AD 1.5, `metric_PointF1`.
    """
    return _oracle_point_f1(labels, scores, 1e-5)


def _oracle_point_f1(labels: ArrayLike, scores: ArrayLike, epsilon: float) -> float:
    from sklearn.metrics import precision_recall_curve

    labels, scores = _drop_unscored(labels, scores)
    if not labels.any():
        return NAN
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall + epsilon                                         # > 0: the curve ends at precision 1
    return float(np.max(np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)))


# --- best over a grid of thresholds ----------------------------------------------------------------------------------

def _grid(scores: np.ndarray, thresholds: ArrayLike | None) -> np.ndarray:
    """Return the given thresholds, or 100 evenly spaced from the lowest to the highest score."""

    if thresholds is None:
        return np.linspace(np.nanmin(scores), np.nanmax(scores), 100)
    thresholds = np.atleast_1d(np.asarray(thresholds, dtype=float))
    if thresholds.ndim != 1 or not thresholds.size or np.isnan(thresholds).any():
        raise ValueError(f"thresholds must be a non-empty (K,) array without NaN, got shape {thresholds.shape}")
    return thresholds


def _best_over_grid(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike | None,
                    f1_of_alarms: Callable[[np.ndarray], float]) -> float:
    labels, scores = _as_labels_and_scores(labels, scores)
    if not labels.any() or np.isnan(scores).all():
        return NAN
    return max(f1_of_alarms(scores > threshold) for threshold in _grid(scores, thresholds))


def _count_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return how many of `values` lie above each threshold, (K,); NaN lies above none."""
    values = np.sort(values[~np.isnan(values)])
    return values.size - np.searchsorted(values, thresholds, side="right")


def _event_peaks(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest score and the number of steps of each labelled event; -inf where none is scored."""
    starts, ends = _runs(labels)
    ranked = np.append(np.where(np.isnan(scores), -np.inf, scores), -np.inf)
    return np.maximum.reduceat(ranked, np.column_stack((starts, ends)).ravel())[::2], ends - starts


def oracle_point_adjusted_f1(labels: ArrayLike, scores: ArrayLike, seed: int = 0,
                             thresholds: ArrayLike | None = None) -> dict[str, float]:
    """Return the best point-adjusted F1 (one alarm in an event counts as all of it) beside what random scores get.

    The value says little by itself: on long events, random scores come near 1. Never report one without the other.

    Args:
        seed: of the random scores, uniform in 0..1, NaN where `scores` is; always swept with 100 even thresholds.
        thresholds: (K,), by default 100 evenly spaced from the lowest to the highest score.
    Returns: `value`, `random_scores`.
    Source: Xu et al. 2018, "Unsupervised Anomaly Detection via Variational Auto-Encoder for Seasonal KPIs in Web
        Applications", WWW, performance metrics (the adjustment); Kim et al. 2022, "Towards a Rigorous Evaluation of
        Time-series Anomaly Detection", AAAI (the random scores).
    """
    return _adjusted_beside_random(labels, scores, seed, thresholds, adjust_first_step=True)


def oracle_tsb_point_adjusted_f1(labels: ArrayLike, scores: ArrayLike, seed: int = 0,
                                 thresholds: ArrayLike | None = None) -> dict[str, float]:
    """Return `oracle_point_adjusted_f1` with the very first step of the series counted by its own alarm only.

    Differs only where an event begins at step 0.

    Source: TSB-AD 1.5, `metric_PointF1PA`, whose walk back from an alarm stops before step 0.
    """
    return _adjusted_beside_random(labels, scores, seed, thresholds, adjust_first_step=False)


def _adjusted_beside_random(labels: ArrayLike, scores: ArrayLike, seed: int, thresholds: ArrayLike | None,
                            adjust_first_step: bool) -> dict[str, float]:
    labels, scores = _as_labels_and_scores(labels, scores)
    if not labels.any() or np.isnan(scores).all():
        return {"value": NAN, "random_scores": NAN}
    random = np.where(np.isnan(scores), np.nan, np.random.default_rng(seed).random(scores.size))
    return {"value": _best_adjusted_f1(labels, scores, _grid(scores, thresholds), adjust_first_step),
            "random_scores": _best_adjusted_f1(labels, random, _grid(random, None), adjust_first_step)}


def _best_adjusted_f1(labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, adjust_first_step: bool) -> float:
    peaks, lengths = _event_peaks(labels, scores)
    hit = (peaks > thresholds[:, None]) @ lengths                                # (K,)
    if labels[0] and not adjust_first_step:
        hit = hit - ((peaks[0] > thresholds) & ~(scores[0] > thresholds))
    false = _count_above(scores[~labels], thresholds)
    return float(np.max(2 * hit / (hit + false + labels.sum())))


def oracle_tsb_event_f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike | None = None) -> float:
    """Return the best harmonic mean of the share of events found and the precision over single STEPS.

    It mixes events and steps; `oracle_event_f1` counts false events instead.

    Args:
        thresholds: (K,), by default 100 evenly spaced from the lowest to the highest score.
    Source: TSB-AD 1.5, `metric_EventF1PA`.
    """
    labels, scores = _as_labels_and_scores(labels, scores)
    if not labels.any() or np.isnan(scores).all():
        return NAN
    thresholds = _grid(scores, thresholds)
    hit = _count_above(scores[labels], thresholds)
    precision = hit / np.maximum(hit + _count_above(scores[~labels], thresholds), 1)
    recall = np.mean(_event_peaks(labels, scores)[0] > thresholds[:, None], axis=1)
    total = precision + recall
    return float(np.max(np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)))


# --- events ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class EventMatch:
    """Which found events are true, and which labelled event each one stands for."""

    match: np.ndarray      # (n_found,) index of the labelled event it is counted for, -1 = none
    is_true: np.ndarray    # (n_found,) overlaps some labelled event, even if another found event is counted for it
    is_found: np.ndarray   # (n_labelled,) a found event is counted for it
    delay_s: np.ndarray    # (n_found,) start after the start of the matched event, >= 0; NaN where there is no match


def match_events(found: ArrayLike, labelled: ArrayLike, tolerance_s: float = 5.0) -> EventMatch:
    """Return the one-to-one pairing of found and labelled events: the most pairs, and of those the least total delay.

    A found event is true if it overlaps a labelled event widened by `tolerance_s` at its end; ends are inclusive, so
    touching is overlapping. Neither side is ever counted twice. Needs n_found * n_labelled bytes.

    Args:
        found: (n_found, 2) start and end in seconds, any order; an empty array is no event.
        labelled: (n_labelled, 2), likewise; may overlap one another.
        tolerance_s: >= 0, how long after its end an event may still be reported.
    Raises: ValueError if events are not (n, 2), not finite, or end before they start.
    Source: maximum bipartite matching as `scipy.sparse.csgraph.min_weight_full_bipartite_matching`, every labelled
        event having one dear stand-in that means "not found".
    """
    found, labelled = _as_events(found, "found"), _as_events(labelled, "labelled")
    if not tolerance_s >= 0:
        raise ValueError(f"tolerance_s must be at least 0, got {tolerance_s}")
    overlap = (labelled[:, :1] <= found[:, 1]) & (labelled[:, 1:] + tolerance_s >= found[:, 0])
    row, column = np.nonzero(overlap)                                            # labelled, found
    delay_s = np.maximum(found[column, 0] - labelled[row, 0], 0)
    match = np.full(len(found), -1)
    is_found = np.zeros(len(labelled), dtype=bool)
    matched_delay_s = np.full(len(found), np.nan)
    for pair in _cheapest_pairs(row, column, delay_s, overlap.shape):
        match[column[pair]], is_found[row[pair]], matched_delay_s[column[pair]] = row[pair], True, delay_s[pair]
    return EventMatch(match, overlap.any(axis=0), is_found, matched_delay_s)


def _as_events(events: ArrayLike, name: str) -> np.ndarray:
    events = np.asarray(events, dtype=float)
    if events.size == 0:
        return np.empty((0, 2))
    if events.ndim != 2 or events.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n, 2) of start and end in seconds, got {events.shape}")
    wrong = np.flatnonzero(~(np.isfinite(events).all(axis=1) & (events[:, 0] <= events[:, 1])))
    if wrong.size:
        start, end = events[wrong[0]]
        raise ValueError(f"{name}: event {wrong[0]} runs from {start} to {end} s; expected finite times, start <= end")
    return events


def _cheapest_pairs(row: np.ndarray, column: np.ndarray, cost: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the indices of the pairs (row, column) to keep: as many as possible, at the least total cost (>= 0)."""
    if not row.size:
        return row
    rows, columns = shape
    stand_in = np.arange(rows)
    dear = rows * (cost.max() + 1) + 1                                           # more than all real pairs together
    weights = np.concatenate((cost + 1, np.full(rows, dear)))                    # + 1: a stored 0 would mean "no pair"
    graph = scipy.sparse.coo_array((weights, (np.append(row, stand_in), np.append(column, columns + stand_in))),
                      shape=(rows, columns + rows)).tocsr()
    kept_row, kept_column = scipy.sparse.csgraph.min_weight_full_bipartite_matching(graph)
    real = kept_column < columns
    return np.flatnonzero(np.isin(row * columns + column, kept_row[real] * columns + kept_column[real]))


def event_scores(found: ArrayLike, labelled: ArrayLike, normal_hours: float,
                 tolerance_s: float = 5.0) -> dict[str, float]:
    """Return how well found events stand for labelled ones.

    Several found events inside one labelled event are all true, yet find it once: merge alarms into events before.

    Args:
        found, labelled, tolerance_s: see `match_events`.
        normal_hours: recorded time outside labelled events, in hours, >= 0.
    Returns: `precision` = true found / found, `recall` = labelled events matched / labelled, `f1`;
        `false_events`; `false_events_per_hour` (of normal time; NaN if there is none);
        `delay_median_s`, `delay_mean_s` over matched events, seconds, >= 0, less is better, NaN if none is matched;
        `found_events`, `true_events`, `labelled_events`, `matched_events` (counts).
    Raises: ValueError as `match_events`, and if `normal_hours` is negative or not finite.
    Source: `match_events`.
    """
    if not (np.isfinite(normal_hours) and normal_hours >= 0):
        raise ValueError(f"normal_hours must be finite and at least 0, got {normal_hours}")
    result = match_events(found, labelled, tolerance_s)
    true, matched = int(result.is_true.sum()), int(result.is_found.sum())
    precision, recall = ratio(true, result.is_true.size), ratio(matched, result.is_found.size)
    delay_s = result.delay_s[result.match >= 0]
    false = result.is_true.size - true
    return {
        "precision": precision, "recall": recall, "f1": _harmonic_mean(precision, recall),
        "false_events": false, "false_events_per_hour": ratio(false, normal_hours),
        "delay_median_s": float(np.median(delay_s)) if delay_s.size else NAN,
        "delay_mean_s": float(np.mean(delay_s)) if delay_s.size else NAN,
        "found_events": result.is_true.size, "true_events": true,
        "labelled_events": result.is_found.size, "matched_events": matched,
    }


def oracle_event_f1(labels: ArrayLike, scores: ArrayLike, period_s: float, tolerance_s: float = 5.0,
                    thresholds: ArrayLike | None = None, max_normal_alarmed: float = 0.1) -> float:
    """Return the best `event_scores` F1 over thresholds, every run of alarms being one found event.

    Args:
        period_s: seconds a step, > 0; for series counted in rows: 1, with `tolerance_s` in rows.
        tolerance_s: see `match_events`.
        thresholds: (K,), by default 100 evenly spaced from the lowest to the highest score.
        max_normal_alarmed: 0..1, the share of normal steps that may alarm; a threshold beyond it gets 0. Without this
            limit one alarm that never ends would be one true event, and perfect on a series with one labelled event.
    Source: `match_events`.
    """
    if not period_s > 0:
        raise ValueError(f"period_s must be above 0, got {period_s}")
    if not 0 <= max_normal_alarmed <= 1:
        raise ValueError(f"max_normal_alarmed must be in 0..1, got {max_normal_alarmed}")

    def events(mask: np.ndarray) -> np.ndarray:
        starts, ends = _runs(mask)
        return np.column_stack((starts, ends - 1)) * period_s

    normal = ~as_mask(labels, "labels")
    labelled = events(~normal)

    def f1(alarms: np.ndarray) -> float:
        if np.sum(alarms & normal) > max_normal_alarmed * normal.sum():
            return 0.0
        return event_scores(events(alarms), labelled, 0.0, tolerance_s)["f1"]

    return _best_over_grid(labels, scores, thresholds, f1)


# --- ranges (Tatbul et al. 2018) -------------------------------------------------------------------------------------

POSITION_BIAS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {     # weight of position 1..length
    "flat": lambda position, length: np.ones(position.size),
    "front": lambda position, length: length - position + 1.0,
    "middle": lambda position, length: np.where(position <= length / 2, position, length - position + 1.0),
    "back": lambda position, length: position.astype(float),
}


def range_based_scores(labels: ArrayLike, alarms: ArrayLike, alpha: float = 0.2, bias: str = "flat",
                 cardinality: str = "reciprocal", precision_bias: str = "flat") -> dict[str, float]:
    """Return precision, recall and F1 over ranges: each labelled or alarmed run counts once, by how it is covered.

    Args:
        alarms: (T,) 0 and 1.
        alpha: 0..1, recall's reward for touching a labelled range at all; 1 - alpha rewards the overlap.
        bias: which part of a labelled range matters most: flat, front, middle or back.
        cardinality: factor on the overlap of a range met by x > 1 others: "reciprocal" (1 / x) or "one".
        precision_bias: the same as `bias` for alarmed ranges; precision has no existence reward.
    Raises: ValueError for an unknown word or alpha outside 0..1.
    Source: Tatbul et al. 2018, "Precision and Recall for Time Series", sections 4.1, 4.2 and figure 2.
    """
    labels, alarms = _as_labels_and_alarms(labels, alarms)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, got {alpha}")
    if cardinality not in ("reciprocal", "one"):
        raise ValueError(f"cardinality must be 'reciprocal' or 'one', got {cardinality!r}")
    recall = _range_reward(labels, alarms, alpha, bias, cardinality)
    precision = _range_reward(alarms, labels, 0.0, precision_bias, cardinality)
    return {"precision": precision, "recall": recall, "f1": _harmonic_mean(precision, recall)}


def _range_reward(ranges: np.ndarray, others: np.ndarray, alpha: float, bias: str, cardinality: str) -> float:
    """Return the mean over the runs of `ranges` of alpha * existence + (1 - alpha) * cardinality * overlap."""
    if bias not in POSITION_BIAS:
        raise ValueError(f"bias must be one of {', '.join(POSITION_BIAS)}, got {bias!r}")
    starts, ends = _runs(ranges)
    if not starts.size:
        return NAN
    lengths = ends - starts
    offsets = np.cumsum(lengths) - lengths
    covered = others[ranges]                                                     # runs laid end to end
    position = np.arange(covered.size) - np.repeat(offsets, lengths) + 1
    weight = POSITION_BIAS[bias](position, np.repeat(lengths, lengths))
    begins = covered & ((position == 1) | ~np.append(False, covered[:-1]))       # an other range enters this one
    met = np.add.reduceat(begins.astype(int), offsets)
    overlap = np.add.reduceat(weight * covered, offsets) / np.add.reduceat(weight, offsets)
    factor = 1 / np.maximum(met, 1) if cardinality == "reciprocal" else 1.0
    return float(np.mean(alpha * (met > 0) + (1 - alpha) * factor * overlap))


def oracle_range_f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike | None = None,
                    alpha: float = 0.2, bias: str = "flat", cardinality: str = "reciprocal") -> float:
    """Return the best `range_based_scores` F1 over thresholds, by default 100 evenly spaced over the scores' range.

    Source: `range_based_scores`; the 100 thresholds as in TSB-AD 1.5.
    """
    return _best_over_grid(labels, scores, thresholds,
                           lambda alarms: range_based_scores(labels, alarms, alpha, bias, cardinality)["f1"])


# --- affiliation (Huet et al. 2022) ----------------------------------------------------------------------------------

CELLS = 4   # every kink of the integrands falls on a quarter step, so a midpoint per quarter integrates them exactly


class _Zones(NamedTuple):
    """The time axis [0, T) in quarter steps, each belonging to the zone of its nearest labelled event; all (4T,)."""

    middle: np.ndarray     # of the quarter step, in steps
    zone: np.ndarray       # index of the labelled event
    left: np.ndarray       # borders of the zone, in steps
    right: np.ndarray
    is_event: np.ndarray
    closeness: np.ndarray  # chance that a random point of the zone is no nearer to the event than this one


def affiliation_scores(labels: ArrayLike, alarms: ArrayLike) -> dict[str, float]:
    """Return precision, recall and F1 by distance in time, each compared with what a random point would reach.

    Every labelled event owns the part of the time axis nearest to it. Precision: the chance that a random point of
    the zone is at least as far from the event as an alarm is, averaged over alarmed time, then over the zones that
    hold alarms. Recall: the chance that a random point is at least as far from a point of the event as the nearest
    alarm of the zone is, averaged over the event, then over all events; 0 for a zone without alarms. Step t covers
    [t, t + 1).

    Args:
        alarms: (T,) 0 and 1.
    Returns: `precision`, `recall`, `f1`; all NaN without a label. Random alarms reach 0.5 and more: 0.5 is poor.
    Source: Huet et al. 2022, "Local Evaluation of Time Series Anomaly Detection Algorithms", KDD, the averaged
        individual precision and recall probabilities.
    """
    labels, alarms = _as_labels_and_alarms(labels, alarms)
    if not labels.any():
        return {"precision": NAN, "recall": NAN, "f1": NAN}
    return _affiliation(_affiliation_zones(labels), alarms)


def oracle_affiliation_f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike | None = None) -> float:
    """Return the best `affiliation_scores` F1 over thresholds, by default 100 evenly spaced over the scores' range.

    Source: `affiliation_scores`; the 100 thresholds as in TSB-AD 1.5.
    """
    mask = as_mask(labels, "labels")
    zones = _affiliation_zones(mask) if mask.any() else None
    return _best_over_grid(mask, scores, thresholds, lambda alarms: _affiliation(zones, alarms)["f1"])


def _affiliation_zones(labels: np.ndarray) -> _Zones:
    starts, ends = _runs(labels)
    borders = np.concatenate(([0], (ends[:-1] + starts[1:]) / 2, [labels.size]))
    middle = (np.arange(CELLS * labels.size) + 0.5) / CELLS
    zone = np.searchsorted(borders[1:-1], middle)
    left, right, start, end = borders[zone], borders[zone + 1], starts[zone], ends[zone]
    distance = np.maximum(np.maximum(start - middle, middle - end), 0)
    farther = np.maximum(start - left - distance, 0) + np.maximum(right - end - distance, 0)
    is_event = distance == 0
    return _Zones(middle, zone, left, right, is_event, np.where(is_event, 1.0, farther / (right - left)))


def _affiliation(zones: _Zones, alarms: np.ndarray) -> dict[str, float]:
    count = zones.zone[-1] + 1
    alarmed = np.repeat(alarms, CELLS)
    alarmed_time = np.bincount(zones.zone[alarmed], minlength=count)
    closeness = np.bincount(zones.zone[alarmed], weights=zones.closeness[alarmed], minlength=count)
    used = alarmed_time > 0
    precision = float(np.mean(closeness[used] / alarmed_time[used])) if used.any() else NAN
    event = zones.is_event
    distance = _distance_to_alarm(zones, alarmed)[event]
    middle, left, right, zone = zones.middle[event], zones.left[event], zones.right[event], zones.zone[event]
    nearer = (np.minimum(distance, middle - left) + np.minimum(distance, right - middle)) / (right - left)
    recall = float(np.mean(np.bincount(zone, weights=1 - nearer) / np.bincount(zone)))
    return {"precision": precision, "recall": recall, "f1": _harmonic_mean(precision, recall)}


def _distance_to_alarm(zones: _Zones, alarmed: np.ndarray) -> np.ndarray:
    """Return the distance in steps of each quarter step from the nearest alarm of its zone; inf if there is none."""
    half = 0.5 / CELLS
    alarm_end = np.maximum.accumulate(np.where(alarmed, zones.middle + half, -np.inf))
    alarm_start = np.minimum.accumulate(np.where(alarmed, zones.middle - half, np.inf)[::-1])[::-1]
    behind = np.where(alarm_end > zones.left, zones.middle - alarm_end, np.inf)
    ahead = np.where(alarm_start < zones.right, alarm_start - zones.middle, np.inf)
    return np.where(alarmed, 0.0, np.minimum(behind, ahead))
