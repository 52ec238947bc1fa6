"""Series of the Numenta Anomaly Benchmark (NAB) in, windowed datasets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from config import NabConfig, read_json
from recordings.nab_files import LABELS, SeriesFile
from recordings.series_files import DETECT, SeriesColumns, read_rows
from recordings.windowing import (
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

MAX_GUARD_SHARE = 0.1                    # of the normal rows: a short series keeps some to train on


class SeriesLabels(NamedTuple):
    """Length and label windows of one series."""

    n_rows: int
    windows: np.ndarray    # (W, 2) first and last row, both included


@dataclass(frozen=True)
class NabSeries:
    """A series and its label windows.

    timestamps (n,) as text, times (n,) the same as datetime64, values (n, C) with NaN = no value, windows (W, 2) of
    first and last rows, both included. columns: channel -> its column in the file.
    """

    name: str
    timestamps: np.ndarray
    times: np.ndarray
    values: np.ndarray
    windows: np.ndarray = field(default_factory=lambda: np.empty((0, 2), int))
    columns: Mapping[str, str] = field(default_factory=lambda: {"value": "value"})
    time_column: str = "timestamp"

    @property
    def value(self) -> np.ndarray:
        """The values of the first channel (n,)."""
        return self.values[:, 0]

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
        return Segment(self.name, t, self.values[rows], self.label[rows], self.timestamps[rows])


def preprocess_series(
    source: SeriesFile, config: NabConfig, out: Path, columns: SeriesColumns = DETECT, force: bool = False
) -> Path:
    """Write the windowed CSVs of one series to `out/NAME`; return that folder.

    Args:
        columns: which columns are read; their names go into the dataset, for files that are scored later.
        force: write them again even if they are up to date.
    """
    name, folder = source.name, out / source.name
    files = {f"data/{source.path}": source.file} | ({LABELS: source.labels} if source.labels else {})
    sources = {place: sha256_of(file) for place, file in files.items()}
    fingerprint = dataset_fingerprint({"name": name, **config.model_dump(), **_given(columns)}, sources)
    if not force and is_current(folder, fingerprint):
        return folder
    series = read_series(source.file, name, columns)
    if source.labels:
        labels = read_json(source.labels)
        key, where = label_key(labels, source), LABELS if source.is_nabs else source.labels.name
        windows = label_windows(labels, key, series.times, where, exact=source.is_nabs)
        series = replace(series, windows=windows)
    period_s = series.period_s
    dropped: list[str] = []
    normal = _normal_rows(series, config)
    guard = min(config.guard_rows, int(MAX_GUARD_SHARE * (normal[1] - normal[0])))
    splits = split_series(series, normal, guard, config, dropped)
    events = [
        EventMeta(start_s=float(first * period_s), end_s=float(last * period_s), kind="anomaly")
        for first, last in series.windows
    ]
    channels = dict.fromkeys(series.columns, config.units.get(name, ""))
    settings = {**config.model_dump(), **_given(columns), "name": name, "time_column": series.time_column}
    settings |= {"channels": {channel: {"source": column} for channel, column in series.columns.items()}}
    settings |= {} if source.is_nabs else {"description": f"the series {source.path}"}
    facts = {
        "dataset": name,
        "description": f"{source.path} of {config.description}" if source.is_nabs else settings["description"],
        "simulated": source.is_nabs and source.path.startswith("artificial"),
        "channels": channels,
        "measures": dict.fromkeys(channels, "other"),
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
        "series": SeriesMeta(path=source.path, rows=len(series.values)),
    }
    write_dataset(folder, splits, config.window_rows, facts)
    return folder


def _given(columns: SeriesColumns) -> dict[str, Any]:
    """Return what is declared of a series' columns, for its dataset."""
    return {key: value for key, value in vars(columns).items() if value and value != getattr(DETECT, key)}


# ---- reading --------------------------------------------------------------------------------


def read_series(path: Path, name: str, columns: SeriesColumns = DETECT) -> NabSeries:
    """Read a series from a CSV, without label windows.

    Raises: DataError naming file and row if a timestamp or a value cannot be read.
    """
    rows = read_rows(path, columns)
    return NabSeries(
        name, rows.timestamps, rows.times, rows.values, columns=rows.columns, time_column=rows.time_column
    )


