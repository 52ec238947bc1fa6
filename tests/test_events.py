import copy
import json
import math

import naive
import numpy as np
import pytest

from detection.events import END, START, EventStream, FaultStream, fault_events, find_events

CHANNELS = ("flow", "belt")


def find(alarm, score=None, channel=None, merge_gap_s=0.0, min_duration_s=0.0):
    """Return the events of alarms written as a string, one character a second, the first at 100 s."""
    alarm = np.array([character == "x" for character in alarm], bool)
    t = 100.0 + np.arange(len(alarm))
    score = np.where(alarm, 2.0, 0.5) if score is None else np.array(score, float)
    channel = np.zeros(len(alarm), int) if channel is None else np.array(channel)
    return find_events(
        "night", t, score, alarm, channel, CHANNELS, merge_gap_s=merge_gap_s, min_duration_s=min_duration_s
    )


@pytest.mark.parametrize(
    ("alarm", "merge_gap_s", "min_duration_s", "expected"),
    [
        ("..xxx..xx.", 0, 0, [(102, 104), (107, 108)]),             # both ends are included
        ("......", 0, 0, []),
        ("", 0, 0, []),
        ("x....x", 0, 0, [(100, 100), (105, 105)]),                 # at the first and last step
        ("xxxx", 0, 0, [(100, 103)]),
        ("x.xx...x", 2, 0, [(100, 100), (102, 103), (107, 107)]),   # 2 s between them is not less than 2 s
        ("x.xx...x", 2.1, 0, [(100, 103), (107, 107)]),
        ("x.xx...x", 4.1, 0, [(100, 107)]),
        (".x.xxx.", 0, 2, [(103, 105)]),
        (".x.xxx.", 0, 2.1, []),
        ("x.x.x", 3, 4, [(100, 104)]),                              # merged before the short ones are dropped
    ],
)
def test_events_by_hand(alarm, merge_gap_s, min_duration_s, expected):
    events = find(alarm, merge_gap_s=merge_gap_s, min_duration_s=min_duration_s)
    assert [(event.recording, event.start_s, event.end_s) for event in events] == [("night", *e) for e in expected]


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
    values = [[nan, 1], [1, nan], [1, nan], [1, nan], [1, 1]]
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


def test_two_missing_stretches_with_one_value_between_them_are_two_faults():
    nan = math.nan
    found = faults([[1, 1], [nan, 1], [1, 1], [nan, 1], [1, 1]])
    assert [(e.channel, e.start_s, e.end_s) for e in found] == [("flow", 1, 2), ("flow", 3, 4)]


# ---- one step at a time ---------------------------------------------------------------------


def restored(stream):
    """Return a stream that goes on from another's state, as JSON keeps it."""
    again = copy.copy(stream)
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    return again


