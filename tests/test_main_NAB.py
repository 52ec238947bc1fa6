"""The main script on series of rows: one, a whole category, seeds, resuming, scoring new rows."""

import json
import shutil

import numpy as np
import pandas as pd
import pictures
import pytest
import torch
from pages import check_sound, facts_of, page_of

import data_preprocess_NAB
import grid_search
import pure_lstm_anomaly_detection_main as script
from detection.checkpoint import read_tensors
from recordings import nab_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_pictures")]

CHECKPOINT = "checkpoint.safetensors"
NAMES = ("nyc_taxi", "rogue_agent_key_hold")
ROWS, NORMAL, PERIOD_S = 700, 420, 600
WINDOW = (500, 560)
CONFIG = {
    "dataset": {"name": "realKnownCause"},
    "model": {"hidden_units": 8, "num_layers": 1, "horizon_rows": 6, "warm_up_rows": 6},
    "training": {
        "epochs": 2, "updates_per_epoch": 4, "batch_size": 4, "learning_rate": 0.01, "window_rows": 40, "plot_every": 0,
    },
    "score": {
        "error_rows": 12, "level_rows": 24, "near_rows": 1, "settle_rows": 1, "weights": {"error": 1.0, "level": 1.0},
        "calibrate_on": ["train", "val"],
    },
    "threshold": {"method": "quantile", "parameters": {"q": 0.98}},
    "events": {"merge_gap_rows": 12, "tolerance_rows": 0},
}  # fmt: skip
DATASET = {
    "description": "made by a test", "val_fraction": 0.3, "normal_share": 0.6, "guard_rows": 20, "gap_rows": 100,
    "window_rows": 64,
}  # fmt: skip


def write_series(nab, name, seed, later=0.0):
    """Write a daily wave with a raised stretch in its window; `later` changes the rows behind the normal ones."""
    random, row = np.random.default_rng(seed), np.arange(ROWS)
    values = 20 + 5 * np.sin(row / 12) + 0.3 * random.normal(size=ROWS)
    values[slice(*WINDOW)] += 8
    values[NORMAL:] += later * random.normal(size=ROWS - NORMAL)
    times = pd.Series(pd.date_range("2014-04-01", periods=ROWS, freq=f"{PERIOD_S}s")).dt.strftime("%Y-%m-%d %H:%M:%S")
    path = nab_files.series_names()[name]
    file = nab / "data" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"timestamp": times, "value": values.round(4)}).to_csv(file, index=False)
    return path, [[times[WINDOW[0]], times[WINDOW[1]]]]


def make_home(home, later=0.0):
    """Write NAB, config and windowed datasets below a folder; return it."""
    labels = dict(write_series(home / "nab", name, seed, later) for seed, name in enumerate(NAMES))
    (home / "nab" / "labels").mkdir()
    (home / "nab" / nab_files.LABELS).write_text(json.dumps(labels))
    (home / "config.json").write_text(json.dumps(CONFIG))
    (home / "dataset_config.json").write_text(json.dumps({"NAB": DATASET}))
    out = home / "datasets" / "NAB-known-anomaly"
    paths = ["--nab-root", home / "nab", "--out", out, "--dataset-config", home / "dataset_config.json"]
    assert data_preprocess_NAB.main([*map(str, paths), "--series", *NAMES]) == 0
    return home


def call(home, *arguments):
    paths = ("--config", home / "config.json", "--datasets", home / "datasets", "--device", "cpu")
    return script.main([str(word) for word in (*paths, *arguments)])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _two_series(monkeypatch):
    monkeypatch.setattr(nab_files, "series_of", lambda category: list(NAMES) * (category == "realKnownCause"))


@pytest.fixture(scope="module")
def run(home):
    """A finished run of one series, left as it is by every test."""
    root = home / "experiments" / "taxi"
    with pictures.blank():
        assert call(home, "--dataset", "nyc_taxi", "--out", root) == 0
    return root


def read(path):
    return json.loads(path.read_text())


