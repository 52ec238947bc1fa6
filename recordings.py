"""Read raw respiratory recordings and their labelled events; say what was understood of them.

A recording is a CSV or gzip'd CSV: one time column (seconds, or timestamps) and named channels.
A channel slower than the fastest one has empty cells between its samples.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from utils import DataError

EVENT_COLUMNS = ("start_s", "end_s", "label")


@dataclass(frozen=True)
class Samples:
    """The samples of one channel: times (n,) in s, strictly rising, and values (n,), no NaN."""

    t: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Event:
    """A labelled event, in seconds on the time axis of its recording, both ends included."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Recording:
    """One raw recording: its rows' times (n,) in s and each channel's samples."""

    name: str
    path: Path
    t: np.ndarray
    channels: dict[str, Samples]
    events: list[Event] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        return float(self.t[-1] - self.t[0])


def read_recording(
    path: Path,
    channels: list[str] | None = None,
    *,
    time_column: str = "t_s",
    sentinels: Mapping[str, list[float]] | None = None,
    name: str | None = None,
    allow_constant: bool = False,
) -> Recording:
    """Read one recording.

    Args:
        path: `.csv` or `.csv.gz`.
        channels: columns to read; None = every column but the time column.
        time_column: seconds from any origin, or timestamps; it must rise strictly.
        sentinels: values of a channel that mean "no measurement", besides an empty cell.
        name: of the recording; None = the file's name without its suffixes.
        allow_constant: take a channel that never changes instead of refusing it.
    Raises: DataError naming file, column and row (the header is row 1).
    """
    frame = _read_frame(path)
    wanted = channels if channels is not None else [c for c in frame if c != time_column]
    missing = [c for c in (time_column, *wanted) if c not in frame]
    if missing:
        has = ", ".join(repr(column)[1:-1] for column in frame)
        raise DataError(f"{path.name}: no column {missing[0]!r}; the file has {has}")
    if len(frame) < 2:
        raise DataError(f"{path.name}: {len(frame)} rows of samples; expected at least 2")
    t = _read_times(frame[time_column], path)
    found = {}
    for channel in wanted:
        values = _read_numbers(frame[channel], path)
        values[np.isin(values, (sentinels or {}).get(channel, []))] = np.nan
        present = np.isfinite(values)
        if not present.any():
            raise DataError(f"{path.name}: channel {channel!r} has no value at all; remove it or its file")
        if np.ptp(values[present]) == 0 and not allow_constant:
            raise DataError(
                f"{path.name}: channel {channel!r} is constant at {values[present][0]:g}; "
                "a channel without any change cannot be used"
            )
        found[channel] = Samples(t[present], values[present])
    return Recording(name or name_of(path), path, t, found)


def name_of(path: Path) -> str:
    """Return the name of a recording: its file's name without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read_events(
    path: Path, end_s: float, labels: Mapping[str, str] | None = None, *, start_s: float = 0.0
) -> list[Event]:
    """Read an events file, `start_s,end_s,label`, with labels mapped to kinds where a map is given.

    Args:
        end_s, start_s: last and first time of the recording.
    Raises: DataError naming file and row if an event ends before it starts, lies outside the
    recording, or carries a label that the map does not know.
    """
    frame = _read_frame(path)
    missing = [c for c in EVENT_COLUMNS if c not in frame]
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected {','.join(EVENT_COLUMNS)}")
    if not len(frame):
        return []
    starts, ends = (_read_numbers(frame[c], path) for c in ("start_s", "end_s"))
    texts = frame["label"].astype(str)
    events = [Event(float(a), float(b), str(text)) for a, b, text in zip(starts, ends, texts, strict=True)]
    return check_events(events, end_s, labels, path.name, first_row=2, start_s=start_s)


def check_events(
    events: list[Event],
    end_s: float,
    labels: Mapping[str, str] | None,
    where: str,
    first_row: int = 1,
    start_s: float = 0.0,
) -> list[Event]:
    """Return the events in time order, labels mapped to kinds; DataError on the first wrong one."""
    checked = []
    for row, event in enumerate(events, start=first_row):
        place = f"{where}: row {row}: event {event.start_s:g} to {event.end_s:g} s"
        if not np.isfinite([event.start_s, event.end_s]).all():
            raise DataError(f"{place}: start and end have to be numbers")
        if event.end_s < event.start_s:
            raise DataError(f"{place} ends before it starts; swap start_s and end_s")
        if event.start_s < math.floor(start_s) or event.end_s > end_s + 1.0:
            raise DataError(f"{place} lies outside the recording, {start_s:g} to {end_s:g} s")
        if labels is not None and event.label not in labels:
            raise DataError(
                f"{where}: row {row}: label {event.label!r} is not in the dataset's labels; "
                f"expected one of {', '.join(labels) or '(none)'}"
            )
        kind = labels[event.label] if labels is not None else event.label
        checked.append(Event(event.start_s, event.end_s, kind))
    return sorted(checked, key=lambda event: event.start_s)


def describe(recording: Recording, gap_s: float = 0.5, flat_s: float = 2.0) -> list[str]:
    """Return lines of text on what was understood: channels, rates, gaps, flat stretches, events."""
    lines = [
        f"{recording.path.name}: {len(recording.t)} rows, {recording.duration_s:.2f} s "
        f"({recording.duration_s / 3600:.2f} h), time from {recording.t[0]:g} s"
    ]
    for name, samples in recording.channels.items():
        lines += _describe_channel(name, samples, gap_s, flat_s)
    lines.append(f"  events: {len(recording.events)}")
    lines += [f"    {e.start_s:g} to {e.end_s:g} s: {e.label}" for e in recording.events]
    return lines


def measured_rate(t: np.ndarray) -> float:
    """Return the sampling rate in Hz: one over the median distance of the samples' times (n,)."""
    return float(1.0 / np.median(np.diff(t))) if len(t) > 1 else float("nan")


