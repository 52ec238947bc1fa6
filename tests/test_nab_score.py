"""NAB's score against published results, numbers worked out by hand, and every threshold tried."""

import functools
import json
import math
from pathlib import Path

import naive
import numpy as np
import pandas as pd
import pytest

from config import read_json
from evaluation.nab_score import NAB_PROFILES, nab_score, nab_series_score
from recordings.nab_files import LABELS
from recordings.nab_series import read_labelled_series
from utils import DataError

pytestmark = pytest.mark.slow

SHARED = Path(__file__).resolve().parents[2] / "shared"
CASES = SHARED / "reference" / "metric_cases.json"
NAB_ROOT = SHARED / "data" / "nab"
needs_nab = pytest.mark.skipif(not NAB_ROOT.exists() or not CASES.exists(), reason=f"{NAB_ROOT} is absent")


@functools.cache
def load_series_labels(nab_root):
    labels = read_json(nab_root / LABELS)
    return {path: read_labelled_series(nab_root, path, labels).labels for path in labels}


@needs_nab
@pytest.mark.parametrize("detector, standard, low_fp, low_fn", [
    ("ARTime", 74.854, 65.154, 80.362), ("numenta", 70.101, 63.209, 74.320), ("contextOSE", 69.900, 66.977, 73.182)])
