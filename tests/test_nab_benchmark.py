import json

import numpy as np
import pandas as pd
import pytest
from small_nab import SMALL, use_small_networks

from evaluation.nab_score import nab_score
from nab import forecasts
from nab.alarms import THRESHOLDS, alarm_rows
from nab.benchmark import block_scores, detect, range_scores, read_benchmark
from nab.blocks import probation, scaled_blocks
from nab.plain_forecasts import past_mean
from nab_benchmark import main

pytestmark = pytest.mark.slow

ROWS = 720                                                           # 108 of them not graded


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
    use_small_networks(monkeypatch)
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
    plain = forecasts.baseline_forecasts
    monkeypatch.setattr(forecasts, "lstm_forecasts", lambda blocks, seed, options: plain(blocks, "past mean"))
    monkeypatch.setattr(forecasts, "BASELINES", {"past mean": past_mean})


def score_of_folder(root, out, detector: str, profile: str) -> float:
    """Return the NAB score of a folder of results at the threshold 1: NAB's rules written out row by row."""
    fn, fp = {"standard": (1, 0.11), "reward_low_FP_rate": (1, 0.22), "reward_low_FN_rate": (2, 0.11)}[profile]
    labels, total, count = json.loads((root / "labels" / "combined_windows.json").read_text()), 0.0, 0

    def sigmoid(x: float) -> float:
        return 2 / (1 + np.exp(5 * x)) - 1 if x <= 3 else -1.0

    for name, windows in labels.items():
        category, file = name.split("/")
        table = pd.read_csv(out / detector / category / f"{detector}_{file}")
        times = pd.to_datetime(table["timestamp"])
        spans = [[int(np.flatnonzero(times == pd.Timestamp(end))[0]) for end in window] for window in windows]
        best = [-float(fn)] * len(spans)
        for row in range(min(int(0.15 * len(table)), 750), len(table)):
            if table["anomaly_score"][row] < 1:
                continue
            inside = [k for k, (first, last) in enumerate(spans) if first <= row <= last]
            passed = [(first, last) for first, last in spans if last < row]
            if inside:
                first, last = spans[inside[0]]
                value = sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1)
                best[inside[0]] = max(best[inside[0]], value)
            elif passed:
                first, last = passed[-1]
                total += fp * sigmoid((row - last) / (last - first))
            else:
                total -= fp
        total, count = total + sum(best), count + len(spans)
    return 100 * (total + fn * count) / ((1 + fn) * count)


