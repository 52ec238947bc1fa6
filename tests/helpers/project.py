"""A small project: three recordings, a windowed dataset, the config of a tiny model; the main script called on it."""

import json

import numpy as np
import pandas as pd
import torch

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as script
from detection.checkpoint import read_tensors

CHECKPOINT = "checkpoint.safetensors"
CONFIG = {
    "dataset": {"name": "tiny"},
    "model": {"hidden_units": 8, "num_layers": 1, "horizon_s": 2.0, "warm_up_s": 2.0},
    "training": {
        "epochs": 3, "updates_per_epoch": 3, "batch_size": 4, "window_s": 20.0, "learning_rate": 0.01, "plot_every": 0,
    },
    "score": {"expected_s": 10.0, "baseline_s": 30.0, "amplitude_s": 6.0},
    "threshold": {"method": "quantile", "parameters": {"q": 0.99}},
}  # fmt: skip
DATASET = {
    "description": "two channels of breathing, made by a test",
    "simulated": True,
    "raw_dir": "raw",
    "raw_hint": "the test makes them",
    "channels": {
        "flow_lpm": {"unit": "L/min", "measures": "airflow", "rate_hz": 10.0},
        "thorax_au": {"unit": "a.u.", "measures": "effort", "rate_hz": 10.0},
    },
    "rate_hz": 5.0,
    "guard_s": 10.0,
    "split": {"train": ["one"], "val": ["two"], "test": ["three", "four"]},
    "labels": {"apnea": "central_apnea", "lost": "sensor_dropout"},
    "fault_kinds": ["sensor_dropout"],
}
APNEA, LOST, LATE_APNEA = (90.0, 110.0), (60.0, 70.0), (350.0, 370.0)


def write_recording(raw, name, seconds, seed, events=()):
    """Write breaths of 4 s at 10 Hz, with an apnea and a dead belt where events say so."""
    random, t = np.random.default_rng(seed), np.arange(0, seconds, 0.1).round(1)
    flow = 30 * np.sin(2 * np.pi * t / 4) + 2 * random.normal(size=len(t))
    thorax = 0.5 * np.cos(2 * np.pi * t / 4) + 0.05 * random.normal(size=len(t))
    for start_s, end_s, label in events:
        inside = (t >= start_s) & (t <= end_s)
        if label == "apnea":
            flow[inside], thorax[inside] = 0.1 * random.normal(size=inside.sum()), 0.01
        else:
            thorax[inside] = np.nan
    pd.DataFrame({"t_s": t, "flow_lpm": flow, "thorax_au": thorax}).to_csv(raw / f"{name}.csv", index=False)
    if events:
        columns = ["start_s", "end_s", "label"]
        pd.DataFrame(list(events), columns=columns).to_csv(raw / f"{name}.events.csv", index=False)


def make_datasets(root):
    """Write raw recordings and the windowed dataset `tiny`; return their folder."""
    raw = root / "raw"
    raw.mkdir()
    write_recording(raw, "one", 120, seed=1)
    write_recording(raw, "two", 100, seed=2)
    write_recording(raw, "three", 150, seed=3, events=[(*APNEA, "apnea")])
    write_recording(raw, "four", 100, seed=4, events=[(*LOST, "lost")])
    (root / "dataset_config.json").write_text(json.dumps({"tiny": DATASET}))
    (root / "config.json").write_text(json.dumps(CONFIG))
    out = root / "datasets" / "collected-known-anomaly"
    arguments = ["--dataset-config", root / "dataset_config.json", "--dataset", "tiny", "--out", out]
    assert collected_data_preprocess.main([str(a) for a in arguments]) == 0
    return root


def arguments_of(home, *arguments):
    return [str(a) for a in ("--config", home / "config.json", "--datasets", home / "datasets", *arguments)]


def call(home, *arguments):
    """Run the script in this process, on the CPU unless told otherwise."""
    device = () if "--device" in arguments else ("--device", "cpu")
    return script.main(arguments_of(home, *device, *arguments))


def weights_of(run, part="model"):
    state = read_tensors(run / CHECKPOINT)
    return state["training"]["progress"]["best_model"] if part == "best" else state["model"]


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
