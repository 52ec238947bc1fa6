"""Slow, obviously correct references: loops that follow the definitions word by word."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np

from detection.events import FoundEvent


def runs(mask) -> list[list[int]]:
    """Return the runs of true steps as lists of steps."""
    found: list[list[int]] = []
    for step, is_set in enumerate(mask):
        if is_set and (step == 0 or not mask[step - 1]):
            found.append([])
        if is_set:
            found[-1].append(step)
    return found


def vus(segments, buffer: int, thresholds: int = 250) -> tuple[float, float]:
    """Return (vus_roc, vus_pr) of segments, (labels, scores) each, by looping over buffers, thresholds and steps."""
    falling = sorted((score for _, scores in segments for score in scores), reverse=True)
    levels = [falling[int(k * (len(falling) - 1) / (thresholds - 1))] for k in range(thresholds)]
    areas = [_range_areas(segments, b, levels) for b in range(buffer + 1)]
    return tuple(sum(area[kind] for area in areas) / len(areas) for kind in (0, 1))


def _range_areas(segments, b: int, levels) -> tuple[float, float]:
    softs, groups = zip(*(_soft_labels(labels, b) for labels, _ in segments))
    label_steps = sum(sum(labels) for labels, _ in segments)
    n, events = sum(len(labels) for labels, _ in segments), sum(map(len, groups))
    points, area_pr, tpr_before = [(0.0, 0.0)], 0.0, 0.0
    for level in levels:
        tp = alarmed_buffer = alarms = seen = 0.0
        for (labels, scores), soft, joined in zip(segments, softs, groups):
            alarm = [score >= level for score in scores]
            alarms += sum(alarm)
            tp += sum(value for value, on in zip(soft, alarm) if on)
            alarmed_buffer += sum(value for value, on, label in zip(soft, alarm, labels) if on and not label)
            seen += sum(any(alarm[max(first - b // 2, 0):last + b // 2 + 1]) for first, last in joined)
        positives = (label_steps + label_steps + alarmed_buffer) / 2
        tpr = min(tp / positives, 1) * seen / events
        points.append(((alarms - tp) / (n - positives), tpr))
        area_pr += (tpr - tpr_before) * tp / alarms
        tpr_before = tpr
    points.append((1.0, 1.0))
    area_roc = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in zip(points, points[1:]))
    return area_roc, area_pr


def _soft_labels(labels, b: int) -> tuple[list[float], list[list[int]]]:
    """Return the labels of one segment with their shoulders, and first and last step of its joined events."""
    half, soft, joined = b // 2, [float(label) for label in labels], []
    for run in runs(labels):
        first, last = run[0], run[-1]
        for d in range(1, half + 1):
            for step in (first - d, last + d):
                if 0 <= step < len(labels):
                    soft[step] += math.sqrt(1 - d / b)
        if joined and joined[-1][1] + half >= first - half:
            joined[-1][1] = last
        else:
            joined.append([first, last])
    return [min(value, 1.0) for value in soft], joined


def range_recall(segments, alpha: float) -> float:
    """Return Tatbul's recall of segments, (ranges, others) each; precision is that of (others, ranges), alpha = 0."""
    rewards = []
    for ranges, others in segments:
        for run in runs(ranges):
            met = [other for other in runs(others) if set(other) & set(run)]
            overlap = sum(1 for step in run if others[step]) / len(run)
            rewards.append(alpha * bool(met) + (1 - alpha) * overlap / max(len(met), 1))
    return sum(rewards) / len(rewards) if rewards else math.nan