def read_labelled_series(root: Path, path: str, labels: Mapping[str, Any]) -> NabSeries:
    """Read a series of a NAB folder with its label windows.

    Args:
        path: of the series below data/.
        labels: the content of labels/combined_windows.json.
    """
    series = read_series(root / "data" / path, PurePosixPath(path).stem)
    return replace(series, windows=label_windows(labels, path, series.times))


def label_key(labels: Mapping[str, Any], source: SeriesFile) -> str:
    """Return the key of a series in a file of label windows: its path; of one's own series also a name alone.

    Raises: DataError if there is none, or several.
    """
    found = [key for key in labels if key == source.path]
    if not found and not source.is_nabs:
        found = [key for key in labels if PurePosixPath(key).name in (source.name, source.file.name)]
    if len(found) == 1:
        return found[0]
    hint = "expected NAB's own label file" if source.is_nabs else "an empty list says that nothing is labelled"
    raise DataError(f"{source.labels.name}: {len(found) or 'no'} entries {source.path!r}; {hint}")


def label_windows(
    labels: Mapping[str, Any], path: str, times: np.ndarray, where: str = LABELS, exact: bool = True
) -> np.ndarray:
    """Return the label windows of a series as first and last rows (W, 2), both included, in order and disjoint.

    Args:
        labels: the content of labels/combined_windows.json, or of a file like it, called `where`.
        path: the key of the series in it.
        times: (n,) datetime64 of its rows; they may repeat, and need not increase.
        exact: whether a window's end has to be the timestamp of exactly one row, as in NAB.
    Raises: DataError naming label file and series, if a window's end is not, or lies outside the series.
    """
    if path not in labels:
        raise DataError(f"{where}: no entry {path!r}; expected NAB's own label file")
    ends = []
    try:
        for window in labels[path]:
            if not isinstance(window, list) or [type(end) for end in window] != [str, str]:
                raise ValueError(f"a window is {window!r}; expected the timestamps of its first and last row")
            ends.append(_rows_of_window(*window, times, exact))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: {path}: {' '.join(str(error).split())}") from None
    rows = np.reshape(np.array(ends, dtype=int), (-1, 2))
    if (np.diff(rows.ravel()) < 0).any() or (rows[1:, 0] == rows[:-1, 1]).any():
        raise DataError(f"{where}: {path}: rows {rows.tolist()}; expected windows in order, without overlap")
    return rows


def _rows_of_window(start: str, end: str, times: np.ndarray, exact: bool) -> tuple[int, int]:
    """Return the first and last row in a window; unless `exact`, its ends may lie between two rows of the series.

    Raises: ValueError if there is no such row, or it is not certain which one it is.
    """
    rows = []
    exact |= bool((np.diff(times) < np.timedelta64(0)).any())            # out of order: between means nothing
    for text, side in ((start, "left"), (end, "right")):
        stamp = pd.Timestamp(text).tz_localize(None).to_datetime64()         # as it is written, like the rows
        matches = np.flatnonzero(times == stamp)
        if not exact and not times.min() <= stamp <= times.max():
            span = f"{pd.Timestamp(times.min())} to {pd.Timestamp(times.max())}"
            raise ValueError(f"the window end {text} lies outside the series, {span}")
        if exact and matches.size != 1:
            found = counted(matches.size, "row")
            raise ValueError(f"the window end {text} is the timestamp of {found}; expected exactly one")
        row = matches[0] if matches.size == 1 else np.searchsorted(times, stamp, side) - (side == "right")
        rows.append(int(row))
    if rows[1] < rows[0] and pd.Timestamp(start) <= pd.Timestamp(end):
        raise ValueError(f"no row lies in the window {start} to {end}")
    return rows[0], rows[1]


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
        ("no value; kept, marked as missing", np.isnan(series.values).any(axis=1)),
    ):
        if where.any():
            row = int(np.argmax(where))
            found = counted(int(where.sum()), "row")
            notes.append(f"{found}, first row {row}, {series.timestamps[row]}: {what}")
    if (periods > 1.5).any():
        row = int(np.argmax(periods))
        notes.append(f"the longest gap is {periods[row]:.1f} periods, before row {row}, {series.timestamps[row]}")
    for k, channel in enumerate(series.columns):
        values = np.concatenate([np.empty(0), *(segment.values[:, k] for segment in train)])
        known = values[np.isfinite(values)]
        if len(known) and np.ptp(known) == 0:
            notes.append(f"{channel} is constant at {known[0]:g} in the training rows; it is scaled by 1")
    return notes