def test_a_series_run_has_scores_events_and_numbers_a_row(run):
    scores = pd.read_csv(run / "scores.csv")
    assert list(scores)[:3] == ["recording", "t_s", "timestamp"] and len(scores) == ROWS - NORMAL
    assert (scores["t_s"] / PERIOD_S).tolist() == list(range(NORMAL, ROWS))
    events = pd.read_csv(run / "alarms.csv")
    assert "anomaly" in events["matched_label"].tolist()
    hit = events[events["matched_label"] == "anomaly"].iloc[0]
    assert scores.set_index("timestamp").loc[hit["start_timestamp"], "t_s"] == hit["start_s"]
    metrics = read(run / "metrics.json")
    assert list(metrics["detectors"]) == [
        "LSTM", "sum of squares", "difference from the last value", "untrained LSTM", "random scores",
    ]  # fmt: skip
    lstm, random = (metrics["detectors"][name] for name in ("LSTM", "random scores"))
    assert lstm["events"]["matched_events"] == 1 and lstm["nab"]["standard"] > 50
    assert lstm["threshold_free"]["auc_pr"] > 2 * random["threshold_free"]["auc_pr"]
    assert set(metrics["forecast"]) == {"lstm", "best_epoch", "last_value", "mean"}
    assert metrics["faults"]["reported"] == 0
    assert read(run / "config.json")["model"]["horizon_rows"] == 6          # as it was written


def test_every_test_row_counts_for_every_detector(run):
    scores = pd.read_csv(run / "scores.csv")
    assert scores["score"].isna().sum() > 0                                  # of the warm-up
    detectors = read(run / "metrics.json")["detectors"]
    for one in detectors.values():
        assert one["events"]["labelled_events"] == 1
    recall = detectors["LSTM"]["point"]["recall"]
    assert recall == pytest.approx(scores.loc[scores["label"] == 1, "alarm"].mean())


def test_the_test_span_changes_no_weight_scaler_or_threshold(run, home, tmp_path):
    other = make_home(tmp_path, later=30.0)
    assert call(other, "--dataset", "nyc_taxi", "--out", tmp_path / "run") == 0
    first, second = (read_tensors(folder / CHECKPOINT) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    for key in ("scaler", "calibration", "threshold", "baseline_thresholds"):
        assert first[key] == second[key]
    scores = [pd.read_csv(folder / "scores.csv")["score"] for folder in (run, tmp_path / "run")]
    assert not np.allclose(*scores, equal_nan=True)


def test_a_category_is_one_model_a_series_with_a_table(home, tmp_path, capsys):
    root = tmp_path / "all"
    assert call(home, "--out", root, "--set", "training.epochs=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| **mean of 2**") for line in lines) == 5
    for name in NAMES:
        assert (root / name / CHECKPOINT).is_file() and any(line.startswith(f"| {name} | LSTM") for line in lines)
    assert set(read(root / "summary.json")["datasets"]) == set(NAMES)
    text, page = page_of(root)
    check_sound(text, page)
    assert {f"{name}/report.html" for name in NAMES} <= set(page.links) and "mean of 2" in page.words
    text, page = page_of(root / NAMES[0])
    check_sound(text, page)
    events = pd.read_csv(root / NAMES[0] / "events.csv", keep_default_na=False)
    (viewer,) = (root / NAMES[0] / "viewer").iterdir()
    assert len([one for one in facts_of(viewer)["findings"] if one["foundBy"]]) == len(events) > 0
    assert "label window" in page.words and "NAB score" in page.words and "false events an hour" not in page.words


