"""Series of the Numenta Anomaly Benchmark (NAB) in, windowed datasets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from config import NabConfig, read_json
from recordings import tables
from recordings.nab_files import LABELS, series_names
from recordings.reading import MAX_VALUE
from recordings.windowing import (
    TIMESTAMP_PATTERN,
    EventMeta,
    Segment,
    SeriesMeta,
    dataset_fingerprint,
    is_current,
    label_steps,
    segments_where,
    true_runs,
    write_dataset,
)
from utils import DataError, counted, sha256_of

CHANNEL = "value"
MAX_GUARD_SHARE = 0.1                    # of the normal rows: a short series keeps some to train on


class SeriesLabels(NamedTuple):
    """Length and label windows of one series."""

    n_rows: int
    windows: np.ndarray    # (W, 2) first and last row, both included


@dataclass(frozen=True)
class NabSeries:
    """A series and its label windows.

    timestamps (n,) as text, times (n,) the same as datetime64, values (n,) with NaN = no value, windows (W, 2) of
    first and last rows, both included.
    """

    name: str
    timestamps: np.ndarray
    times: np.ndarray
    values: np.ndarray
    windows: np.ndarray = field(default_factory=lambda: np.empty((0, 2), int))

    @property
    def period_s(self) -> float:
        """The median time between consecutive rows in seconds."""
        step_s = np.diff(self.times) / np.timedelta64(1, "s")
        return float(np.median(step_s[step_s > 0]))

    @property
    def periods_since_previous(self) -> np.ndarray:
        """Time from the previous row to each row (n,) in periods; 1 for the first row."""
        return np.r_[1.0, np.diff(self.times) / np.timedelta64(1, "s") / self.period_s]

    @property
    def label(self) -> np.ndarray:
        """1 in a label window, else 0 (n,)."""
        return label_steps(np.arange(len(self.values)), self.windows)

    @property
    def labels(self) -> SeriesLabels:
        return SeriesLabels(len(self.values), self.windows)

    def segment(self, start: int, end: int) -> Segment:
        """Return the rows [start, end)."""
        t = np.arange(start, end) * self.period_s
        rows = slice(start, end)
        return Segment(self.name, t, self.values[rows, None], self.label[rows], self.timestamps[rows])


def preprocess_series(name: str, config: NabConfig, root: Path, out: Path, force: bool = False) -> Path:
    """Write the windowed CSVs of one series to `out/name`; return that folder.

    Args:
        root: folder of NAB, with data/ and labels/.
        force: write them again even if they are up to date.
    """
    folder, path = out / name, series_names()[name]
    sources = {file: sha256_of(root / file) for file in (f"data/{path}", LABELS)}
    settings = {"name": name, **config.model_dump()}
    fingerprint = dataset_fingerprint(settings, sources)
    if not force and is_current(folder, fingerprint):
        return folder
    series = read_labelled_series(root, path, read_json(root / LABELS))
    period_s = series.period_s
    dropped: list[str] = []
    normal = _normal_rows(series, config)
    guard = min(config.guard_rows, int(MAX_GUARD_SHARE * (normal[1] - normal[0])))
    splits = split_series(series, normal, guard, config, dropped)
    events = [
        EventMeta(start_s=float(first * period_s), end_s=float(last * period_s), kind="anomaly")
        for first, last in series.windows
    ]
    facts = {
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
        "events": {name: events},
        "dropped": dropped,
        "filled": [],
        "notes": series_notes(series, splits["train"]),
        "sources": sources,
        "fingerprint": fingerprint,
        "config": settings,
        "series": SeriesMeta(path=path, rows=len(series.values)),
    }
    write_dataset(folder, splits, config.window_rows, facts)
    return folder


# ---- reading --------------------------------------------------------------------------------


def read_series(path: Path, name: str) -> NabSeries:
    """Read a CSV `timestamp,value`, without label windows.

    Raises: DataError naming file and row if a timestamp or a value cannot be read.
    """
    tables.layout_of(path, ",", ".")                             # rejects files that are not text
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path.name}: not a readable CSV: {' '.join(str(error).split())}") from None
    missing = [column for column in ("timestamp", CHANNEL) if column not in frame]
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected timestamp,{CHANNEL}")
    if len(frame) < 2:
        raise DataError(f"{path.name}: {counted(len(frame), 'row')}; expected at least 2")
    try:
        times = pd.to_datetime(frame["timestamp"], errors="coerce", format="ISO8601")
    except ValueError:
        raise DataError(f"{path.name}: timestamps in several time zones; expected a single one, or none") from None
    values = pd.to_numeric(frame[CHANNEL].replace("", "nan"), errors="coerce")
    is_plain = frame["timestamp"].str.fullmatch(TIMESTAMP_PATTERN)
    for column, unreadable, expected in (
        ("timestamp", times.isna() | ~is_plain, "a timestamp such as 2014-04-01 00:05:00"),
        (CHANNEL, values.isna() & ~frame[CHANNEL].str.lower().isin(["", "nan"]), "a number"),
        (CHANNEL, values.abs() > MAX_VALUE, f"a number within ±{MAX_VALUE:g}"),
    ):
        if unreadable.any():
            row = int(np.argmax(unreadable.to_numpy()))
            raise DataError(f"{path.name}: row {row + 2}: {column} is {frame[column].iloc[row]!r}; expected {expected}")
    if times.nunique() < 2:
        raise DataError(f"{path.name}: all rows have the same timestamp; expected increasing timestamps")
    return NabSeries(name, frame["timestamp"].to_numpy(dtype=object), times.to_numpy(), values.to_numpy(dtype=float))


def read_labelled_series(root: Path, path: str, labels: Mapping[str, Any]) -> NabSeries:
    """Read a series of a NAB folder with its label windows.

    Args:
        path: of the series below data/.
        labels: the content of labels/combined_windows.json.
    """
    series = read_series(root / "data" / path, PurePosixPath(path).stem)
    return replace(series, windows=label_windows(labels, path, series.times))


def label_windows(labels: Mapping[str, Any], path: str, times: np.ndarray) -> np.ndarray:
    """Return the label windows of a series as first and last rows (W, 2), both included, in order and disjoint.

    Args:
        labels: the content of labels/combined_windows.json.
        path: of the series below data/.
        times: (n,) datetime64 of its rows; they may repeat, and need not increase.
    Raises: DataError naming label file and series, if a window's end is not the timestamp of exactly one row.
    """
    if path not in labels:
        raise DataError(f"{LABELS}: no entry {path!r}; expected NAB's own label file")
    ends = []
    try:
        for window in labels[path]:
            if not isinstance(window, list) or [type(end) for end in window] != [str, str]:
                raise ValueError(f"a window is {window!r}; expected the timestamps of its first and last row")
            for end in window:
                matches = np.flatnonzero(times == pd.Timestamp(end).to_datetime64())
                if matches.size != 1:
                    found = counted(matches.size, "row")
                    raise ValueError(f"the window end {end} is the timestamp of {found}; expected exactly one")
                ends.append(matches[0])
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{LABELS}: {path}: {' '.join(str(error).split())}") from None
    rows = np.reshape(np.array(ends, dtype=int), (-1, 2))
    if (np.diff(rows.ravel()) < 0).any() or (rows[1:, 0] == rows[:-1, 1]).any():
        raise DataError(f"{LABELS}: {path}: rows {rows.tolist()}; expected windows in order, without overlap")
    return rows


# ---- splitting ------------------------------------------------------------------------------


def split_series(
    series: NabSeries, normal: tuple[int, int], guard: int, config: NabConfig, dropped: list[str]
) -> dict[str, list[Segment]]:
    """Return the segments of each split; list the rows that no split contains in `dropped`.

    Test is every row outside the normal ones, before or after them. The guard is cut from the
    side of training, before calibration and next to the test spans.

    Args:
        normal: [first, end) of the normal rows.
        guard: in rows.
    """
    (first, end), rows = normal, len(series.values)
    val = end - int(config.val_fraction * (end - first))
    train = (first + guard if first else 0, val - guard)
    spans_by_split = {"train": [train], "val": [(val, end - guard)], "test": [(0, first), (end, rows)]}
    unused = np.ones(rows, bool)
    splits: dict[str, list[Segment]] = {}
    for split, spans in spans_by_split.items():
        splits[split] = []
        for start, stop in spans:
            unused[start:stop] = False
            segment = series.segment(start, stop)
            if split == "test":
                splits[split] += [segment] if len(segment) else []
                continue
            after_gap = series.periods_since_previous[start:stop] > config.gap_rows
            _note_dropped(series, start + true_runs(after_gap), f"{split}: after a gap", dropped)
            splits[split] += segments_where(segment, ~after_gap)
    _note_dropped(series, true_runs(unused), "guard between two splits", dropped)
    return splits


def _normal_rows(series: NabSeries, config: NabConfig) -> tuple[int, int]:
    """Return [first, end) of a series' normal rows: those of the config, or the first ones up to a label.

    Raises: DataError if the config's rows lie outside the series, or on a label.
    """
    rows, windows = len(series.values), series.windows
    if series.name not in config.normal_rows:
        return 0, min([int(config.normal_share * rows), *windows[:, 0].tolist()])
    first, end = config.normal_rows[series.name]
    if end >= rows or ((windows[:, 0] < end) & (windows[:, 1] >= first)).any():
        raise DataError(
            f"dataset_config.json: NAB: normal_rows.{series.name} is [{first}, {end}]; expected an end below {rows} "
            f"and none of the label windows {windows.tolist()} in between"
        )
    return first, end


def _note_dropped(series: NabSeries, spans: np.ndarray, reason: str, dropped: list[str]) -> None:
    for start, end in spans:
        span = f"rows {start} to {end - 1}, {series.timestamps[start]} to {series.timestamps[end - 1]}"
        dropped.append(f"{series.name}: {span}: {reason}")


def series_notes(series: NabSeries, train: Sequence[Segment]) -> list[str]:
    """Return what is unusual about a series: repeated, missing or decreasing timestamps, constant values."""
    periods, notes = series.periods_since_previous, []
    for what, where in (
        ("same timestamp as the previous row; kept", periods == 0),
        ("timestamp before that of the previous row; kept in place", periods < 0),
        ("after a gap of more than 1.5 periods", periods > 1.5),
        ("no value; kept, marked as missing", np.isnan(series.values)),
    ):
        if where.any():
            row = int(np.argmax(where))
            found = counted(int(where.sum()), "row")
            notes.append(f"{found}, first row {row}, {series.timestamps[row]}: {what}")
    if (periods > 1.5).any():
        row = int(np.argmax(periods))
        notes.append(f"the longest gap is {periods[row]:.1f} periods, before row {row}, {series.timestamps[row]}")
    values = np.concatenate([np.empty((0, 1)), *(segment.values for segment in train)])
    known = values[np.isfinite(values)]
    if len(known) and np.ptp(known) == 0:
        notes.append(f"{CHANNEL} is constant at {values[0, 0]:g} in the training rows; it is scaled by 1")
    return notes
