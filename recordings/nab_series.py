"""Series of the Numenta Anomaly Benchmark in, windowed datasets out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from config import NabConfig, read_json
from recordings import nab_files, tables
from recordings.reading import LARGEST
from recordings.windowing import (
    TIMESTAMP,
    EventMeta,
    Segment,
    SeriesMeta,
    dataset_fingerprint,
    is_current,
    label_steps,
    runs,
    segments_where,
    write_dataset,
)
from utils import ROOT, DataError, sha256_of

log = logging.getLogger(__name__)

OUT = ROOT / "datasets" / "NAB-known-anomaly"
CACHE = ROOT / "datasets" / "NAB-raw"
CHANNEL = "value"
MOST_GUARD = 0.1                         # of the normal rows: a short series keeps some to learn from


@dataclass(frozen=True)
class Series:
    """A NAB series as its file has it: timestamps (n,) as text and as datetime64, values (n,), NaN = empty."""

    name: str
    timestamp: np.ndarray
    times: np.ndarray
    values: np.ndarray

    @property
    def period_s(self) -> float:
        """The usual distance of two rows in seconds."""
        steps = np.diff(self.times) / np.timedelta64(1, "s")
        return float(np.median(steps[steps > 0]))

    @property
    def steps(self) -> np.ndarray:
        """How many periods each row lies behind the one before it (n,); the first has 1."""
        return np.r_[1.0, np.diff(self.times) / np.timedelta64(1, "s") / self.period_s]

    def segment(self, start: int, end: int, windows: np.ndarray) -> Segment:
        """Return the rows [start, end), labelled by windows (W, 2) of rows."""
        row = np.arange(start, end)
        t = row * self.period_s
        return Segment(self.name, t, self.values[start:end, None], label_steps(row, windows), self.timestamp[start:end])


def preprocess(name: str, config: NabConfig, root: Path, out: Path, force: bool = False) -> Path:
    """Make the windowed CSVs of one series in `out/name`; return that folder.

    Args:
        root: folder of NAB, with data/ and labels/.
        force: make them again even if the same ones are there.
    """
    folder, path = out / name, nab_files.series_names()[name]
    sources = {file: sha256_of(root / file) for file in (f"data/{path}", nab_files.LABELS)}
    facts = {"name": name, **config.model_dump()}
    fingerprint = dataset_fingerprint(facts, sources)
    if not force and is_current(folder, fingerprint):
        log.info("%s is up to date", folder)
        return folder
    series = read_series(root / "data" / path, name)
    windows = label_windows(read_json(root / nab_files.LABELS), path, series.times)
    dropped: list[str] = []
    normal = _normal_rows(series, windows, config)
    guard = _guard_rows(*normal, config)
    splits = split_series(series, windows, normal, guard, config, dropped)
    period_s = series.period_s
    meta = write_dataset(
        folder,
        splits,
        config.window_rows,
        {
            "dataset": name,
            "description": f"{path} of {config.description}",
            "simulated": path.startswith("artificial"),
            "channels": {CHANNEL: config.units.get(name, "")},
            "measures": {CHANNEL: "other"},
            "rate_hz": 1 / period_s,
            "window_s": config.window_rows * period_s,
            "guard_s": guard * period_s,
            "delay_s": 0.0,
            "fault_kinds": [],
            "events": {name: [_event(first, last, period_s) for first, last in windows]},
            "dropped": dropped,
            "filled": [],
            "notes": notes(series, splits["train"]),
            "sources": sources,
            "fingerprint": fingerprint,
            "config": facts,
            "series": SeriesMeta(path=path, rows=len(series.values)),
        },
    )
    log.info("%s: %s rows", folder, ", ".join(f"{rows} {split}" for split, rows in meta.rows.items()))
    return folder


def read_series(path: Path, name: str) -> Series:
    """Read a CSV `timestamp,value`.

    Raises: DataError naming file and row if a timestamp or a value cannot be read.
    """
    tables.layout_of(path, ",", ".")                             # says what is no text
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path.name}: not a readable CSV: {' '.join(str(error).split())}") from None
    missing = [column for column in ("timestamp", CHANNEL) if column not in frame]
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected timestamp,{CHANNEL}")
    if len(frame) < 2:
        raise DataError(f"{path.name}: {len(frame)} rows; expected at least 2")
    try:
        times = pd.to_datetime(frame["timestamp"], errors="coerce", format="ISO8601")
    except ValueError:
        raise DataError(f"{path.name}: timestamps of several time zones; expected one, or none at all") from None
    values = pd.to_numeric(frame[CHANNEL].replace("", "nan"), errors="coerce")
    is_plain = frame["timestamp"].str.fullmatch(TIMESTAMP)
    for column, unread, wanted in (
        ("timestamp", times.isna() | ~is_plain, "a timestamp such as 2014-04-01 00:05:00"),
        (CHANNEL, values.isna() & ~frame[CHANNEL].str.lower().isin(["", "nan"]), "a number"),
        (CHANNEL, values.abs() > LARGEST, f"a number within ±{LARGEST:g}"),
    ):
        if unread.any():
            row = int(np.argmax(unread.to_numpy()))
            raise DataError(f"{path.name}: row {row + 2}: {column} is {frame[column].iloc[row]!r}; expected {wanted}")
    if times.nunique() < 2:
        raise DataError(f"{path.name}: all rows have the same timestamp; expected them to rise")
    return Series(name, frame["timestamp"].to_numpy(dtype=object), times.to_numpy(), values.to_numpy(dtype=float))


class SeriesLabels(NamedTuple):
    """Length and label windows of one series."""

    n_rows: int
    windows: np.ndarray    # (W, 2) first and last row, both included


def load_series_labels(nab_root: str | Path) -> dict[str, SeriesLabels]:
    """Return length and label windows, in rows, of every series that `labels/combined_windows.json` names.

    Args:
        nab_root: folder that holds `data/` and `labels/`.
    Returns: {'category/file.csv': SeriesLabels}, 58 entries in the published benchmark, in the label file's order.
    Raises: FileNotFoundError for a missing file; ValueError if a window's end is not the timestamp of exactly one row.
    Source: NAB v1.1, `labels/combined_windows.json`.
    """
    root = Path(nab_root)
    labels = json.loads((root / "labels" / "combined_windows.json").read_text())
    return {name: _load_labels(root / "data" / name, ends) for name, ends in labels.items()}


def _load_labels(path: Path, window_ends: list[list[str]]) -> SeriesLabels:
    timestamps = pd.read_csv(path, usecols=["timestamp"])["timestamp"]
    times = pd.to_datetime(timestamps, format="ISO8601").to_numpy()
    return SeriesLabels(len(timestamps), window_rows(times, window_ends, str(path)))


def window_rows(times: np.ndarray, window_ends: Sequence[Sequence[str]], where: str) -> np.ndarray:
    """Return label windows as rows (W, 2), first and last, both included.

    Args:
        times: (n,) datetime64 of the rows; they may repeat, and need not rise.
        window_ends: first and last timestamp of each window.
        where: the series, for the error message.
    Raises: ValueError if a window's end is not the timestamp of exactly one row.
    """
    rows = []
    for end in (end for window in window_ends for end in window):
        matches = np.flatnonzero(times == pd.Timestamp(end).to_datetime64())
        if matches.size != 1:
            raise ValueError(f"{where}: the window end {end} is the timestamp of {matches.size} rows; expected one")
        rows.append(matches[0])
    return np.reshape(np.array(rows, dtype=int), (-1, 2))


def label_windows(labels: Mapping[str, Any], path: str, times: np.ndarray) -> np.ndarray:
    """Return the label windows of a series as rows (W, 2): in order, and apart.

    Args:
        labels: what NAB's label file holds.
        path: of the series below data/.
        times: (n,) datetime64 of its rows.
    Raises: DataError naming the label file and the series.
    """
    if path not in labels:
        raise DataError(f"{nab_files.LABELS}: no entry {path!r}; expected NAB's own label file")
    try:
        for window in labels[path]:
            if not isinstance(window, list) or [type(end) for end in window] != [str, str]:
                raise ValueError(f"{path}: a window is {window!r}; expected the timestamps of its first and last row")
        rows = window_rows(times, labels[path], path)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{nab_files.LABELS}: {' '.join(str(error).split())}") from None
    if (np.diff(rows.ravel()) < 0).any() or (rows[1:, 0] == rows[:-1, 1]).any():
        raise DataError(f"{nab_files.LABELS}: {path}: rows {rows.tolist()}; expected windows in order, and apart")
    return rows


def _event(first: int, last: int, period_s: float) -> EventMeta:
    return EventMeta(start_s=float(first * period_s), end_s=float(last * period_s), kind="anomaly")


# ---- splitting ------------------------------------------------------------------------------


def split_series(
    series: Series, windows: np.ndarray, normal: tuple[int, int], guard: int, config: NabConfig, dropped: list[str]
) -> dict[str, list[Segment]]:
    """Return the segments of each split; note what training and calibration leave out in `dropped`.

    Test is every row that is not one of the normal ones, before or behind them. The guard is cut
    from the side of training, before calibration and beside the test spans.

    Args:
        normal: [first, end) of the normal rows.
        guard: in rows.
    """
    (first, end), rows = normal, len(series.values)
    val = end - int(config.val_fraction * (end - first))
    train = (first + guard if first else 0, val - guard)
    parts = {"train": [train], "val": [(val, end - guard)], "test": [(0, first), (end, rows)]}
    unused = np.ones(rows, bool)
    splits: dict[str, list[Segment]] = {}
    for split, spans in parts.items():
        splits[split] = []
        for start, stop in spans:
            unused[start:stop] = False
            segment = series.segment(start, stop, windows)
            if split == "test":
                splits[split] += [segment] if len(segment) else []
                continue
            behind_gap = series.steps[start:stop] > config.gap_rows
            _note_dropped(series, start + runs(behind_gap), f"{split}: behind a gap", dropped)
            splits[split] += segments_where(segment, ~behind_gap)
    _note_dropped(series, runs(unused), "guard between two splits", dropped)
    return splits


def _normal_rows(series: Series, windows: np.ndarray, config: NabConfig) -> tuple[int, int]:
    """Return [first, end) of a series' normal rows: those of the config, or a prefix without a label.

    Raises: DataError if the config's lie outside the series, or on a label.
    """
    rows = len(series.values)
    if series.name not in config.normal_rows:
        return 0, min([int(config.normal_share * rows), *windows[:, 0].tolist()])
    first, end = config.normal_rows[series.name]
    if end >= rows or ((windows[:, 0] < end) & (windows[:, 1] >= first)).any():
        raise DataError(
            f"dataset_config.json: NAB: normal_rows.{series.name} is [{first}, {end}]; expected rows of {rows} that "
            f"leave some to test on and touch none of the label windows {windows.tolist()}"
        )
    return first, end


def _guard_rows(first: int, end: int, config: NabConfig) -> int:
    """Return the guard in rows for the normal rows [first, end): a short series keeps some to learn from."""
    return min(config.guard_rows, int(MOST_GUARD * (end - first)))


def _note_dropped(series: Series, spans: np.ndarray, why: str, dropped: list[str]) -> None:
    for start, end in spans:
        span = f"rows {start} to {end - 1}, {series.timestamp[start]} to {series.timestamp[end - 1]}"
        dropped.append(f"{series.name}: {span}: {why}")


def notes(series: Series, train: Sequence[Segment]) -> list[str]:
    """Return what is odd about a series: timestamps that repeat, leap or go back, values that never change."""
    steps, found = series.steps, []
    for what, odd in (
        ("repeat the timestamp of the row before; they stay", steps == 0),
        ("lie before the row before; they stay where they are", steps < 0),
        ("lie behind a gap of more than a row and a half", steps > 1.5),
        ("have no value; they stay, marked as missing", np.isnan(series.values)),
    ):
        if odd.any():
            row = int(np.argmax(odd))
            found.append(f"{int(odd.sum())} rows {what}; first row {row}, {series.timestamp[row]}")
    if (steps > 1.5).any():
        row = int(np.argmax(steps))
        found.append(f"the longest gap is {steps[row]:.1f} rows, before row {row}, {series.timestamp[row]}")
    values = np.concatenate([np.empty((0, 1)), *(segment.values for segment in train)])
    known = values[np.isfinite(values)]
    if len(known) and np.ptp(known) == 0:
        found.append(f"{CHANNEL} is constant at {values[0, 0]:g} in the training rows; it is scaled by 1")
    return found


# ---- command line ---------------------------------------------------------------------------
