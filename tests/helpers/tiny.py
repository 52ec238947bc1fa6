"""Checkpoints of tiny detectors, calibrated but not trained, and raw input for them, for tests of live detection."""

import numpy as np
import pandas as pd
import torch

from config import DatasetConfig, ExperimentConfig
from data_loader import Scaler
from detection.checkpoint import state_of, write_tensors
from detection.detector import Detector, build_model
from detection.resolved import resolve
from recordings import preprocessing

DATA = {
    "description": "three channels of breathing, made by a test",
    "simulated": True,
    "raw_dir": "raw",
    "raw_hint": "the test makes them",
    "channels": {
        "flow": {"unit": "L/min", "measures": "airflow", "rate_hz": 25.0, "low_pass_hz": 1.5},
        "belt": {"unit": "a.u.", "measures": "effort", "rate_hz": 12.5, "flatline_s": 2.0},
        "pulse": {"unit": "bpm", "measures": "oximetry", "rate_hz": 1.0, "sentinels": [127.0]},
    },
    "rate_hz": 5.0,
    "split": {"train": ["one"], "val": ["two"], "test": ["three"]},
}
CONFIG = {
    "model": {"hidden_units": 6, "num_layers": 2, "horizon_s": 2.0, "warm_up_s": 2.0},
    "score": {"expected_s": 10.0, "baseline_s": 30.0, "amplitude_s": 6.0},
    "threshold": {"method": "quantile", "parameters": {"q": 0.98}},
    "events": {"merge_gap_s": 2.0, "min_duration_s": 0.4, "fault_min_s": 2.0},
}
PERIOD_S = 600
SERIES_CONFIG = {
    "model": {"hidden_units": 6, "num_layers": 1, "horizon_rows": 6, "warm_up_rows": 6},
    "score": {
        "error_rows": 12, "level_rows": 24, "near_rows": 1, "settle_rows": 1, "weights": {"error": 1.0, "level": 1.0},
    },
    "threshold": {"method": "quantile", "parameters": {"q": 0.98}},
    "events": {"merge_gap_rows": 12, "tolerance_rows": 0},
}  # fmt: skip


def draw_recording(seconds, seed, trouble=False):
    """Return raw rows at 25 Hz as a table; trouble: an apnea, a dead belt, and gaps of rows and of all channels."""
    random, t = np.random.default_rng(seed), np.arange(seconds * 25) / 25
    columns = {
        "t_s": t,
        "flow": 30 * np.sin(2 * np.pi * t / 4) + 2 * random.normal(size=len(t)),
        "belt": np.where(np.arange(len(t)) % 2, np.nan, np.cos(2 * np.pi * t / 4) + 0.1 * random.normal(size=len(t))),
        "pulse": np.where(np.arange(len(t)) % 25, np.nan, 70 + random.integers(-3, 4, size=len(t))),
    }
    frame = pd.DataFrame(columns).round(4)
    if not trouble:
        return frame
    for start_s, end_s, names, value in [
        (40, 55, ["flow", "belt"], 0.1), (62, 67, ["belt"], np.nan), (70, 75, ["belt"], 0.3), (71, 75, ["pulse"], 127),
        (90, 94, ["flow", "belt", "pulse"], np.nan), (110, 110.3, ["flow"], np.nan),
    ]:  # fmt: skip
        inside = (t >= start_s) & (t < end_s)
        frame.loc[inside, names] = np.where(frame.loc[inside, names].isna(), np.nan, value)
    return frame[(t < 100) | (t >= 104.02)].reset_index(drop=True)


def draw_series(rows, seed, trouble=False):
    """Return rows of a series as a table; trouble: a raised stretch, and rows without a value."""
    random, row = np.random.default_rng(seed), np.arange(rows)
    values = 20 + 5 * np.sin(row / 12) + 0.3 * random.normal(size=rows)
    times = pd.Series(pd.date_range("2014-04-01", periods=rows, freq=f"{PERIOD_S}s")).dt.strftime("%Y-%m-%d %H:%M:%S")
    if trouble:
        values[200:230] += 8
        values[[300, 301, 302, 303, 350]] = np.nan
    return pd.DataFrame({"timestamp": times, "value": values.round(4)})


def make_checkpoint(folder):
    """Write the checkpoint of a recording's detector and its calibration data below a folder; return its path."""
    data, segments = DatasetConfig(**DATA), []
    for seed in (1, 2):
        draw_recording(120, seed).to_csv(folder / f"normal{seed}.csv", index=False)
        recording = preprocessing.load_recording(folder / f"normal{seed}.csv", "two", data)
        segments.append(preprocessing.on_grid(recording, data, []).values[8:])
    return save_detector(folder / "checkpoint.safetensors", segments, CONFIG, data)


def make_series_checkpoint(folder):
    """Write the checkpoint of a series' detector below a folder; return its path."""
    normal = [draw_series(600, seed)[["value"]].to_numpy() for seed in (1, 2)]
    return save_detector(folder / "series.safetensors", normal, SERIES_CONFIG, None)


def save_detector(path, normal, config, data):
    rate_hz = data.rate_hz if data else 1 / PERIOD_S
    config = ExperimentConfig(**config)
    channels = data.channels if data else {"value": None}
    every = np.concatenate(normal)
    scaler = Scaler(tuple(channels), np.nanmean(every, axis=0), np.nanstd(every, axis=0))
    torch.manual_seed(0)
    units, measures = ([c.unit for c in channels.values()], [c.measures for c in channels.values()]) if data else (
        [""], ["other"]
    )  # fmt: skip
    resolved = resolve(config, scaler.channels, units, measures, rate_hz)
    detector = Detector(build_model(resolved), scaler, resolved, "cpu")
    detector.calibrate(normal)
    about = {"data": data.model_dump() if data else {}, "series": data is None}
    write_tensors(path, state_of(detector) | about)
    return path


def put(tree, path, value):
    """Replace what a path such as a/b/0 leads to in nested values; `...` removes it."""
    *parents, last = [int(key) if key.lstrip("-").isdigit() else key for key in path.split("/")]
    for key in parents:
        tree = tree[key]
    if value is ...:
        del tree[last]
    else:
        tree[last] = value
