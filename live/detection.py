"""Detection on rows as they come: a row in, the steps that it completes and the events that begin or end out.

Grid, scores, thresholds and events are those of `--score` on the whole recording, in the order in which they occur;
respiratory events come once they are settled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from config import BREATHING, DatasetConfig, load_profile
from detection.breathing_events import BreathingEvent
from detection.desaturation import DesaturationStream
from detection.detector import Detector, DetectorStream, Scored
from detection.events import Change, EventStream, FaultStream, FoundEvent
from live.breathing import BreathingStream
from recordings.resampling import ResampleStream
from recordings.row_times import Row
from recordings.stateful import Stateful


@dataclass(frozen=True)
class Step:
    """One step, scored: values and forecast (C,) in physical units; score NaN = none yet."""

    t_s: float
    values: np.ndarray
    forecast: np.ndarray
    score: float
    threshold: float
    alarm: bool
    channel: str                         # the one that the score comes from; "" = none


@dataclass(frozen=True)
class EventChange:
    """The start or end of an event, and when it is known; found by the LSTM, from missing values, or a desaturation."""

    t_s: float
    change: Literal["start", "end"]
    event: FoundEvent
    found_by: Literal["lstm", "signal_loss", "oximetry"]


@dataclass(frozen=True)
class RespiratoryEvent:
    """A respiratory event, or a span of periodic breathing, that is settled, and when; by a profile."""

    t_s: float
    event: BreathingEvent
    profile: str


Found = Step | EventChange | RespiratoryEvent
GridStep = tuple[int, np.ndarray]        # its number, values (C,)


class SeriesGrid(Stateful):
    """The rows of a series: every row is a step, whatever its time."""

    STATE = ("next",)

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz, self.next = rate_hz, 0

    def push(self, t: float, values: Sequence[float]) -> list[GridStep]:
        """Take a row; return its step and values (C,)."""
        self.next += 1
        return [(self.next - 1, np.array(values, float))]

    def finish(self) -> list[GridStep]:
        """Return the remaining steps at the end: none."""
        return []

    def t_of(self, step: int) -> float:
        """Return the time of a step in s: its row times the usual distance of two rows."""
        return step / self.rate_hz


class LiveDetection(Stateful):
    """One recording as it comes, from rows of raw samples to steps and events.

    Args:
        data: the dataset's config; None = a series, whose every row is a step.
    """

    STATE = ("grid", "stream", "events", "faults", "oximeters", "breathing", "last_step")

    def __init__(self, detector: Detector, data: DatasetConfig | None) -> None:
        self.detector, self.data = detector, data
        self.stream = DetectorStream(detector)
        self.measures = dict(zip(detector.channels, detector.resolved.measures, strict=True))
        breathes = {*BREATHING} & {*self.measures.values()}
        self.profile = load_profile(detector.config.events.profile) if breathes else None
        self.oximetry = [k for k, what in enumerate(detector.resolved.measures) if what == "oximetry"]
        self.restart()

    def restart(self) -> None:
        """Begin a new recording."""
        detector, data, events = self.detector, self.data, self.detector.config.events
        self.grid: ResampleStream | SeriesGrid = SeriesGrid(detector.rate_hz)
        if data is not None:
            channels = [data.channels[name] for name in detector.channels]
            self.grid = ResampleStream(channels, data.rate_hz, data.delay_s, data.fill_s)
        self.events = EventStream(
            "live", detector.channels, merge_gap_s=events.merge_gap_s, min_duration_s=events.min_duration_s
        )
        self.faults = FaultStream("live", detector.channels, events.fault_min_s, 1 / detector.rate_hz)
        self.oximeters, self.breathing = self._new_oximeters(), self._new_breathing()
        self.last_step = -1                                      # of the current segment; -1 = none
        self.stream.restart()

    def push(self, rows: Sequence[Row]) -> list[Found]:
        """Take rows: of each its time in s, later than the last one's, and a value a channel, NaN = none.

        Many rows at once give what they give one by one, in a fraction of the time.
        """
        return self._take([step for row in rows for step in self.grid.push(*row)])

    def finish(self) -> list[Found]:
        """Return the remaining steps and event ends when the recording is over."""
        found = self._take(self.grid.finish())
        if self.grid.next:
            t = self.grid.t_of(self.grid.next - 1)
            found += self._changes(t, self.faults.close(), "signal_loss")
            found += self._end_of_segment(t)
        return found

    def _take(self, steps: Sequence[GridStep]) -> list[Found]:
        """Return what steps give: they are scored segment by segment, and the events of each step follow it."""
        found: list[Found] = []
        for first, values in self._runs(steps):
            is_empty = self.data is not None and bool(np.isnan(values[0]).all())     # nothing to score
            is_over = self.last_step >= 0 and (is_empty or first > self.last_step + 1)       # the segment before
            if is_over:
                self.stream.restart()
            scored = None if is_empty else self.stream.update(values)
            for k in range(len(values)):
                t, row = self.grid.t_of(first + k), slice(k, k + 1)
                changes = self._changes(t, self.faults.update(np.array([t]), np.isnan(values[row])), "signal_loss")
                changes += self._end_of_segment(t) if is_over and k == 0 else []
                if scored is not None:
                    found.append(self._step(t, values[k], scored, k))
                    changes += self._events(t, values[row], scored, row)
                found += changes
            self.last_step = -1 if is_empty else first + len(values) - 1
        return found

    def _runs(self, steps: Sequence[GridStep]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first step and the values (n, C) of consecutive steps, either with values or without any."""

        def run_of(place: int) -> tuple[int, bool]:
            step, values = steps[place]
            return step - place, bool(np.isnan(values).all())

        for _, places in groupby(range(len(steps)), run_of):
            first, *rest = places
            yield steps[first][0], np.stack([steps[place][1] for place in (first, *rest)])

    def _events(self, t: float, values: np.ndarray, scored: Scored, row: slice) -> list[Found]:
        """Return the events that begin, end or are settled at a step: values (1, C), and its row of what is scored."""
        at, score = np.array([t]), scored.score[row]
        found = self._changes(t, self.events.update(at, score, scored.alarm[row], scored.channel[row]), "lstm")
        for k, oximeter in zip(self.oximetry, self.oximeters, strict=True):
            found += self._changes(t, oximeter.update(at, values[:, k]), "oximetry")
        for breathing in self.breathing:
            found += self._settled(t, breathing.update(at, values, scored.expected_range[row], score))
        return found

    def _new_oximeters(self) -> list[DesaturationStream]:
        """Return a stream for each channel that is declared as an oximeter."""
        return [DesaturationStream("live", self.detector.channels[k], self.detector.rate_hz) for k in self.oximetry]

    def _new_breathing(self) -> list[BreathingStream]:
        """Return a stream of respiratory events, if a channel is one of breathing."""
        return [BreathingStream(self.measures, self.detector.rate_hz, self.profile)] if self.profile else []

    def _end_of_segment(self, t: float) -> list[Found]:
        found = self._changes(t, self.events.close(), "lstm")
        for oximeter in self.oximeters:
            found += self._changes(t, oximeter.close(), "oximetry")
        for breathing in self.breathing:
            found += self._settled(t, breathing.close())
        self.oximeters, self.breathing = self._new_oximeters(), self._new_breathing()
        return found

    def _step(self, t: float, values: np.ndarray, scored: Scored, k: int) -> Step:
        score, threshold, alarm = float(scored.score[k]), float(scored.threshold[k]), bool(scored.alarm[k])
        channel = self.detector.channels[scored.channel[k]] if scored.channel[k] >= 0 else ""
        return Step(t, values, scored.forecast[k], score, threshold, alarm, channel)

    def _settled(self, t: float, events: Sequence[BreathingEvent]) -> list[Found]:
        return [RespiratoryEvent(t, event, self.detector.config.events.profile) for event in events]

    def _changes(self, t: float, changes: Sequence[Change], found_by: Any) -> list[Found]:
        return [EventChange(t, change, event, found_by) for change, event in changes]
