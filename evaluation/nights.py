"""Respiratory events and signals of a recording in, the night in numbers out.

Without sleep stages, indices are per hour in which breathing was measured, which sleep medicine calls a respiratory
event index (REI). Where a hypnogram stands beside the recording, the AHI per hour of sleep, of REM and of NREM comes
too: of an event that begins or ends in sleep. Where the hours are zero, what needs them is NaN: no denominator, no
number.

Sources: AASM Manual for the Scoring of Sleep and Associated Events, version 3, 2023, II.D (indices); Azarbarzin et
al., European Heart Journal 40, 2019 (hypoxic burden: area of the desaturations that belong to events, %min an hour;
here over a fixed time after each event instead of a person's own); Garwood, Biometrika 28, 1936 (interval of a count).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from config import BREATHING, ScoringProfile
from detection.breathing_events import (
    APNEAS,
    CENTRAL,
    HYPOPNEA,
    MIXED,
    OBSTRUCTIVE,
    UNCLASSIFIED,
    BreathingEvent,
    periodic_breathing,
    respiratory_events,
)
from detection.desaturation import DEEP, ROUNDING
from detection.event_rate import poisson_interval
from detection.events import FoundEvent
from evaluation.results import NightSummary
from recordings.sleep_stages import NREM, REM, SLEEP
from recordings.windowing import EventMeta

ASLEEP = [*NREM, REM, SLEEP]
LOW_SATURATION = 90.0                    # %, of T90
CONFIDENCE = 0.95                        # of the interval of the AHI
AFTER_S = 45.0                           # of an event, over which its burden is counted
BASELINE_S = 100.0                       # before an event's end, whose highest saturation its burden is measured from
PROMINENCE = 0.3                         # of the expected range, by which a breath stands out
LEAST_BREATHS = 10                       # for a rate


@dataclass(frozen=True)
class NightPart:
    """One segment: times (T,) in s, values and what was expected of their range (T, C), and its admitted events."""

    t: np.ndarray
    values: np.ndarray
    expected: np.ndarray
    events: Sequence[BreathingEvent]

    @functools.cached_property
    def periodic(self) -> list[tuple[float, float]]:
        """The spans of periodic breathing."""
        return periodic_breathing(self.events)


@dataclass(frozen=True)
class ScoredNight:
    """One recording of breathing: its respiratory events, the rejected candidates, periodic breathing, its numbers."""

    events: list[BreathingEvent]
    rejected: list[BreathingEvent]
    periodic: list[tuple[float, float]]          # spans, first and last time in s
    summary: NightSummary


def score_night(
    recording: str, steps: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    channels: Mapping[str, str], desaturations: Sequence[FoundEvent], rate_hz: float, profile: ScoringProfile,
    stages: Sequence[EventMeta] = (),
) -> ScoredNight:  # fmt: skip
    """Return the respiratory events of one recording, and its numbers.

    Args:
        steps: of each segment in time order: times (T,), values and what was expected of their range (T, C), and
            score (T,).
        channels: what each of the C channels measures, by its name.
        desaturations: of the recording.
        stages: of sleep, in time order, as `recordings/sleep_stages.py` reads them.
    """
    parts, rejected = [], []
    for t, values, expected, score in steps:
        events, others = respiratory_events(t, values, expected, channels, score, profile)
        parts.append(NightPart(t, values, expected, events))
        rejected += others
    summary = summarize_night(recording, parts, list(channels.values()), desaturations, rate_hz, stages)
    events = [event for part in parts for event in part.events]
    return ScoredNight(events, rejected, [span for part in parts for span in part.periodic], summary)


def summarize_night(
    recording: str, parts: Sequence[NightPart], measures: Sequence[str], desaturations: Sequence[FoundEvent],
    rate_hz: float, stages: Sequence[EventMeta] = (),
) -> NightSummary:  # fmt: skip
    """Return one recording in numbers.

    Args:
        parts: its segments in time order; between them nothing is measured.
        measures: what each of the C channels measures.
        desaturations: of the recording, by their depth (`peak_score`).
        rate_hz: steps a second.
        stages: of sleep, in time order.
    """
    breathing = _columns(measures, *BREATHING)
    oximeter = _columns(measures, "oximetry")[:1]
    start_s, end_s = parts[0].t[0], parts[-1].t[-1] + 1 / rate_hz
    hours = float(end_s - start_s) / 3600
    breathing_hours, oximetry_hours = (_hours(parts, columns, rate_hz) for columns in (breathing, oximeter))
    has_belts = "airflow" in measures and _hours(parts, _columns(measures, "effort"), rate_hz) > 0
    belt_hours = breathing_hours if has_belts else 0.0                   # without, no apnea has one of these kinds
    events = [event for part in parts for event in part.events]
    count = {kind: sum(event.kind == kind for event in events) for kind in (*APNEAS, HYPOPNEA)}
    low, high = poisson_interval(len(events), CONFIDENCE)
    periodic_hours = sum(end - start for part in parts for start, end in part.periodic) / 3600
    return NightSummary(
        recording=recording,
        hours=hours,
        breathing_hours=breathing_hours,
        oximetry_hours=oximetry_hours,
        lost_percent=100 * (1 - breathing_hours / hours) if breathing else math.nan,
        apneas=sum(count[kind] for kind in APNEAS),
        hypopneas=count[HYPOPNEA],
        ahi=_per(len(events), breathing_hours),
        ahi_low=_per(low, breathing_hours),
        ahi_high=_per(high, breathing_hours),
        central_index=_per(count[CENTRAL], belt_hours),
        obstructive_index=_per(count[OBSTRUCTIVE], belt_hours),
        mixed_index=_per(count[MIXED], belt_hours),
        unclassified_index=_per(count[UNCLASSIFIED], breathing_hours),
        hypopnea_index=_per(count[HYPOPNEA], breathing_hours),
        longest_event_s=max((event.duration_s for event in events), default=math.nan),
        periodic_percent=100 * _per(periodic_hours, breathing_hours),
        breaths_per_min=_breaths_per_min(parts, breathing, rate_hz),
        odi3=_per(len(desaturations), oximetry_hours),
        odi4=_per(sum(event.peak_score >= DEEP - ROUNDING for event in desaturations), oximetry_hours),
        **_saturation(parts, oximeter, oximetry_hours, rate_hz),
        **(_sleep(parts, breathing, stages, rate_hz) if stages else {}),
    )


def _sleep(
    parts: Sequence[NightPart], columns: Sequence[int], stages: Sequence[EventMeta], rate_hz: float
) -> dict[str, float]:
    """Return hours asleep and the apneas and hypopneas an hour of sleep in which breathing was measured."""
    starts, ends = (np.array([getattr(stage, name) for stage in stages]) for name in ("start_s", "end_s"))
    kinds = np.array([stage.kind for stage in stages])

    def kind_at(t: np.ndarray) -> np.ndarray:
        """Return the stage at times (n,), "" = unscored."""
        k = np.searchsorted(starts, t, side="right") - 1
        return np.where((k >= 0) & (t < ends[k]), kinds[k], "")

    measured = [kind_at(part.t[np.isfinite(part.values[:, columns]).any(axis=1)]) for part in parts]
    measured = np.concatenate([np.empty(0, kinds.dtype), *measured])
    events = np.array([(event.start_s, event.end_s) for part in parts for event in part.events]).reshape(-1, 2)
    first, last = kind_at(events[:, 0]), kind_at(events[:, 1])
    counted = np.where(np.isin(first, ASLEEP), first, last)              # its stage, if it begins or ends in sleep
    rates = {
        name: _per(np.isin(counted, wanted).sum(), np.isin(measured, wanted).sum() / rate_hz / 3600)
        for name, wanted in (("sleep_ahi", ASLEEP), ("rem_ahi", [REM]), ("nrem_ahi", NREM))
    }
    is_asleep = np.isin(kinds, ASLEEP)
    return {"sleep_hours": float((ends - starts)[is_asleep].sum()) / 3600, **rates}


def _columns(measures: Sequence[str], *wanted: str) -> list[int]:
    return [k for k, what in enumerate(measures) if what in wanted]


def _hours(parts: Sequence[NightPart], columns: Sequence[int], rate_hz: float) -> float:
    """Return the hours in which one of the columns has a value."""
    return sum(int(np.isfinite(part.values[:, columns]).any(axis=1).sum()) for part in parts) / rate_hz / 3600


def _per(amount: float, hours: float) -> float:
    return float(amount / hours) if hours > 0 else math.nan


def _breaths_per_min(parts: Sequence[NightPart], columns: Sequence[int], rate_hz: float) -> float:
    """Return the median rate of breaths of the first channel of breathing: 60 s over the time between two peaks."""
    periods = [np.empty(0)]
    for part in parts:
        for column in columns[:1]:
            expected, values = part.expected[:, column], part.values[:, column]
            if np.isfinite(expected).any() and np.isfinite(values).any():
                level = np.where(np.isfinite(values), values, np.nanmedian(values))
                peaks = prominent_peaks(level, PROMINENCE * float(np.nanmedian(expected)))
                periods.append(np.diff(peaks) / rate_hz)
    periods = np.concatenate(periods)
    return float(60 / np.median(periods)) if len(periods) >= LEAST_BREATHS else math.nan


def prominent_peaks(values: np.ndarray, prominence: float) -> np.ndarray:
    """Return the places (k,) of the peaks of values (T,) that stand out by at least so much on both sides.

    The same as `scipy.signal.find_peaks(values, prominence=...)`: importing that module takes half a second.
    """
    first = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)                     # of each run of equal values
    last = np.append(first[1:], len(values)) - 1
    rises = np.sign(np.diff(values[first]))
    turns = np.concatenate([[0], np.flatnonzero(np.diff(rises)) + 1, [len(first) - 1]])
    heights = values[first[turns]].tolist()
    bases = np.maximum(_lowest_since_higher(heights), _lowest_since_higher(heights[::-1])[::-1])
    is_peak = np.r_[False, rises[turns[1:-1]] < 0, False] & (np.array(heights) - bases >= prominence)
    return (first[turns[is_peak]] + last[turns[is_peak]]) // 2


def _lowest_since_higher(heights: Sequence[float]) -> list[float]:
    """Return, for each height, the lowest one since a higher one came before it."""
    lowest, waiting = [], []                                                         # (height, its lowest), falling
    for height in heights:
        low = height
        while waiting and waiting[-1][0] <= height:
            low = min(low, waiting.pop()[1])
        waiting.append((height, low))
        lowest.append(low)
    return lowest


def _saturation(
    parts: Sequence[NightPart], columns: Sequence[int], hours: float, rate_hz: float
) -> Mapping[str, float]:
    """Return the numbers of the oximeter in a column, NaN where it has no value."""
    known = [part.values[:, k] for part in parts for k in columns]
    values = np.concatenate([np.empty(0), *(column[np.isfinite(column)] for column in known)])
    if not len(values):
        return dict.fromkeys(("t90_percent", "mean_saturation", "lowest_saturation", "hypoxic_burden"), math.nan)
    burden = sum(_burden(part, column, rate_hz) for part, column in zip(parts, known, strict=True))
    return {
        "t90_percent": 100 * float((values < LOW_SATURATION).mean()),
        "mean_saturation": float(values.mean()),
        "lowest_saturation": float(values.min()),
        "hypoxic_burden": burden / hours,
    }


def _burden(part: NightPart, saturation: np.ndarray, rate_hz: float) -> float:
    """Return the area in %min below the saturation before each event, from its start to 45 s after its end."""
    total, counted_s = 0.0, -math.inf
    for event in part.events:
        start_s, end_s = max(event.start_s, counted_s), event.end_s + AFTER_S        # no moment counts twice
        before = saturation[(part.t >= event.end_s - BASELINE_S) & (part.t <= event.end_s)]
        after = saturation[(part.t >= start_s) & (part.t <= end_s)]
        if np.isfinite(before).any():
            total += float(np.nansum(np.maximum(np.nanmax(before) - after, 0.0))) / rate_hz / 60
        counted_s = end_s
    return total
