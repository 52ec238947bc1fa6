import math

import numpy as np
import pytest

from events import fault_events, find_events, merge_spans

CHANNELS = ("flow", "belt")


def find(alarm, score=None, channel=None, merge_gap_s=0.0, min_duration_s=0.0, step_s=1.0, start_s=100.0):
    """Return the events of alarms written as a string, one character a step."""
    alarm = np.array([character == "x" for character in alarm])
    t = start_s + step_s * np.arange(len(alarm))
    score = np.where(alarm, 2.0, 0.5) if score is None else np.array(score, float)
    channel = np.zeros(len(alarm), int) if channel is None else np.array(channel)
    return find_events(
        "night", t, score, alarm, channel, CHANNELS, merge_gap_s=merge_gap_s, min_duration_s=min_duration_s
    )


def spans(events):
    return [(event.start_s, event.end_s) for event in events]


def test_each_run_of_alarms_is_an_event_with_both_ends_included():
    events = find("..xxx..xx.")
    assert spans(events) == [(102, 104), (107, 108)]
    assert {event.recording for event in events} == {"night"}


def test_no_alarm_is_no_event():
    assert find("......") == [] and find("") == []


def test_alarms_at_the_first_and_last_step_are_events():
    assert spans(find("x....x")) == [(100, 100), (105, 105)]
    assert spans(find("xxxx")) == [(100, 103)]


@pytest.mark.parametrize(
    ("merge_gap_s", "expected"),
    [
        (0, [(100, 100), (102, 103), (107, 107)]),
        (2, [(100, 100), (102, 103), (107, 107)]),                  # 2 s between them is not less than 2 s
        (2.1, [(100, 103), (107, 107)]),
        (4.1, [(100, 107)]),
    ],
)
def test_alarms_closer_than_the_merge_gap_are_one_event(merge_gap_s, expected):
    assert spans(find("x.xx...x", merge_gap_s=merge_gap_s)) == expected


@pytest.mark.parametrize(
    ("min_duration_s", "expected"), [(0, [(101, 101), (103, 105)]), (2, [(103, 105)]), (2.1, [])]
)
def test_shorter_events_are_dropped(min_duration_s, expected):
    assert spans(find(".x.xxx.", min_duration_s=min_duration_s)) == expected


def test_events_are_merged_before_the_short_ones_are_dropped():
    assert spans(find("x.x.x", merge_gap_s=3, min_duration_s=4)) == [(100, 104)]


def test_shifting_the_alarms_shifts_the_events():
    early, late = find("x.xx", merge_gap_s=3, start_s=0), find("x.xx", merge_gap_s=3, start_s=50)
    assert spans(late) == [(start + 50, end + 50) for start, end in spans(early)]


def test_the_peak_is_the_highest_score_inside_the_event():
    (event,) = find(".x.xx.", score=[9, 2, np.nan, 7, 3, 9], merge_gap_s=5)
    assert (event.peak_score, event.peak_t_s) == (7.0, 103.0)


def test_the_channel_is_the_one_that_contributed_most_at_most_alarms():
    (event,) = find("xxx..x", channel=[1, 1, 0, 0, 0, 0], merge_gap_s=9)
    assert event.channel == "flow"                                  # two each: the first of them
    (event,) = find("xxx.xx", channel=[1, 1, 0, 0, 1, 0], merge_gap_s=9)
    assert event.channel == "belt"                                  # a step without an alarm has no vote
    (event,) = find("xx", channel=[-1, 1])
    assert event.channel == "belt"                                  # nor has one without a channel


def test_merge_spans_keeps_first_and_last_step():
    assert merge_spans([(0, 1, 0, 2), (1.5, 2, 3, 5), (9, 9, 10, 11)], 1) == [(0, 2, 0, 5), (9, 9, 10, 11)]
    assert merge_spans([(0, 9, 0, 10), (2, 3, 2, 4)], 0) == [(0, 9, 0, 10)]               # one inside the other


# ---- faults ---------------------------------------------------------------------------------


def faults(values, t=None, min_duration_s=0.0, step_s=1.0):
    values = np.array(values, float)
    t = np.arange(len(values)) * step_s if t is None else np.array(t, float)
    return fault_events("night", t, values, CHANNELS, min_duration_s, step_s)


def test_a_missing_stretch_is_a_fault_of_its_channel_until_the_next_value():
    nan = math.nan
    found = faults([[1, 1], [1, nan], [1, nan], [nan, 1], [1, 1]])
    assert [(e.channel, e.start_s, e.end_s) for e in found] == [("belt", 1, 3), ("flow", 3, 4)]
    assert all(math.isnan(event.peak_score) and event.recording == "night" for event in found)


def test_short_missing_stretches_are_no_fault():
    nan = math.nan
    values = [[nan, nan], [1, nan], [1, nan], [1, 1]]
    assert [(e.channel, e.end_s - e.start_s) for e in faults(values, min_duration_s=2)] == [("belt", 3)]
    assert len(faults(values, min_duration_s=3)) == 1 and not faults(values, min_duration_s=3.1)


def test_a_jump_in_time_is_a_fault_of_every_channel():
    found = faults([[1, 1]] * 4, t=[0, 1, 8, 9], min_duration_s=2)
    assert [(e.channel, e.start_s, e.end_s) for e in found] == [("belt", 2, 8), ("flow", 2, 8)]


def test_missing_steps_on_both_sides_of_a_jump_are_one_fault():
    nan = math.nan
    found = faults([[1, 1], [1, nan], [1, nan], [1, 1]], t=[0, 1, 8, 9])
    assert [(e.channel, e.start_s, e.end_s) for e in found] == [("belt", 1, 9), ("flow", 2, 8)]


def test_a_fault_may_be_at_either_end_or_nowhere():
    nan = math.nan
    found = faults([[nan, 1], [1, 1], [1, 1], [nan, 1]], step_s=0.2)
    assert [(round(e.start_s, 6), round(e.end_s, 6)) for e in found] == [(0, 0.2), (0.6, 0.8)]
    assert faults([[1, 1]] * 3) == []
