"""Respiratory events of a stream against those of the whole segment: hand-made breathing of two airflows and a belt."""

import json
import math

import numpy as np
import pytest

from config import ScoringProfile, validate
from detection.breathing_events import AFTER_S, PERIODIC, periodic_breathing, respiratory_events
from live import breathing
from live.breathing import EVERY_S, BreathingStream
from live.stream import FORMAT, load_state, save_state
from utils import ROOT

RATE_HZ = 5.0
CHANNELS = {"nasal": "airflow", "oral": "airflow", "thorax": "effort", "spo2": "oximetry"}
ENTRIES = json.loads((ROOT / "scoring_profiles.json").read_text())


def profile_of(name="aasm_1a"):
    return validate(ScoringProfile, ENTRIES[name], name)


def night(seed, minutes=15, pauses=14):
    """Return t, values, expected ranges and score of a segment: pauses of every depth, gaps, falls of saturation."""
    random, t = np.random.default_rng(seed), 3.2 + np.arange(round(60 * minutes * RATE_HZ)) / RATE_HZ
    size, saturation = np.ones((len(t), 3)), np.full(len(t), 96.0)
    for start_s in random.uniform(60, 60 * minutes, pauses):
        length_s, share = random.uniform(7, 45), random.choice([0.02, 0.3, 0.6])
        for k, late_s in enumerate(random.uniform(-8, 8, 3)):    # one airflow, or the belt, may breathe on
            inside = (t >= start_s + late_s) & (t < start_s + late_s + length_s)
            size[inside, k] = random.choice([share, share, 1.0])
        saturation[(t >= start_s + 18) & (t < start_s + 18 + length_s)] -= random.uniform(0, 6)
    size = np.column_stack([np.convolve(one, np.full(30, 1 / 30), mode="same") for one in size.T])    # over 6 s
    period_s = np.array([4.0, 4.0, 4.1])
    breaths = size * (0.5 * np.sin(2 * np.pi * t[:, None] / period_s) + 0.02 * random.normal(size=size.shape))
    values = np.column_stack([breaths, saturation])
    for start_s in random.uniform(0, 60 * minutes, 6):
        gone = (t >= start_s) & (t < start_s + random.choice([0.4, 3.0, 20.0]))
        values[gone, random.integers(4)] = np.nan
    values[t > random.uniform(200, 700), 3] = np.nan            # the oximeter is taken off
    expected = np.column_stack([1 + 0.1 * np.sin(t / 40 + k) for k in range(3)] + [np.full(len(t), np.nan)])
    expected[:50] = np.nan
    return t, values, expected, random.exponential(size=len(t))


def streamed(steps, stream, sizes, cuts=(), folder=None):
    """Return (t_s, event) as they come from pieces of some sizes; at the cuts the state goes through a file."""
    found, first, sizes = [], 0, iter(sizes)
    while first < len(steps[0]):
        piece = slice(first, first + next(sizes))
        first = piece.stop
        found += [(steps[0][piece][-1], event) for event in stream.update(*(part[piece] for part in steps))]
        if any(piece.start < cut <= first for cut in cuts):
            save_state(folder / "state", {"format": FORMAT, "checkpoint": "", "stream": stream.state_dict()})
            stream = BreathingStream(stream.channels, RATE_HZ, stream.profile)
            stream.load_state_dict(load_state(folder / "state", "")["stream"])
    return found + [(math.inf, event) for event in stream.close()]


def whole(steps, channels, profile):
    """Return the events of the batch path, and the spans of periodic breathing, as text."""
    t, values, expected, score = steps
    events, _ = respiratory_events(t, values, expected, channels, score, profile)
    return sorted(map(repr, events)), periodic_breathing(events)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_any_size_give_the_events_of_the_whole(seed, tmp_path):
    random, steps = np.random.default_rng(100 + seed), night(seed)
    profile, cuts = profile_of("device" if seed == 3 else "aasm_1a"), random.integers(1, len(steps[0]), 3)
    sizes = iter(lambda: int(random.choice([1, 2, 25, 26, 700])), None)
    found = streamed(steps, BreathingStream(CHANNELS, RATE_HZ, profile), sizes, cuts, tmp_path)
    events, spans = whole(steps, CHANNELS, profile)
    assert sorted(repr(event) for _, event in found if event.kind != PERIODIC) == events
    assert [(event.start_s, event.end_s) for _, event in found if event.kind == PERIODIC] == spans