def affiliation(segments, points_per_step: int = 64) -> tuple[float, float]:
    """Return (precision, recall) of segments, (labels, alarms) each, by sampling time finely in each zone."""
    precisions, recalls = [], []
    for labels, alarms in segments:
        n = len(labels)
        events = [(run[0], run[-1] + 1) for run in runs(labels)]
        predicted = [(run[0], run[-1] + 1) for run in runs(alarms)]
        times = [(i + 0.5) / points_per_step for i in range(n * points_per_step)]
        for k, (start, end) in enumerate(events):
            left = (events[k - 1][1] + start) / 2 if k else 0
            right = (end + events[k + 1][0]) / 2 if k + 1 < len(events) else n
            pieces = [(max(a, left), min(b, right)) for a, b in predicted if max(a, left) < min(b, right)]
            alarmed = [t for t in times if any(a <= t < b for a, b in pieces)]
            if alarmed:
                far = [_as_far_from_event(t, start, end, left, right) for t in alarmed]
                precisions.append(sum(far) / len(far))
            inside = [t for t in times if start <= t < end]
            recalls.append(sum(_as_far_from_point(t, pieces, left, right) for t in inside) / len(inside))
    return sum(precisions) / len(precisions) if precisions else math.nan, sum(recalls) / len(recalls)


def _as_far_from_event(t: float, start: float, end: float, left: float, right: float) -> float:
    if start <= t < end:
        return 1.0
    d = start - t if t < start else t - end
    return (max(0.0, (start - d) - left) + max(0.0, right - (end + d))) / (right - left)


def _as_far_from_point(t: float, pieces, left: float, right: float) -> float:
    if not pieces:
        return 0.0
    d = min(0.0 if a <= t < b else min(abs(t - a), abs(t - b)) for a, b in pieces)
    return (max(0.0, (t - d) - left) + max(0.0, right - (t + d))) / (right - left)


def best_matching(found, labelled, tolerance_s: float) -> tuple[int, float]:
    """Return (pairs, total delay) of the best one-to-one matching, by trying every one of them."""
    columns = list(range(len(found))) + [None] * len(labelled)
    best = (0, 0.0)
    for choice in permutations(columns, len(labelled)):
        pairs = [(found[f], event) for f, event in zip(choice, labelled) if f is not None]
        if all(f[0] <= event[1] + tolerance_s and f[1] >= event[0] for f, event in pairs):
            delay = sum(max(f[0] - event[0], 0) for f, event in pairs)
            if (-len(pairs), delay) < (-best[0], best[1]):
                best = (len(pairs), delay)
    return best


def free_response(events_at, thresholds, labelled: int, hours: float, rates) -> list[float]:
    """Return recall at each rate of false events an hour: the best before more are false for the first time.

    Args:
        events_at: threshold -> (false events, labelled events found).
    """
    recalls = []
    for rate in rates:
        best = 0
        for threshold in sorted(thresholds, reverse=True):
            false, hits = events_at(threshold)
            if false > rate * hours:
                break
            best = max(best, hits)
        recalls.append(best / labelled)
    return recalls


def nab_raw(windows, alarms, tp: float, fn: float, fp: float) -> float:
    """Return the raw NAB score of one series, row by row."""
    n = len(alarms)
    probation = min(math.floor(0.15 * n), 750)
    windows = [(first, last) for first, last in windows if last >= probation]
    best = [-fn] * len(windows)
    lost = 0.0
    for row in range(probation, n):
        if not alarms[row]:
            continue
        inside = [k for k, (first, last) in enumerate(windows) if first <= row <= last]
        ended = [(first, last) for first, last in windows if last < row]
        if inside:
            first, last = windows[inside[0]]
            x = -(last - row + 1) / (last - first + 1)
            best[inside[0]] = max(best[inside[0]], tp * _nab_sigmoid(x) / _nab_sigmoid(-1))
        elif ended:
            first, last = ended[-1]
            lost += fp * _nab_sigmoid((row - last) / (last - first) if last > first else math.inf)
        else:
            lost -= fp
    return sum(best) + lost


def _nab_sigmoid(x: float) -> float:
    return -1.0 if x > 3 else 2 / (1 + math.exp(5 * x)) - 1


