"""Odd numbers on the whole path, files in and events out: a trained model scores them as a whole and line by line."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pictures
import pytest
from input_faults import CONFIG, CSV_DATA, TINY_RUN, draw

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as main_script
import stream_detect
from config import FLAT_S
from data_loader import load_dataset
from detection.checkpoint import load_calibrated
from detection.detector import DetectorStream

pytestmark = pytest.mark.robustness

APNEA, DIES_S = (120.0, 140.0), 60.0
PREPROCESS = "--dataset-config dataset_config.json --dataset tiny --out datasets/collected-known-anomaly"
TRAINED = CONFIG | {
    "model": {"hidden_units": 16, "num_layers": 1, "horizon_s": 2.0, "warm_up_s": 2.0},
    "training": CONFIG["training"] | {"epochs": 4, "updates_per_epoch": 40, "batch_size": 16, "channel_dropout": 0.3},
    "score": CONFIG["score"]
    | {"weights": {"amplitude_drop": 1.0, "error": 0.01, "transient_error": 0.01, "joint": 0.01}},
    "threshold": {"method": "quantile", "parameters": {"q": 0.995}},
}


def draw_night(seed=7):
    """Return 160 s of breathing that stops in both channels for 20 s."""
    frame = draw(160, seed)
    frame.loc[frame["t_s"].between(*APNEA), ["flow_lpm", "thorax_au"]] *= 0.01
    return frame


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a dataset and a run that was trained on it."""
    root = tmp_path_factory.mktemp("odd")
    (root / "raw").mkdir()
    for seed, (name, seconds) in enumerate({"one": 300, "two": 300, "three": 150}.items()):
        draw(seconds, seed).to_csv(root / "raw" / f"{name}.csv", index=False)
    (root / "dataset_config.json").write_text(json.dumps({"tiny": CSV_DATA}))
    (root / "config.json").write_text(json.dumps(TRAINED))
    with contextlib.chdir(root):
        assert collected_data_preprocess.main(PREPROCESS.split()) == 0
        with pictures.blank():
            assert main_script.main(f"{TINY_RUN} --out run".split()) == 0
    return root


class Scored:
    """What a recording led to, as a whole (steps, events) and line by line (live_steps, live_events)."""

    def __init__(self, home, folder, frame):
        path, out, live = folder / "night.csv", folder / "scored", folder / "live.csv"
        frame.to_csv(path, index=False)
        words = ["--checkpoint", str(home / "run" / "checkpoint.safetensors"), "--device", "cpu"]
        with path.open() as sys.stdin:
            self.live_code = stream_detect.main([*words, "--out", str(live)])
        self.code = main_script.main([*words, "--score", str(path), "--out", str(out)])
        lines = pd.read_csv(live)
        self.live_steps, self.live_events = lines[lines["kind"] == "step"], lines[lines["kind"] == "event_end"]
        if self.code == 0:
            self.steps, self.events = pd.read_csv(out / "scores.csv"), pd.read_csv(out / "alarms.csv")

    def both(self):
        """Yield steps and events, as a whole and live."""
        yield self.steps, self.events
        yield self.live_steps, self.live_events


@pytest.fixture
def score(home, tmp_path, monkeypatch, blank_pictures):
    monkeypatch.setattr(sys, "stdin", sys.stdin)                     # it comes back
    return lambda frame: Scored(home, tmp_path, frame)


@pytest.fixture(scope="module")
def known():
    """What nights led to that several tests ask about, by what made them odd."""
    return {}


@pytest.fixture
def score_odd(score, known, capsys):
    """Return a function that makes a night odd, or leaves it, and scores it, once for all tests."""

    def scored(odd):
        if odd not in known:
            frame = draw_night()[: 700 if odd in ODD else None]
            if odd:
                odd(frame)
            capsys.readouterr()
            known[odd] = score(frame)
            known[odd].err = capsys.readouterr().err
        return known[odd]

    return scored


# ---- recordings to score --------------------------------------------------------------------


def some_missing(frame):
    gone = np.random.default_rng(0).random((len(frame), 2)) < 0.2
    frame[["flow_lpm", "thorax_au"]] = frame[["flow_lpm", "thorax_au"]].mask(gone)


def infinities(frame):
    frame.loc[300:320, "flow_lpm"], frame.loc[500, "thorax_au"] = np.inf, -np.inf


def denormals(frame):
    frame.loc[300:340, "flow_lpm"], frame.loc[350:380, "thorax_au"] = 5e-324, 1e-310


def negative_zeros(frame):
    frame.loc[300:400, "flow_lpm"] = -0.0


def one_spike(frame):
    frame.loc[400, "flow_lpm"] = 1e29


def far_off(frame):
    frame["thorax_au"] += 1e9 + np.arange(len(frame)) * 1e4          # which drifts by more than the last digit


def beyond_doubles(frame):
    frame["thorax_au"] += 1e30                                       # the same number throughout


def constant(frame):
    frame["thorax_au"] = 0.25


def dead(frame):
    frame["thorax_au"] = np.nan


def dies(frame, value=np.nan):
    frame.loc[frame["t_s"] >= DIES_S, "thorax_au"] = value


def dies_flat(frame):
    dies(frame, 0.25)


def dies_at_infinity(frame):
    dies(frame, np.inf)


def dies_at_a_denormal(frame):
    dies(frame, 1e-310)