def draw_alarms(random, length):
    """Return scores (T,) with ties and missing ones, alarms at some of them, and channels (T,)."""
    score = random.integers(0, 5, size=length).astype(float)
    score[random.random(length) < 0.1] = np.nan
    alarm = (score > random.integers(0, 4)) & np.repeat(random.random(length // 5 + 1) < 0.6, 5)[:length]
    return score, alarm, random.integers(-1, 2, size=length)


def stream_events(t, score, alarm, channel, **gaps):
    """Return the changes of an EventStream with their times; the stream is saved and restored at every step."""
    stream, changes = EventStream("night", CHANNELS, **gaps), []
    for k in range(len(t)):
        stream = restored(stream)
        found = stream.update(t[k : k + 1], score[k : k + 1], alarm[k : k + 1], channel[k : k + 1])
        changes += [(float(t[k]), *change) for change in found]
    return changes + [(float(t[-1]), *change) for change in stream.close()]


@pytest.mark.parametrize("step_s", [0.2, 1.0, 600.0])
@pytest.mark.parametrize("seed", range(12))
def test_a_stream_finds_the_events_of_the_whole_recording(step_s, seed):
    random = np.random.default_rng(seed)
    score, alarm, channel = draw_alarms(random, 120)
    t = 100.0 + np.arange(120) / (1 / step_s)
    gaps = {
        "merge_gap_s": step_s * random.choice([0, 0.5, 1, 2, 3.5, 9]),
        "min_duration_s": step_s * random.choice([0, 1, 4, 7.5]),
    }
    expected = naive.find_events("night", t, score, alarm, channel, CHANNELS, **gaps)
    assert find_events("night", t, score, alarm, channel, CHANNELS, **gaps) == expected
    changes = stream_events(t, score, alarm, channel, **gaps)
    assert [event for _, change, event in changes if change == END] == expected
    assert [change for _, change, _ in changes] == [START, END] * len(expected)
    for (began, _, first), (over, _, whole) in zip(changes[::2], changes[1::2], strict=True):
        assert first.start_s == whole.start_s and began == first.end_s          # said at the alarm that made it one
        assert whole.end_s <= over <= whole.end_s + max(gaps["merge_gap_s"], step_s) + step_s


def test_the_streams_of_both_kinds_have_something_to_find():
    """What the random tests compare is not nothing against nothing."""
    random, found = np.random.default_rng(0), []
    for _ in range(12):
        score, alarm, channel = draw_alarms(random, 120)
        found.append(len(stream_events(np.arange(120.0), score, alarm, channel, merge_gap_s=2, min_duration_s=1)))
    assert min(found) >= 4 and max(found) >= 10


def test_an_event_begins_when_long_enough_ends_when_none_can_join():
    alarm = np.array([character == "x" for character in ".xx.x.....x."])
    t, channel = np.arange(12.0), np.zeros(12, int)
    changes = stream_events(t, np.where(alarm, 2.0, 0.5), alarm, channel, merge_gap_s=2.5, min_duration_s=2.0)
    assert [(at, change, event.start_s, event.end_s) for at, change, event in changes] == [
        (4, START, 1, 4), (7, END, 1, 4),
    ]  # fmt: skip


def draw_missing(random, length):
    """Return values (T, C) with missing stretches of each channel and of all."""
    values = np.ones((length, 2))
    for _ in range(random.integers(0, 8)):
        first = random.integers(0, length)
        values[first : first + random.integers(1, 12), random.choice([0, 1, slice(None)])] = np.nan
    return values


def stream_faults(t, values, left_out, step_s, min_duration_s):
    """Return the changes of a FaultStream that does not see some steps (T,), saved and restored at every step."""
    stream, changes = FaultStream("night", CHANNELS, min_duration_s, step_s), []
    for k in np.flatnonzero(~left_out):
        stream = restored(stream)
        changes += stream.update(t[k : k + 1], np.isnan(values[k : k + 1]))
    return changes + stream.close()


@pytest.mark.parametrize("step_s", [0.2, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_a_stream_finds_the_faults_of_the_whole_recording(step_s, seed):
    random = np.random.default_rng(seed)
    values, t = draw_missing(random, 150), 7.0 + np.arange(150) / (1 / step_s)
    least_s = step_s * random.choice([0.5, 1.5, 3.5])
    there = np.isfinite(values).any(axis=1)
    seen = np.flatnonzero(there)
    end = seen[-1] + 1
    left_out = ~there & (random.random(150) < 0.5)
    changes = stream_faults(t[:end], values[:end], left_out[:end], step_s, least_s)
    expected = naive.fault_events("night", t[seen], values[seen], CHANNELS, least_s, step_s)
    whole = fault_events("night", t[seen], values[seen], CHANNELS, least_s, step_s)
    assert rounded(whole) == rounded(expected)
    assert rounded([event for change, event in changes if change == END]) == rounded(expected)
    begun = {(event.channel, round(event.start_s, 6)) for change, event in changes if change == START}
    assert begun >= {(event.channel, round(event.start_s, 6)) for event in expected}
    assert len(begun) == sum(change == START for change, _ in changes)          # each begins once


def rounded(events):
    return sorted((event.channel, round(event.start_s, 6), round(event.end_s, 6)) for event in events)


def test_a_fault_begins_when_long_enough_ends_with_the_next_value():
    nan = math.nan
    values = np.array([[1, 1], [nan, 1], [nan, 1], [nan, 1], [1, 1]])
    stream = FaultStream("night", CHANNELS, min_duration_s=2.0, step_s=1.0)
    found = [stream.update(np.array([float(t)]), np.isnan(row)[None]) for t, row in enumerate(values)]
    assert [len(changes) for changes in found] == [0, 0, 1, 0, 1]
    ((change, event),), ((last, whole),) = found[2], found[4]
    assert (change, event.channel, event.start_s) == (START, "flow", 1)
    assert (last, whole.start_s, whole.end_s) == (END, 1, 4)


def test_before_the_first_value_nothing_is_missing():
    stream = FaultStream("night", CHANNELS, min_duration_s=0.5, step_s=1.0)
    assert stream.update(np.arange(5.0), np.full((5, 2), True)) == []
    ((change, event),) = stream.update(np.array([5.0]), np.array([[True, False]]))
    assert (change, event.channel, event.start_s) == (START, "flow", 5)
