"""Detection on rows as they come: a row in, the steps that it completes and the events that begin or end out.

Grid, scores, thresholds and events are those of `--score` on the whole recording, in the order in which they occur;
respiratory events come once they are settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from config import BREATHING, DatasetConfig, load_profile
from detection.breathing_events import BreathingEvent
from detection.desaturation import DesaturationStream
from detection.detector import Detector, DetectorStream, Scored
from detection.events import Change, EventStream, FaultStream, FoundEvent
from live.breathing import BreathingStream
from recordings.resampling import ResampleStream
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


class SeriesGrid(Stateful):
    """The rows of a series: every row is a step, whatever its time."""

    STATE = ("next",)

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz, self.next = rate_hz, 0

    def push(self, t: float, values: Sequence[float]) -> list[tuple[int, np.ndarray]]:
        """Take a row; return its step and values (C,)."""
        self.next += 1
        return [(self.next - 1, np.array(values, float))]

    def finish(self) -> list[tuple[int, np.ndarray]]:
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

    def push(self, t: float, values: Sequence[float]) -> list[Found]:
        """Take a row, its time in s, later than the last one's, and a value a channel, NaN = none."""
        return [one for step, on_grid in self.grid.push(t, values) for one in self._take(step, on_grid)]

    def finish(self) -> list[Found]:
        """Return the remaining steps and event ends when the recording is over."""
        found = [one for step, on_grid in self.grid.finish() for one in self._take(step, on_grid)]
        if self.grid.next:
            t = self.grid.t_of(self.grid.next - 1)
            found += self._changes(t, self.faults.close(), "signal_loss")
            found += self._end_of_segment(t)
        return found

    def _take(self, step: int, values: np.ndarray) -> list[Found]:
        t, missing = self.grid.t_of(step), np.isnan(values)
        found: list[Found] = [*self._changes(t, self.faults.update(np.array([t]), missing[None]), "signal_loss")]
        all_missing = self.data is not None and missing.all()    # nothing to score: the segment is over
        if self.last_step >= 0 and (all_missing or step > self.last_step + 1):
            found += self._end_of_segment(t)
            self.stream.restart()
            self.last_step = -1
        if all_missing:
            return found
        self.last_step = step
        scored = self.stream.update(values[None])
        changes = self.events.update(np.array([t]), scored.score, scored.alarm, scored.channel)
        found += self._changes(t, changes, "lstm")
        for k, oximeter in zip(self.oximetry, self.oximeters, strict=True):
            found += self._changes(t, oximeter.update(np.array([t]), values[[k]]), "oximetry")
        for breathing in self.breathing:
            events = breathing.update(np.array([t]), values[None], scored.expected_range, scored.score)
            found += self._settled(t, events)
        return [self._step(t, values, scored), *found]

    def _new_oximeters(self) -> list[DesaturationStream]:
        """Return a stream for each channel that is declared as an oximeter."""
        return [DesaturationStream("live", self.detector.channels[k], self.detector.rate_hz) for k in self.oximetry]

    def _new_breathing(self) -> list[BreathingStream]:
        """Return a stream of respiratory events, if a channel is one of breathing."""
        return [BreathingStream(self.measures, self.detector.rate_hz, self.profile)] if self.profile else []

    def _end_of_segment(self, t: float) -> list[Found]:
        found: list[Found] = [*self._changes(t, self.events.close(), "lstm")]
        for oximeter in self.oximeters:
            found += self._changes(t, oximeter.close(), "oximetry")
        for breathing in self.breathing:
            found += self._settled(t, breathing.close())
        self.oximeters, self.breathing = self._new_oximeters(), self._new_breathing()
        return found

    def _step(self, t: float, values: np.ndarray, scored: Scored) -> Step:
        score, threshold, alarm = float(scored.score[0]), float(scored.threshold[0]), bool(scored.alarm[0])
        channel = self.detector.channels[scored.channel[0]] if scored.channel[0] >= 0 else ""
        return Step(t, values, scored.forecast[0], score, threshold, alarm, channel)

    def _settled(self, t: float, events: Sequence[BreathingEvent]) -> list[RespiratoryEvent]:
        return [RespiratoryEvent(t, event, self.detector.config.events.profile) for event in events]

    def _changes(self, t: float, changes: Sequence[Change], found_by: Any) -> list[EventChange]:
        return [EventChange(t, change, event, found_by) for change, event in changes]
