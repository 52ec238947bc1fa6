"""Alarms in, events out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windowing import runs


@dataclass(frozen=True)
class FoundEvent:
    """A stretch of alarms of one recording, both ends included."""

    recording: str
    start_s: float
    end_s: float
    peak_score: float
    peak_t_s: float
    channel: str


def find_events(
    recording: str,
    t: np.ndarray,
    score: np.ndarray,
    alarm: np.ndarray,
    channel: np.ndarray,
    channels: Sequence[str],
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
    spans = merge_spans([(t[a], t[b - 1], a, b) for a, b in runs(alarm)], merge_gap_s)
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


def merge_spans(spans: Sequence[tuple], merge_gap_s: float) -> list[tuple]:
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
    recording: str, t: np.ndarray, values: np.ndarray, channels: Sequence[str], min_duration_s: float, step_s: float
) -> list[FoundEvent]:
    """Return the stretches where a channel has no value, as the mask has them.

    Args:
        t: (T,) times in s; steps that are not there at all count as missing in every channel.
        values: (T, C), NaN = missing.
        step_s: distance of two steps.
    Returns: in time order; their peak_score is NaN: it is not the model that found them.
    """
    found = []
    jumps = np.flatnonzero(np.diff(t) > 1.5 * step_s)
    for k, name in enumerate(channels):
        gone = [(t[a], t[b - 1] + step_s, a, b) for a, b in runs(np.isnan(values[:, k]))]
        gone += [(t[j] + step_s, t[j + 1], j, j + 1) for j in jumps]
        for start_s, end_s, *_ in merge_spans(sorted(gone), 1.5 * step_s):
            if end_s - start_s >= min_duration_s:
                found.append(FoundEvent(recording, float(start_s), float(end_s), np.nan, float(start_s), name))
    return sorted(found, key=lambda event: (event.start_s, event.channel))