def test_nab_score_of_published_detectors(detector, standard, low_fp, low_fn):
    with np.load(SHARED / "reference" / "nab_results" / f"{detector}.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    result = nab_score(scores, load_series_labels(NAB_ROOT))
    expected = {"standard": standard, "reward_low_FP_rate": low_fp, "reward_low_FN_rate": low_fn}
    assert {profile: part["score"] for profile, part in result.items()} == pytest.approx(expected, abs=1e-3)
    series = load_series_labels(NAB_ROOT)
    for profile, part in result.items():
        assert len(part["series"]) == 58
        assert sum(part["series"].values()) == pytest.approx(part["score"], abs=1e-9)
        raw = sum(nab_series_score(series[name].windows, scores[name] >= part["threshold"], profile)["raw"]
                  for name in scores)
        weights = NAB_PROFILES[profile]
        assert 100 * (raw + weights.fn * 116) / ((weights.tp + weights.fn) * 116) == pytest.approx(part["score"])


@needs_nab
def test_nab_windows_cover_the_corpus():
    series = load_series_labels(NAB_ROOT)
    assert len(series) == 58
    assert sum(part.n_rows for part in series.values()) == 365_558
    assert sum(len(part.windows) for part in series.values()) == 116
    assert series["realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv"].windows[0].tolist() == [218, 280]


@needs_nab
def test_an_alarm_at_each_first_label_row_gets_what_nab_allows():
    labels = json.loads((NAB_ROOT / "labels" / "combined_labels.json").read_text())
    scores = {}
    for name, (n_rows, windows) in load_series_labels(NAB_ROOT).items():
        times = pd.to_datetime(pd.read_csv(NAB_ROOT / "data" / name)["timestamp"])
        rows = np.flatnonzero(times.isin(pd.to_datetime(labels[name])))
        scores[name] = np.zeros(n_rows)
        for first, last in windows:
            scores[name][rows[(rows >= first) & (rows <= last)][:1]] = 1
    assert nab_score(scores, load_series_labels(NAB_ROOT))["standard"]["score"] == pytest.approx(92.2, abs=0.05)


# --- worked out by hand, and every threshold -------------------------------------------------------------------------

def mask(n: int, *ranges: tuple[int, int]) -> np.ndarray:
    """Return (n,) zeros with ones in the given ranges of steps, both ends included."""
    result = np.zeros(n, dtype=int)
    for first, last in ranges:
        result[first:last + 1] = 1
    return result


def alarm_at(*rows: int, n: int = 100) -> np.ndarray:
    alarms = np.zeros(n, dtype=bool)
    alarms[list(rows)] = True
    return alarms


@pytest.mark.parametrize("alarms, raw", [
    (alarm_at(), -1),
    (alarm_at(40), 1),                                                           # first row of the window
    (alarm_at(40, 45, 49), 1),                                                   # the rest of it adds nothing
    (alarm_at(49), np.tanh(0.25) / np.tanh(2.5)),                                # last row, x = -1/10
    (alarm_at(0, 14), -1),                                                       # probation: 15 rows
    (alarm_at(15), -1 - 0.11), (alarm_at(39), -1 - 0.11),                        # before the first window
    (alarm_at(50), -1 - 0.11 * np.tanh(2.5 / 9)),                                # right behind it, x = 1/9
    (alarm_at(76), -1 - 0.11 * np.tanh(7.5)), (alarm_at(77), -1 - 0.11),         # x = 3, x > 3
    (alarm_at(30, 31, 40), 1 - 0.22)])
def test_nab_rows_worked_out_by_hand(alarms, raw):
    result = nab_series_score([(40, 49)], alarms)
    assert result == pytest.approx({"raw": raw, "score": 50 * (raw + 1)}, rel=1e-12, abs=1e-12)


def test_nab_profiles_weigh_misses_and_false_alarms():
    assert nab_series_score([(40, 49)], alarm_at(), "reward_low_FN_rate") == {"raw": -2, "score": 0}
    assert nab_series_score([(40, 49)], alarm_at(20), "reward_low_FP_rate")["raw"] == pytest.approx(-1.22)
    assert nab_series_score([(40, 49)], alarm_at(40), "reward_low_FN_rate") == {"raw": 1, "score": 100}


def test_nab_windows_at_the_edge_of_probation():
    assert nab_series_score([(5, 14), (40, 49)], alarm_at(40))["score"] == 100       # the first does not exist
    partly = nab_series_score([(6, 15)], alarm_at(10, 15))
    assert partly["raw"] == pytest.approx(np.tanh(0.25) / np.tanh(2.5))                      # only row 15 can earn


def test_a_nab_series_without_windows_can_only_lose():
    result = nab_series_score([], alarm_at(20, 90))
    assert result["raw"] == pytest.approx(-0.22) and math.isnan(result["score"])


@pytest.mark.parametrize("windows", [[(40, 30)], [(40, 50), (50, 60)], [(60, 70), (40, 50)], [(90, 100)], [(-1, 4)],
                                     [(40.0, 49.0)], [40, 49]])
def test_nab_windows_that_make_no_sense_are_refused(windows):
    with pytest.raises(ValueError, match="windows must be"):
        nab_series_score(windows, alarm_at())


def test_an_unknown_nab_profile_is_refused():
    with pytest.raises(ValueError, match="profile must be one of standard, reward_low_FP_rate"):
        nab_series_score([], alarm_at(), "reward")


@pytest.fixture
def corpus(tmp_path):
    """Write a benchmark of four short series and return its root, windows and random scores with ties."""
    windows = {"a/one.csv": [(20, 29), (50, 59)], "a/two.csv": [(35, 35)], "b/three.csv": [], "b/four.csv": [(3, 20)]}
    rng = np.random.default_rng(5)
    labels, scores = {}, {}
    for name, spans in windows.items():
        times = pd.date_range("2024-01-01", periods=80, freq="5min")
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": times, "value": 0.0}).to_csv(path, index=False)
        labels[name] = [[times[row].strftime("%Y-%m-%d %H:%M:%S.%f") for row in span] for span in spans]
        near = np.zeros(80)
        for first, last in spans:
            near[first:last + 1] = 0.4
        scores[name] = np.round(rng.random(80) + near, 1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    return tmp_path, windows, scores


def test_nab_score_equals_trying_every_threshold(corpus):
    root, windows, _ = corpus
    for seed in range(12):
        rng = np.random.default_rng(seed)
        help_in_windows = 0.02 * seed
        scores = {name: np.round(rng.random(80) ** 3 + help_in_windows * mask(80, *spans), 2)
                  for name, spans in windows.items()}
        for profile, result in nab_score(scores, load_series_labels(root)).items():
            expected = naive.nab_corpus(windows, scores, *NAB_PROFILES[profile])
            assert (result["score"], result["threshold"]) == pytest.approx(expected)
            assert sum(result["series"].values()) == pytest.approx(result["score"])


def test_swapping_two_series_changes_nothing(corpus):
    root, _, scores = corpus
    swapped = dict(reversed(scores.items()))
    without_suffix = {name.removesuffix(".csv"): values for name, values in scores.items()}
    result = nab_score(scores, load_series_labels(root))
    assert nab_score(swapped, load_series_labels(root)) == nab_score(without_suffix, load_series_labels(root)) == result


def test_silence_scores_0_and_each_window_s_first_row_100(corpus):
    root, windows, scores = corpus
    flat = {name: np.zeros(80) for name in scores}
    for result in nab_score(flat, load_series_labels(root)).values():
        assert result["score"] == 0 and result["threshold"] == math.inf
    first_rows = {name: alarm_at(*(max(first, 12) for first, _ in spans), n=80).astype(float)
                  for name, spans in windows.items()}
    result = nab_score(first_rows, load_series_labels(root))["standard"]
    late = 1 - np.tanh(2.5 * 9 / 18) / np.tanh(2.5)                              # one window begins in probation
    assert result["threshold"] == 1 and result["score"] == pytest.approx(100 * (1 - late / 8))
    assert result["series"]["a/one.csv"] == pytest.approx(50) and result["series"]["b/three.csv"] == 0


def test_nab_scores_in_probation_are_no_thresholds(corpus):
    root, _, scores = corpus
    louder = {name: np.where(np.arange(80) < 12, 99.0, values) for name, values in scores.items()}
    assert nab_score(louder, load_series_labels(root)) == nab_score(scores, load_series_labels(root))


def test_nab_score_names_the_series_that_is_wrong(corpus):
    root, _, scores = corpus

    def error(changed) -> str:
        with pytest.raises(ValueError) as caught:
            nab_score(changed, load_series_labels(root))
        return str(caught.value)

    assert error({name: values for name, values in scores.items() if name != "a/two.csv"}) == (
        "1 of 4 series missing, the first is a/two.csv")
    assert "unknown, the first is a/ten.csv" in error(scores | {"a/ten": np.zeros(80)})
    assert "a/two.csv: given twice" in error(scores | {"a/two": np.zeros(80)})
    assert "a/two.csv: scores have shape (79,); expected (80,)" in error(scores | {"a/two.csv": np.zeros(79)})
    unknown = np.full(80, np.nan)
    assert "a/two.csv: 80 scores are not finite, the first at row 0" in error(scores | {"a/two.csv": unknown})


def test_a_window_end_that_is_no_timestamp_is_refused(corpus):
    root, _, scores = corpus
    path = root / "labels" / "combined_windows.json"
    path.write_text(path.read_text().replace("02:55:00", "02:56:00"))
    with pytest.raises(DataError, match=r"two\.csv: the window end 2024-01-01 02:56:00\.000000 .* of 0 rows"):
        nab_score(scores, load_series_labels(root))
