"""Read raw respiratory recordings and their labelled events, and describe them.

A recording is a table (CSV, optionally gzipped: a time column in seconds or timestamps, and named
channels; a channel slower than the fastest one has empty cells between its samples), an EDF or BDF
file, or a WFDB record. The last two contain units, and annotations that may be events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recordings import clocks, signal_files, tables
from utils import DataError, counted

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
MAX_VALUE = 1e30                                                     # of a measurement, in any unit
MAX_NAMES = 20                                                       # of columns listed in an error message
TIME_COLUMN = "t_s"                                                  # unless another one is declared
CLOCK_ROWS = 10_000                                                  # between two rows that tell day from month
COARSE = 150                                                         # levels, of which fewer say nothing by repeating
MIN_GAP_S, MIN_FLATLINE_S = 0.5, 2.0                                 # the shortest ones that `describe` reports


@dataclass(frozen=True)
class Samples:
    """The samples of one channel: times (n,) in s, strictly increasing, values (n,) without NaN, the file's unit."""

    t: np.ndarray
    values: np.ndarray
    unit: str | None = None


@dataclass(frozen=True)
class Event:
    """A labelled event, in seconds on the time axis of its recording, both ends included."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Recording:
    """One raw recording: its rows' times (n,) in s and each channel's samples.

    format: a description of the file format. annotations: those contained in the file, not checked
    yet. notes: what a user should know about how the file was read. start: the clock at time 0 as the
    file states it, with a zone only if the file has one; None if the file has no clock. time_column: of a table.
    """

    name: str
    path: Path
    t: np.ndarray
    channels: dict[str, Samples]
    events: list[Event] = field(default_factory=list)
    format: str = ""
    annotations: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    start: datetime | None = None
    time_column: str | None = None

    @property
    def duration_s(self) -> float:
        return float(self.t[-1] - self.t[0])

    @property
    def end_s(self) -> float:
        """Where the last row ends, one median time step after its time."""
        return float(self.t[-1] + np.median(np.diff(self.t)))


@dataclass(frozen=True)
class Dialect:
    """How a dataset's files are written, where the files leave it open; None = detect it.

    Tables: the time column (None = `t_s`, or else the first one), delimiter, decimal sign and the
    `strptime` format of times. Signal files: the annotators of WFDB, and how long an annotation
    without a duration lasts.
    """

    time_column: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    time_format: str | None = None
    annotators: Sequence[str] | None = None
    annotation_s: float = 0.0


DETECT = Dialect()


def read_recording(
    path: Path,
    channels: list[str] | None = None,
    dialect: Dialect = DETECT,
    *,
    sentinels: Mapping[str, list[float]] | None = None,
    name: str | None = None,
    allow_dead: bool = False,
) -> Recording:
    """Read one recording in the format given by its suffix.

    Args:
        channels: columns or signals to read, by their names in the file; None = all that can be
            read, with the others listed in `notes`.
        sentinels: values of a channel, in the file's unit, that mean "no measurement", besides an empty cell.
        name: of the recording; None = the file's name without its suffixes.
        allow_dead: accept channels that have no value or are constant.
    Raises: DataError naming file, channel and row (as in an editor: the header is row 1).
    """
    read = _read_signal_file if signal_files.is_signal_file(path) else _read_table
    recording, resolution = read(path, channels, dialect)
    recording = replace(recording, name=name or name_of(path))
    for channel, samples in list(recording.channels.items()):
        present = np.isfinite(samples.values)
        for sentinel in (sentinels or {}).get(channel, []):
            present &= np.abs(samples.values - sentinel) > 0.99 * resolution[channel]     # may be stored rounded
        too_large = np.flatnonzero(present & (np.abs(samples.values) > MAX_VALUE))
        if len(too_large):
            found = f"{samples.values[too_large[0]]:g} at {samples.t[too_large[0]]:g} s"
            raise DataError(f"{path.name}: channel {channel!r} is {found}; expected values within ±{MAX_VALUE:g}")
        if not present.all():
            samples = Samples(samples.t[present], samples.values[present], samples.unit)
            recording.channels[channel] = samples
        if channels is None and not len(samples.values):
            del recording.channels[channel]
            recording.notes.append(f"{channel!r} is not read: it has no values")
        elif channels is not None and not allow_dead:
            _check_usable(channel, samples, path)
    return recording


def _check_usable(channel: str, samples: Samples, path: Path) -> None:
    if not len(samples.values):
        raise DataError(f"{path.name}: channel {channel!r} has no values; remove the channel or the recording")
    if np.ptp(samples.values) == 0:
        raise DataError(
            f"{path.name}: channel {channel!r} is constant at {samples.values[0]:g}; expected a signal that varies"
        )


def name_of(path: Path) -> str:
    """Return the name of a recording: its file's name without suffixes."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    known = (*TABLE_SUFFIXES, *signal_files.EDF_SUFFIXES, *signal_files.WFDB_SUFFIXES)
    return name.stem if name.suffix.lower() in known else name.name


