"""How good are scores, alarms and events, measured against labels?

Everything here maps arrays to numbers. Conventions, valid for every function unless its docstring says otherwise:

* `labels` (T,) holds 0 and 1; `scores` (T,) are higher = stranger; an `alarm` is `score > threshold`.
* `seams`: several segments of time, such as recordings, laid end to end are measured together. It holds the first
  step of each segment but the first one, rising, within 1..T-1. Ranges, buffers and zones end at a seam; how a measure
  combines the segments is said in its docstring. Without a seam the arrays are one segment.
* All values lie in 0..1 and more is better, except where a unit is given.
* A value that has no meaning is NaN: recall without a label, precision without an alarm, and any area without a
  labelled step. An F1 is 0 as soon as labels or alarms exist but do not meet.
* A NaN score means "no score yet". Measures of single steps (`auc_*`, `oracle_point_f1`) leave such steps out. VUS
  keeps them, so that the time axis stays whole, and never sees an alarm there: NaN ranks below every score.
* An infinite score, a label other than 0 and 1, or arrays that are not (T,) of equal length raise ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

from recordings.windowing import true_runs

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


def _segments_of(steps: np.ndarray, seams: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first step and end (one past the last step) of the segment that each of `steps` lies in."""
    borders = np.array([0, *seams, length])
    segment = np.searchsorted(borders, steps, side="right")
    return borders[segment - 1], borders[segment]


def harmonic_mean(precision: float, recall: float) -> float:
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


