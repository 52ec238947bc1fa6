"""Alarms in, events out, as they begin and as they are over; a whole recording is a stream pushed at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recordings.stateful import Stateful
from recordings.windowing import true_runs


@dataclass(frozen=True)
class FoundEvent:
    """A run of alarms of one recording, or of missing values of a channel, both ends included."""

    recording: str
    start_s: float
    end_s: float
    peak_score: float                                                # NaN: no score, the signal is missing
    peak_t_s: float
    channel: str


START, END = "start", "end"
Change = tuple[str, FoundEvent]                                      # what begins or is over, as far as it is known


class EventStream(Stateful):
    """The events of one recording, from its scores and alarms in pieces of any size.

    An event begins with the alarm that makes it as long as `min_duration_s`, and is over when no later alarm can
    join it. Its channel is the one that contributed most at most alarms.

    Args:
        merge_gap_s: alarms with less than this between them are one event.
        min_duration_s: shorter events are dropped.
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
        self.since_end = [-math.inf, math.nan]                       # the peak after the last alarm
        self.votes = [0] * len(self.names)                           # alarms that name each channel

    def update(self, t: np.ndarray, score: np.ndarray, alarm: np.ndarray, channel: np.ndarray) -> list[Change]:
        """Take the next steps; return what begins and what is over.

        Args:
            t, score, alarm: (n,) times in s, scores, and whether each step is an alarm.
            channel: (n,) index of the channel that contributed most to each score, -1 = none.
        """
        changes, done = [], 0
        for first, end in true_runs(alarm).tolist():
            changes += self._without_alarm(t[done:first], score[done:first])
            changes += self._with_alarm(t[first:end], score[first:end], channel[first:end])
            done = end
        return changes + self._without_alarm(t[done:], score[done:])

    def _without_alarm(self, t: np.ndarray, score: np.ndarray) -> list[Change]:
        if not len(t):
            return []
        if t[-1] - self.end_s >= self.merge_gap_s:
            return self.close()
        self.alarmed, self.since_end = False, _higher(self.since_end, t, score)
        return []

    def _with_alarm(self, t: np.ndarray, score: np.ndarray, channel: np.ndarray) -> list[Change]:
        changes = []
        if not self.alarmed and t[0] - self.end_s >= self.merge_gap_s:
            changes = self.close()
        if math.isnan(self.start_s):
            self.start_s, self.since_end = float(t[0]), [-math.inf, math.nan]
        if self.since_end[0] > self.peak_score:
            self.peak_score, self.peak_t_s = self.since_end
        self.peak_score, self.peak_t_s = _higher([self.peak_score, self.peak_t_s], t, score)
        self.alarmed, self.end_s, self.since_end = True, float(t[-1]), [-math.inf, math.nan]
        named = np.bincount(channel[channel >= 0], minlength=len(self.names))
        self.votes = [votes + more for votes, more in zip(self.votes, named.tolist(), strict=True)]
        if not self.begun and self.end_s - self.start_s >= self.min_duration_s:
            self.begun = True
            changes.append((START, self._event()))
        return changes

    def close(self) -> list[Change]:
        """Return what is over when the recording ends, or has a gap."""
        changes = [(END, self._event())] if self.begun else []
        self._forget()
        return changes

    def _event(self) -> FoundEvent:
        most = self.names[self.votes.index(max(self.votes))]
        return FoundEvent(self.recording, self.start_s, self.end_s, self.peak_score, self.peak_t_s, most)


def _higher(peak: list[float], t: np.ndarray, score: np.ndarray) -> list[float]:
    """Return the [score, time] of the first highest of a peak and further steps (n,)."""
    score = np.where(np.isnan(score), -np.inf, score)
    k = int(score.argmax())
    return [float(score[k]), float(t[k])] if score[k] > peak[0] else peak


