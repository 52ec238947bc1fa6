"""Nights worked out by hand: 2 hours at 1 Hz."""

import math

import numpy as np
import pytest
from scipy.signal import find_peaks

from detection.breathing_events import BreathingEvent
from detection.events import FoundEvent
from evaluation.nights import NightPart, prominent_peaks, summarize_night

NAN = math.nan
MEASURES = ("airflow", "oximetry")
HOUR = 3600


def part(start_s=0, seconds=2 * HOUR, events=(), flow=None, saturation=None):
    t = start_s + np.arange(seconds, dtype=float)
    flow = np.sin(2 * np.pi * t / 5) if flow is None else flow
    saturation = np.full(seconds, 96.0) if saturation is None else saturation
    return NightPart(t, np.column_stack([flow, saturation]), np.full((seconds, 2), 2.0), events)


def event(kind, start_s, seconds):
    return BreathingEvent(kind, "flow", start_s, start_s + seconds, *[NAN] * 6)


def summary(*parts, desaturations=(), measures=MEASURES):
    return summarize_night("night", parts, measures, desaturations, 1.0)


def test_indices_are_an_hour_of_measured_breathing():
    flow = np.sin(2 * np.pi * np.arange(2 * HOUR) / 5)
    flow[HOUR : HOUR + HOUR // 2] = NAN                              # half an hour is lost
    events = [event("central_apnea", 100, 20), event("obstructive_apnea", 200, 15), event("hypopnea", 400, 31)]
    night = summary(part(events=events, flow=flow))
    assert (night.hours, night.breathing_hours, night.oximetry_hours) == (2.0, 1.5, 2.0)
    assert night.lost_percent == 25.0 and (night.apneas, night.hypopneas) == (2, 1)
    assert night.ahi == 2.0 and night.hypopnea_index == pytest.approx(2 / 3) and night.longest_event_s == 31.0
    assert night.unclassified_index == 0.0 and math.isnan(night.central_index)       # no belt tells the kinds
    belt = summary(part(events=events, flow=flow), measures=("airflow", "effort"))
    assert belt.breathing_hours == 2.0 and belt.central_index == belt.obstructive_index == 0.5
    assert belt.mixed_index == 0.0
    assert night.breaths_per_min == 12.0


def test_the_interval_of_three_events_is_that_of_the_tables():
    night = summary(part(events=[event("apnea", t, 12) for t in (100, 300, 900)]))
    assert night.ahi_low * 2 == pytest.approx(0.6187, abs=1e-3)     # Garwood, 95 %, three events
    assert night.ahi_high * 2 == pytest.approx(8.7673, abs=1e-3)
    quiet = summary(part())
    assert quiet.ahi == quiet.ahi_low == 0.0 and quiet.ahi_high * 2 == pytest.approx(3.689, abs=1e-3)


def test_without_a_denominator_there_is_no_number():
    without = summary(part(saturation=np.full(2 * HOUR, NAN), flow=np.full(2 * HOUR, NAN)))
    assert without.breathing_hours == without.oximetry_hours == 0.0
    for name in ("ahi", "odi3", "t90_percent", "lowest_saturation", "breaths_per_min", "periodic_percent"):
        assert math.isnan(getattr(without, name)), name
    assert math.isnan(summary(part(), measures=("other", "other")).lost_percent)


def test_the_oximeter_by_hand():
    saturation = np.full(2 * HOUR, 96.0)
    saturation[120:180] = 88.0                                       # a minute of 8 points below
    fallen = [FoundEvent("night", 120, 179, depth, 130, "spo2") for depth in (8.0, 3.4)]
    night = summary(part(events=[event("apnea", 100, 30)], saturation=saturation), desaturations=fallen)
    assert (night.odi3, night.odi4) == (1.0, 0.5)
    assert night.t90_percent == pytest.approx(100 * 60 / 7200) and night.lowest_saturation == 88.0
    assert night.hypoxic_burden == pytest.approx(8 * 56 / 60 / 2)    # from 120 s to 45 s after 130 s, 175 included


def test_the_burden_of_two_close_events_counts_each_moment_once():
    saturation = np.full(2 * HOUR, 96.0)
    saturation[100:300] = 90.0
    close = summary(part(events=[event("apnea", 95, 20), event("apnea", 120, 20)], saturation=saturation))
    assert close.hypoxic_burden == pytest.approx(6 * (160 - 100 + 1) / 60 / 2 + 6 * (185 - 160) / 60 / 2, abs=0.1)


def test_a_gap_between_two_parts_is_time_but_not_breathing():
    night = summary(part(seconds=HOUR), part(start_s=3 * HOUR, seconds=HOUR))
    assert (night.hours, night.breathing_hours, night.lost_percent) == (4.0, 2.0, 50.0)


def test_periodic_breathing_is_a_share_of_the_breathing():
    events = [event("central_apnea", t, 20) for t in (100, 160, 220)]
    assert summary(part(events=events)).periodic_percent == pytest.approx(100 * 140 / 7200)


@pytest.mark.parametrize("is_smooth", [True, False])
def test_prominent_peaks_are_those_of_scipy(is_smooth):
    random = np.random.default_rng(0)
    for length in [1, 2, 3, *random.integers(4, 60, size=200)]:
        values = np.cumsum(random.normal(size=length)) if is_smooth else random.integers(0, 6, size=length) / 1.0
        for prominence in (0.5, 1.0, 3.0):
            expected = find_peaks(values, prominence=prominence)[0]
            np.testing.assert_array_equal(prominent_peaks(values, prominence), expected)