def vus(labels: ArrayLike, scores: ArrayLike, buffer: int, seams: Sequence[int] = ()) -> tuple[float, float]:
    """Return the volumes under the ROC and the PR surface: areas that forgive misplaced labels, averaged over buffers.

    For each buffer b = 0..buffer the labels get soft shoulders of b // 2 steps, sqrt(1 - distance / b) high, and
    recall is multiplied by the share of events (with shoulders, joined where those meet) that hold an alarm.
    Several segments share the thresholds, taken from all of their scores. Shoulders end, and events are not joined, at
    a seam; alarms, soft labels and events are counted in each segment and added up before any share is taken.

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
    buffer_tp, existence = _buffer_curves(labels, first_alarm, buffer, seams)    # (buffer + 1, K) each
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


def _buffer_curves(labels: np.ndarray, first_alarm: np.ndarray, buffer: int,
                   seams: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each buffer and threshold, the soft labels alarmed in shoulders and the share of events alarmed."""
    starts, ends = true_runs(labels, seams).T
    left, right = _segments_of(starts, seams, labels.size)
    step, distance = _shoulder_steps(labels, starts, ends, left, right, buffer // 2)
    steps, slot = np.unique(step, return_inverse=True)
    event_alarm = np.minimum.reduceat(np.append(first_alarm, VUS_THRESHOLDS),
                                      np.column_stack((starts, ends)).ravel())[::2]
    buffer_tp, existence = np.zeros((2, buffer + 1, VUS_THRESHOLDS))
    for b in range(buffer + 1):
        reach = b // 2
        if reach and b % 2 == 0:                                                 # the shoulders grew by one step
            before, after = np.maximum(starts - reach, left), np.minimum(ends - 1 + reach, right - 1)
            event_alarm = np.minimum(event_alarm, np.minimum(first_alarm[before], first_alarm[after]))
        if reach:
            near = np.searchsorted(distance, reach, side="right")
            height = np.sqrt(1 - np.arange(reach + 1) / b)[distance[:near]]
            soft = np.minimum(np.bincount(slot[:near], weights=height, minlength=steps.size), 1)
            buffer_tp[b] = _cumulative_counts(first_alarm[steps], soft)
        is_apart = (ends[:-1] - 1 + reach < starts[1:] - reach) | (left[1:] != left[:-1])
        group_alarm = np.minimum.reduceat(event_alarm, np.flatnonzero(np.append(True, is_apart)))
        existence[b] = _cumulative_counts(group_alarm) / group_alarm.size
    return buffer_tp, existence


def _shoulder_steps(labels: np.ndarray, starts: np.ndarray, ends: np.ndarray, left: np.ndarray, right: np.ndarray,
                    reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal steps within `reach` of an event and their distance, once an event side, nearest first.

    Args:
        starts, ends: of the events. left, right: of the segment of each event; no shoulder leaves it.
    """
    distances = np.arange(1, min(reach, labels.size) + 1)
    before, after = starts[:, None] - distances, ends[:, None] - 1 + distances                # (events, reach)
    keep = np.concatenate(((before >= left[:, None]).ravel(), (after < right[:, None]).ravel()))
    step = np.concatenate((before.ravel(), after.ravel()))
    distance = np.tile(distances, 2 * starts.size)
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


def threshold_free(labels: ArrayLike, scores: ArrayLike, buffer: int | None,
                   seams: Sequence[int] = ()) -> dict[str, float]:
    """Return auc_roc, auc_pr, vus_roc and vus_pr in one dict; without a buffer, the last two are NaN.

    Source: the functions of these names.
    """
    vus_roc, vus_pr = (NAN, NAN) if buffer is None else vus(labels, scores, buffer, seams)
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
    """Return the best F1 over single steps that any threshold could have given: read off the labels, no performance.

    Source: `point_scores` at each point of scikit-learn's `precision_recall_curve`.
    """
    from sklearn.metrics import precision_recall_curve

    labels, scores = _drop_unscored(labels, scores)
    if not labels.any():
        return NAN
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall                                                   # 0 where no alarm is true
    return float(np.max(np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)))


# --- events ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class EventMatch:
    """Which found events are true, and which labelled event each one counts for."""

    match: np.ndarray      # (n_found,) index of the labelled event it is counted for, -1 = none
    is_true: np.ndarray    # (n_found,) overlaps some labelled event, even if another found event is counted for it
    is_found: np.ndarray   # (n_labelled,) a found event is counted for it
    delay_s: np.ndarray    # (n_labelled,) until the start of that found event, >= 0; NaN where there is none


def match_events(found: ArrayLike, labelled: ArrayLike, tolerance_s: float = 5.0) -> EventMatch:
    """Return the one-to-one pairing of found and labelled events: the most pairs, and of those the least total delay.

    A found event is true if it overlaps a labelled event widened by `tolerance_s` at its end; ends are inclusive, so
    touching is overlapping. Neither side is ever counted twice. Needs n_found * n_labelled bytes.

    Args:
        found: (n_found, 2) start and end in seconds, any order; an empty array is no event.
        labelled: (n_labelled, 2), likewise; may overlap one another.
        tolerance_s: >= 0, how long after its end an event may still be reported.
    Raises: ValueError if events are not (n, 2), not finite, or end before they start.
    """
    found, labelled = _as_events(found, "found"), _as_events(labelled, "labelled")
    if not tolerance_s >= 0:
        raise ValueError(f"tolerance_s must be at least 0, got {tolerance_s}")
    overlap = (labelled[:, :1] <= found[:, 1]) & (labelled[:, 1:] + tolerance_s >= found[:, 0])
    return match_overlapping(overlap, found[:, 0], labelled[:, 0])


def match_overlapping(overlap: np.ndarray, found_start_s: np.ndarray, labelled_start_s: np.ndarray) -> EventMatch:
    """Return the pairing of `match_events` from which labelled event overlaps which found one.

    Args:
        overlap: (n_labelled, n_found), tolerance included.
        found_start_s, labelled_start_s: (n_found,) and (n_labelled,), on one clock where two overlap.
    Source: maximum bipartite matching as `scipy.sparse.csgraph.min_weight_full_bipartite_matching`, every labelled
        event having one dear stand-in that means "not found".
    """
    row, column = np.nonzero(overlap)                                            # labelled, found
    delay_s = np.maximum(found_start_s[column] - labelled_start_s[row], 0)
    match, matched_delay_s = np.full(found_start_s.size, -1), np.full(labelled_start_s.size, np.nan)
    kept = _cheapest_pairs(row, column, delay_s, overlap.shape)
    match[column[kept]], matched_delay_s[row[kept]] = row[kept], delay_s[kept]
    return EventMatch(match, overlap.any(axis=0), np.isfinite(matched_delay_s), matched_delay_s)


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


# --- ranges (Tatbul et al. 2018) -------------------------------------------------------------------------------------

EXISTENCE_REWARD = 0.2   # alpha of the paper: recall's reward for touching a labelled range at all


def range_based_scores(labels: ArrayLike, alarms: ArrayLike, seams: Sequence[int] = ()) -> dict[str, float]:
    """Return precision, recall and F1 over ranges: each labelled or alarmed run counts once, by how it is covered.

    A range is worth its covered share, divided by the number of other ranges that cover it. Of recall this is 80 %,
    and 20 % are for touching a labelled range at all. Precision and recall are means over the ranges of all segments;
    a run that meets a seam is two ranges.

    Args:
        alarms: (T,) 0 and 1.
    Source: Tatbul et al. 2018, "Precision and Recall for Time Series", sections 4.1, 4.2 and figure 2, with alpha 0.2,
        flat bias and the reciprocal cardinality factor.
    """
    labels, alarms = _as_labels_and_alarms(labels, alarms)
    recall = _range_reward(labels, alarms, seams, EXISTENCE_REWARD)
    precision = _range_reward(alarms, labels, seams, 0.0)
    return {"precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall)}


def _range_reward(ranges: np.ndarray, others: np.ndarray, seams: Sequence[int], alpha: float) -> float:
    """Return the mean over the runs of `ranges` of alpha * existence + (1 - alpha) * overlap / others that overlap."""
    starts, ends = true_runs(ranges, seams).T
    if not starts.size:
        return NAN
    lengths = ends - starts
    offsets = np.cumsum(lengths) - lengths
    covered = others[ranges]                                                     # runs laid end to end
    begins = covered & ~np.append(False, covered[:-1])                           # an other range enters this one
    begins[offsets] = covered[offsets]
    met = np.add.reduceat(begins.astype(int), offsets)
    overlap = np.add.reduceat(covered.astype(float), offsets) / lengths
    return float(np.mean(alpha * (met > 0) + (1 - alpha) * (1 / np.maximum(met, 1)) * overlap))


# --- affiliation (Huet et al. 2022) ----------------------------------------------------------------------------------

CELLS = 4   # every kink of the integrands falls on a quarter step, so a midpoint per quarter integrates them exactly


def affiliation_scores(labels: ArrayLike, alarms: ArrayLike, seams: Sequence[int] = ()) -> dict[str, float]:
    """Return precision, recall and F1 by distance in time, each compared with what a random point would reach.

    Every labelled event owns the part of its segment nearest to it. Precision: the chance that a random point of
    the zone is at least as far from the event as an alarm is, averaged over alarmed time, then over the zones that
    hold alarms. Recall: the chance that a random point is at least as far from a point of the event as the nearest
    alarm of the zone is, averaged over the event, then over all events; 0 for a zone without alarms. Step t covers
    [t, t + 1). Both means are over the zones of all segments. A segment without an event has no zone: its alarms do
    not count here, but they do in point, range and event precision.

    Args:
        alarms: (T,) 0 and 1.
    Returns: `precision`, `recall`, `f1`; all NaN without a label. Random alarms reach 0.5 and more: 0.5 is poor.
    Source: Huet et al. 2022, "Local Evaluation of Time Series Anomaly Detection Algorithms", KDD, the averaged
        individual precision and recall probabilities.
    """
    labels, alarms = _as_labels_and_alarms(labels, alarms)
    if not labels.any():
        return {"precision": NAN, "recall": NAN, "f1": NAN}
    starts, ends = true_runs(labels, seams).T
    left, right = _zone_borders(starts, ends, seams, labels.size)
    middle = (np.arange(CELLS * labels.size) + 0.5) / CELLS                      # of the quarter steps
    zone = np.searchsorted(left, middle) - 1
    in_zone = (zone >= 0) & (middle < right[zone])
    middle, zone, alarmed = middle[in_zone], zone[in_zone], np.repeat(alarms, CELLS)[in_zone]
    start, end, left, right = starts[zone], ends[zone], left[zone], right[zone]
    distance = np.maximum(np.maximum(start - middle, middle - end), 0)           # to the event
    farther = np.maximum(start - left - distance, 0) + np.maximum(right - end - distance, 0)
    closeness = np.where(distance == 0, 1.0, farther / (right - left))
    alarmed_time = np.bincount(zone[alarmed], minlength=starts.size)
    used = alarmed_time > 0
    sums = np.bincount(zone[alarmed], weights=closeness[alarmed], minlength=starts.size)
    precision = float(np.mean(sums[used] / alarmed_time[used])) if used.any() else NAN
    to_alarm = _distance_to_alarm(middle, left, right, alarmed)
    nearer = (np.minimum(to_alarm, middle - left) + np.minimum(to_alarm, right - middle)) / (right - left)
    event = distance == 0
    recall = float(np.mean(np.bincount(zone[event], weights=1 - nearer[event]) / np.bincount(zone[event])))
    return {"precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall)}


def _zone_borders(starts: np.ndarray, ends: np.ndarray, seams: Sequence[int],
                  length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the borders (events,) of the part of its segment that is nearest to each event, in steps."""
    first, last = _segments_of(starts, seams, length)
    same, between = first[1:] == first[:-1], (ends[:-1] + starts[1:]) / 2
    left, right = first.astype(float), last.astype(float)
    left[1:][same], right[:-1][same] = between[same], between[same]
    return left, right


def _distance_to_alarm(middle: np.ndarray, left: np.ndarray, right: np.ndarray, alarmed: np.ndarray) -> np.ndarray:
    """Return the distance in steps of each quarter step from the nearest alarm of its zone; inf if there is none."""
    half = 0.5 / CELLS
    alarm_end = np.maximum.accumulate(np.where(alarmed, middle + half, -np.inf))
    alarm_start = np.minimum.accumulate(np.where(alarmed, middle - half, np.inf)[::-1])[::-1]
    since = np.where(alarm_end > left, middle - alarm_end, np.inf)
    until = np.where(alarm_start < right, alarm_start - middle, np.inf)
    return np.where(alarmed, 0.0, np.minimum(since, until))