def describe(recording: Recording, labels: Mapping[str, str] | None = None) -> list[str]:
    """Return lines of text on a recording: channels, rates, gaps, flatlines, events.

    Args:
        labels: the dataset's, to report for each annotation whether it is an event.
    """
    at = clocks.clock_at(recording.start, float(recording.t[0]))
    lines = [
        f"{recording.path.name}: {counted(len(recording.t), 'row')}, {recording.duration_s:.2f} s "
        f"({recording.duration_s / 3600:.2f} h), time from {recording.t[0]:g} s" + (f", clock {at}" if at else ""),
        f"  {recording.format}",
    ]
    for name, samples in recording.channels.items():
        lines += _describe_channel(name, samples)
    lines += [f"  {note}" for note in recording.notes]
    lines.append(f"  events: {len(recording.events)}")
    lines += [f"    {e.start_s:g} to {e.end_s:g} s: {e.label}" for e in recording.events]
    if recording.annotations:
        lines.append(f"  annotations in the file: {len(recording.annotations)}")
        lines += _describe_annotations(recording.annotations, labels)
    return lines


def measured_rate(t: np.ndarray) -> float:
    """Return the sampling rate in Hz: one over the median distance of the samples' times (n,)."""
    return float(1.0 / np.median(np.diff(t))) if len(t) > 1 else float("nan")


def _describe_channel(name: str, samples: Samples) -> list[str]:
    t, values, step_s = samples.t, samples.values, np.diff(samples.t)
    rate = measured_rate(t)
    unit = f" {samples.unit}" if samples.unit else ""
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    lines = [
        f"  {name}: {rate:.4g} Hz, {counted(len(values), 'sample')}, "
        f"1 / 50 / 99 %: {low:.4g} / {middle:.4g} / {high:.4g}, "
        f"range {values.min():.4g} to {values.max():.4g}{unit}"
    ]
    gaps = np.flatnonzero(step_s > max(MIN_GAP_S, 1.5 / rate))
    if len(gaps):
        longest = gaps[np.argmax(step_s[gaps])]
        lines.append(
            f"    {counted(len(gaps), 'gap')}, {step_s[gaps].sum():.1f} s in total, the longest "
            f"{step_s[longest]:.1f} s at {t[longest]:.1f} s"
        )
    if _is_coarse(values):                                           # SpO2 in whole per cent repeats by nature
        return lines
    runs = equal_runs(values)
    duration_s, level = (runs[:, 1] - runs[:, 0]) / rate, values[runs[:, 0]]
    for kind, place, found in (
        ("flatline", "", duration_s >= MIN_FLATLINE_S),
        ("run", " at the lowest value", (duration_s >= 3 / rate) & (level == values.min())),
        ("run", " at the highest value", (duration_s >= 3 / rate) & (level == values.max())),
    ):
        if found.any():
            lines.append(
                f"    {counted(found.sum(), kind)}{place}, the longest {duration_s[found].max():.1f} s, "
                f"the first at {t[runs[found][0, 0]]:.1f} s"
            )
    return lines


