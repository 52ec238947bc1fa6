"""Read raw respiratory recordings and their labelled events; say what was understood of them.

A recording is a table (CSV, also gzip'd: one time column in seconds or timestamps, and named
channels; a channel slower than the fastest one has empty cells between its samples), an EDF or BDF
file, or a WFDB record. The last two carry units, and annotations that may be events.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recordings import signal_files, tables
from utils import DataError

if TYPE_CHECKING:                                                    # --help must not wait for pandas
    import pandas as pd

EVENT_COLUMNS = ("start_s", "end_s", "label")
TABLES = (".csv", ".tsv", ".txt")
LARGEST = 1e30                                                       # a value that can be measured, in any unit
MOST_NAMES = 20                                                      # of columns, in one line
TIME = "t_s"                                                         # the time column, unless another is named


@dataclass(frozen=True)
class Samples:
    """The samples of one channel: times (n,) in s, strictly rising, and values (n,), no NaN; unit: the file's."""

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

    format: how the file is written, in words. annotations: what the file itself says of times, not
    checked yet. notes: what a user should know of how it was read.
    """

    name: str
    path: Path
    t: np.ndarray
    channels: dict[str, Samples]
    events: list[Event] = field(default_factory=list)
    format: str = ""
    annotations: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        return float(self.t[-1] - self.t[0])

    @property
    def end_s(self) -> float:
        """Where the last row ends: one row's time behind its beginning."""
        return float(self.t[-1] + np.median(np.diff(self.t)))


@dataclass(frozen=True)
class Dialect:
    """How a dataset's files are written, as far as they do not say it themselves; None = detect it.

    Of tables: the time column (None = `t_s` or else the first), delimiter, decimal sign and the
    `strptime` format of times. Of signal files: the annotators of WFDB, and how long an annotation
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
    """Read one recording; its suffix says which format it has.

    Args:
        channels: columns or signals to read, by their names in the file; None = all that can be
            read, what cannot stands in `notes`.
        sentinels: values of a channel, in the file's unit, that mean "no measurement", besides an empty cell.
        name: of the recording; None = the file's name without its suffixes.
        allow_dead: take channels without a value, or without any change, instead of refusing them.
    Raises: DataError naming file, channel and row (as in an editor, the header is row 1).
    """
    read = _read_signal_file if signal_files.is_signal_file(path) else _read_table
    recording, steps = read(path, channels, dialect)
    recording = replace(recording, name=name or name_of(path))
    for channel, samples in list(recording.channels.items()):
        present = np.isfinite(samples.values)
        for sentinel in (sentinels or {}).get(channel, []):
            present &= np.abs(samples.values - sentinel) > 0.99 * steps[channel]     # rounded or cut when stored
        beyond = np.flatnonzero(present & (np.abs(samples.values) > LARGEST))
        if len(beyond):
            at = f"{samples.values[beyond[0]]:g} at {samples.t[beyond[0]]:g} s"
            raise DataError(f"{path.name}: channel {channel!r} is {at}; expected a measurement within ±{LARGEST:g}")
        found = Samples(samples.t, samples.values, samples.unit)
        if not present.all():
            found = Samples(samples.t[present], samples.values[present], samples.unit)
        recording.channels[channel] = found
        if channels is None and not len(found.values):
            del recording.channels[channel]
            recording.notes.append(f"{channel!r} is not read: it has no value at all")
        elif channels is not None and not allow_dead:
            _check_usable(channel, found, path)
    return recording


def _check_usable(channel: str, samples: Samples, path: Path) -> None:
    if not len(samples.values):
        raise DataError(f"{path.name}: channel {channel!r} has no value at all; remove it or its file")
    if np.ptp(samples.values) == 0:
        raise DataError(
            f"{path.name}: channel {channel!r} is constant at {samples.values[0]:g}; "
            "a channel without any change cannot be used"
        )


def name_of(path: Path) -> str:
    """Return the name of a recording: its file's name without its suffixes."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    known = (*TABLES, *signal_files.EDF, *signal_files.WFDB)
    return name.stem if name.suffix.lower() in known else name.name


def read_events(
    path: Path,
    end_s: float,
    labels: Mapping[str, str] | None = None,
    dialect: Dialect = DETECT,
    *,
    start_s: float = 0.0,
) -> list[Event]:
    """Read an events file, `start_s,end_s,label`, with labels mapped to kinds where a map is given.

    Args:
        end_s, start_s: last and first time of the recording.
    Raises: DataError naming file and row if an event ends before it starts, lies outside the
    recording, or carries a label that the map does not know.
    """
    layout = tables.layout_of(path, dialect.delimiter, dialect.decimal)
    missing = [c for c in EVENT_COLUMNS if c not in layout.names]
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected {','.join(EVENT_COLUMNS)}")
    frame = tables.read_columns(path, layout, ["start_s", "end_s"], ["label"])
    rows = zip(frame["start_s"].tolist(), frame["end_s"].tolist(), frame["label"].fillna(""), strict=True)
    events = [Event(start, end, label) for start, end, label in rows]
    return check_events(events, end_s, labels, path.name, first_row=layout.first_row, start_s=start_s)


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


