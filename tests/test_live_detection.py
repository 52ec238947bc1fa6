"""Rows one by one against `--score` of the whole file."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny

from config import DatasetConfig
from detection.checkpoint import detector_from, load_checkpoint
from live.detection import EventChange, LiveDetection, RespiratoryEvent, Step
from live.stream import EVIDENCE, FORMAT, load_state, save_state
from reports import scoring

pytestmark = pytest.mark.slow

KINDS = ("recording", "series")
EVENT = ["start_s", "end_s", "channel", "found_by"]


class Case:
    """A detector, raw rows, and what `--score` finds in them."""

    def __init__(self, kind, folder, monkeypatch):
        series = kind == "series"
        path = (tiny.make_series_checkpoint if series else tiny.make_checkpoint)(folder)
        self.detector = detector_from(load_checkpoint(path), "cpu")
        self.data = None if series else DatasetConfig(**tiny.DATA)
        self.frame = tiny.draw_series(400, 3, trouble=True) if series else tiny.draw_recording(130, 3, trouble=True)
        self.frame.to_csv(folder / "live.csv", index=False)
        monkeypatch.setattr(scoring, "draw_recording", lambda *_: None)
        scoring.score_files(path, [folder / "live.csv"], folder / f"{kind}-scored", "cpu")
        tables = (pd.read_csv(folder / f"{kind}-scored" / f"{name}.csv") for name in ("scores", "alarms", "events"))
        self.scores, self.events, answer = tables
        self.respiratory = answer[answer["found_by"] == "respiratory"]
        numbers = self.frame.to_numpy()[:, 1:].astype(float)
        times = np.zeros(len(numbers)) if series else self.frame["t_s"].to_numpy()
        self.rows = list(zip(times.tolist(), numbers.tolist(), strict=True))

    def live(self):
        return LiveDetection(self.detector, self.data)


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Case(request.param, tmp_path_factory.mktemp("live"), monkeypatch)


@pytest.fixture(scope="module")
def found(case):
    live = case.live()
    return [one for row in case.rows for one in live.push([row])] + live.finish()


def same(first, second):
    """Return whether two lists of steps and changes are the same, bit for bit."""
    return [plain(one) for one in first] == [plain(one) for one in second]


def plain(one):
    return {name: np.asarray(value).tobytes() if name != "event" else repr(value) for name, value in vars(one).items()}


def test_every_step_has_the_score_threshold_and_alarm_of_the_batch_path(case, found):
    steps = [one for one in found if isinstance(one, Step)]
    assert len(steps) == len(case.scores)
    np.testing.assert_allclose([step.t_s for step in steps], case.scores["t_s"], rtol=0, atol=1e-6)
    for name in ("score", "threshold"):
        np.testing.assert_allclose([getattr(s, name) for s in steps], case.scores[name], rtol=0, atol=1e-5)
    assert [step.alarm for step in steps] == case.scores["alarm"].astype(bool).tolist()
    assert case.scores["alarm"].sum() > 10
    assert {step.channel for step in steps if step.alarm} <= set(case.detector.channels)
    assert all((step.channel == "") == math.isnan(step.score) for step in steps)


def test_steps_carry_the_values_and_forecasts_of_the_batch_path(case, found):
    steps = [one for one in found if isinstance(one, Step)]
    values = np.array([step.values for step in steps])
    edges = np.flatnonzero(np.diff([step.t_s for step in steps]) > 1.5 / case.detector.rate_hz) + 1
    scored = case.detector.detect(np.split(values, edges))
    forecast = np.concatenate([one.forecast for one in scored])
    np.testing.assert_allclose([step.forecast for step in steps], forecast, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([s.score for s in steps], np.concatenate([one.score for one in scored]), atol=1e-5)


def test_events_are_those_of_the_batch_path(case, found):
    over = [one for one in found if isinstance(one, EventChange) and one.change == "end"]
    rows = [[round(o.event.start_s, 3), round(o.event.end_s, 3), o.event.channel, o.found_by] for o in over]
    assert sorted(rows) == sorted(case.events[EVENT].values.tolist())
    peaks = {(o.found_by, o.event.start_s): (o.event.peak_score, o.event.peak_t_s) for o in over}
    for row in case.events.itertuples():
        if row.found_by == "lstm":
            (peak,) = [p for (by, start_s), p in peaks.items() if by == "lstm" and abs(start_s - row.start_s) < 1e-3]
            assert peak == pytest.approx((row.peak_score, row.peak_t_s), abs=1e-3)
    assert {"lstm", "signal_loss", "oximetry"} >= set(case.events["found_by"]) > set()
    assert ("oximetry" in set(case.events["found_by"])) == (case.data is not None)
    assert len(over) >= (1 if case.data is None else 6)


def test_respiratory_events_are_those_of_the_batch_path(case, found):
    events = [one.event for one in found if isinstance(one, RespiratoryEvent)]
    assert [event.kind for event in events] == case.respiratory["kind"].tolist()
    assert len(events) >= (1 if case.data else 0)
    for name in ("start_s", "end_s", "duration_s", *EVIDENCE[1:]):
        values = [getattr(event, name) for event in events]
        np.testing.assert_allclose(values, case.respiratory[name].astype(float), atol=1e-3, err_msg=name)
    assert {one.profile for one in found if isinstance(one, RespiratoryEvent)} <= {"aasm_1a"}


def test_events_begin_and_end_in_turn_and_in_order_of_time(case, found):
    running, step_s = {}, 1 / case.detector.rate_hz
    for one in found:
        if isinstance(one, EventChange):
            key = (one.found_by, one.event.channel if one.found_by == "signal_loss" else "")
            assert (key in running) == (one.change == "end")
            if one.change == "end":
                assert running.pop(key) == one.event.start_s
            else:
                running[key] = one.event.start_s
            assert one.event.start_s <= one.t_s and one.event.end_s <= one.t_s + 1.001 * step_s
    assert not running
    times = [one.t_s for one in found]
    assert times == sorted(times)


def pushed(case, live, rows, size=300):
    """Return what rows give that are pushed some at a time; those of a series come one by one, as in the stream."""
    size = size if case.data else 1
    return [one for first in range(0, len(rows), size) for one in live.push(rows[first : first + size])]


@pytest.mark.parametrize("size", [2, 7, 300])
def test_rows_at_once_give_the_same_as_one_by_one_bit_for_bit(case, found, size):
    live = case.live()
    assert same(pushed(case, live, case.rows, size) + live.finish(), found)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.42, 0.75, 0.9])
def test_a_saved_and_loaded_state_resumes_bit_for_bit(case, found, share, tmp_path):
    at = round(share * len(case.rows))
    first, second = case.live(), case.live()
    before = pushed(case, first, case.rows[:at])
    save_state(tmp_path / "state", {"format": FORMAT, "checkpoint": "", "stream": first.state_dict()})
    second.load_state_dict(load_state(tmp_path / "state", "")["stream"])
    after = pushed(case, second, case.rows[at:]) + second.finish()
    assert same([*before, *after], found)


def test_a_new_recording_is_independent_of_the_one_before(case):
    live, rows = case.live(), case.rows[:800]
    first = pushed(case, live, rows) + live.finish()
    live.restart()
    assert same(pushed(case, live, rows) + live.finish(), first)


def test_almost_no_input_gives_almost_no_output(case):
    live = case.live()
    assert live.finish() == []
    live.restart()
    steps = [one for one in live.push([(5.0, case.rows[0][1])]) + live.finish() if isinstance(one, Step)]
    assert len(steps) == (case.data is None)                     # the filters of a recording are not full yet


def test_extreme_values_never_crash(case):
    rows = []
    for k, (t, values) in enumerate(case.rows[:900]):
        extreme = [1e300, -1e300, math.inf, -math.inf, 1e-320, 127.0][k % 6]
        rows.append((t, [extreme if k % 97 == 50 else value for value in values]))
    scores = [one.score for one in case.live().push(rows) if isinstance(one, Step)]
    assert scores and not any(math.isinf(score) for score in scores)
    assert any(math.isfinite(score) for score in scores)
