"""Falls of oxygen saturation by hand, as a stream, and in what a run writes."""

import numpy as np
import pytest

from detection.desaturation import DesaturationStream, depth_of, desaturations

RATE_HZ = 5.0


def draw_saturation(*falls, minutes=20.0, level=96.0):
    """Return t (T,) and a constant saturation with falls (start_s, length_s, points)."""
    t = np.arange(int(minutes * 60 * RATE_HZ)) / RATE_HZ
    saturation = np.full(len(t), level)
    for start_s, length_s, points in falls:
        saturation[(t >= start_s) & (t < start_s + length_s)] -= points
    return t, saturation


def found(t, saturation):
    return desaturations("night", [(t, saturation)], "spo2", RATE_HZ)


def test_falls_of_three_points_and_more_are_found_with_their_depth():
    falls = [(100, 20, 2.0), (300, 20, 3.0), (500, 20, 4.0), (700, 120, 24.0)]
    events = found(*draw_saturation(*falls))
    assert [(e.start_s, e.end_s, e.peak_score) for e in events] == [
        (300.0, 319.8, 3.0), (500.0, 519.8, 4.0), (700.0, 819.8, 24.0),
    ]  # fmt: skip
    assert [depth_of(event) for event in events] == [">= 3 %", ">= 4 %", ">= 4 %"]
    assert {event.channel for event in events} == {"spo2"} and events[2].peak_t_s == 700.0


@pytest.mark.parametrize(
    ("falls", "count"),
    [
        ([(300, 2, 10.0)], 0),                       # a glitch: shorter than 3 s
        ([(300, 20, 5.0), (325, 20, 5.0)], 1),       # 5 s apart
        ([(300, 20, 5.0), (340, 20, 5.0)], 2),
        ([(300, 2, -4.0)], 0),                       # a peak of 2 s is no level to fall from
        ([(300, 5, -4.0)], 1),                       # one of 5 s is
    ],
)
def test_what_counts_as_one_fall(falls, count):
    assert len(found(*draw_saturation(*falls))) == count


def test_a_lasting_low_becomes_the_level_after_five_minutes():
    (event,) = found(*draw_saturation((300, 900, 10.0)))
    assert event.start_s == 300.0 and event.end_s == pytest.approx(600, abs=5)


def test_missing_values_are_no_fall_and_no_level():
    t, saturation = draw_saturation((300, 20, 5.0))
    saturation[(t >= 200) & (t < 250)] = np.nan
    saturation[(t >= 310) & (t < 312)] = np.nan
    (event,) = found(t, saturation)
    assert (event.start_s, event.end_s) == (300.0, 319.8)
    assert found(t, np.full(len(t), np.nan)) == []


@pytest.mark.parametrize("sizes", [(1,), (7, 50, 3), (1000,)])
def test_a_stream_finds_what_the_whole_recording_has(sizes):
    random = np.random.default_rng(0)
    t, saturation = draw_saturation((100, 20, 3.0), (130, 40, 6.0), (400, 3, 9.0), (800, 60, 4.0))
    saturation += random.integers(-1, 2, len(t))
    saturation[random.random(len(t)) < 0.05] = np.nan
    stream, changes, at, k = DesaturationStream("night", "spo2", RATE_HZ), [], 0, 0
    while at < len(t):
        n = sizes[k % len(sizes)]
        changes += stream.update(t[at : at + n], saturation[at : at + n])
        resumed = DesaturationStream("night", "spo2", RATE_HZ)
        resumed.load_state_dict(stream.state_dict())
        stream, at, k = resumed, at + n, k + 1
    changes += stream.close()
    whole = found(t, saturation)
    assert [event for change, event in changes if change == "end"] == whole and len(whole) >= 3