def describe(
    recording: Recording, labels: Mapping[str, str] | None = None, gap_s: float = 0.5, flat_s: float = 2.0
) -> list[str]:
    """Return lines of text on what was understood: channels, rates, gaps, flat stretches, events.

    Args:
        labels: the dataset's, so that an annotation is said to be an event or not.
    """
    lines = [
        f"{recording.path.name}: {len(recording.t)} rows, {recording.duration_s:.2f} s "
        f"({recording.duration_s / 3600:.2f} h), time from {recording.t[0]:g} s",
        f"  {recording.format}",
    ]
    for name, samples in recording.channels.items():
        lines += _describe_channel(name, samples, gap_s, flat_s)
    lines += [f"  {note}" for note in recording.notes]
    lines.append(f"  events: {len(recording.events)}")
    lines += [f"    {e.start_s:g} to {e.end_s:g} s: {e.label}" for e in recording.events]
    if recording.annotations:
        lines.append(f"  annotations in the file itself: {len(recording.annotations)}")
        lines += _describe_annotations(recording.annotations, labels)
    return lines


def count_labels(events: Sequence[Event]) -> str:
    """Return the labels of events and how often each stands there, the most frequent first, in words."""
    return ", ".join(f"{label!r} ({count})" for label, count in Counter(e.label for e in events).most_common())


def measured_rate(t: np.ndarray) -> float:
    """Return the sampling rate in Hz: one over the median distance of the samples' times (n,)."""
    return float(1.0 / np.median(np.diff(t))) if len(t) > 1 else float("nan")


def _describe_channel(name: str, samples: Samples, gap_s: float, flat_s: float) -> list[str]:
    values, step = samples.values, np.diff(samples.t)
    rate = measured_rate(samples.t)
    unit = f" {samples.unit}" if samples.unit else ""
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    lines = [
        f"  {name}: {rate:.4g} Hz, {len(values)} samples, "
        f"1 / 50 / 99 %: {low:.4g} / {middle:.4g} / {high:.4g}, "
        f"range {values.min():.4g} to {values.max():.4g}{unit}"
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


def _describe_annotations(annotations: Sequence[Event], labels: Mapping[str, str] | None) -> list[str]:
    lines = []
    for label, count in Counter(a.label for a in annotations).most_common():
        mine = [a for a in annotations if a.label == label]
        lasting = f", {sum(a.end_s - a.start_s for a in mine):g} s in all"
        use = "" if labels is None else f": {labels[label]}" if label in labels else ": not in labels, no event"
        lines.append(f"    {label!r}: {count}, the first at {mine[0].start_s:g} s{lasting}{use}")
    return lines


def equal_runs(values: np.ndarray) -> np.ndarray:
    """Return the maximal runs of two or more equal values of (n,) as rows [start, end), (k, 2)."""
    same = np.r_[False, values[1:] == values[:-1], False]        # a byte a value: recordings are long
    return np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2) + [0, 1]