def test_what_is_compared_has_events_of_every_kind():
    nights = [night(seed) for seed in range(4)]
    found = [respiratory_events(*steps[:3], CHANNELS, steps[3], profile_of())[0] for steps in nights]
    kinds = [event.kind for events in found for event in events]
    assert {"central_apnea", "obstructive_apnea", "hypopnea"} <= {*kinds} and len(kinds) > 20
    assert {event.channel for events in found for event in events} == {"nasal", "oral"}


def test_an_event_is_told_once_its_desaturation_may_have_come():
    t = np.arange(1500) / RATE_HZ
    size = np.where((t >= 140) & (t < 160), 0.02, 1.0)
    steps = t, (0.5 * size * np.sin(2 * np.pi * t / 4))[:, None], np.ones((1500, 1)), np.ones(1500)
    stream = BreathingStream({"flow": "airflow"}, RATE_HZ, profile_of())
    [(t_s, event)] = streamed(steps, stream, iter(lambda: 1, None))
    assert event.kind == "apnea" and event.end_s == pytest.approx(160, abs=0.6)
    assert event.end_s + AFTER_S <= t_s <= event.end_s + AFTER_S + EVERY_S + 1 / RATE_HZ


def test_periodic_breathing_is_told_when_its_last_event_is_past():
    t = np.arange(3000) / RATE_HZ
    starts = [100, 150, 200, 250]
    size = np.where(np.any([(t >= s) & (t < s + 15) for s in starts], axis=0), 0.02, 1.0)
    steps = t, (0.5 * size * np.sin(2 * np.pi * t / 4))[:, None], np.ones((3000, 1)), np.ones(3000)
    found = streamed(steps, BreathingStream({"flow": "airflow"}, RATE_HZ, profile_of()), iter(lambda: 25, None))
    assert [event.kind for _, event in found] == ["apnea"] * 4 + [PERIODIC]
    t_s, span = found[-1]
    assert (span.start_s, span.end_s) == (found[0][1].start_s, found[3][1].end_s)
    assert 250 + 120 < t_s < 250 + 120 + 45


def test_memory_is_bounded_where_breathing_never_becomes_normal(monkeypatch):
    monkeypatch.setattr(breathing, "LONGEST_S", 200.0)
    t = np.arange(6000) / RATE_HZ
    size = np.where(t < 100, 1.0, 0.02)
    steps = t, (0.5 * size * np.sin(2 * np.pi * t / 4))[:, None], np.ones((6000, 1)), np.ones(6000)
    stream, most, found = BreathingStream({"flow": "airflow"}, RATE_HZ, profile_of()), 0, []
    for first in range(0, 6000, 50):
        found += stream.update(*(part[first : first + 50] for part in steps))
        most = max(most, len(stream.rows))
    assert most <= stream.history + stream.longest + stream.every
    [event] = found + stream.close()                             # told when it is cut, and not a second time
    assert event.kind == "apnea"
    assert (event.start_s, event.duration_s) == (pytest.approx(100, abs=0.6), pytest.approx(200, abs=5))


@pytest.mark.parametrize(("name", "value"), [
    ("rows", np.empty((5, 3))), ("rows", np.empty((10**5, 10))), ("rows", 1.0), ("start", 7), ("seen", -2),
    ("is_measured", 1), ("periodic", {}),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(name, value):
    state = BreathingStream(CHANNELS, RATE_HZ, profile_of()).state_dict()
    with pytest.raises(ValueError, match=r"expected|state of"):
        BreathingStream(CHANNELS, RATE_HZ, profile_of()).load_state_dict(state | {name: value})
