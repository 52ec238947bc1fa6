import json

import numpy as np
import pandas as pd
import pytest

from evaluation import metrics
from evaluation.metrics import suggest_buffer
from nab import frozen_lstm, vus
from nab.frozen_lstm import error_coordinates, error_distances, learn, level_and_spread, run, state_distances, untrained
from nab.fusion import Fusion, causal_score, mean_shift, median_deviation, offline_score, parts_of
from nab.tail_scores import errors_by_lead
from nab.vus import TSB_AD, chosen_elsewhere, main, vus_pr
from recordings.nab_series import NabSeries


def make_series(rows: int = 600) -> NabSeries:
    values = np.sin(np.arange(rows) / 7) + 0.1 * np.random.default_rng(0).normal(size=rows)
    values[300:341] += 5
    return NabSeries("a", np.arange(rows).astype(str), np.arange(rows), values[:, None], np.array([[300, 340]]))


def make_coordinates(seed: int = 0) -> np.ndarray:
    """Return coordinates (120, 1, 4) of zero forecasts of blocks whose errors grow after block 80; none for 18."""
    blocks = np.random.default_rng(seed).normal(size=(120, 1, 2))
    blocks[80:] *= 6
    forecast = np.zeros((120, 8, 1, 2))
    forecast[:10] = np.nan
    return error_coordinates(errors_by_lead(blocks, forecast))


def test_larger_errors_are_farther():
    found = error_distances(make_coordinates(), known=60)
    assert (found[:18] == 0).all() and np.isfinite(found).all()
    assert np.median(found[21:80]) < 1.2 < np.median(found[91:])


def test_the_distance_is_one_for_usual_errors():
    """The mean square of a Mahalanobis distance, divided by the dimension, is about 1 where it was fitted."""
    found = error_distances(make_coordinates(), known=80)
    assert np.sqrt(np.mean(np.square(found[21:80]))) == pytest.approx(1, abs=0.1)


def test_a_channel_given_twice_changes_no_distance():
    one = make_coordinates()
    np.testing.assert_allclose(error_distances(np.repeat(one, 3, axis=1), 60), error_distances(one, 60))


def test_state_distances_are_those_of_a_naive_search():
    states = np.random.default_rng(1).normal(size=(60, 2, 3)).astype(np.float32)
    states[:5] = np.nan
    for known in (None, 40):
        found = state_distances(states, excluded=4, known=known)
        assert (found[:5] == 0).all()
        for step in (5, 30, 59):
            others = [t for t in range(5, known or 60) if abs(t - step) > 4]
            expected = []
            for member in range(2):
                squares = sorted(np.square(states[others, member] - states[step, member]).sum(axis=1))[:10]
                expected.append(np.sqrt(np.mean(squares) / 3))
            assert found[step] == pytest.approx(np.mean(expected), rel=1e-4)


def test_errors_in_pieces_are_those_of_all_forecasts(monkeypatch):
    series = make_series(300)
    blocks = level_and_spread(series.values, 60)
    nets = untrained(blocks, 0)
    whole = run(nets, blocks)
    monkeypatch.setattr(frozen_lstm, "AT_ONCE", 37)
    pieces = run(nets, blocks)
    np.testing.assert_allclose(whole.errors, pieces.errors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.states, pieces.states, rtol=1e-4, atol=1e-5)
    assert np.isfinite(whole.errors[24:]).all() and np.isnan(whole.errors[:24]).all()


def test_causal_scores_see_no_later_row(monkeypatch):
    """Neither the blocks, nor the networks, the distances, the deviation or the score: rows after 200 are changed."""
    monkeypatch.setattr(frozen_lstm, "MAX_PLACES", 6)
    found = []
    for change in (0, 9):
        values = make_series(240).values.copy()
        values[200:] = change - values[200:]
        blocks = level_and_spread(values, 60)
        parts = parts_of(values, run(learn(blocks[:60], 0), blocks), 60)["causal"]
        found.append(causal_score(parts, Fusion(1, 1, 1), 60))
    np.testing.assert_array_equal(found[0][:200], found[1][:200])
    assert not np.array_equal(found[0][200:], found[1][200:])


def test_a_mean_shift_is_largest_where_the_mean_steps():
    values = np.zeros((400, 2))
    values[150:] = 3.0                                       # steps by 3 / 1.452 standard deviations
    shift = mean_shift(values)
    assert shift.argmax() == 150
    assert shift[150] == pytest.approx(3 / values[:, 0].std())
    assert shift[100] == pytest.approx(shift[150] / 2)       # half of the next 100 rows are after the step


def test_the_deviation_is_in_median_absolute_deviations():
    values = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [12.0]])
    np.testing.assert_allclose(median_deviation(values, 5), [2, 1, 0, 1, 2, 10])


def test_an_offline_score_weighs_parts_by_their_spread():
    parts = {"errors": np.repeat([0.0, 1.0], 1000), "states": np.repeat([0.0, 100.0], 1000)}
    alone = offline_score(parts, Fusion(errors=1))
    np.testing.assert_allclose(offline_score(parts, Fusion(errors=2, states=1)), 3 * alone)
    np.testing.assert_allclose(offline_score(parts, Fusion(errors=1, shift=1)), alone)      # a part it lacks


def test_vus_pr_is_that_of_the_tsb_ad_file():
    """The first row is left out, and a label needs the row before it in the window as well."""
    series = make_series()
    scores = median_deviation(series.values, 90)
    labels = np.zeros(599, dtype=int)
    labels[300:340] = 1                                      # rows 301..340 of the series
    expected = metrics.vus(labels, scores[1:], suggest_buffer(series.value[1:]))[1]
    assert vus_pr(series, scores) == pytest.approx(expected)
    assert expected > 0.9


def test_a_fusion_is_graded_where_it_was_not_chosen():
    """Of two fusions, each of which is good on series that the other fails on, none earns its in-sample mean."""
    first, second = vus.FUSIONS["offline"][:2]
    found = {fusion: [0.5] * len(TSB_AD) for fusion in vus.FUSIONS["offline"]}
    assert chosen_elsewhere(found, "offline") == pytest.approx(0.5)
    found[first] = [0.6, 0.4] * (len(TSB_AD) // 2)
    found[second] = [0.4, 0.6] * (len(TSB_AD) // 2)
    assert chosen_elsewhere(found, "offline") < 0.5


def test_the_table_has_series_and_means(tmp_path, capsys, monkeypatch):
    rows, labels = 290, {}
    names = ("real/a.csv", "real/b.csv")
    monkeypatch.setattr(vus, "TSB_AD", names)
    monkeypatch.setattr(vus, "learn", lambda blocks, seed: untrained(blocks, seed))
    for name in names:
        values = make_series(rows).value
        values[200:231] += 5
        times = pd.date_range("2020-01-01", periods=rows, freq="5min").strftime("%Y-%m-%d %H:%M:%S")
        path = tmp_path / "NAB" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": times, "value": values}).to_csv(path, index=False)
        labels[name] = [[times[200], times[230]]]
    (tmp_path / "NAB" / "labels").mkdir()
    (tmp_path / "NAB" / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    arguments = ["--nab-root", str(tmp_path / "NAB"), "--out", str(tmp_path / "out"), "--seeds", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "±" in printed and all(f"| {row} |" in printed for row in ("real/a", "persistence", "random scores"))
    found = json.loads((tmp_path / "out" / "results.json").read_text())["vus_pr"]
    assert len(found["LSTM"]) == 2 and found["LSTM"][0]["causal"][0]["weights"]["errors"] == 1
    assert found["LSTM"][0] == found["untrained LSTM"][0]                                   # of the same networks