def _read_table(path: Path, channels: list[str] | None, dialect: Dialect) -> tuple[Recording, dict[str, float]]:
    """Return a table's recording with NaN where a cell is empty, and each channel's digital step: none, 0."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() not in TABLES:
        formats = ", ".join((*TABLES, "such a file with .gz", *signal_files.EDF, *signal_files.WFDB))
        raise DataError(f"{path.name}: unknown format {path.suffix!r}; expected {formats}")
    layout = tables.layout_of(path, dialect.delimiter, dialect.decimal)
    time = dialect.time_column or (TIME if TIME in layout.names or channels is not None else layout.names[0])
    missing = [c for c in (time, *(channels or [])) if c not in layout.names]
    if missing:
        hint = "; see time_column" if missing[0] == time else "; an empty column stands for a sensor that was not there"
        raise DataError(f"{path.name}: no column {missing[0]!r}; the file has {_listed(layout.names)}{hint}")
    notes: list[str] = []
    wanted = _usable_columns(layout, time, notes) if channels is None else channels
    numeric = dialect.time_format is None and _is_numeric(layout, time)
    frame = tables.read_columns(path, layout, [time, *wanted] if numeric else wanted, () if numeric else [time])
    if len(frame) < 2:
        raise DataError(f"{path.name}: {len(frame)} rows of samples; expected at least 2")
    t = frame[time].to_numpy() if numeric else _read_stamps(frame[time], path, layout, dialect.time_format)
    _check_times(t, path, layout.first_row)
    found = {channel: Samples(t, frame[channel].to_numpy()) for channel in wanted}
    return Recording("", path, t, found, [], f"{layout}, time in {time!r}", [], notes), dict.fromkeys(wanted, 0.0)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40])[1:-1] for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def _usable_columns(layout: tables.Layout, time: str, notes: list[str]) -> list[str]:
    """Return the columns whose first rows hold mostly numbers, or nothing; note the others."""
    usable = []
    for at, name in enumerate(layout.names):
        if layout.names.count(name) > 1 or not name:
            notes.append(f"column {at + 1} is not read: its name {name!r} is empty or stands there twice")
        elif name != time and _is_numeric(layout, name):
            usable.append(name)
        elif name != time:
            cells = [row[at] for row in layout.head if at < len(row)]
            text = next(cell for cell in cells if cell.strip() and not tables.is_number(cell, layout.decimal))
            notes.append(f"column {name!r} is not read: it holds {text!r}, no number")
    return usable


def _is_numeric(layout: tables.Layout, name: str) -> bool:
    """Return whether most cells of the first rows of a column are numbers, leaving out empty ones."""
    at = layout.names.index(name)
    cells = [row[at] for row in layout.head if at < len(row) and row[at].strip()]
    return 2 * sum(tables.is_number(cell, layout.decimal) for cell in cells) >= len(cells)


def _read_stamps(column: pd.Series, path: Path, layout: tables.Layout, time_format: str | None) -> np.ndarray:
    """Return a column of timestamps as seconds from the first one (n,)."""
    empty = np.flatnonzero(column.isna().to_numpy())
    if len(empty):
        raise DataError(f"{path.name}: row {empty[0] + layout.first_row}: the time is empty or infinite")
    t = tables.seconds_of(column, path.name, time_format)
    wrong = np.flatnonzero(~np.isfinite(t))
    if len(wrong):
        right = "seconds or a timestamp such as 2024-05-01 22:30:00.04"
        if time_format is not None:
            right = f"one as in time_format, {time_format!r}"
        row, found = wrong[0] + layout.first_row, column.iloc[wrong[0]]
        raise DataError(f"{path.name}: row {row}: time {found!r}; expected {right}")
    return t


def _check_times(t: np.ndarray, path: Path, first_row: int) -> None:
    """Raise DataError unless the rows' times (n,) are there and rise, without an absurd leap."""
    empty = np.flatnonzero(~np.isfinite(t))
    if len(empty):
        raise DataError(f"{path.name}: row {empty[0] + first_row}: the time is empty or infinite")
    back = np.flatnonzero(np.diff(t) <= 0)
    if len(back):
        row = back[0] + 1
        what = "repeats" if t[row] == t[row - 1] else "goes backwards"
        raise DataError(
            f"{path.name}: row {row + first_row}: time {what} ({t[row - 1]:.9g} s, then {t[row]:.9g} s; "
            f"{len(back)} such rows); sort the file or drop them"
        )
    step = np.diff(t)
    if t[-1] - t[0] > 1000 * len(t) * np.median(step):
        row = int(step.argmax()) + 1
        raise DataError(
            f"{path.name}: row {row + first_row}: time jumps from {t[row - 1]:g} to {t[row]:g} s, far beyond the "
            f"recording's {len(t)} rows; split the file there"
        )


def _read_signal_file(path: Path, channels: list[str] | None, dialect: Dialect) -> tuple[Recording, dict[str, float]]:
    """Return the recording of an EDF or WFDB file, its time from its start, and each channel's digital step."""
    read = signal_files.read_signals(path, channels, dialect.annotators)
    longest = max((len(signal.values) for signal in read.signals.values()), default=0)
    if longest < 2:
        raise DataError(f"{path.name}: {longest} samples of signals; expected at least 2")
    times: dict[tuple[float, int], np.ndarray] = {}                  # signals of one rate share their times
    found = {}
    for name, signal in read.signals.items():
        key = (signal.rate_hz, len(signal.values))
        times.setdefault(key, np.arange(len(signal.values)) / signal.rate_hz)
        found[name] = Samples(times[key], signal.values, signal.unit)
    t = next(times for times in times.values() if len(times) == longest)
    annotations = []
    for note in sorted(read.annotations, key=lambda note: note.start_s):
        lasts = note.duration_s
        if lasts is None:
            lasts = min(dialect.annotation_s, max(float(t[-1]) - note.start_s, 0.0))
        annotations.append(Event(note.start_s, note.start_s + lasts, note.text))
    return Recording("", path, t, found, [], read.format, annotations), {n: s.step for n, s in read.signals.items()}
