"""The main script as a user calls it, on three small recordings and a tiny model."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import warm
from pages import check_sound, facts_of, page_of
from project import (
    APNEA,
    CHECKPOINT,
    DATASET,
    LATE_APNEA,
    LOST,
    arguments_of,
    assert_same_weights,
    call,
    make_datasets,
    weights_of,
    write_recording,
)

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as script
import trainers
from data_loader import load_dataset
from detection.breathing_events import RESPIRATORY
from detection.checkpoint import read_tensors
from detection.detector import Detector
from recordings.reading import read_recording
from reports import findings, scoring

pytestmark = pytest.mark.slow

SCRIPT = Path(script.__file__)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_datasets(tmp_path_factory.mktemp("home"))


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def run(home):
    """A finished run, left as it is by every test."""
    root = home / "experiments" / "finished"
    assert call(home, "--out", root) == 0
    return root


def same_history(first, second):
    columns = ["epoch", "train_loss", "val_loss", "learning_rate"]
    first, second = (pd.read_csv(root / "history.csv")[columns] for root in (first, second))
    return first.equals(second)


# ---- one run --------------------------------------------------------------------------------


def test_a_run_fills_its_folder(run):
    files = {"config.json", "run.json", "log.txt", "history.csv", CHECKPOINT, "scores.csv", "alarms.csv", "nights.csv"}
    there = {path.name for path in run.iterdir()}
    assert files | {"metrics.json", "plots"} <= there
    assert not [name for name in there if name.startswith(".")]             # no lock, no torn file
    assert {"training.png", "three.png", "four.png"} <= {path.name for path in (run / "plots").iterdir()}
    assert read(run / "config.json")["model"]["hidden_units"] == 8
    assert read(run / "run.json")["simulated"] is True
    assert len(pd.read_csv(run / "history.csv")) == 3
    assert "NaN" not in (run / "metrics.json").read_text()
    calibration = read(run / "metrics.json")["calibration"]                 # 120 and 100 s of normal breathing
    assert calibration["hours"] == pytest.approx(220 / 3600, rel=0.05) and calibration["events"] >= 0
    assert calibration["events_per_hour"] == pytest.approx(calibration["events"] / calibration["hours"])


def test_a_run_ends_with_a_page_in_which_every_event_can_be_reached(run):
    text, page = page_of(run)
    check_sound(text, page)
    events, labels = (pd.read_csv(run / name, keep_default_na=False) for name in ("alarms.csv", "labels.csv"))
    for letter, count in (
        ("e", (events["found_by"] == "lstm").sum()),
        ("f", (events["found_by"] == "signal_loss").sum()),
        ("m", (labels["found_by"] == "").sum()),
    ):
        keys = [one["key"] for path in (run / "viewer").iterdir() for one in facts_of(path)["findings"]]
        assert sum(key[0] == letter for key in keys) >= count
    assert "Simulated data" in page.words and "Two channels of breathing, made by a test" in page.words


def test_close_ups_are_of_missed_events_first_and_few(run):
    alarms, labels = (pd.read_csv(run / name, keep_default_na=False) for name in ("alarms.csv", "labels.csv"))
    found, drawn = alarms[alarms["found_by"] == "lstm"], [p.stem for p in (run / "plots" / "events").iterdir()]
    for name in set(found["recording"]) | set(labels["recording"]):
        missed = (labels[labels["recording"] == name]["found_by"] == "").sum()
        events = missed + (found["recording"] == name).sum()
        here = [stem for stem in drawn if stem.startswith(f"{name}_")]
        assert len(here) == min(events, findings.CLOSE_UPS)
        assert sum(stem.endswith("_missed") for stem in here) == min(missed, findings.CLOSE_UPS)


def test_the_apnea_has_its_extent_its_kind_and_the_night_its_numbers(run):
    events = pd.read_csv(run / "events.csv", keep_default_na=False)
    assert {"signal_loss", "central_apnea"} <= set(events["kind"])
    [apnea] = events[events["matched_label"] == "central_apnea"].to_dict("records")
    assert (apnea["recording"], apnea["kind"], float(apnea["is_false"])) == ("three", "central_apnea", 0)
    assert float(apnea["iou"]) > 0.85 and float(apnea["reduction"]) > 0.9 and float(apnea["effort"]) < 0.3
    assert apnea["start_s"] == pytest.approx(APNEA[0], abs=1.5) and apnea["end_s"] == pytest.approx(APNEA[1], abs=1.5)
    rejected = pd.read_csv(run / "rejected_events.csv", keep_default_na=False)
    assert list(rejected)[:2] == ["recording", "kind"] and (rejected["reason"] != "").all()
    metrics, nights = read(run / "metrics.json"), pd.read_csv(run / "nights.csv")
    assert nights["recording"].tolist() == [night["recording"] for night in metrics["nights"]] == ["three", "four"]
    for row, night in zip(nights.to_dict("records"), metrics["nights"], strict=True):
        mine = events[(events["recording"] == row["recording"]) & events["kind"].isin(RESPIRATORY)]
        assert row["apneas"] + row["hypopneas"] == len(mine)
        assert row["ahi"] == pytest.approx(len(mine) / row["breathing_hours"], rel=1e-3)
        assert night["odi3"] is None and row["breaths_per_min"] == pytest.approx(15, abs=0.5)     # no oximeter
    assert metrics["respiratory"]["labelled"] == 1 and metrics["respiratory"]["paired"]["0.5"] == 1


def test_labels_say_what_found_them_and_agree_with_the_metrics(run):
    labels = pd.read_csv(run / "labels.csv", keep_default_na=False)
    assert labels[["recording", "kind", "found_by"]].to_numpy().tolist() == [
        ["three", "central_apnea", "lstm"], ["four", "sensor_dropout", "signal_loss"],
    ]  # fmt: skip
    events = pd.read_csv(run / "alarms.csv", keep_default_na=False)
    measures = read(run / "metrics.json")["detectors"]["LSTM"]["events"]
    mine = events[events["found_by"] == "lstm"]
    assert (mine["overlaps"] == "").sum() == measures["false_events"]
    assert ((mine["matched_label"] == "") | (mine["matched_label"] == mine["overlaps"])).all()
    shares = mine["contributions"].str.findall(r"(\d+) %").map(lambda found: sum(map(int, found)))
    components = ["amplitude_drop", "error", "transient_error", "joint"]
    assert shares.between(90, 101).all() and mine["component"].isin(components).all()
    [apnea] = mine[(mine["recording"] == "three") & (mine["matched_label"] == "central_apnea")]["start_s"]
    assert APNEA[0] < apnea < APNEA[1] + 5
    [fault] = events[events["found_by"] == "signal_loss"][["recording", "channel", "matched_label"]].to_numpy().tolist()
    assert fault == ["four", "thorax_au", "sensor_dropout"]
    kinds = read(run / "metrics.json")["detectors"]["LSTM"]["kinds"]
    assert {kind: row["found"] for kind, row in kinds.items()} == {"central_apnea": 1, "sensor_dropout": 1}


def test_signals_hold_what_was_drawn(run, home):
    dataset = load_dataset(home / "datasets" / "collected-known-anomaly" / "tiny")
    recordings = read(run / "data.json")["recordings"]
    with np.load(run / "signals.npz") as signals:
        for k, about in enumerate(recordings):
            mine = [segment for segment in dataset.splits["test"] if segment.recording == about["name"]]
            np.testing.assert_array_equal(signals[f"t_{k}"], np.concatenate([segment.t for segment in mine]))
            np.testing.assert_allclose(signals[f"values_{k}"], np.concatenate([segment.values for segment in mine]))
            assert signals[f"forecast_{k}"].shape == signals[f"values_{k}"].shape and about["steps"] > 400


def test_scores_have_a_row_for_every_test_step(run, home):
    scores = pd.read_csv(run / "scores.csv")
    dataset = load_dataset(home / "datasets" / "collected-known-anomaly" / "tiny")
    assert len(scores) == sum(len(segment) for segment in dataset.splits["test"])
    assert list(scores) == [
        "recording", "t_s", "score", "threshold", "alarm", "label", "baseline_score", "residual_flow_lpm",
        "residual_thorax_au",
    ]  # fmt: skip
    assert ((scores["score"] > scores["threshold"]) == scores["alarm"].astype(bool)).all()
    labelled = scores[scores["label"] == 1].groupby("recording")["t_s"]
    assert labelled.min().to_dict() == {"three": APNEA[0], "four": LOST[0]}
    assert labelled.max().to_dict() == {"three": APNEA[1], "four": LOST[1]}
    assert scores["residual_flow_lpm"].median() > 1                          # in L/min, not scaled


def test_baselines_stand_beside_the_lstm(run):
    detectors = read(run / "metrics.json")["detectors"]
    assert list(detectors) == ["LSTM", "amplitude baseline", "AASM-like rule", "untrained LSTM", "random scores"]


@pytest.mark.usefixtures("blank_pictures")
def test_labels_outside_the_test_fraction_are_not_missed(home, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_recording(raw, "night", 400, seed=5, events=[(30.0, 45.0, "apnea"), (*LATE_APNEA, "apnea")])
    split = {"train": ["night"], "val_fraction": 0.3, "test_fraction": 0.3}
    (tmp_path / "dataset_config.json").write_text(json.dumps({"tiny": DATASET | {"split": split}}))
    arguments = ["--dataset-config", tmp_path / "dataset_config.json", "--dataset", "tiny", "--out"]
    out = tmp_path / "datasets" / "collected-known-anomaly"
    assert collected_data_preprocess.main([str(a) for a in (*arguments, out)]) == 0
    words = ("--datasets", tmp_path / "datasets", "--set", "training.epochs=1", "--out", tmp_path / "run")
    assert call(home, *words) == 0                                           # the test span begins at 280 s
    labels = pd.read_csv(tmp_path / "run" / "labels.csv")
    assert labels[["start_s", "end_s"]].to_numpy().tolist() == [list(LATE_APNEA)]
    assert read(tmp_path / "run" / "metrics.json")["detectors"]["LSTM"]["events"]["labelled_events"] == 1


@pytest.mark.usefixtures("blank_pictures")
def test_the_answer_names_the_folder_and_the_results(home, tmp_path, capsys):
    assert call(home, "--out", tmp_path / "run", "--set", "training.epochs=1") == 0
    answer = capsys.readouterr().out
    assert "| central_apnea: found | 1 |" in answer and answer.strip().endswith(str(tmp_path / "run"))


@pytest.mark.usefixtures("blank_pictures")
def test_the_same_seed_gives_the_same_numbers(home, run, tmp_path):
    assert call(home, "--out", tmp_path / "again") == 0
    assert_same_weights(weights_of(run), weights_of(tmp_path / "again"))
    assert same_history(run, tmp_path / "again")
    for name in ("metrics.json", "scores.csv", "alarms.csv", "labels.csv", "data.json", "signals.npz"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.usefixtures("blank_pictures")
def test_several_seeds_are_summed_up(home, tmp_path):
    root = tmp_path / "seeds"
    assert call(home, "--out", root, "--seeds", 2, "--set", "training.epochs=1", "--set", "training.seed=4") == 0
    key = ("detectors", "LSTM", "threshold_free", "auc_pr")
    values = []
    for seed in (4, 5):
        content = read(root / f"seed{seed}" / "metrics.json")
        assert content["seed"] == seed
        for part in key:
            content = content[part]
        values.append(content)
    summary = read(root / "summary.json")
    assert summary["seeds"] == 2
    summary = summary["datasets"]["tiny"]
    for part in key:
        summary = summary[part]
    text, page = page_of(root)
    check_sound(text, page)
    assert {"seed4/report.html", "seed5/report.html"} <= set(page.links)
    assert all((root / link).is_file() for link in page.links if link.endswith(".html"))
    assert summary["values"] == values and values[0] != values[1]
    assert summary["mean"] == pytest.approx(np.mean(values)) and summary["std"] == pytest.approx(np.std(values))


@pytest.mark.usefixtures("blank_pictures")
def test_a_window_longer_than_every_segment_costs_no_memory(home, tmp_path):
    window = ("--set", "training.window_s=1e9", "--set", "training.epochs=1")
    assert call(home, "--out", tmp_path / "long", *window) == 0


@pytest.mark.usefixtures("blank_pictures")
def test_one_channel_alone(home, tmp_path):
    root = tmp_path / "one"
    assert call(home, "--out", root, "--set", 'dataset.channels=["flow_lpm"]', "--set", "training.epochs=1") == 0
    state = read_tensors(root / CHECKPOINT)
    assert state["channels"] == ["flow_lpm"] and state["units"] == ["L/min"]
    scores = pd.read_csv(root / "scores.csv")
    assert "residual_thorax_au" not in scores
    pd.read_csv(home / "raw" / "three.csv")[["t_s", "flow_lpm"]].to_csv(tmp_path / "three.csv", index=False)
    out = tmp_path / "scored"
    assert call(home, "--checkpoint", root / CHECKPOINT, "--score", tmp_path / "three.csv", "--out", out) == 0
    expected = scores.loc[scores["recording"] == "three", "score"]
    np.testing.assert_allclose(pd.read_csv(out / "scores.csv")["score"], expected, atol=1e-5)


@pytest.mark.usefixtures("blank_pictures")
def test_an_edf_and_its_annotations_score_like_the_csv_of_the_same_values(home, run, tmp_path):
    pyedflib = pytest.importorskip("pyedflib", reason="pip install -r requirements-dev.txt")
    frame = pd.read_csv(home / "raw" / "three.csv")
    edf, csv = tmp_path / "edf" / "three.edf", tmp_path / "csv" / "three.csv"
    for path in (edf, csv):
        path.parent.mkdir()
    with pyedflib.EdfWriter(str(edf), 2) as file:
        for k, (name, unit, most) in enumerate([("flow_lpm", "L/min", 100.0), ("thorax_au", "", 5.0)]):
            header = {"label": name, "dimension": unit, "sample_frequency": 10, "physical_min": -most,
                      "physical_max": most, "digital_min": -32768, "digital_max": 32767, "prefilter": "",
                      "transducer": ""}  # fmt: skip
            file.setSignalHeader(k, header)
        file.writeSamples([frame["flow_lpm"].to_numpy(), frame["thorax_au"].to_numpy()])
        file.writeAnnotation(APNEA[0], APNEA[1] - APNEA[0], "apnea")
    recording = read_recording(edf)
    columns = {name: samples.values for name, samples in recording.channels.items()}
    pd.DataFrame({"t_s": recording.t, **columns}).to_csv(csv, index=False)
    csv.with_name("three.events.csv").write_text(f"start_s,end_s,label\n{APNEA[0]},{APNEA[1]},apnea\n")
    found = []
    for path in (edf, csv):
        out = tmp_path / f"scored-{path.suffix[1:]}"
        assert call(home, "--checkpoint", run / CHECKPOINT, "--score", path, "--out", out) == 0
        found.append(pd.read_csv(out / "scores.csv").drop(columns="clock", errors="ignore"))    # of the EDF
    pd.testing.assert_frame_equal(*found, rtol=0, atol=1e-5)
    assert found[0]["label"].sum() == 101


def test_a_dry_run_leaves_nothing_behind(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(SCRIPT.parent.glob("experiments/*"))
    assert call(home, "--dry-run") == 0
    assert "works" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()) and sorted(SCRIPT.parent.glob("experiments/*")) == before


# ---- going on -------------------------------------------------------------------------------


@pytest.mark.usefixtures("blank_pictures")
def test_resuming_a_finished_run_scores_again_without_training(home, run, tmp_path, monkeypatch):
    root = shutil.copytree(run, tmp_path / "copy")
    (root / "metrics.json").unlink()
    monkeypatch.setattr(trainers.Trainer, "_train", lambda *_: pytest.fail("trained again"))
    assert call(home, "--resume", root) == 0
    assert (root / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    assert (root / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()
    assert_same_weights(weights_of(run), weights_of(root))


@pytest.mark.usefixtures("blank_pictures")
def test_a_copy_may_change_what_comes_after_training_but_not_training(home, run, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    other, change = tmp_path / "other", ("--set", "threshold.parameters.q=0.5")
    assert call(home, "--resume", run, *change) == 2             # the model may be in use
    assert "name another folder with --out" in capsys.readouterr().err
    assert call(home, "--resume", run, *change, "--out", other) == 0
    assert read(other / "metrics.json")["threshold"]["value"] < read(run / "metrics.json")["threshold"]["value"]
    for words, told in (
        (("--set", "training.epochs=9", "--out", tmp_path / "third"), "training"),
        ((*change, "--out", other), "not empty"), (("--out", tmp_path / "third"), "say how with --set"),
    ):
        assert call(home, "--resume", run, *words) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "third").exists()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.usefixtures("blank_pictures")
def test_a_copy_of_several_seeds_is_one_of_all(home, tmp_path):
    root, other = tmp_path / "seeds", tmp_path / "other"
    assert call(home, "--out", root, "--seeds", 2, "--set", "training.epochs=1") == 0
    assert call(home, "--resume", root, "--set", "threshold.parameters.q=0.5", "--out", other) == 0
    for name in ("seed0", "seed1"):
        assert_same_weights(weights_of(root / name), weights_of(other / name))
        assert (other / name / "report.html").is_file()
    assert (other / "summary.json").read_bytes() != (root / "summary.json").read_bytes()


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("method", ["false_events_per_hour", "gaussian", "pot", "dynamic"])
def test_a_resumed_run_may_take_another_threshold(home, run, tmp_path, method):
    root = tmp_path / "copy"
    change = f'threshold={{"method": "{method}"}}'
    assert call(home, "--resume", run, "--set", change, "--out", root) == 0
    assert read(root / "metrics.json")["threshold"]["method"] == method
    assert_same_weights(weights_of(run), weights_of(root))


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_an_interrupted_run_goes_on_as_if_undisturbed(home, run, tmp_path, monkeypatch, epochs_done):
    root, one_epoch = tmp_path / "cut", trainers.Trainer._one_epoch

    def interrupted(trainer, *arguments):
        if trainer.progress.epoch == epochs_done:
            raise KeyboardInterrupt
        one_epoch(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainers.Trainer, "_one_epoch", interrupted)
        assert call(home, "--out", root) == 130
    assert not (root / "metrics.json").exists() and not (root / ".lock").exists()
    assert epochs_done == 0 or len(pd.read_csv(root / "history.csv")) == epochs_done
    (root / ".lock").write_text(str(os.getppid()))                           # as a killed process leaves it
    torch.manual_seed(99)
    assert call(home, "--resume", root) == 0
    assert_same_weights(weights_of(run), weights_of(root))
    assert_same_weights(weights_of(run, "best"), weights_of(root, "best"))
    assert same_history(run, root)
    assert (root / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_a_process_stopped_by_ctrl_c_can_be_resumed(home, tmp_path):
    root = tmp_path / "stopped"
    command = [sys.executable, str(SCRIPT), *arguments_of(home, "--device", "cpu", "--out", root)]
    command += ["--set", "training.epochs=100000", "--set", "training.patience=100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with warm.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) as process:
        deadline = time.monotonic() + 60
        while not (root / "history.csv").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].strip() == "interrupted" and "Traceback" not in err and not out
    assert f"resume with: python {SCRIPT.name} --resume {root} --datasets {home / 'datasets'}\n" in err
    state = read_tensors(root / CHECKPOINT)
    assert state["training"]["progress"]["epoch"] >= 1 and not state["threshold"]
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    assert call(home, "--checkpoint", root / CHECKPOINT, "--score", home / "raw" / "three.csv") == 2


# ---- nothing of the test split is learnt ----------------------------------------------------


def forget_sums(folder):
    """Let the CSVs of a windowed dataset be other ones than those that were written."""
    meta = read(folder / "meta.json")
    (folder / "meta.json").write_text(json.dumps(meta | {"hashes": {}}))


@pytest.mark.usefixtures("blank_pictures")
def test_the_test_split_changes_nothing_that_is_learnt(home, run, tmp_path, capsys):
    changed = tmp_path / "datasets"
    shutil.copytree(home / "datasets", changed)
    path = changed / "collected-known-anomaly" / "tiny" / "test.csv"
    frame = pd.read_csv(path)
    frame["flow_lpm"] = 500 - 3 * frame["flow_lpm"]
    frame["thorax_au"] *= 100
    frame.to_csv(path, index=False)
    refused(home, capsys, "--datasets", changed, "--out", tmp_path / "run")
    forget_sums(path.parent)
    assert call(home, "--datasets", changed, "--out", tmp_path / "run") == 0
    before, after = (read_tensors(root / CHECKPOINT) for root in (run, tmp_path / "run"))
    assert_same_weights(before["model"], after["model"])
    for key in ("scaler", "calibration", "threshold", "baseline_thresholds"):
        assert before[key] == after[key]
    assert same_history(run, tmp_path / "run")
    assert (run / "scores.csv").read_bytes() != (tmp_path / "run" / "scores.csv").read_bytes()


# ---- scoring with a checkpoint --------------------------------------------------------------


@pytest.mark.usefixtures("blank_pictures")
def test_scoring_raw_recordings_gives_the_scores_of_the_run(home, run, tmp_path, capsys):
    raw = shutil.copytree(home / "raw", tmp_path / "elsewhere")
    out = tmp_path / "scored"
    files = [raw / "three.csv", raw / "four.csv"]
    assert call(home, "--checkpoint", run / CHECKPOINT, "--score", *files, "--out", out) == 0
    assert capsys.readouterr().out.strip().endswith(str(out))
    expected, got = pd.read_csv(run / "scores.csv"), pd.read_csv(out / "scores.csv")
    assert got["recording"].unique().tolist() == ["three", "four"]
    merged = expected.merge(got, on=["recording", "t_s"], suffixes=("_run", ""))
    assert len(merged) == len(expected) == len(got)
    for column in ("score", "threshold", "residual_flow_lpm", "residual_thorax_au"):
        np.testing.assert_allclose(merged[column], merged[f"{column}_run"], rtol=1e-5, atol=1e-5)
    assert merged["label"].equals(merged["label_run"]) and merged["alarm"].equals(merged["alarm_run"])
    columns = ["recording", "start_s", "end_s", "channel", "matched_label", "found_by"]
    expected, got = (pd.read_csv(root / "alarms.csv")[columns] for root in (run, out))
    pd.testing.assert_frame_equal(expected, got)
    assert (out / "plots" / "three.png").is_file()
    numbers, before = (read(root / "metrics.json") for root in (out, run))
    for name in ("LSTM", "amplitude baseline"):                            # labels stand beside: the same numbers
        for part in ("events", "kinds", "point"):
            assert numbers["detectors"][name][part] == before["detectors"][name][part]
    areas, expected = (m["detectors"]["LSTM"]["threshold_free"] for m in (numbers, before))
    assert areas == pytest.approx(expected, abs=1e-6)                      # VUS with the buffer of the training data
    assert numbers["vus_buffer_steps"] == before["vus_buffer_steps"] == 20 # a breath takes 4 s
    text, page = page_of(out)
    check_sound(text, page)
    assert "The LSTM found 1 of 1 apneas" in page.words


@pytest.mark.usefixtures("blank_pictures")
def test_scoring_needs_no_label_and_no_other_channel(home, run, tmp_path):
    frame = pd.read_csv(home / "raw" / "three.csv")
    frame["light"] = 1.0
    frame[["light", "thorax_au", "t_s", "flow_lpm"]].to_csv(tmp_path / "night.csv.gz", index=False)
    out = tmp_path / "scored"
    assert call(home, "--checkpoint", run / CHECKPOINT, "--score", tmp_path / "night.csv.gz", "--out", out) == 0
    expected, got = pd.read_csv(run / "scores.csv"), pd.read_csv(out / "scores.csv")
    assert set(got["recording"]) == {"night"} and not got["label"].any()
    expected = expected.loc[expected["recording"] == "three", "score"]
    np.testing.assert_allclose(got["score"], expected, atol=1e-5)
    metrics = read(out / "metrics.json")
    assert metrics["detectors"] == {} and metrics["found"]["recordings"] == 1
    assert metrics["found"]["events"] == len(pd.read_csv(out / "alarms.csv").query("found_by == 'lstm'"))
    text, page = page_of(out)
    check_sound(text, page)
    assert "Nothing is labelled here" in page.words
    assert not list((out / "plots" / "events").glob("*_false.png"))          # nobody knows


@pytest.mark.usefixtures("blank_pictures")
def test_many_recordings_are_scored_in_small_groups_as_one_by_one(home, run, tmp_path, monkeypatch):
    raw, sizes, detect = home / "raw", [], Detector.detect
    monkeypatch.setattr(scoring, "STEPS_AT_ONCE", 900)
    monkeypatch.setattr(Detector, "detect", lambda self, many: sizes.append(len(many)) or detect(self, many))
    words = ("--checkpoint", run / CHECKPOINT, "--score")
    files = [raw / f"{name}.csv" for name in ("three", "one", "two")]
    assert call(home, *words, *files, "--out", tmp_path / "all") == 0
    assert sizes == [1, 1, 1]                                                # 750, 600 and 500 steps
    assert call(home, *words, raw / "two.csv", "--out", tmp_path / "two") == 0
    together, alone = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("all", "two"))
    assert together["recording"].unique().tolist() == ["three", "one", "two"]
    together = together[together["recording"] == "two"].reset_index(drop=True)
    pd.testing.assert_frame_equal(together, alone)
    found = read(tmp_path / "all" / "metrics.json")["found"]
    assert (found["recordings"], found["labelled_recordings"]) == (3, 1)
    recordings = read(tmp_path / "all" / "data.json")["recordings"]
    assert [one["is_labelled"] for one in recordings] == [True, False, False]


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("dead", [np.nan, 0.3])
def test_a_channel_dead_in_one_recording_leaves_the_others(home, run, tmp_path, dead):
    frame = pd.read_csv(home / "raw" / "three.csv").assign(thorax_au=dead)
    frame.to_csv(tmp_path / "dead.csv", index=False)
    words = ("--checkpoint", run / CHECKPOINT, "--score", tmp_path / "dead.csv", home / "raw" / "four.csv")
    assert call(home, *words, "--out", tmp_path / "out") == 0
    events = pd.read_csv(tmp_path / "out" / "alarms.csv")
    fault = events[(events["recording"] == "dead") & (events["found_by"] == "signal_loss")]
    assert fault["channel"].tolist() == ["thorax_au"] and (fault["end_s"] - fault["start_s"]).iloc[0] > 145
    apnea = events[(events["recording"] == "dead") & (events["found_by"] == "lstm")]
    assert apnea["start_s"].between(*APNEA).any()                            # the airflow alone still shows it
    assert any("dead: thorax_au:" in line for line in read(tmp_path / "out" / "data.json")["filled"])
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert scores.loc[scores["recording"] == "dead", "residual_thorax_au"].isna().all()


def test_groups_hold_few_long_recordings_or_many_short_ones(monkeypatch):
    monkeypatch.setattr(scoring, "STEPS_AT_ONCE", 100)
    few = scoring.groups_of({"a": 60, "b": 40, "c": 1, "d": 300, "e": 5})
    assert list(few) == [["a", "b"], ["c"], ["d"], ["e"]]
    many = list(scoring.groups_of({str(k): 1 for k in range(40)}))
    assert [len(group) for group in many] == [16, 16, 8]


def test_folder_pattern_and_wildcard_name_the_same_recordings(tmp_path):
    for name in ("b.csv", "a.csv.gz", "a.events.csv", "notes.txt"):
        (tmp_path / name).write_text("")
    wanted = {"a": tmp_path / "a.csv.gz", "b": tmp_path / "b.csv"}
    assert scoring.files_to_score([tmp_path]) == wanted
    assert scoring.files_to_score([tmp_path / "*.csv*"]) == wanted
    assert scoring.files_to_score(sorted(tmp_path.glob("*.csv*"))) == wanted
    assert scoring.files_to_score([tmp_path, tmp_path / "b.csv"]) == wanted   # the same file twice is one


def review(viewer, add=()):
    """Return the text of `NAME.events.csv` as a viewer saves it, once all its events are marked true and some added."""
    found = [f for f in facts_of(viewer)["findings"] if f["verdict"] not in ("fault", "desaturation")]
    rows = sorted([*((f["start"], f["end"], f["kind"]) for f in found), *add])
    return "start_s,end_s,label\n" + "".join(f"{start:.2f},{end:.2f},{kind}\n" for start, end, kind in rows)


def test_a_second_model_is_trained_on_what_a_review_has_saved(home, run, tmp_path, blank_pictures):
    raw = tmp_path / "raw"
    shutil.copytree(home / "raw", raw)
    for name, seed in (("one", 5), ("three", 6)):                            # nobody has looked at them yet
        write_recording(raw, name, 400, seed, [(*LATE_APNEA, "apnea")])
        (raw / f"{name}.events.csv").unlink()
    files = [raw / "one.csv", raw / "three.csv"]
    assert call(home, "--checkpoint", run / CHECKPOINT, "--score", *files, "--out", tmp_path / "scored") == 0
    for file in files:
        text = review(tmp_path / "scored" / "viewer" / f"{file.stem}.html", [(200.0, 201.5, "cough")])
        assert "central_apnea" in text
        file.with_suffix(".events.csv").write_text(text)
    entry = DATASET | {"split": {"train": ["one"], "val": ["two"], "test": ["three"]}}
    (tmp_path / "data.json").write_text(json.dumps({"tiny": entry}))
    out = tmp_path / "datasets" / "collected-known-anomaly"
    made = ["--dataset-config", tmp_path / "data.json", "--dataset", "tiny", "--out", out]
    assert collected_data_preprocess.main([str(a) for a in made]) == 0
    train = pd.read_csv(out / "tiny" / "train.csv")["t_s"]
    assert len(train) > 500 and not train.between(200 - 10, 201.5 + 10).any()                # nor its guard of 10 s
    assert not train.between(*LATE_APNEA).any()
    second = ["--datasets", tmp_path / "datasets", "--out", tmp_path / "second", "--set", "training.epochs=1"]
    assert call(home, *second) == 0
    labels = pd.read_csv(tmp_path / "second" / "labels.csv")
    saved = pd.read_csv(raw / "three.events.csv")
    assert labels[["start_s", "end_s", "kind"]].to_numpy().tolist() == saved.to_numpy().tolist()
    assert labels.set_index("kind")["found_by"]["central_apnea"] == "lstm"


# ---- the user's mistakes --------------------------------------------------------------------


def refused(home, capsys, *arguments):
    """Return the one line on stderr that refuses a call."""
    capsys.readouterr()
    assert call(home, *arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line[:2].isdigit()]         # log lines begin with a time
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    assert not captured.out
    return lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_an_error(home, tmp_path, capsys):
    assert "--device cuda" in refused(home, capsys, "--device", "cuda", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_scored_are_refused(home, run, tmp_path, capsys):
    def score(*files):
        return refused(
            home, capsys, "--checkpoint", run / CHECKPOINT, "--score", *files, "--out", tmp_path / "scored"
        )

    (tmp_path / "three.csv").write_text("t_s,flow_lpm,thorax_au\n0,a,1\n")
    assert "three.csv" in score(tmp_path / "three.csv")
    assert "two files have the same name" in score(tmp_path / "three.csv", home / "raw" / "three.csv")
    assert "night_*.csv: no file matches this pattern" in score(tmp_path / "night_*.csv")
    (tmp_path / "empty").mkdir()
    assert "no recording in this folder; expected a ResMed card or files *.csv" in score(tmp_path / "empty")
    assert "a file of labelled events, no recording" in score(home / "raw" / "three.events.csv")
    good = [home / "raw" / f"{name}.csv" for name in ("one", "two", "four")]
    assert "three.csv" in score(*good, tmp_path / "three.csv")               # one that is unreadable stops all
    assert not (tmp_path / "scored").exists()


def test_resuming_a_run_at_work_is_refused(home, run, tmp_path, capsys, holder):
    root = shutil.copytree(run, tmp_path / "copy")
    holder(root)
    assert "is at work in it" in refused(home, capsys, "--resume", root)


@pytest.mark.usefixtures("blank_pictures")
def test_losses_are_shown_in_tensorboard_on_request(home, run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call(home, "--out", tmp_path / "x", "--tensorboard") == 0
    shown, history = EventAccumulator(str(tmp_path / "x" / "tensorboard")).Reload(), pd.read_csv(run / "history.csv")
    for name in ("train_loss", "val_loss", "learning_rate"):
        values = [(one.step, one.value) for one in shown.Scalars(name)]
        np.testing.assert_allclose(values, history[["epoch", name]], rtol=1e-5)
    assert not (run / "tensorboard").exists()


def test_tensorboard_that_is_missing_is_told_before_anything_is_written(home, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    assert call(home, "--out", tmp_path / "x", "--tensorboard") == 2
    assert "pip install tensorboard" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert call(home, "--checkpoint", "x", "--score", "y", "--tensorboard") == 2