DEAD = (beyond_doubles, constant, dead, dies, dies_flat, dies_at_infinity, dies_at_a_denormal)
ODD = (some_missing, infinities, denormals, negative_zeros, one_spike, far_off)
FLAT_AT_FIRST = (beyond_doubles, constant)                           # a stream does not know yet that it stays so


@pytest.mark.parametrize("odd", [*ODD, *DEAD])
def test_odd_numbers_score_live_as_in_a_batch_and_finitely(score_odd, odd):
    scored = score_odd(odd)
    assert scored.code == scored.live_code == 0 and "Warning" not in scored.err
    for steps, _ in scored.both():
        known = steps.loc[steps["t_s"] > 10, "score"]
        assert np.isfinite(known).all() and (known >= 0).all(), "the live channel has a score at each step"
        assert not np.isinf(steps.select_dtypes("number")).any(axis=None)
    if odd not in FLAT_AT_FIRST:
        live = scored.live_steps.set_index(scored.live_steps["t_s"].round(3))["score"]
        np.testing.assert_allclose(live.loc[scored.steps["t_s"].round(3)], scored.steps["score"], atol=2e-3)


@pytest.mark.parametrize("odd", [None, *DEAD])
def test_a_dead_channel_does_not_silence_the_others(score_odd, odd):
    scored = score_odd(odd)
    for steps, events in scored.both():
        before = steps.loc[steps["t_s"].between(DIES_S + FLAT_S + 8, APNEA[0]), "alarm"]
        assert before.mean() < 0.1, "the dead one alarms no more"
        found = events[(events["found_by"] == "lstm") & events["start_s"].between(APNEA[0], APNEA[0] + 10)]
        assert found["channel"].tolist() == ["flow_lpm" if odd else found["channel"].item()]
        assert found["end_s"].item() > APNEA[1] - 2
        faults = events[(events["found_by"] == "signal_loss") & (events["end_s"] - events["start_s"] > 60)]
        assert faults["channel"].tolist() == ["thorax_au"] * bool(odd)


def test_the_other_channel_goes_on_as_well_when_the_airflow_dies(score):
    frame = draw_night()
    frame.loc[frame["t_s"] >= DIES_S, "flow_lpm"] = np.nan
    for _, events in score(frame).both():
        found = events[(events["found_by"] == "lstm") & events["start_s"].between(APNEA[0], APNEA[0] + 10)]
        assert found["channel"].tolist() == ["thorax_au"]


# ---- hardly any numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, "0 rows of samples; expected at least 2"),
        (1, "1 row of samples; expected at least 2"),
        (2, "0.1 s long; the model's warm-up and horizon need 4.2 s"),
        (None, "no channel of the model has a value long enough to be used"),
    ],
)
def test_a_recording_of_one_step_or_none_is_refused_in_one_line(score, capsys, rows, expected):
    frame = draw_night()
    if rows is None:
        frame[["flow_lpm", "thorax_au"]] = np.nan
    scored = score(frame[:rows])
    err = capsys.readouterr().err
    assert scored.code == 2 and f"error: night.csv: {expected}" in err and "Warning" not in err
    assert scored.live_code == 2 and not len(scored.live_events)             # no step was scored


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.0, "error: tiny: no data left for val"),
        (3.0, "error: no calibration segment is long enough: the longest has "),
        (9.0, "error: score: no calibration segment is long enough: the longest has "),
    ],
)
def test_too_few_calibration_samples_are_refused_before_training(home, tmp_path, capsys, seconds, expected):
    shutil.copytree(home, tmp_path / "home")
    draw(seconds, 1).to_csv(tmp_path / "home" / "raw" / "two.csv", index=False)
    with contextlib.chdir(tmp_path / "home"):
        code = collected_data_preprocess.main(PREPROCESS.split())
        code = code or main_script.main(f'{TINY_RUN} --set score.calibrate_on=["val"] --out new'.split())
        assert code == 2 and not Path("new").exists()
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, 5e-324, 1e-310, 1e-40])
def test_training_data_that_cannot_be_scaled_are_one_line(home, tmp_path, capsys, value):
    shutil.copytree(home, tmp_path / "home")
    with contextlib.chdir(tmp_path / "home"):
        frame = pd.read_csv("raw/one.csv")
        frame["flow_lpm"] *= value
        frame.to_csv("raw/one.csv", index=False)
        assert collected_data_preprocess.main(PREPROCESS.split()) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "'flow_lpm'" in err[0], err


def test_pieces_of_odd_numbers_give_what_the_whole_gives(home):
    _, detector = load_calibrated(home / "run" / "checkpoint.safetensors", "cpu")
    dataset = load_dataset(home / "datasets" / "collected-known-anomaly" / "tiny")
    values = dataset.splits["test"][0].values[:400].astype(float)
    odd = [np.nan, np.inf, -np.inf, 5e-324, 1e-310, -0.0, 1e29, -1e29, 1e300, -1e300]
    values[100:300:20, 0] = odd
    values[250:, 1] = np.nan
    (whole,) = detector.detect([values])
    stream = DetectorStream(detector)
    scores = np.concatenate([stream.update(values[k : k + 1]).score for k in range(len(values))])
    assert np.isfinite(whole.score[40:]).all()
    np.testing.assert_allclose(scores, whole.score, atol=1e-4)
