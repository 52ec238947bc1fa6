"""The threshold of so many false events an hour: levels by a slow count, promises on more of the same, too little."""

import numpy as np
import pytest
from scipy.signal import lfilter

from detection import thresholds
from detection.event_rate import LEAST, EventRule, event_levels, fit_rate
from detection.events import find_events

RULE = EventRule(rate_hz=5.0, merge_gap_s=5.0, min_duration_s=1.0)
NAN = np.nan


def draw_scores(hours, seed):
    """Scores that change slowly, with an exponential tail as surprisals have it."""
    noise = np.random.default_rng(seed).standard_normal(int(hours * 18_000))
    slow = lfilter([0.1], [1, -0.9], noise)
    slow /= slow.std()
    return np.where(slow > 1, np.exp(slow) / 2, slow + np.exp(1) / 2 - 1) + 5


def count(recordings, threshold):
    """Return how many events a threshold leaves, recording by recording."""
    total = 0
    for scores in recordings:
        t, channel = np.arange(len(scores)) / RULE.rate_hz, np.zeros(len(scores), int)
        gaps = {"merge_gap_s": RULE.merge_gap_s, "min_duration_s": RULE.min_duration_s}
        total += len(find_events("x", t, scores, scores > threshold, channel, ["x"], **gaps))
    return total


def test_levels_are_those_of_a_slow_count():
    recordings = [draw_scores(0.2, 1), draw_scores(0.3, 2)]
    recordings[0][100:400] = NAN
    levels, above, highest = event_levels(recordings, RULE, 8)
    assert len(levels) == len(above) == 8 and highest == np.nanmax(np.concatenate(recordings))
    for k in range(8):
        assert count(recordings, levels[k]) >= k + 1 and count(recordings, above[k]) <= k
        assert all(count(recordings, threshold) <= k for threshold in np.linspace(above[k], highest, 20))


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_what_is_counted_is_kept_on_calibration_data(rate):
    recordings = [draw_scores(12.0, 3), draw_scores(18.0, 4)]
    found = fit_rate(recordings, rate, RULE)
    assert found["hours"] == pytest.approx(30) and not found["fallback"]
    assert count(recordings, found["value"]) == found["events"] <= rate * 30
    assert count(recordings, found["value"]) >= rate * 30 - 2            # events can appear together
    assert found["low"] < rate < found["high"] < 2 * rate


@pytest.mark.slow
def test_the_interval_holds_what_more_of_the_same_has():
    """Of 3 h as of 30 h: nine of ten intervals of 90 % should hold the rate of 200 h; five is far outside chance."""
    more = [draw_scores(50.0, 100 + k) for k in range(4)]
    for hours in (3.0, 30.0):
        held = 0
        for seed in range(10):
            found = fit_rate([draw_scores(hours, seed)], 0.5, RULE)
            held += found["low"] <= count(more, found["value"]) / 200 <= found["high"]
        assert held >= 6


def test_a_longer_calibration_says_more():
    widths = []
    for hours in (1.0, 5.0, 40.0):
        found = fit_rate([draw_scores(hours, 7)], 0.5, RULE)
        widths.append(found["high"] / found["low"])
    assert widths[0] > widths[1] > widths[2] > 1


@pytest.mark.parametrize("scores", [np.ones(2000), np.r_[np.zeros(1000), np.ones(3), np.zeros(1000)]])
def test_too_little_is_said_and_leaves_no_alarm(scores, caplog):
    state = thresholds.fit("false_events_per_hour", [scores], RULE)
    assert f"expected at least {LEAST}" in state["fallback"] and state["fallback"] in caplog.text
    assert count([scores], state["value"]) == 0 and state["low"] == 0 < state["high"]


def test_more_events_than_there_can_be_are_told():
    found = fit_rate([draw_scores(1.0, 1)], 500.0, RULE)
    assert "no threshold leaves more than" in found["fallback"] and count([draw_scores(1.0, 1)], found["value"]) > 50


def test_the_threshold_moves_with_the_scores():
    recordings = [draw_scores(4.0, 5), draw_scores(4.0, 6)]
    value = fit_rate(recordings, 0.5, RULE)["value"]
    assert fit_rate([3 * scores + 7 for scores in recordings], 0.5, RULE)["value"] == pytest.approx(3 * value + 7)