def test_the_whole_benchmark_in_the_layout_of_nab(nab, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--nab-root", str(nab), "--out", str(out), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "tables.md").read_text()
    for row in ("LSTM", "untrained LSTM", "past mean", "persistence", "AR(16)", "range rule", "random scores"):
        assert f"| {row} |" in printed
    table = pd.read_csv(out / "lstm_seed1" / "made" / "lstm_seed1_c.csv")
    assert list(table.columns) == ["timestamp", "value", "anomaly_score", "label", "score"]
    given = pd.read_csv(nab / "data" / "made" / "c.csv")
    pd.testing.assert_frame_equal(table[["timestamp", "value"]], given)
    assert table["label"].sum() == 41 and table["label"][340:381].all()
    assert (table["anomaly_score"][:108] == 0).all()
    assert json.loads((out / "results.json").read_text())["detectors"]["range rule"][0]["standard"] > 80


def test_written_alarms_score_what_the_table_says(nab, tmp_path, without_networks):
    """Graded by a second scorer, and by the one that chooses a threshold on the labels, as NAB's does."""
    out = tmp_path / "out"
    assert main(["--nab-root", str(nab), "--out", str(out), "--seeds", "1"]) == 0
    results = json.loads((out / "results.json").read_text())["detectors"]
    labels = {name: series.labels for name, series in read_benchmark(nab).items()}
    for detector, row in (("lstm_seed0", "LSTM"), ("range", "range rule"), ("random_seed0", "random scores")):
        for profile in ("standard", "reward_low_FP_rate", "reward_low_FN_rate"):
            folder = f"{detector}_{profile}" if (out / f"{detector}_{profile}").exists() else detector
            expected = results[row][0][profile]
            assert score_of_folder(nab, out, folder, profile) == pytest.approx(expected, abs=1e-6)
            files = {name: out / folder / name.replace("/", f"/{folder}_") for name in labels}
            alarms = {name: pd.read_csv(file)["anomaly_score"] for name, file in files.items()}
            assert nab_score(alarms, labels)[profile]["score"] == pytest.approx(expected, abs=1e-6)


def scores_with(series, source: str) -> dict[str, np.ndarray]:
    """Return the scores of series with the forecasts of the LSTM or a baseline, in the default setting."""
    blocks = {name: scaled_blocks(one, 35) for name, one in series.items()}
    values = {name: one.values for name, one in blocks.items()}
    lstm = source == "lstm"
    made = forecasts.lstm_forecasts(values, 0, SMALL) if lstm else forecasts.baseline_forecasts(values, source)
    return detect(series, blocks, {name: block_scores(one, made[name]) for name, one in blocks.items()}, 0.5)


@pytest.mark.parametrize("source", ["lstm", "AR(16)", None])
def test_later_rows_change_no_earlier_score_or_alarm(nab, source):
    cut = 500

    def scores_of(change: bool) -> dict[str, np.ndarray]:
        for name in ("real/aa.csv", "made/c.csv") if change else ():
            values = make_values(name)
            write_series(nab, name, np.append(values[:cut], 7 - 9 * values[cut:]))
        series = read_benchmark(nab)
        if source is None:
            return {name: range_scores(one) for name, one in series.items()}
        return scores_with(series, source)

    before, after = scores_of(change=False), scores_of(change=True)
    for name in before:
        np.testing.assert_array_equal(before[name][:cut], after[name][:cut])
        for threshold in THRESHOLDS[1::20]:
            first, second = (alarm_rows(scores[name], 108, threshold) for scores in (before, after))
            np.testing.assert_array_equal(first[first < cut], second[second < cut])
    assert not np.array_equal(before["made/c.csv"], after["made/c.csv"])


def test_blocks_are_those_of_a_plain_loop(nab):
    series = read_benchmark(nab)["made/c.csv"]
    blocks, value, rows = scaled_blocks(series, 12), series.value, 9
    assert probation(series) == 108 and (np.diff(blocks.ends) >= 0).all() and blocks.known == 12
    means = [value[k * rows : (k + 1) * rows].mean() for k in range(12)]
    for step in (0, 1, 2, 3, 50):
        last = (step // 4) * rows + (0, 2, 4, 7)[step % 4] + rows - 1
        inside = value[last - rows + 1 : last + 1]
        change = np.diff(value, prepend=value[0])[last - rows + 1 : last + 1]
        levels = np.array([inside.mean(), inside.max(), inside.min()]) - np.median(means)
        scaled = np.append(levels, change.std()) / np.std(means)
        assert blocks.ends[step] == last
        np.testing.assert_allclose(blocks.values[step], np.sign(scaled) * 2 * np.log1p(np.abs(scaled) / 2))


def test_the_unit_of_a_series_does_not_matter(nab):
    before = scaled_blocks(read_benchmark(nab)["made/c.csv"], 35).values
    write_series(nab, "made/c.csv", 1e6 * make_values("made/c.csv") - 3e7)
    after = scaled_blocks(read_benchmark(nab)["made/c.csv"], 35).values
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_second_run_reuses_existing_forecasts(nab, tmp_path, monkeypatch, without_networks):
    arguments = ["--nab-root", str(nab), "--out", str(tmp_path / "out"), "--seeds"]
    assert main([*arguments, "1"]) == 0
    made = []

    def make(blocks, seed, options):
        made.extend([seed] if options == SMALL else [])
        return forecasts.baseline_forecasts(blocks, "past mean")

    monkeypatch.setattr(forecasts, "lstm_forecasts", make)
    assert main([*arguments, "3"]) == 0
    assert made == [1, 2]
    table = (tmp_path / "out" / "tables.md").read_text()
    (tmp_path / "out" / "forecasts" / "lstm_seed1_35.npz").write_bytes(b"cut off")
    made.clear()
    assert main([*arguments, "3"]) == 0
    assert made == [1] and (tmp_path / "out" / "tables.md").read_text() == table
    write_series(nab, "made/c.csv", 2 * make_values("made/c.csv") ** 2)
    made.clear()
    assert main([*arguments, "2"]) == 0
    assert made == [0, 1], "another series is another forecast"
