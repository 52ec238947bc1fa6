"""Events of hand-made breathing: 15 breaths a minute, 1 of range, at 5 Hz; what is expected is always 1."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from config import ScoringProfile, validate
from detection.breathing_events import BreathingEvent, Movement, Night, periodic_breathing, reduced_spans
from utils import ROOT

RATE_HZ = 5.0
t = np.arange(1500) / RATE_HZ                                    # 5 minutes
NAN = math.nan
PROFILES = {
    name: validate(ScoringProfile, entry, name)
    for name, entry in json.loads((ROOT / "scoring_profiles.json").read_text()).items()
}


def breathe(*changes, noise=0.01):
    """Return breathing of range 1 whose size is changed to a share from one second to another, (T,)."""
    size = np.ones(len(t))
    for start_s, end_s, share in changes:
        size[(t >= start_s) & (t < end_s)] = share
    return 0.5 * size * np.sin(2 * np.pi * t / 4) + noise * np.random.default_rng(0).normal(size=len(t)) * size


def moving(values, channel="flow"):
    return Movement(channel, values, np.ones(len(values)))


def events_of(flow, belts=(), saturation=None, profile="aasm_1a"):
    """Return the admitted events and the rejected candidates."""
    belts = [moving(values, f"belt {k}") for k, values in enumerate(belts)]
    score = np.where((t > 150) & (t < 160), 4.0, 1.0)
    return Night(t, [moving(flow)], belts, saturation, score, PROFILES[profile]).events()


def test_an_apnea_reaches_from_the_last_breath_to_the_next():
    [event], rejected = events_of(breathe((140, 160, 0.02)))
    assert not rejected and event.kind == "apnea" and event.channel == "flow"
    assert event.start_s == pytest.approx(140, abs=0.6) and event.end_s == pytest.approx(160, abs=0.6)
    assert event.reduction == pytest.approx(0.98, abs=0.01)
    assert event.baseline_reduction == pytest.approx(0.98, abs=0.01)
    assert event.confidence == 4.0 and math.isnan(event.effort) and math.isnan(event.desaturation)


@pytest.mark.parametrize(("belt", "kind"), [
    (breathe((140, 164, 0.05)), "central_apnea"),
    (breathe((140, 164, 1.2)), "obstructive_apnea"),
    (breathe((140, 150, 0.05)), "mixed_apnea"),
    (np.full(len(t), NAN), "apnea"),
])  # fmt: skip
def test_the_belts_tell_the_kind_of_an_apnea(belt, kind):
    [event], _ = events_of(breathe((140, 164, 0.03)), [belt])
    assert event.kind == kind


def test_one_belt_that_moves_is_effort():
    still, moves = breathe((140, 164, 0.05)), breathe((140, 164, 0.8))
    [event], _ = events_of(breathe((140, 164, 0.03)), [still, moves])
    assert event.kind == "obstructive_apnea" and event.effort == pytest.approx(0.8, abs=0.1)


@pytest.mark.filterwarnings("error")
def test_where_nothing_moved_before_there_is_no_reduction_against_it():
    flat = Movement("flow", np.where(t < 250, 0.0, breathe()), np.where(t < 140, NAN, 1.0))
    admitted, rejected = Night(t, [flat], [], None, np.ones(len(t)), PROFILES["aasm_1a"]).events()
    assert len(admitted + rejected) == 1
    assert all(event.reduction == 1 and math.isnan(event.baseline_reduction) for event in admitted + rejected)


def test_a_pause_of_eight_seconds_is_rejected_with_its_length():
    admitted, rejected = events_of(breathe((140, 148, 0.02)))
    assert not admitted
    assert [event.reason for event in rejected][0].startswith("lasts 8.") and rejected[0].kind == "apnea"


@pytest.mark.parametrize(("points", "found", "profile"), [
    (4.5, True, "aasm_1a"), (3.5, True, "aasm_1a"), (2.0, False, "aasm_1a"),
    (4.5, True, "aasm_1b"), (3.5, False, "aasm_1b"), (2.0, False, "device"),
])  # fmt: skip
def test_a_hypopnea_of_two_fifths_needs_its_desaturation(points, found, profile):
    saturation = np.where((t > 175) & (t < 190), 96 - points, 96.0)
    admitted, rejected = events_of(breathe((140, 165, 0.6)), saturation=saturation, profile=profile)
    assert [event.kind for event in admitted] == (["hypopnea"] if found else [])
    if found:
        assert admitted[0].desaturation == points
        assert admitted[0].desaturation_delay_s == pytest.approx(10, abs=1)
        assert admitted[0].start_s == pytest.approx(140, abs=1.5) and admitted[0].end_s == pytest.approx(165, abs=1.5)
    elif profile != "device":
        assert "points of saturation" in rejected[0].reason


def test_by_the_criteria_of_1999_half_the_flow_or_a_desaturation_is_enough():
    steady, falls = np.full(len(t), 96.0), np.where((t > 175) & (t < 190), 92.5, 96.0)
    for share, saturation, found in ((0.4, steady, 1), (0.6, falls, 1), (0.6, steady, 0)):
        assert len(events_of(breathe((140, 165, share)), saturation=saturation, profile="aasm_1999")[0]) == found
    assert events_of(breathe((140, 165, 0.4)), saturation=steady)[0] == []               # not by rule 1A


def test_by_the_flow_alone_a_hypopnea_halves_it():
    assert [event.kind for event in events_of(breathe((140, 165, 0.4)))[0]] == ["hypopnea"]
    assert events_of(breathe((140, 165, 0.6)))[0] == []


@pytest.mark.parametrize("gone", [slice(None), slice(600, 1100)])
def test_where_the_oximeter_measures_nothing_the_flow_decides(gone):
    saturation = np.full(len(t), 96.0)
    saturation[gone] = NAN
    assert [event.kind for event in events_of(breathe((140, 165, 0.4)), saturation=saturation)[0]] == ["hypopnea"]
    admitted, rejected = events_of(breathe((140, 165, 0.6)), saturation=saturation)
    assert not admitted and not any("no fall" in event.reason for event in rejected)


def test_shallow_breaths_around_an_apnea_are_no_second_event():
    [event], rejected = events_of(breathe((125, 140, 0.4), (140, 160, 0.02), (160, 172, 0.4)))
    assert event.kind == "apnea" and not rejected


def test_a_lost_signal_is_no_event():
    flow = breathe()
    flow[(t >= 140) & (t < 165)] = NAN
    assert events_of(flow) == ([], [])
    unknown = Movement("flow", breathe((140, 165, 0.02)), np.full(len(t), NAN))
    night = Night(t, [unknown], [], None, t, PROFILES["device"])
    assert night.events() == ([], [])                            # nothing was expected: no denominator, no event


def test_belts_stand_in_where_no_airflow_is_measured():
    night = Night(t, [], [moving(breathe((140, 165, 0.02)), "thorax")], None, t, PROFILES["aasm_1a"])
    [event], _ = night.events()
    assert (event.kind, event.channel) == ("apnea", "thorax")


def test_what_was_expected_as_a_pause_began_counts_to_its_end():
    ranges = np.r_[np.ones(100), np.full(60, 0.1), np.ones(40)]
    expected = np.r_[np.ones(110), np.full(90, 0.05)]            # the pause has lowered it after 10 steps
    assert reduced_spans(ranges, expected, 20, 0.2, 600).tolist() == [[81, 159]]


def event_at(start_s, kind="central_apnea"):
    return BreathingEvent(kind, "flow", start_s, start_s + 15, *[NAN] * 6)


def test_three_central_events_in_a_row_are_periodic_breathing():
    row = [event_at(start_s) for start_s in (100, 160, 225)]
    assert periodic_breathing(row) == [(100, 240)]
    assert periodic_breathing(row[:2]) == [] and periodic_breathing([]) == []
    assert periodic_breathing([*row[:2], event_at(400)]) == []   # the third comes too late
    assert periodic_breathing([replace(event, kind="obstructive_apnea") for event in row]) == []