def test_seeds_of_a_category_resume_where_they_stopped(home, tmp_path, capsys):
    root = tmp_path / "all"
    assert call(home, "--out", root, "--seeds", 2, "--set", "training.epochs=1") == 0
    summary = (root / "summary.json").read_bytes()
    weights = read_tensors(root / NAMES[1] / "seed1" / CHECKPOINT)["model"]
    shutil.rmtree(root / NAMES[1] / "seed1")                                 # as if it had not been reached
    (root / "summary.json").unlink()
    assert script.main(["--resume", str(root), "--datasets", str(home / "datasets"), "--device", "cpu"]) == 0
    again = read_tensors(root / NAMES[1] / "seed1" / CHECKPOINT)["model"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert (root / "summary.json").read_bytes() == summary


def test_new_rows_are_scored_as_in_the_run(run, home, tmp_path):
    rows = pd.read_csv(home / "nab" / "data" / nab_files.series_names()["nyc_taxi"]).iloc[NORMAL:]
    rows.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "scored"
    assert call(home, "--checkpoint", run / CHECKPOINT, "--score", tmp_path / "new.csv", "--out", out) == 0
    scores, expected = (pd.read_csv(folder / "scores.csv") for folder in (out, run))
    np.testing.assert_allclose(scores["score"], expected["score"], atol=1e-5)
    assert scores["timestamp"].tolist() == expected["timestamp"].tolist()
    text, page = page_of(out)
    check_sound(text, page)
    assert "Nothing is labelled here" in page.words


def test_rows_at_another_rate_and_exports_of_a_series_are_refused(run, home, tmp_path, capsys):
    rows = pd.read_csv(home / "nab" / "data" / nab_files.series_names()["nyc_taxi"]).iloc[::4]
    rows.to_csv(tmp_path / "new.csv", index=False)
    words = ("--checkpoint", run / CHECKPOINT, "--score", tmp_path / "new.csv", "--out", tmp_path / "no")
    for more, told in (
        ((), "a row every 2400 s, but the model was trained on a row every 600 s"),
        (("--export", "annot"), "--export: only the events of recordings are exported; this model is of a series"),
    ):
        assert call(home, *words, *more) == 2 and told in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_a_grid_over_rows_ends_in_a_config_in_rows(home, tmp_path, capsys):
    content = CONFIG | {"dataset": {"name": "nyc_taxi"}, "grid": {"model.horizon_rows": [4, 6]}}
    (tmp_path / "grid.json").write_text(json.dumps(content))
    words = ["--config", tmp_path / "grid.json", "--datasets", home / "datasets", "--out", tmp_path / "out"]
    assert grid_search.main([str(word) for word in (*words, "--set", "training.epochs=1")]) == 0
    table = pd.read_csv(tmp_path / "out" / "grid_results.csv")
    assert sorted(table["model.horizon_rows"]) == [4, 6] and (table["status"] == "finished").all()
    best = read(tmp_path / "out" / "best_config.json")
    assert best["model"]["horizon_rows"] in (4, 6) and "horizon_s" not in best["model"]


def test_a_grid_of_a_category_is_refused(home, tmp_path, capsys):
    words = ["--config", home / "config.json", "--datasets", home / "datasets", "--out", tmp_path / "out"]
    assert grid_search.main([str(w) for w in (*words, "--set", 'grid={"model.num_layers": [1, 2]}')]) == 2
    assert "'realKnownCause' is a category of series; choose one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.horizon_rows=40", "model.horizon_rows + model.warm_up_rows is 46 rows, but the guard of nyc_taxi is"),
        ("training.window_rows=4", "training.window_rows is 4 rows; expected more than model.warm_up_rows, 6 rows"),
        ("dataset.name=nyc_taxy", "no windowed dataset 'nyc_taxy'"),
        ("dataset.name=ambient_temperature_system_failure", "create it first: python data_preprocess_NAB.py"),
        ("dataset.name=Twitter_volume_FB", "create it first: python data_preprocess_NAB.py --series Twitter_volume_FB"),
    ],
)
def test_a_wrong_config_is_one_line_and_leaves_nothing(home, tmp_path, capsys, override, expected):
    dataset = () if override.startswith("dataset") else ("--dataset", "nyc_taxi")
    assert call(home, *dataset, "--set", override, "--out", tmp_path / "no") == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(err) == 1 and expected in err[0] and not (tmp_path / "no").exists()
