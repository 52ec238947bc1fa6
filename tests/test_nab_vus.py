import json

import numpy as np
import pandas as pd
import pytest

from evaluation import metrics
from evaluation.metrics import suggest_buffer
from nab import vus
from nab.vus import SPAN, causal, distance_to_median, distances, main, offline, vus_pr
from recordings.nab_series import NabSeries


def make_series(rows: int = 600) -> NabSeries:
    values = np.sin(np.arange(rows) / 7) + 0.1 * np.random.default_rng(0).normal(size=rows)
    values[300:341] += 5
    return NabSeries("a", np.arange(rows).astype(str), np.arange(rows), values[:, None], np.array([[300, 340]]))


def make_errors(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return blocks (120, 2) and forecasts (120, 10, 2) of a mean whose errors grow after block 80."""
    generator = np.random.default_rng(seed)
    blocks = generator.normal(size=(120, 2))
    blocks[80:] *= 6
    forecast = np.zeros((120, 10, 2))
    forecast[:10] = np.nan
    return blocks, forecast


def test_larger_errors_are_farther():
    found = distances(*make_errors(), known=60)
    assert (found[:18] == 0).all() and np.isfinite(found).all()
    assert np.median(found[21:80]) < 1.2 < np.median(found[91:])


def test_the_distance_is_one_for_usual_errors():
    """The mean square of a Mahalanobis distance, divided by the dimension, is about 1 where it was fitted."""
    found = distances(*make_errors(), known=80)
    assert np.sqrt(np.mean(np.square(found[21:80]))) == pytest.approx(1, abs=0.1)


def test_distances_see_no_later_block():
    blocks, forecast = make_errors()
    other = np.concatenate([blocks[:100], 9 - blocks[100:]])
    first, second = distances(blocks, forecast, 60), distances(other, forecast, 60)
    np.testing.assert_array_equal(first[:100], second[:100])
    assert not np.array_equal(first[100:], second[100:])


def test_the_causal_mean_looks_back_and_the_offline_one_around():
    scores = np.zeros(3 * SPAN)
    scores[SPAN] = SPAN
    back, around = causal(scores), offline(scores)
    assert (np.flatnonzero(back > 0.5) == np.arange(SPAN, 2 * SPAN)).all()
    assert np.flatnonzero(around > 0.5)[0] < SPAN < np.flatnonzero(around > 0.5)[-1]


def test_vus_pr_is_that_of_the_tsb_ad_file():
    """The first row is left out, and a label needs the row before it in the window as well."""
    series = make_series()
    scores = distance_to_median(series)
    labels = np.zeros(599, dtype=int)
    labels[300:340] = 1                                      # rows 301..340 of the series
    expected = metrics.vus(labels, scores[1:], suggest_buffer(series.value[1:]))[1]
    assert vus_pr(series, scores) == pytest.approx(expected)
    assert expected > 0.9


def test_the_table_has_series_and_means(tmp_path, capsys, monkeypatch):
    rows, labels = 1600, {}
    names = ("real/a.csv", "real/b.csv")
    monkeypatch.setattr(vus, "TSB_AD", names)
    zeros = lambda blocks, seed, options: {name: np.zeros((len(v), 10, 2)) for name, v in blocks.items()}  # noqa: E731
    monkeypatch.setattr(vus, "lstm_forecasts", zeros)
    for name in names:
        values = make_series(rows).value
        times = pd.date_range("2020-01-01", periods=rows, freq="5min").strftime("%Y-%m-%d %H:%M:%S")
        path = tmp_path / "NAB" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": times, "value": values}).to_csv(path, index=False)
        labels[name] = [[times[300], times[340]]]
    (tmp_path / "NAB" / "labels").mkdir()
    (tmp_path / "NAB" / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    arguments = ["--nab-root", str(tmp_path / "NAB"), "--out", str(tmp_path / "out"), "--seeds", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| real/a |" in printed and "± 0.000" in printed and "| persistence |" in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text())["vus_pr"]
    assert len(found["LSTM"]) == 2 and len(found["LSTM"][0]["causal"]) == 2
    (median,) = found["distance to the median"]
    assert median["offline"][0] > median["causal"][0]