def _is_coarse(values: np.ndarray) -> bool:
    """Return whether a channel's values (n,) are few whole numbers, as of an oximeter or a pulse."""
    return bool(np.ptp(values) < COARSE and np.array_equal(values, np.round(values)) and np.ptp(values) > 0)


def _describe_annotations(annotations: Sequence[Event], labels: Mapping[str, str] | None) -> list[str]:
    lines = []
    for label, count in Counter(a.label for a in annotations).most_common():
        same = [a for a in annotations if a.label == label]
        total_s = sum(a.end_s - a.start_s for a in same)
        use = "" if labels is None else f": {labels[label]}" if label in labels else ": not in labels, not an event"
        lines.append(f"    {label!r}: {count}, the first at {same[0].start_s:g} s, {total_s:g} s in total{use}")
    return lines


def equal_runs(values: np.ndarray) -> np.ndarray:
    """Return the maximal runs of two or more equal values of (n,) as rows [start, end), (k, 2)."""
    same = np.r_[False, values[1:] == values[:-1], False]        # one byte per value: recordings are long
    return np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2) + [0, 1]


# ---- tables ---------------------------------------------------------------------------------


def _read_table(path: Path, channels: list[str] | None, dialect: Dialect) -> tuple[Recording, dict[str, float]]:
    """Return a table's recording with NaN where a cell is empty, and each channel's resolution, which is 0."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() not in TABLE_SUFFIXES:
        formats = (*TABLE_SUFFIXES, "one of these with .gz", *signal_files.EDF_SUFFIXES, *signal_files.WFDB_SUFFIXES)
        raise DataError(f"{path.name}: unknown format {path.suffix!r}; expected {', '.join(formats)}")
    layout = tables.layout_of(path, dialect.delimiter, dialect.decimal)
    default = TIME_COLUMN if TIME_COLUMN in layout.names or channels is not None else layout.names[0]
    time = dialect.time_column or default
    missing = [c for c in (time, *(channels or [])) if c not in layout.names]
    if missing:
        hint = "see time_column" if missing[0] == time else "a sensor that was not recorded needs an empty column"
        raise DataError(f"{path.name}: no column {missing[0]!r}; the file has {_listed(layout.names)}; {hint}")
    notes: list[str] = []
    wanted = _usable_columns(layout, time, notes) if channels is None else channels
    numeric = dialect.time_format is None and _is_numeric(layout, time)
    frame = tables.read_columns(path, layout, [time, *wanted] if numeric else wanted, () if numeric else [time])
    if len(frame) < 2:
        raise DataError(f"{path.name}: {counted(len(frame), 'row')} of samples; expected at least 2")
    t = frame[time].to_numpy() if numeric else _read_timestamps(frame[time], path, layout, dialect.time_format)
    _check_times(t, path, layout.first_row)
    found = {channel: Samples(t, frame[channel].to_numpy()) for channel in wanted}
    start = None if numeric else clocks.start_of(frame[time].iloc[[0, *range(len(frame) - 1, 0, -CLOCK_ROWS)]],
                                                 dialect.time_format)  # fmt: skip
    recording = Recording("", path, t, found, [], f"{layout}, time in {time!r}", [], notes, start, time)
    return recording, dict.fromkeys(wanted, 0.0)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40])[1:-1] for name in names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def _usable_columns(layout: tables.Layout, time: str, notes: list[str]) -> list[str]:
    """Return the columns whose first rows are mostly numeric, or empty; note the others."""
    usable = []
    for index, name in enumerate(layout.names):
        if layout.names.count(name) > 1 or not name:
            notes.append(f"column {index + 1} is not read: its name {name!r} is empty or not unique")
        elif name != time and _is_numeric(layout, name):
            usable.append(name)
        elif name != time:
            cells = [row[index] for row in layout.head if index < len(row)]
            text = next(cell for cell in cells if cell.strip() and not tables.is_number(cell, layout.decimal))
            notes.append(f"column {name!r} is not read: it holds {text!r}, not a number")
    return usable


def _is_numeric(layout: tables.Layout, name: str) -> bool:
    """Return whether most of the non-empty cells in the first rows of a column are numbers."""
    index = layout.names.index(name)
    cells = [row[index] for row in layout.head if index < len(row) and row[index].strip()]
    return 2 * sum(tables.is_number(cell, layout.decimal) for cell in cells) >= len(cells)


def _read_timestamps(column: pd.Series, path: Path, layout: tables.Layout, time_format: str | None) -> np.ndarray:
    """Return a column of timestamps as seconds from the first one (n,)."""
    empty = np.flatnonzero(column.isna().to_numpy())
    if len(empty):
        raise DataError(f"{path.name}: row {empty[0] + layout.first_row}: the time is empty or infinite")
    t = tables.seconds_of(column, path.name, time_format)
    unreadable = np.flatnonzero(~np.isfinite(t))
    if len(unreadable):
        expected = "seconds or a timestamp such as 2024-05-01 22:30:00.04"
        if time_format is not None:
            expected = f"the time_format {time_format!r}"
        row, found = unreadable[0] + layout.first_row, column.iloc[unreadable[0]]
        raise DataError(f"{path.name}: row {row}: time {found!r}; expected {expected}")
    return t


def _check_times(t: np.ndarray, path: Path, first_row: int) -> None:
    """Raise DataError unless the rows' times (n,) are finite and increase, without an extreme jump."""
    empty = np.flatnonzero(~np.isfinite(t))
    if len(empty):
        raise DataError(f"{path.name}: row {empty[0] + first_row}: the time is empty or infinite")
    step_s = np.diff(t)
    not_increasing = np.flatnonzero(step_s <= 0)
    if len(not_increasing):
        row = not_increasing[0] + 1
        what, hint = "goes backwards", "sort the rows by time"
        if t[row] == t[row - 1]:
            what, hint = "repeats", "expected increasing times, with fractions of a second if needed"
        raise DataError(
            f"{path.name}: row {row + first_row}: time {what} ({t[row - 1]:.9g} s, then {t[row]:.9g} s; "
            f"{counted(len(not_increasing), 'such row')}); {hint}"
        )
    if t[-1] - t[0] > 1000 * len(t) * np.median(step_s):
        row = int(step_s.argmax()) + 1
        raise DataError(
            f"{path.name}: row {row + first_row}: time jumps from {t[row - 1]:g} to {t[row]:g} s, far beyond the "
            f"recording's {len(t)} rows; split the file there"
        )


