"""Recall against false events an hour, over all thresholds: what a detector could find at a given cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from config import EventConfig
from detection.events import alarm_spans
from evaluation.metrics import match_overlapping, ratio
from evaluation.results import FreeResponse
from evaluation.scored_recording import ScoredRecording, segment_starts

RATES = (0.1, 0.25, 0.5, 1.0, 2.0)      # false events an hour
CURVE = tuple(sorted({*RATES, *np.geomspace(0.05, 10, 24).round(3).tolist()}))
LEVELS = 200                            # thresholds, beside the peaks of the labelled events


def free_response(
    recordings: Sequence[ScoredRecording],
    fault_kinds: Sequence[str],
    rate_hz: float,
    normal_hours: float,
    events: EventConfig,
    rates: Sequence[float] = RATES,
) -> FreeResponse:
    """Return recall, of each kind and over all that are not faults, at rising rates of false events an hour.

    One threshold, the same for all recordings, falls from the highest score. At each, alarms become events by the merge
    gap and the minimum duration, and are matched with the labelled ones as at a deployed threshold. The recall at a
    rate is the best one before there are more false events for the first time: lower thresholds, at which alarms merge
    into few endless events, do not count.

    It is a curve to compare detectors by, not a performance: the thresholds are read off the test span.

    Args:
        normal_hours: recorded time outside labelled events.
        events: in seconds.
    """
    t, score = (np.concatenate([getattr(one, name) for one in recordings]) for name in ("t", "score"))
    seams = np.flatnonzero(np.concatenate([segment_starts(one.t, rate_hz) for one in recordings]))[1:]
    start_s, reach = _reach_of_labels(recordings, events.tolerance_s)
    kinds = np.array([event.kind for one in recordings for event in one.labelled], str)
    asked = ~np.isin(kinds, fault_kinds)
    best, points, open_rates = (float("nan"), np.zeros(len(kinds), bool)), [], list(rates)
    for threshold in _thresholds(score, reach[asked]):
        first, last = alarm_spans(t, score > threshold, seams, events.merge_gap_s, events.min_duration_s)
        overlap = (reach[:, :1] <= last) & (reach[:, 1:] > first)                # (labelled, found)
        match = match_overlapping(overlap, t[first], start_s)
        while open_rates and (~match.is_true).sum() > open_rates[0] * normal_hours:
            points.append(best)
            del open_rates[0]
        if not open_rates:
            break
        if (match.is_found & asked).sum() > best[1].sum():
            best = threshold, match.is_found & asked
    points += [best] * len(open_rates)
    return FreeResponse(
        false_events_per_hour=list(rates),
        threshold=[threshold for threshold, _ in points],
        recall=[ratio(hit.sum(), asked.sum()) for _, hit in points],
        kinds={str(kind): [float(hit[kinds == kind].mean()) for _, hit in points] for kind in np.unique(kinds[asked])},
    )


def _reach_of_labels(recordings: Sequence[ScoredRecording], tolerance_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the start in s of each labelled event, and its steps [first, end) among all, tolerance included."""
    start_s, reach, offset = [], np.empty((0, 2), int), 0
    for one in recordings:
        spans = np.array([(event.start_s, event.end_s) for event in one.labelled], float).reshape(-1, 2)
        first, end = np.searchsorted(one.t, spans[:, 0]), np.searchsorted(one.t, spans[:, 1] + tolerance_s, "right")
        start_s, reach = [*start_s, *spans[:, 0]], np.concatenate((reach, offset + np.column_stack((first, end))))
        offset += len(one.t)
    return np.array(start_s), reach


def _thresholds(score: np.ndarray, reach: np.ndarray) -> list[float]:
    """Return falling thresholds: ones that ever larger shares of time exceed, and just below the peak of each label."""
    known = score[np.isfinite(score)]
    if not known.size:
        return []
    levels = np.quantile(known, 1 - np.geomspace(1 / known.size, 1, LEVELS))
    ranked = np.nan_to_num(score, nan=-np.inf)
    peaks = np.array([np.max(ranked[first:end], initial=-np.inf) for first, end in reach])
    return np.unique(np.append(levels, np.nextafter(peaks[np.isfinite(peaks)], -np.inf)))[::-1].tolist()
