"""Alarms in, events out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recordings.stateful import Stateful
from recordings.windowing import runs


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
        for start_s, end_s, *_ in merge_spans(sorted(gone), 0.5 * step_s):
            if end_s - start_s >= min_duration_s:
                found.append(FoundEvent(recording, float(start_s), float(end_s), np.nan, float(start_s), name))
    return sorted(found, key=lambda event: (event.start_s, event.channel))


# ---- one step at a time ---------------------------------------------------------------------

START, END = "start", "end"
Change = tuple[str, FoundEvent]                                      # what begins or is over, as far as it is known


class EventStream(Stateful):
    """The events of `find_events`, as they begin and as they are over.

    An event begins with the alarm that makes it as long as `min_duration_s`, and is over when no later alarm can
    join it.
    """

    STATE = ("begun", "alarmed", "start_s", "end_s", "peak_score", "peak_t_s", "since_end", "votes")

    def __init__(self, recording: str, channels: Sequence[str], *, merge_gap_s: float, min_duration_s: float) -> None:
        self.recording, self.names = recording, list(channels)
        self.merge_gap_s, self.min_duration_s = merge_gap_s, min_duration_s
        self._forget()

    def _forget(self) -> None:
        self.begun = self.alarmed = False                            # alarmed: the last step was an alarm
        self.start_s = self.end_s = math.nan                         # first and last alarm; NaN = none
        self.peak_score, self.peak_t_s = -math.inf, math.nan
        self.since_end = [-math.inf, math.nan]                       # the peak behind the last alarm
        self.votes = [0] * len(self.names)                           # alarms that name each channel

    def update(self, t: float, score: float, alarm: bool, channel: int) -> list[Change]:
        """Take the next step of the recording; return what begins and what is over."""
        changes = []
        if not (alarm and self.alarmed) and t - self.end_s >= self.merge_gap_s:
            changes = self.close()
        self.alarmed = alarm
        if alarm:
            self._join(t, score, channel)
            if not self.begun and self.end_s - self.start_s >= self.min_duration_s:
                self.begun = True
                changes.append((START, self._event()))
        elif score > self.since_end[0]:
            self.since_end = [score, t]
        return changes

    def _join(self, t: float, score: float, channel: int) -> None:
        if math.isnan(self.start_s):
            self.start_s, self.since_end = t, [-math.inf, math.nan]
        for peak, at in (self.since_end, (score, t)):
            if peak > self.peak_score:
                self.peak_score, self.peak_t_s = peak, at
        self.end_s, self.since_end = t, [-math.inf, math.nan]
        if channel >= 0:
            self.votes[channel] += 1

    def close(self) -> list[Change]:
        """Return what is over when the recording ends, or has a gap."""
        changes = [(END, self._event())] if self.begun else []
        self._forget()
        return changes

    def _event(self) -> FoundEvent:
        most = self.names[self.votes.index(max(self.votes))]
        return FoundEvent(self.recording, self.start_s, self.end_s, self.peak_score, self.peak_t_s, most)


class FaultStream(Stateful):
    """The faults of `fault_events`, as they begin and as they are over."""

    STATE = ("last_s", "since", "begun")

    def __init__(self, recording: str, channels: Sequence[str], min_duration_s: float, step_s: float) -> None:
        self.recording, self.names = recording, list(channels)
        self.min_duration_s, self.step_s = min_duration_s, step_s
        self.last_s = math.nan                                       # the newest step; NaN = no value seen yet
        self.since = [math.nan] * len(self.names)                    # NaN = the channel is there
        self.begun = [False] * len(self.names)

    def update(self, t: float, missing: Sequence[bool]) -> list[Change]:
        """Take the next step, whether each channel is missing; steps left out count as missing in all."""
        changes: list[Change] = []
        if math.isnan(self.last_s) and all(missing):
            return changes
        if t - self.last_s > 1.5 * self.step_s:
            changes += self._at(self.last_s + self.step_s, t, [True] * len(self.names))
        self.last_s = t
        return changes + self._at(t, t + self.step_s, missing)

    def close(self) -> list[Change]:
        """Return what goes on when the recording ends."""
        changes = self._at(self.last_s + self.step_s, self.last_s, [False] * len(self.names))
        self.last_s = math.nan
        return changes

    def _at(self, start_s: float, end_s: float, missing: Sequence[bool]) -> list[Change]:
        changes = []
        for k, gone in enumerate(missing):
            if not gone:
                changes += [(END, self._event(k, start_s))] if self.begun[k] else []
                self.since[k], self.begun[k] = math.nan, False
                continue
            if math.isnan(self.since[k]):
                self.since[k] = start_s
            if not self.begun[k] and end_s - self.since[k] >= self.min_duration_s:
                self.begun[k] = True
                changes.append((START, self._event(k, end_s)))
        return changes

    def _event(self, k: int, end_s: float) -> FoundEvent:
        return FoundEvent(self.recording, self.since[k], end_s, math.nan, self.since[k], self.names[k])
