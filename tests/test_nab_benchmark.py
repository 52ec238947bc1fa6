import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from evaluation.nab_score import nab_score
from nab import benchmark
from nab.benchmark import Setting, detect, read_benchmark, scaled_blocks
from nab.online_lstm import OnlineOptions
from nab_benchmark import main

pytestmark = pytest.mark.slow

ROWS = 720                                                           # 108 of them not graded, blocks of 3
SMALL = OnlineOptions(hidden_units=4, members=1, window=10, windows=2, warm_up_steps=20, updates=1)


def make_values(name: str, rows: int = ROWS) -> np.ndarray:
    generator = np.random.default_rng(len(name))
    values = np.sin(np.arange(rows) / 9) + 0.1 * generator.normal(size=rows)
    values[rows // 2 : rows // 2 + 30] += 6.0
    return values


def write_series(root, name: str, values: np.ndarray) -> list[str]:
    times = pd.date_range("2020-01-01", periods=len(values), freq="5min").strftime("%Y-%m-%d %H:%M:%S")
    path = root / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"timestamp": times, "value": values}).to_csv(path, index=False)
    return list(times)


@pytest.fixture
def nab(tmp_path, monkeypatch):
    """A benchmark of four series in two categories, each with one event, and a small network."""
    monkeypatch.setattr(benchmark, "LSTM_OPTIONS", dataclasses.replace(SMALL, horizon=8))
    root, labels = tmp_path / "NAB", {}
    for name in ("real/aa.csv", "real/bbb.csv", "made/c.csv", "made/dddd.csv"):
        times = write_series(root, name, make_values(name))
        labels[name] = [[times[ROWS // 2 - 20], times[ROWS // 2 + 20]]]
    (root / "labels").mkdir()
    (root / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    return root


@pytest.fixture
def without_networks(monkeypatch):
    """The past's mean in the place of the networks, for tests of what is around them."""
    plain = benchmark.baseline_forecasts
    monkeypatch.setattr(benchmark, "lstm_forecasts", lambda blocks, seed, options: plain(blocks, "past_mean"))
    monkeypatch.setattr(benchmark, "BASELINES", {"past_mean": benchmark.past_mean})


def folder_scores(out, detector: str) -> dict[str, np.ndarray]:
    """Return the scores below a detector's folder as NAB's own scorer finds them."""
    return {
        f"{path.parent.name}/{path.name.removeprefix(f'{detector}_')}": pd.read_csv(path)["anomaly_score"].to_numpy()
        for path in sorted((out / detector).glob(f"*/{detector}_*.csv"))
    }


def test_the_whole_benchmark_in_the_layout_of_nab(nab, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--nab-root", str(nab), "--out", str(out), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "tables.md").read_text()
    for row in ("| range rule |", "| lstm |", "| lstm + range rule |", "| persistence |", "| ar16 + range rule |"):
        assert row in printed
    table = pd.read_csv(out / "lstm_seed1_range" / "made" / "lstm_seed1_range_c.csv")
    assert list(table.columns) == ["timestamp", "value", "anomaly_score", "label"]
    given = pd.read_csv(nab / "data" / "made" / "c.csv")
    pd.testing.assert_frame_equal(table[["timestamp", "value"]], given)
    assert table["label"].sum() == 41 and table["label"][340:381].all()
    results = json.loads((out / "results.json").read_text())["detectors"]
    for detector, row, seed in (("lstm_seed1_range", "lstm + range rule", 1), ("range", "range rule", 0)):
        scores = folder_scores(out, detector)
        assert all(((values >= 0) & (values < 1)).all() and (values[:108] == 0).all() for values in scores.values())
        labels = {name: series.labels for name, series in read_benchmark(nab).items()}
        for profile, found in nab_score(scores, labels).items():
            assert found["score"] == pytest.approx(results[row][seed]["in_sample"][profile])
    assert results["range rule"][0]["in_sample"]["standard"] > 80


@pytest.mark.parametrize("source", ["lstm", "ar16", None])
def test_later_rows_change_no_earlier_score(nab, source):
    cut = 500

    def scores_of(change: bool) -> dict[str, np.ndarray]:
        for name in ("real/aa.csv", "made/c.csv") if change else ():
            values = make_values(name)
            write_series(nab, name, np.append(values[:cut], 7 - 9 * values[cut:]))
        series = read_benchmark(nab)
        blocks = {name: scaled_blocks(one) for name, one in series.items()}
        make = {
            "lstm": lambda: benchmark.lstm_forecasts(blocks, 0, benchmark.LSTM_OPTIONS),
            "ar16": lambda: benchmark.baseline_forecasts(blocks, "ar16"),
            None: lambda: None,
        }[source]
        return detect(series, make(), Setting(), with_range=source != "ar16")

    before, after = scores_of(change=False), scores_of(change=True)
    for name in before:
        np.testing.assert_array_equal(before[name][:cut], after[name][:cut])
    assert not np.array_equal(before["made/c.csv"], after["made/c.csv"])


def test_a_series_scores_the_same_beside_any_others(nab):
    series = read_benchmark(nab)
    alone = {"real/bbb.csv": series["real/bbb.csv"]}

    def scores_of(some):
        blocks = {name: scaled_blocks(one) for name, one in some.items()}
        forecasts = benchmark.lstm_forecasts(blocks, 0, benchmark.LSTM_OPTIONS)
        return detect(some, forecasts, Setting(), with_range=False)["real/bbb.csv"]

    np.testing.assert_allclose(scores_of(series), scores_of(alone), atol=1e-3)


def test_the_unit_of_a_series_does_not_matter(nab):
    before = scaled_blocks(read_benchmark(nab)["made/c.csv"])
    write_series(nab, "made/c.csv", 1e6 * make_values("made/c.csv") - 3e7)
    np.testing.assert_allclose(scaled_blocks(read_benchmark(nab)["made/c.csv"]), before, atol=1e-6)


def test_a_second_run_reuses_existing_forecasts(nab, tmp_path, monkeypatch, without_networks):
    arguments = ["--nab-root", str(nab), "--out", str(tmp_path / "out"), "--seeds"]
    assert main([*arguments, "1"]) == 0
    made = []

    def make(blocks, seed, options):
        made.append(seed)
        return benchmark.baseline_forecasts(blocks, "past_mean")

    monkeypatch.setattr(benchmark, "lstm_forecasts", make)
    assert main([*arguments, "3"]) == 0
    assert made == [1, 2]
    (tmp_path / "out" / "forecasts" / "lstm_seed1.npz").write_bytes(b"cut off")
    write_series(nab, "made/c.csv", 2 * make_values("made/c.csv") ** 2)
    made.clear()
    assert main([*arguments, "2"]) == 0
    assert made == [0, 1], "another series is another forecast"


def test_only_the_damaged_file_is_made_again(nab, tmp_path, monkeypatch, without_networks):
    arguments = ["--nab-root", str(nab), "--out", str(tmp_path / "out"), "--seeds", "2"]
    assert main(arguments) == 0
    table = (tmp_path / "out" / "tables.md").read_text()
    (tmp_path / "out" / "forecasts" / "lstm_seed1.npz").write_bytes(b"cut off")
    made = []

    def make(blocks, seed, options):
        made.append(seed)
        return benchmark.baseline_forecasts(blocks, "past_mean")

    monkeypatch.setattr(benchmark, "lstm_forecasts", make)
    assert main(arguments) == 0
    assert made == [1] and (tmp_path / "out" / "tables.md").read_text() == table