def _describe_channel(name: str, samples: Samples, gap_s: float, flat_s: float) -> list[str]:
    values, step = samples.values, np.diff(samples.t)
    rate = measured_rate(samples.t)
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    lines = [
        f"  {name}: {rate:.4g} Hz, {len(values)} samples, "
        f"1 / 50 / 99 %: {low:.4g} / {middle:.4g} / {high:.4g}, "
        f"range {values.min():.4g} to {values.max():.4g}"
    ]
    gaps = np.flatnonzero(step > max(gap_s, 1.5 / rate))
    if len(gaps):
        longest = gaps[np.argmax(step[gaps])]
        lines.append(
            f"    {len(gaps)} gaps, {step[gaps].sum():.1f} s in all, the longest "
            f"{step[longest]:.1f} s at {samples.t[longest]:.1f} s"
        )
    for kind, at in (("flat", None), ("at its lowest", values.min()), ("at its highest", values.max())):
        runs = equal_runs(values)
        long = (runs[:, 1] - runs[:, 0]) / rate >= (flat_s if at is None else 3 / rate)
        if at is not None:
            long &= values[runs[:, 0]] == at
        if long.any():
            seconds = (runs[long, 1] - runs[long, 0]) / rate
            lines.append(
                f"    {long.sum()} stretches {kind} ({seconds.max():.1f} s the longest, "
                f"first at {samples.t[runs[long][0, 0]]:.1f} s)"
            )
    return lines


def equal_runs(values: np.ndarray) -> np.ndarray:
    """Return the maximal runs of equal neighbours of (n,) values as rows [start, end), (k, 2)."""
    edges = np.flatnonzero(np.diff(values) != 0) + 1
    return np.column_stack([np.r_[0, edges], np.r_[edges, len(values)]])


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            return pd.read_csv(path, index_col=False, low_memory=False)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path.name}: empty file; expected a header and rows of samples") from None
    except pd.errors.ParserWarning:                                  # index_col=False: cells are never row names
        raise DataError(f"{path.name}: row 2: more cells than the header has names") from None
    except (pd.errors.ParserError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path.name}: not a readable CSV: {reason}") from None


def _read_numbers(column: pd.Series, path: Path) -> np.ndarray:
    """Return a column as float64; text in it is an error that names its row."""
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{path.name}: row {row + 2}: column {column.name!r} holds {column.iloc[row]!r}; expected a number"
        )
    values = numbers.to_numpy(dtype=float, na_value=np.nan, copy=True)
    values[np.isinf(values)] = np.nan
    return values


def _read_times(column: pd.Series, path: Path) -> np.ndarray:
    """Return the time column as seconds (n,): numbers as they are, timestamps from the first one."""
    if not pd.api.types.is_numeric_dtype(column):
        if pd.to_numeric(column, errors="coerce").notna().mean() > 0.5:
            return _check_times(_read_numbers(column, path), path)
        stamps = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
        if stamps.isna().all():
            with warnings.catch_warnings(action="ignore"):           # that it had to guess the format
                stamps = pd.to_datetime(column, errors="coerce", utc=True)
        wrong = np.flatnonzero(stamps.isna().to_numpy())
        if len(wrong):
            raise DataError(
                f"{path.name}: row {wrong[0] + 2}: time {column.iloc[wrong[0]]!r}; "
                "expected seconds or a timestamp such as 2024-05-01 22:30:00.04"
            )
        return _check_times((stamps - stamps.iloc[0]).dt.total_seconds().to_numpy(), path)
    return _check_times(column.to_numpy(dtype=float, na_value=np.nan), path)


def _check_times(t: np.ndarray, path: Path) -> np.ndarray:
    empty = np.flatnonzero(~np.isfinite(t))
    if len(empty):
        raise DataError(f"{path.name}: row {empty[0] + 2}: the time is empty or infinite")
    back = np.flatnonzero(np.diff(t) <= 0)
    if len(back):
        row = back[0] + 1
        what = "repeats" if t[row] == t[row - 1] else "goes backwards"
        raise DataError(
            f"{path.name}: row {row + 2}: time {what} ({t[row - 1]:g} s, then {t[row]:g} s; "
            f"{len(back)} such rows); sort the file or drop them"
        )
    step = np.diff(t)
    if t[-1] - t[0] > 1000 * len(t) * np.median(step):
        row = int(step.argmax()) + 1
        raise DataError(
            f"{path.name}: row {row + 2}: time jumps from {t[row - 1]:g} to {t[row]:g} s, far beyond the "
            f"recording's {len(t)} rows; split the file there"
        )
    return t
