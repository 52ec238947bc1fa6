import json

import numpy as np
import pytest

from evaluation.nab_score import nab_score
from nab.benchmark import read_benchmark
from nab.split_halves import GainCurve, gain_curve, random_halves, score_by_halves


def test_a_curve_by_hand():
    """Of 100 rows, 15 are not graded; a window at 50..59; an early alarm before it, one in its first row."""
    scores = np.zeros(100)
    scores[[20, 50]] = 2.0, 3.0
    curve = gain_curve(np.array([[50, 59]]), scores)
    np.testing.assert_allclose(curve.thresholds, [np.inf, 3, 2])
    np.testing.assert_allclose(curve.gains, [0, 1, 1 - 0.11 / 2])
    np.testing.assert_allclose(curve.at(np.array([4.0, 3.0, 2.5, 2.0, 0.1])), [0, 1, 1, 1 - 0.055, 1 - 0.055])


def test_curves_add_up_to_the_published_score(tmp_path):
    """One half that holds all series is NAB's own in-sample score."""
    generator = np.random.default_rng(0)
    labels, scores, curves = {}, {}, {}
    for k in range(4):
        name, start = f"cat/s{k}.csv", 60 + 20 * k
        times = [f"2020-01-01 {hour:02d}:{minute:02d}:00" for hour in range(5) for minute in range(60)]
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("timestamp,value\n" + "".join(f"{time},1\n" for time in times))
        labels[name] = [[times[start], times[start + 30]]]
        scores[name] = generator.exponential(size=300).round(2) * (generator.random(300) > 0.8)
        scores[name][start + 5] += 3
        curves[name] = gain_curve(np.array([[start, start + 30]]), scores[name])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    every = np.unique(np.concatenate([curve.thresholds for curve in curves.values()]))
    best = max(100 * sum(curve.at(every) for curve in curves.values()) / 4)
    series = {name: one.labels for name, one in read_benchmark(tmp_path).items()}
    assert best == pytest.approx(nab_score(scores, series)["standard"]["score"])


def test_halves_take_half_of_each_category():
    names = [f"a/{k}.csv" for k in range(6)] + [f"b/{k}.csv" for k in range(5)]
    halves = random_halves(names, 30)
    assert (halves[:, :6].sum(axis=1) == 3).all()
    assert set(halves[:, 6:].sum(axis=1)) == {2, 3}
    assert len({half.tobytes() for half in halves}) > 20
    np.testing.assert_array_equal(halves, random_halves(names, 30))


def test_the_choice_of_one_half_is_graded_on_the_other():
    """Series a wants the threshold 2, b wants 1: each half's choice is what the other is graded with."""
    a = GainCurve(np.array([np.inf, 2.0, 1.0]), np.array([0.0, 1.0, -3.0]))
    b = GainCurve(np.array([np.inf, 2.0, 1.0]), np.array([0.0, 0.25, 1.0]))
    half = np.array([[True, False]])
    np.testing.assert_allclose(score_by_halves([{"a": a, "b": b}], 2, half), [100 * (0.25 - 3) / 2])


def test_parameters_are_chosen_on_one_half_too():
    thresholds, no_alarm = np.array([np.inf, 1.0]), GainCurve(np.array([np.inf]), np.array([0.0]))
    good = {"a": GainCurve(thresholds, np.array([0.0, 1.0])), "b": no_alarm}
    even = {name: GainCurve(thresholds, np.array([0.0, 0.5])) for name in "ab"}
    # the half with a chooses `good`, which gains nothing on b; the half with b chooses `even`, which gains 0.5 on a
    np.testing.assert_allclose(score_by_halves([good, even], 2, np.array([[True, False]])), [100 * (0.0 + 0.5) / 2])
