"""Every script on every input format, each as a process of its own: what a user starts imports in its own order.

Each script meets a fresh interpreter, and so does each package that reads recordings where it is the first to be
imported. Scoring imports torch first: that order is the same in a process that has torch at once.
"""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import warm
from input_faults import write_edf, write_wfdb

from utils import ROOT

pytestmark = pytest.mark.slow

FRESH, WARM = ("csv", "edf", "hea"), ("csv.gz", "tsv", "bdf")     # the first of each package
SETTINGS = [
    "model.hidden_units=4", "model.num_layers=1", "model.horizon_s=2.0", "model.warm_up_s=2.0", "training.epochs=1",
    "training.updates_per_epoch=2", "training.batch_size=4", "training.window_s=20.0", "score.expected_s=10.0",
    "score.baseline_s=30.0", "score.amplitude_s=6.0", "events.merge_gap_s=2.0",
    'threshold={"method": "quantile", "parameters": {"q": 0.99}}',
]  # fmt: skip
MAIN = ("pure_lstm_anomaly_detection_main.py", "--device", "cpu")


def run_fresh(command, **where):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **where)


def run(*words, stdin=None, by=run_fresh):
    """Run a script, or `-m module`, at home in the repository; return its standard output."""
    done = by([sys.executable, *map(str, words)], cwd=ROOT, stdin=stdin)
    assert done.returncode == 0 and "Traceback" not in done.stderr, f"{words}\n{done.stderr[-2000:]}"
    return done.stdout


def write(path, frame):
    """Write a recording of t_s, flow_lpm and thorax_au at 10 Hz in the format of the suffix."""
    if path.suffix in (".edf", ".bdf"):
        write_edf(path, frame, bdf=path.suffix == ".bdf")
    elif path.suffix == ".hea":
        write_wfdb(path, frame)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def make_night(home, suffix):
    """Write a recording of 5 minutes with an apnea in its last third, its events and its dataset entry."""
    home.mkdir()
    random, t = np.random.default_rng(0), np.arange(3000) / 10
    flow = 30 * np.sin(2 * np.pi * t / 4) * np.where((t > 250) & (t < 270), 0.02, 1) + random.normal(size=3000)
    thorax = 0.5 * np.cos(2 * np.pi * t / 4) + 0.05 * random.normal(size=3000)
    write(home / f"night.{suffix}", pd.DataFrame({"t_s": t, "flow_lpm": flow.round(2), "thorax_au": thorax.round(4)}))
    (home / "night.events.csv").write_text("start_s,end_s,label\n250,270,apnea\n")
    channels = {
        "flow_lpm": {"unit": "L/min", "measures": "airflow", "rate_hz": 10.0},
        "thorax_au": {"unit": "a.u.", "measures": "effort", "rate_hz": 10.0},
    }
    entry = {
        "description": "one night, made by a test", "raw_dir": ".", "raw_hint": "-",
        "file_pattern": f"{{name}}.{suffix}", "channels": channels, "rate_hz": 5.0, "guard_s": 10.0,
        "normal_margin_s": 5.0, "labels": {"apnea": "apnea"},
        "split": {"train": ["night"], "val_fraction": 0.3, "test_fraction": 0.3},
    }  # fmt: skip
    (home / "data.json").write_text(json.dumps({"nights": entry}))
    return home / f"night.{suffix}"


def preprocess(home, by=run_fresh):
    """Make the windowed dataset of a night; return its meta.json."""
    family = home / "datasets" / "collected-known-anomaly"
    words = ("--dataset-config", home / "data.json", "--dataset", "nights", "--out", family)
    run("collected_data_preprocess.py", *words, by=by)
    return json.loads((family / "nights" / "meta.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that was trained on a CSV."""
    home = tmp_path_factory.mktemp("trained") / "home"
    make_night(home, "csv")
    preprocess(home)
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    run(*MAIN, "--dataset", "nights", "--datasets", home / "datasets", *sets, "--out", home / "run")
    return home / "run"


@pytest.mark.parametrize("suffix", [*FRESH, *WARM])
def test_inspect_preprocess_score_and_replay_read(trained, tmp_path, suffix):
    home, by = tmp_path / "home", run_fresh if suffix in FRESH else warm.run
    by_main = run_fresh if suffix == "csv" else warm.run
    night = make_night(home, suffix)
    assert "flow_lpm" in run("collected_data_preprocess.py", "--inspect", night, by=by)
    assert preprocess(home, by)["events"] == {"night": [{"start_s": 250.0, "end_s": 270.0, "kind": "apnea"}]}
    run(*MAIN, "--checkpoint", checkpoint_in(trained), "--score", night, "--out", home / "scored", by=by_main)
    scores = pd.read_csv(home / "scored" / "scores.csv")
    assert len(scores) > 1400 and scores["score"].notna().mean() > 0.8
    assert (home / "scored" / "report.html").is_file()
    lines = run("-m", "live.replay", night, "--speed", 0, by=by).splitlines()
    assert len(lines) == 3001 + ("L/min" in lines[1])                        # a row of units, where the file has some


def test_what_comes_after_training_starts_alone(trained, tmp_path):
    night = make_night(tmp_path / "home", "csv")
    with night.open() as rows:
        live = run("stream_detect.py", "--checkpoint", checkpoint_in(trained), stdin=rows)
    assert live.count("\nstep,") > 1400
    assert "onnx" in run("export_model.py", "--checkpoint", checkpoint_in(trained), "--out", tmp_path / "onnx")
    assert "report.html" in run("-m", "reports.page", trained)


def checkpoint_in(folder):
    return next(folder.glob("checkpoint.*"))