class FaultStream(Stateful):
    """The missing values of one recording by channel, from its mask in pieces of any size.

    A fault begins when it is as long as `min_duration_s`, and is over with the channel's next value. Steps that are
    left out count as missing in every channel; before the first value of any channel nothing is missing.

    Args:
        step_s: distance of two steps.
    """

    STATE = ("last_s", "since", "begun")

    def __init__(self, recording: str, channels: Sequence[str], min_duration_s: float, step_s: float) -> None:
        self.recording, self.names = recording, list(channels)
        self.min_duration_s, self.step_s = min_duration_s, step_s
        self.last_s = math.nan                                       # the newest step; NaN = no value seen yet
        self.since = [math.nan] * len(self.names)                    # NaN = the channel is there
        self.begun = [False] * len(self.names)

    def update(self, t: np.ndarray, missing: np.ndarray) -> list[Change]:
        """Take the next steps at t (n,), and whether each channel is missing (n, C); return what begins and ends."""
        if math.isnan(self.last_s):                                  # nothing is missing before there was a value
            first = int((~missing.all(axis=1)).argmax()) if not missing.all() else len(t)
            t, missing = t[first:], missing[first:]
        changes: list[Change] = []
        for k in self._turns(t, missing):
            if k:
                self.last_s = float(t[k - 1])
            changes += self._step(float(t[k]), missing[k].tolist())
        return changes

    def _turns(self, t: np.ndarray, missing: np.ndarray) -> list[int]:
        """Return the steps where something changes, those before them, and the last one."""
        turn = np.zeros(len(t), bool)
        if len(t):
            turn[[0, -1]] = True
            turn[1:] |= (missing[1:] != missing[:-1]).any(axis=1) | (np.diff(t) > 1.5 * self.step_s)
            turn[:-1] |= turn[1:]
        return np.flatnonzero(turn).tolist()

    def _step(self, t: float, missing: Sequence[bool]) -> list[Change]:
        changes: list[Change] = []
        if t - self.last_s > 1.5 * self.step_s:
            changes += self._at(self.last_s + self.step_s, t, [True] * len(self.names))
        self.last_s = t
        return changes + self._at(t, t + self.step_s, missing)

    def close(self) -> list[Change]:
        """Return what is still missing when the recording ends."""
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
    """Return the events of one recording, or segment of it, in time order; arguments are those of `EventStream`."""
    stream = EventStream(recording, channels, merge_gap_s=merge_gap_s, min_duration_s=min_duration_s)
    return ended([*stream.update(t, score, alarm, channel), *stream.close()])


def fault_events(
    recording: str, t: np.ndarray, values: np.ndarray, channels: Sequence[str], min_duration_s: float, step_s: float
) -> list[FoundEvent]:
    """Return the faults of one recording in time order, of values (T, C) at t (T,), NaN = missing."""
    stream = FaultStream(recording, channels, min_duration_s, step_s)
    found = ended([*stream.update(t, np.isnan(values)), *stream.close()])
    return sorted(found, key=lambda event: (event.start_s, event.channel))


def ended(changes: Sequence[Change]) -> list[FoundEvent]:
    """Return the events that are over."""
    return [event for change, event in changes if change == END]


def alarm_spans(
    t: np.ndarray, alarm: np.ndarray, seams: Sequence[int], merge_gap_s: float, min_duration_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last step (n,) of the events that `find_events` makes of several segments, end to end.

    Apart from it for speed: hundreds of thresholds, all segments at once, neither peaks nor channels.

    Args:
        t, alarm: (T,) of all segments.
        seams: first steps of all segments but the first.
    """
    first, end = true_runs(alarm, seams).T
    last, segment = end - 1, np.searchsorted(seams, first, side="right")
    apart = (t[first[1:]] - t[last[:-1]] >= merge_gap_s) | (segment[1:] != segment[:-1])
    begins, ends = np.ones((2, len(first)), bool)
    begins[1:], ends[:-1] = apart, apart
    first, last = first[begins], last[ends]
    long_enough = t[last] - t[first] >= min_duration_s
    return first[long_enough], last[long_enough]