# ---- EDF, BDF, WFDB -------------------------------------------------------------------------


def _read_signal_file(path: Path, channels: list[str] | None, dialect: Dialect) -> tuple[Recording, dict[str, float]]:
    """Return the recording of an EDF or WFDB file, with times from its start, and each channel's resolution."""
    read = signal_files.read_signals(path, channels, dialect.annotators)
    longest = max((len(signal.values) for signal in read.signals.values()), default=0)
    if longest < 2:
        raise DataError(f"{path.name}: {counted(longest, 'sample')}; expected at least 2")
    times: dict[tuple[float, int], np.ndarray] = {}                  # shared by signals of the same rate
    found = {}
    for name, signal in read.signals.items():
        key = (signal.rate_hz, len(signal.values))
        times.setdefault(key, np.arange(len(signal.values)) / signal.rate_hz)
        found[name] = Samples(times[key], signal.values, signal.unit)
    t = next(times for times in times.values() if len(times) == longest)
    annotations = []
    for note in sorted(read.annotations, key=lambda note: note.start_s):
        duration_s = note.duration_s
        if duration_s is None:
            duration_s = min(dialect.annotation_s, max(float(t[-1]) - note.start_s, 0.0))
        annotations.append(Event(note.start_s, note.start_s + duration_s, note.text))
    resolution = {name: signal.resolution for name, signal in read.signals.items()}
    return Recording("", path, t, found, [], read.format, annotations, start=read.start), resolution