def nab_corpus(windows_by_series, scores_by_series, tp: float, fn: float, fp: float) -> tuple[float, float]:
    """Return (score, threshold) of a corpus by trying every threshold, highest first."""
    scored = {score for scores in scores_by_series.values()
              for score in scores[min(math.floor(0.15 * len(scores)), 750):]}
    count = sum(last >= min(math.floor(0.15 * len(scores_by_series[name])), 750)
                for name, windows in windows_by_series.items() for _, last in windows)
    best, best_threshold = -math.inf, math.nan
    for threshold in [math.inf, *sorted(scored, reverse=True)]:
        total = sum(nab_raw(windows, [score >= threshold for score in scores_by_series[name]], tp, fn, fp)
                    for name, windows in windows_by_series.items())
        if total > best + 1e-9:
            best, best_threshold = total, threshold
    return 100 * (best + fn * count) / ((tp + fn) * count), best_threshold


def trailing(x, span: int, share: float, of) -> np.ndarray:
    """Return `of` the finite values of each trailing span of x (T, C), NaN where less than that share is there."""
    out = np.full(x.shape, math.nan)
    for t in range(span - 1, len(x)):
        for c in range(x.shape[1]):
            values = [v for v in x[t - span + 1 : t + 1, c] if math.isfinite(v)]
            if values and len(values) >= share * span:
                out[t, c] = of(values)
    return out


# ---- events --------------------------------------------------------------------------------

def find_events(
    recording: str,
    t: np.ndarray,
    score: np.ndarray,
    alarm: np.ndarray,
    channel: np.ndarray,
    channels,
    *,
    merge_gap_s: float,
    min_duration_s: float,
) -> list[FoundEvent]:
    """Return the events of one recording.

    Args:
        t, score, alarm: (T,) times in s, scores, and whether each step is an alarm.
        channel: (T,) index of the channel that contributed most to each score.
        merge_gap_s: alarms with less than this between them are one event.
        min_duration_s: shorter events are dropped.
    Returns: in time order; an event's channel is the one that contributed most at most steps.
    """
    spans = merge_spans([(t[run[0]], t[run[-1]], run[0], run[-1] + 1) for run in runs(alarm)], merge_gap_s)
    events = []
    for start_s, end_s, a, b in spans:
        if end_s - start_s < min_duration_s:
            continue
        peak = a + int(np.nanargmax(score[a:b]))
        named = channel[a:b][alarm[a:b]]
        most = int(np.bincount(named[named >= 0], minlength=1).argmax())
        events.append(
            FoundEvent(recording, float(start_s), float(end_s), float(score[peak]), float(t[peak]), channels[most])
        )
    return events


def merge_spans(spans, merge_gap_s: float) -> list[tuple]:
    """Join (start_s, end_s, first, last) spans, sorted by start, that overlap or are less than a gap apart."""
    merged: list[tuple] = []
    for start_s, end_s, first, last in spans:
        if merged and start_s - merged[-1][1] < merge_gap_s:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end_s), before[2], max(before[3], last))
        else:
            merged.append((start_s, end_s, first, last))
    return merged


def fault_events(
    recording: str, t: np.ndarray, values: np.ndarray, channels, min_duration_s: float, step_s: float
) -> list[FoundEvent]:
    """Return the segments where a channel has no value, as the mask has them.

    Args:
        t: (T,) times in s; steps that are not there at all count as missing in every channel.
        values: (T, C), NaN = missing.
        step_s: distance of two steps.
    Returns: in time order; their peak_score is NaN: it is not the model that found them.
    """
    found = []
    jumps = np.flatnonzero(np.diff(t) > 1.5 * step_s)
    for k, name in enumerate(channels):
        gone = [(t[run[0]], t[run[-1]] + step_s, run[0], run[-1] + 1) for run in runs(np.isnan(values[:, k]))]
        gone += [(t[j] + step_s, t[j + 1], j, j + 1) for j in jumps]
        for start_s, end_s, *_ in merge_spans(sorted(gone), 0.5 * step_s):
            if end_s - start_s >= min_duration_s:
                found.append(FoundEvent(recording, float(start_s), float(end_s), np.nan, float(start_s), name))
    return sorted(found, key=lambda event: (event.start_s, event.channel))
