"""Arrays, DataFrames and config keys as users give them, in the form of windowed datasets and config files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import BREATHING, EXPERIMENT_CONFIG, DatasetConfig, ExperimentConfig, check_name, load_experiment, validate
from data_loader import Dataset, Scaler
from recordings.reading import Recording, Samples, measured_rate
from recordings.windowing import FORMAT, Meta, Segment, SeriesMeta, fit_scaler, segments_where
from utils import ROOT, DataError

SERIES_CONFIG = ROOT / "pure_lstm_config_NAB_fast.json"
TIME = "t_s"
VALIDATION_SHARE = 0.4                   # of a recording, its end, where no other data to stop training by is given
Values = np.ndarray | pd.DataFrame


def listed(given: Values | Sequence[Values]) -> list[Values]:
    """Return one recording, or several, as a list."""
    several = [given] if isinstance(given, np.ndarray | pd.DataFrame) else list(given)
    if not several:
        raise DataError("no recording is given")
    return several


def names_in(recording: Values) -> list[str]:
    if isinstance(recording, pd.DataFrame):
        return [str(name) for name in recording if name != TIME]
    return [f"x{k}" for k in range(1 if recording.ndim == 1 else recording.shape[1])]


def check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        raise DataError(f"no column {missing[0]!r}; expected {', '.join(names)}, found {', '.join(map(str, frame))}")


def values_of(recording: Values, names: Sequence[str]) -> np.ndarray:
    """Return the values (T, C) of steps."""
    if isinstance(recording, pd.DataFrame):
        check_columns(recording, names)
        values = np.column_stack([numbers_in(recording, name) for name in names])
    else:
        values = np.asarray(recording, float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DataError(f"an array of shape {values.shape}; expected (T, {len(names)}): {', '.join(names)}")
    if np.isinf(values).any():
        raise DataError("an infinite value; expected finite ones, NaN where one is missing")
    return values


def numbers_in(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column (T,) as numbers; DataError naming it and the first row that is none."""
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    strange = np.flatnonzero(np.isnan(values) & frame[name].notna().to_numpy())
    if len(strange):
        found = str(frame[name].iloc[strange[0]])[:40]
        raise DataError(f"column {name!r}, row {strange[0]}: found {found!r}; expected numbers, NaN = missing")
    return values


def raw_recording(
    frame: pd.DataFrame, names: Sequence[str], name: str, data: DatasetConfig | None = None
) -> Recording:
    """Return a raw table, in the model's units, as a recording as it is read from a file."""
    t = numbers_in(frame, TIME)
    if not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        raise DataError(f"{TIME}: expected finite times in s that increase from row to row")
    channels = {}
    for channel in names:
        values = numbers_in(frame, channel)
        known = np.isfinite(values) & ~np.isin(values, data.channels[channel].sentinels if data else [])
        channels[channel] = Samples(t[known], values[known])
    return Recording(name, Path(name), t, channels)


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the spans [start, end) in which a mask (T,) does not change."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return list(zip(edges[:-1], edges[1:], strict=True))


# ---- config and data of a training ----------------------------------------------------------


def dataset_config(rate_hz: float, measures: Mapping[str, str], first: Values) -> DatasetConfig | None:
    """Return what is known of raw recordings, in the form of an entry of `dataset_config.json`; None for series."""
    if not set(measures.values()) & {*BREATHING}:
        return None
    own = dict.fromkeys(measures, float(rate_hz))
    if isinstance(first, pd.DataFrame) and TIME in first:
        check_columns(first, list(measures))
        channels = raw_recording(first, list(measures), "first").channels
        own = {name: measured_rate(samples.t) for name, samples in channels.items()}
    content = {
        "description": "given as arrays or DataFrames", "raw_dir": ".", "raw_hint": "not from files",
        "rate_hz": float(rate_hz), "split": {"train": ["first"], "val": ["second"], "test": ["third"]},
        "channels": {name: {"unit": "", "measures": what, "rate_hz": own[name]} for name, what in measures.items()},
    }  # fmt: skip
    return validate(DatasetConfig, content, "channels")


def experiment_config(data: DatasetConfig | None, overrides: Mapping[str, Any]) -> ExperimentConfig:
    texts = [f"{key}={json.dumps(value)}" for key, value in {**overrides, "dataset.name": "arrays"}.items()]
    return load_experiment(EXPERIMENT_CONFIG if data is not None else SERIES_CONFIG, texts)


def divided(segments: Sequence[Segment], guard: int) -> tuple[list[Segment], list[Segment]]:
    """Return what to train on and, after a guard of steps, what to stop training by, of each recording."""
    train, val = [], []
    for name in dict.fromkeys(segment.recording for segment in segments):
        mine = [segment for segment in segments if segment.recording == name]
        rate = (len(mine[0]) - 1) / max(mine[0].t[-1] - mine[0].t[0], 1e-9)
        border = mine[0].t[0] + (1 - VALIDATION_SHARE) * (mine[-1].t[-1] - mine[0].t[0])
        for segment in mine:
            train += segments_where(segment, segment.t < border)
            val += segments_where(segment, segment.t >= border + guard / rate)
    return train, val


def dataset_of(
    data: DatasetConfig | None, measures: Mapping[str, str], splits: dict[str, list[Segment]], rate_hz: float,
    guard: int,
) -> Dataset:  # fmt: skip
    """Return segments as the dataset that preprocessing would have made of them."""
    for name in measures:
        check_name(name, "channel")
    names, rows = list(measures), sum(len(one) for several in splits.values() for one in several)
    scaler = fit_scaler(splits["train"], names)
    meta = Meta(
        format=FORMAT, dataset="arrays", description="given as arrays or DataFrames", simulated=False,
        channels=dict.fromkeys(names, ""), measures=dict(measures), rate_hz=float(rate_hz), window_s=60.0,
        guard_s=guard / rate_hz, delay_s=data.delay_s if data else 0.0, scaler=scaler, fault_kinds=[], events={},
        splits={}, rows={split: sum(map(len, several)) for split, several in splits.items()}, dropped=[], filled=[],
        sources={}, fingerprint="", config=data.model_dump() if data else {},
        series=None if data else SeriesMeta(path="arrays", rows=rows),
    )  # fmt: skip
    return Dataset(meta, tuple(names), Scaler.of(names, scaler, names), splits | {"test": []})
