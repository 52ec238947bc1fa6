"""What a channel of breathing did against what was expected in, respiratory events with extent, kind and evidence out.

An event is a stretch over which movement stays below a share of what was expected as it began. Movement is the range
over a window of about a breath, and the stretch is the union of all windows that move too little: it reaches from the
end of the last normal breath to the first that recovers. Rules, by a profile of `scoring_profiles.json`:

    apnea       reduced by `apnea_reduction` for `min_duration_s`; central, obstructive or mixed by what the belts do
                meanwhile: effort is absent, present, or absent and then present; unclassified without a belt
    hypopnea    reduced by `hypopnea_reduction` for `min_duration_s`, and a desaturation follows; where nothing measures
                saturation, or the profile asks for none, or with `flow_alone_counts`, reduced by `flow_only_reduction`
    periodic    a span of three or more central apneas or hypopneas, each begun within 30 to 120 s of the one before

Source: AASM Manual for the Scoring of Sleep and Associated Events, version 3, 2023, VIII.D (apnea: drop of the peak
signal excursion by 90 % of the pre-event baseline, 10 s), VIII.E (hypopnea), VIII.F (Cheyne-Stokes breathing: three
consecutive central events). Differences: movement within a window takes the place of single breaths' excursions, and
the baseline is what the LSTM expected; that of the manual, the 2 minutes before, stands beside it as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from config import ScoringProfile
from detection.comparisons import PRESENT_SHARE
from detection.trailing import KnownRange, SpanMedian
from recordings.stateful import Stateful
from recordings.windowing import EventMeta, overlap, true_runs

APNEA_WINDOW_S = 4.0                    # about a breath; edges are this exact whatever its length, since windows unite
HYPOPNEA_WINDOW_S = 9.2                 # holds a whole breath, also a slow one
JOIN_S = 1.0                            # stretches closer than this are one event
LONGEST_S = 120.0                       # of an event; what lasts longer is another posture, sensor or person
BASELINE_S = 120.0                      # of the manual's baseline
AFTER_S, LAG_S = 30.0, 8.0              # a desaturation that belongs to an event is deepest at most so long after its
                                        # end, and at least so long after its start: blood takes its time to the finger
BEFORE_S = 10.0                         # of the event, from which its highest saturation is taken
CYCLE_S, CYCLES = (30.0, 120.0), 3      # of periodic breathing
CENTRAL, OBSTRUCTIVE, MIXED, UNCLASSIFIED = "central_apnea", "obstructive_apnea", "mixed_apnea", "apnea"
HYPOPNEA, PERIODIC = "hypopnea", "periodic_breathing"
APNEAS = (CENTRAL, OBSTRUCTIVE, MIXED, UNCLASSIFIED)
RESPIRATORY = (*APNEAS, HYPOPNEA)        # kinds that are counted one by one, found and labelled
CYCLING = (CENTRAL, UNCLASSIFIED, HYPOPNEA)      # of which periodic breathing consists


@dataclass(frozen=True)
class Movement:
    """A channel of breathing: values (T,) and the range expected of them (T,), in its unit, NaN = missing."""

    channel: str
    values: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True)
class BreathingEvent:
    """One event, both ends included, and what speaks for it; NaN = not measured.

    reduction: share of the expected range that is missing, the median over the event, 0 to 1; baseline_reduction: the
    same against the 2 min before. effort: range of the belt that moves most, as a share of what was expected of it.
    desaturation: points lost, desaturation_delay_s: from the event's end to the lowest value. confidence: the highest
    score in the event. reason: why a candidate was rejected; empty if it was not.
    """

    kind: str
    channel: str
    start_s: float
    end_s: float
    reduction: float
    baseline_reduction: float
    effort: float
    desaturation: float
    desaturation_delay_s: float
    confidence: float
    reason: str = ""

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def overlaps(self, other: BreathingEvent | EventMeta) -> bool:
        return overlap((self.start_s, self.end_s), (other.start_s, other.end_s))


def respiratory_events(
    t: np.ndarray, values: np.ndarray, expected: np.ndarray, channels: Mapping[str, str], score: np.ndarray,
    profile: ScoringProfile,
) -> tuple[list[BreathingEvent], list[BreathingEvent]]:  # fmt: skip
    """Return the events of one segment and the rejected candidates, each in time order.

    Args:
        t: times (T,) in s, evenly spaced.
        values, expected: (T, C) in the channels' units, and the range that was expected of them, NaN = missing.
        channels: what each of the C channels measures, by its name. Of several oximeters the first counts.
        score: (T,), the events' confidence.
    """
    if len(t) < 2:
        return [], []
    k = oximeter_of(channels)
    is_measured = k is not None and bool(np.isfinite(values[:, k]).any())
    return night_of(t, values, expected, channels, score, profile, is_measured).events()


def oximeter_of(channels: Mapping[str, str]) -> int | None:
    """Return which of the channels measures saturation, the first of several; None if none does."""
    return next((k for k, measures in enumerate(channels.values()) if measures == "oximetry"), None)


def night_of(
    t: np.ndarray, values: np.ndarray, expected: np.ndarray, channels: Mapping[str, str], score: np.ndarray,
    profile: ScoringProfile, is_measured: bool, start: int = 0,
) -> Night:  # fmt: skip
    """Return a segment, or a part of one, for the rules to look at; arguments as for `respiratory_events`.

    Args:
        is_measured: whether the oximeter has a value anywhere in the segment.
        start: step from which on candidates begin; those before it are only looked back to.
    """
    moving: dict[str, list[Movement]] = {"airflow": [], "effort": []}
    for k, (channel, measures) in enumerate(channels.items()):
        if measures in moving:
            moving[measures].append(Movement(channel, values[:, k], expected[:, k]))
    saturation = values[:, oximeter_of(channels)] if is_measured else None
    return Night(t, moving["airflow"], moving["effort"], saturation, score, profile, start)


Judge = Callable[[BreathingEvent, np.ndarray], BreathingEvent]      # gives an event its kind, or a reason against it


class Night:
    """One segment of a recording, as the rules look at it.

    Args:
        t: times (T,) in s, evenly spaced.
        airflow: of each airflow channel; belts stand in where there is none.
        effort: of each belt.
        saturation: (T,) in %, NaN = missing; None = no oximeter, or one that measures nothing.
        score: (T,), for the confidence.
        start: step from which on candidates begin.

    `candidates` holds every stretch that was judged, admitted or not.
    """

    def __init__(
        self, t: np.ndarray, airflow: Sequence[Movement], effort: Sequence[Movement], saturation: np.ndarray | None,
        score: np.ndarray, profile: ScoringProfile, start: int = 0,
    ) -> None:  # fmt: skip
        self.t, self.profile, self.score, self.saturation = t, profile, score, saturation
        self.start = start
        self.candidates: list[BreathingEvent] = []
        self.rate_hz = 1 / (t[1] - t[0])
        self.airflow, self.belts = list(airflow) or list(effort), list(effort) if airflow else []
        self.ranges = {belt.channel: self._ranges(belt.values, APNEA_WINDOW_S) for belt in self.belts}

    def events(self) -> tuple[list[BreathingEvent], list[BreathingEvent]]:
        """Return the events, in time order, and the rejected candidates."""
        admitted: list[BreathingEvent] = []
        rejected: list[BreathingEvent] = []
        for channel in self.airflow:
            baseline = self._baseline(channel.values)
            apneas = self._candidates(channel, baseline, APNEA_WINDOW_S, self.profile.apnea_reduction, self._apnea)
            found = [event for event in apneas if not event.reason]
            hypopneas = self._candidates(channel, baseline, HYPOPNEA_WINDOW_S, self._least_reduction, self._hypopnea)
            others = [event for event in hypopneas if not any(event.overlaps(apnea) for apnea in found)]
            found += [event for event in others if not event.reason]
            rejected += [event for event in (*apneas, *others) if event.reason]
            admitted += [event for event in found if not any(event.overlaps(other) for other in admitted)]
        admitted.sort(key=lambda event: event.start_s)
        rejected = [event for event in rejected if not any(event.overlaps(other) for other in admitted)]
        return admitted, sorted(rejected, key=lambda event: event.start_s)

    @property
    def _needs_desaturation(self) -> bool:
        return self.saturation is not None and self.profile.desaturation_points is not None

    @property
    def _least_reduction(self) -> float:
        return self.profile.hypopnea_reduction if self._needs_desaturation else self.profile.flow_only_reduction

    def _candidates(
        self, channel: Movement, baseline: np.ndarray, window_s: float, reduction: float, judge: Judge
    ) -> list[BreathingEvent]:
        """Return the judged stretches over which a channel's movement is reduced."""
        ranges = self._ranges(channel.values, window_s)
        window = round(window_s * self.rate_hz)
        longest = round(LONGEST_S * self.rate_hz)
        spans = self._joined(reduced_spans(ranges, channel.expected, window, 1 - reduction, longest, self.start))
        judged = [judge(*self._evidence(channel, ranges, baseline, window, *span)) for span in spans]
        self.candidates += judged
        return judged

    def _joined(self, spans: np.ndarray) -> list[tuple[int, int]]:
        joined: list[tuple[int, int]] = []
        for first, last in spans.tolist():
            if joined and first - joined[-1][1] < round(JOIN_S * self.rate_hz):
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        return joined

    def _ranges(self, values: np.ndarray, window_s: float) -> np.ndarray:
        """Return the range (T,) over the window that ends at each step; NaN where too little of it is there."""
        return KnownRange(1, round(window_s * self.rate_hz), PRESENT_SHARE).update(values[:, None])[:, 0]

    def _baseline(self, values: np.ndarray) -> np.ndarray:
        """Return the median (T,) of a breath's range over the last 2 min."""
        span = round(BASELINE_S * self.rate_hz)
        return SpanMedian(1, span).update(self._ranges(values, APNEA_WINDOW_S)[:, None])[0][:, 0]

    def _evidence(
        self, channel: Movement, ranges: np.ndarray, baseline: np.ndarray, window: int, first: int, last: int
    ) -> tuple[BreathingEvent, np.ndarray]:
        """Return a stretch with what speaks for it, and what the belts do in its windows, as `_effort` says."""
        inside = slice(min(first + window - 1, last), last + 1)          # windows that lie in the event
        before = max(first - 1, 0)
        least = float(np.nanmedian(ranges[inside]))
        depth, delay_s = self._desaturation(first, last)
        score, effort = self.score[first : last + 1], self._effort(inside)
        event = BreathingEvent(
            kind="", channel=channel.channel, start_s=float(self.t[first]), end_s=float(self.t[last]),
            reduction=_reduction(least, channel.expected[inside.start]),
            baseline_reduction=_reduction(least, baseline[before]),
            effort=float(np.nanmedian(effort)) if len(effort) else np.nan,
            desaturation=depth, desaturation_delay_s=delay_s,
            confidence=float(np.nanmax(score)) if np.isfinite(score).any() else np.nan,
        )  # fmt: skip
        return event, effort

    def _desaturation(self, first: int, last: int) -> tuple[float, float]:
        """Return the points lost after an event began, and the seconds from its end to the lowest value."""
        if self.saturation is None:
            return np.nan, np.nan
        steps = [round(span * self.rate_hz) for span in (BEFORE_S, LAG_S, AFTER_S)]
        before = self.saturation[max(first - steps[0], 0) : last + 1]
        after = self.saturation[first + steps[1] : last + 1 + steps[2]]
        if not (np.isfinite(before).any() and np.isfinite(after).any()):
            return np.nan, np.nan
        lowest = int(np.nanargmin(after))
        return float(np.nanmax(before) - after[lowest]), float(self.t[first + steps[1] + lowest] - self.t[last])

    def _effort(self, inside: slice) -> np.ndarray:
        """Return the share of the expected movement (n,) in some windows of the belt that moves most; () = no belt."""
        shares = [self.ranges[belt.channel][inside] / belt.expected[inside.start] for belt in self.belts]
        known = [share for share in shares if np.isfinite(share).any()]
        return np.fmax.reduce(known) if known else np.empty(0)

    def _apnea(self, event: BreathingEvent, effort: np.ndarray) -> BreathingEvent:
        event = replace(event, kind=self._kind_of_apnea(effort))
        return event if (reason := self._too_short(event)) is None else replace(event, reason=reason)

    def _kind_of_apnea(self, effort: np.ndarray) -> str:
        present = effort[np.isfinite(effort)] >= self.profile.effort_share
        if not len(present):
            return UNCLASSIFIED
        part = max(len(present) // 4, 1)
        if not present[:part].any() and present[-part:].all():
            return MIXED
        return OBSTRUCTIVE if present.mean() >= 0.5 else CENTRAL

    def _hypopnea(self, event: BreathingEvent, effort: np.ndarray) -> BreathingEvent:
        event = replace(event, kind=HYPOPNEA)
        reason = self._too_short(event)
        if reason is None and event.duration_s > LONGEST_S:
            reason = f"lasts {event.duration_s:.1f} s, more than {LONGEST_S:g}"
        if reason is None and self._needs_desaturation:
            reason = self._without_desaturation(event)
        return event if reason is None else replace(event, reason=reason)

    def _without_desaturation(self, event: BreathingEvent) -> str | None:
        """Return why a hypopnea is rejected by its saturation, or by the flow alone where none is measured."""
        points, reduction = self.profile.desaturation_points, self.profile.flow_only_reduction
        is_enough = event.reduction >= reduction
        if self.profile.flow_alone_counts and is_enough:
            return None
        if np.isnan(event.desaturation):
            return None if is_enough else f"reduced by less than {reduction:g}, and no saturation is measured"
        return None if event.desaturation >= points else f"no fall of {points:g} points of saturation"

    def _too_short(self, event: BreathingEvent) -> str | None:
        least = self.profile.min_duration_s
        return None if event.duration_s >= least - 0.5 else f"lasts {event.duration_s:.1f} s, less than {least:g}"


def _reduction(least: float, usual: float) -> float:
    """Return by which share a range is less than the usual one; NaN where that is unknown, or there is none."""
    return float(1 - least / usual) if usual > 0 else math.nan


def reduced_spans(
    ranges: np.ndarray, expected: np.ndarray, window: int, share: float, longest: int, start: int = 0
) -> np.ndarray:
    """Return the stretches over which movement is reduced, first and last steps (k, 2).

    Args:
        ranges: (T,) range over the window of `window` steps that ends at each step, NaN = unknown.
        expected: (T,) the range expected there, NaN = unknown.
        share: of the expected range; what stays below it is reduced. What counts is what was expected as the stretch
            began, for up to `longest` steps.
        start: a stretch in which movement becomes too little before this step is left out.
    """
    with np.errstate(invalid="ignore"):
        low = ranges < share * expected
    spans, done = [], start
    for first, end in true_runs(low).tolist():
        if first < done:
            continue
        with np.errstate(invalid="ignore"):
            still = ranges[first : first + longest] < share * expected[first]
        held = len(still) if still.all() else int(still.argmin())
        done = max(end, first + held)
        spans.append((max(first - window + 1, 0), done - 1))
    return np.array(spans, int).reshape(-1, 2)


class PeriodicStream(Stateful):
    """Spans of periodic breathing among one segment's events, which come in time order."""

    STATE = ("start_s", "last_s", "end_s", "cycles")

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.start_s = self.last_s = self.end_s = math.nan       # of the first event; start, end of the newest one
        self.cycles = 0

    def update(self, events: Sequence[BreathingEvent], until_s: float) -> list[tuple[float, float]]:
        """Take the next events; return the spans (start_s, end_s) that are over if no other begins before `until_s`."""
        spans = []
        for event in events:
            if event.kind in CYCLING:
                if not CYCLE_S[0] <= event.start_s - self.last_s <= CYCLE_S[1]:
                    spans += self._end()
                    self.start_s = event.start_s
                self.cycles, self.last_s, self.end_s = self.cycles + 1, event.start_s, event.end_s
        return spans + self._end() if until_s - self.last_s > CYCLE_S[1] else spans

    def _end(self) -> list[tuple[float, float]]:
        spans = [(self.start_s, self.end_s)] if self.cycles >= CYCLES else []
        self._forget()
        return spans


def periodic_breathing(events: Sequence[BreathingEvent]) -> list[tuple[float, float]]:
    """Return the spans (start_s, end_s) of periodic breathing among one segment's events, in time order."""
    return PeriodicStream().update(events, math.inf)
