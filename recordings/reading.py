"""Read raw respiratory recordings.

A recording is a table (CSV, optionally gzipped: a time column in seconds or timestamps, and named
channels; a channel slower than the fastest one has empty cells between its samples), an EDF or BDF
file, or a WFDB record. The last two contain units, and annotations that may be events.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recordings import signal_files, tables
from recordings.cells import is_missing, is_number, plain_number
from recordings.clocks import TimeKeys, clock_changes, seconds_of, spread_seconds, without_clock_changes
from recordings.layouts import Layout, LayoutKeys, is_time
from recordings.number_times import NO_DATE, PADDED, number_seconds, unit_s_in, unit_s_of
from recordings.signals import Annotation, Samples
from recordings.tables import Table
from recordings.time_formats import is_compact_date, is_date
from utils import DataError, counted, listed

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
MAX_VALUE = 1e30                                                     # of a measurement, in any unit
MAX_NAMES = 20                                                       # of columns listed in an error message
TIME_COLUMN = "t_s"                                                  # unless another one is declared
SLOWEST_HZ = 0.1                                                     # of rows whose times in seconds are not doubted
COUNTER = re.compile(r"(sample|samples|index|idx|row|count|counter|frame|n?seq|packet|nr|no)[ _.#]*"
                     r"(no|nr|number|index|idx|id|count)?\.?", re.IGNORECASE)             # a column of row numbers
FAR = 10                                                             # ranges of usual values; farther is no signal


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
    file states it, with a zone only if the file has one; None if the file has no clock. time_column: its name in a
    table.
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
class Dialect(LayoutKeys, TimeKeys):
    """How a dataset's files are written, where the files leave it open; None = detect it.

    time_column: of tables; None = `t_s`, or else the first one. annotators: of WFDB. annotation_s: how long an
    annotation without a duration lasts.
    """

    time_column: str | None = None
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
    recording = replace(read(path, channels, dialect), name=name or name_of(path))
    for channel, samples in list(recording.channels.items()):
        present = np.isfinite(samples.values)
        for sentinel in (sentinels or {}).get(channel, []):
            present &= np.abs(samples.values - sentinel) > 0.99 * samples.resolution     # may be stored rounded
        too_large = np.flatnonzero(present & (np.abs(samples.values) > MAX_VALUE))
        if len(too_large):
            found = f"{samples.values[too_large[0]]:g} at {samples.t[too_large[0]]:g} s"
            raise DataError(f"{path.name}: channel {channel!r} is {found}; expected values within ±{MAX_VALUE:g}")
        if not present.all():
            samples = replace(samples, t=samples.t[present], values=samples.values[present])
            recording.channels[channel] = samples
        if channels is None and not len(samples.values):
            del recording.channels[channel]
            recording.notes.append(f"{channel!r} is not read: it has no values")
        elif channels is not None and not allow_dead:
            _check_usable(channel, samples, path)
        for level in far_levels(samples.values):
            found = f"{counted(np.count_nonzero(samples.values == level), 'sample')} of {level:g}"
            recording.notes.append(f"{channel}: {found}, far from all others; if it means no value, see sentinels")
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


def measured_rate(t: np.ndarray) -> float:
    """Return the sampling rate in Hz of samples at times (n,): one over their mean distance, without gaps.

    The median would take the rounding of the times for the rate: 32 Hz in whole milliseconds are mostly 31 ms apart.
    """
    if len(t) < 2:
        return float("nan")
    steps = np.diff(t)
    usual = np.median(steps)
    regular = steps[(steps >= 0.5 * usual) & (steps <= 1.5 * usual)]
    return float(1.0 / np.mean(regular)) if usual > 0 and len(regular) else float("nan")


def equal_runs(values: np.ndarray) -> np.ndarray:
    """Return the maximal runs of two or more equal values of (n,) as rows [start, end), (k, 2)."""
    same = np.r_[False, values[1:] == values[:-1], False]        # one byte per value: recordings are long
    return np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2) + [0, 1]


def far_levels(values: np.ndarray) -> list[float]:
    """Return the lowest and the highest of values (n,) that repeat far from all others, such as -9999 of a lost sensor.

    Far is more than ten times what separates the lowest and the highest 1 % of the others.
    """
    if not len(values) or not len(others := values[(values > values.min()) & (values < values.max())]):
        return []
    low, high = np.quantile(others, [0.01, 0.99])
    far = {values.min(): low - values.min(), values.max(): values.max() - high}
    levels = [level for level, distance in far.items() if distance > FAR * (high - low) > 0]
    return [float(level) for level in levels if ((values[1:] == level) & (values[:-1] == level)).any()]


# ---- tables ---------------------------------------------------------------------------------


def _read_table(path: Path, channels: list[str] | None, dialect: Dialect) -> Recording:
    """Return a table's recording with NaN where a cell is empty."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() not in TABLE_SUFFIXES:
        formats = (*TABLE_SUFFIXES, "one of these with .gz", *signal_files.EDF_SUFFIXES, *signal_files.WFDB_SUFFIXES)
        raise DataError(f"{path.name}: unknown format {path.suffix!r}; expected {', '.join(formats)}")
    wanted = () if channels is None else (dialect.time_column or TIME_COLUMN, *channels)
    table = tables.open_table(path, dialect, wanted)
    layout = table.layout
    time, notes = time_column_of(layout, dialect.time_column, channels is not None), []
    missing = [c for c in (time, *(channels or [])) if c is not None and layout.index(c) is None]
    if missing:
        if (count := layout.names.count(missing[0])) > 1:
            raise DataError(f"{path.name}: {count} columns are called {missing[0]!r}; rename them")
        hint = "a sensor that was not recorded needs an empty column"
        if missing[0] == time:
            hint = "see time_column (--time-column of --score)"
        if layout.encoding == "cp1252" and not "".join(layout.names).isascii():
            hint += "; if its letters are not those, set encoding in dataset_config.json"
        found = listed(layout.names, MAX_NAMES)
        raise DataError(f"{path.name}: no column {missing[0]!r}; the file has {found}; {hint}")
    used = _usable_columns(layout, time, notes) if channels is None else channels
    if layout.preamble and layout.first_row > 2:
        notes.append(f"rows 1 to {layout.first_row - 1} are no samples")
    used, (t, start, frame) = _read_rows(table, time, used, channels is None, dialect, notes)
    found = {c: Samples(t, frame[c].to_numpy(), layout.units[layout.index(c)] or None) for c in used}
    table = replace(table, layout=replace(layout, decimal=frame.attrs["decimal"]))
    where = f"time in {time!r}" if time is not None else f"{layout.rate_hz:g} rows a second"
    if layout.encoding == "cp1252" and (odd := re.search(r"\S*[^\x00-\x7f]{3}\S*", " ".join(layout.names))):
        notes.append(f"names such as {odd[0]!r} are read as Latin-1; if they look wrong, set encoding")
    return Recording("", path, t, found, [], f"{table}, {where}", [], notes, start, time)


def time_column_of(layout: Layout, declared: str | None, is_dataset: bool) -> str | None:
    """Return the name of the time column; None if there is none, but a rate of rows.

    Args:
        declared: None = not declared. is_dataset: whether the columns are those of a dataset.
    """
    if layout.keys.row_rate_hz is not None:
        return None
    if declared is not None and (layout.index(declared) is not None or declared != TIME_COLUMN):
        return declared
    if TIME_COLUMN in layout.names:
        return TIME_COLUMN
    if layout.rate_hz is not None and (is_dataset or not is_time(layout, 0)):
        return None
    if is_dataset or declared is not None:
        return declared or TIME_COLUMN
    if layout.head and is_date(layout.column(0)[0]):                 # and its time of day in another one
        times = [k for k in range(len(layout.names)) if layout.column(k) and layout.date_of(k) == 0]
        return layout.names[times[0]] if times else layout.names[0]
    return next(filter(None, layout.names), layout.names[0])         # the row numbers of R have no name


def _read_rows(
    table: Table, time: str | None, used: list[str], may_drop: bool, keys: TimeKeys, notes: list[str]
) -> tuple[list[str], tuple[np.ndarray, datetime | None, pd.DataFrame]]:
    """Return the columns that can be read, and what `_times_and_columns` reads.

    Lines that are no samples are left out if it cannot be read with them, as are columns of texts if they `may_drop`.
    """
    while True:
        further: list[str] = []
        try:
            return used, _times_and_columns(table, time, used, keys, further)
        except DataError as error:
            is_whole = table.layout.rows is None and not table.layout.skipped
            if is_whole and (found := tables.without_other_lines(table)) is not None:
                table, further = found
            elif may_drop and isinstance(error, tables.NotANumber) and error.column != time and len(used) > 1:
                used = [name for name in used if name != error.column]
                further = [f"column {error.column!r} is not read: row {error.row} holds {error.cell!r}, not a number"]
            else:
                raise
        finally:
            notes += further


def _times_and_columns(
    table: Table, time: str | None, channels: Sequence[str], keys: TimeKeys, notes: list[str]
) -> tuple[np.ndarray, datetime | None, pd.DataFrame]:
    """Return the rows' times (n,) in s, the clock at 0 s if the file states it, and the channels' columns."""
    layout = table.layout
    date = None if time is None else layout.date_of(layout.index(time))
    texts = [] if time is None or _is_number_column(layout, time, keys) else [time]
    texts += [] if date is None or not texts else [layout.names[date]]
    numbers = [] if time is None or texts else [time]
    frame = tables.read_columns(table, list(dict.fromkeys([*numbers, *channels])), texts)
    if len(frame) < 2:
        raise DataError(f"{table.path.name}: {counted(len(frame), 'row')} of samples; expected at least 2")
    if time is None:
        t, start = np.arange(len(frame)) / layout.rate_hz, layout.start
    elif numbers:
        t, start = _read_numbers(frame[time].to_numpy(), time, table, keys, notes)
    else:
        stamps = frame[time] if date is None else frame[layout.names[date]].str.strip() + " " + frame[time].str.strip()
        t, start = _read_timestamps(stamps, table, keys)
    start = None if start == NO_DATE else start                      # from 00:00:00 on: elapsed time, no clock
    if time is not None:
        is_clock = bool(texts) or start is not None                  # of numbers: days of Excel, Unix time
        is_local = is_clock and (start is None or start.tzinfo is None)
        t = _checked_times(t, table, keys, is_local, notes)
    return t, start, frame


def _is_number_column(layout: Layout, time: str, keys: TimeKeys) -> bool:
    """Return whether times are numbers, and none such as 20240330235500."""
    cells = layout.column(layout.index(time))
    compact = bool(cells) and keys.time_unit is None and is_compact_date(cells[0])
    return keys.time_format is None and not compact and _is_numeric(layout, layout.index(time))


def _usable_columns(layout: Layout, time: str | None, notes: list[str]) -> list[str]:
    """Return the columns whose first rows are mostly numeric, or empty; note the others."""
    usable = []
    date = None if time is None else layout.date_of(layout.index(time))
    for index, name in enumerate(layout.names):
        if not name and not _values(layout, index):
            continue                                                 # of a delimiter at the end of each row
        if layout.names.count(name) > 1 or not name:
            notes.append(f"column {index + 1} is not read: its name {name!r} is empty or not unique")
        elif name != time and _is_numeric(layout, index):
            usable.append(name)
        elif name != time and index != date:
            text = next(cell for cell in _values(layout, index) if not is_number(cell, layout.decimal))
            notes.append(f"column {name!r} is not read: it holds {text!r}, not a number")
    return usable


def _values(layout: Layout, index: int) -> list[str]:
    """Return the cells of a column in the first rows that hold a value."""
    return [cell for cell in layout.column(index) if not is_missing(cell, layout.keys.missing)]


def _is_numeric(layout: Layout, index: int) -> bool:
    """Return whether most of these cells are numbers."""
    cells = _values(layout, index)
    plain = [plain_number(cell, layout.decimal or ".", layout.keys.decimal is not None) for cell in cells]
    return 2 * sum(is_number(cell, layout.decimal) for cell in plain) >= len(cells)


def _read_numbers(
    numbers: np.ndarray, name: str, table: Table, keys: TimeKeys, notes: list[str]
) -> tuple[np.ndarray, datetime | None]:
    """Return a column of times that are numbers (n,) in seconds, and the clock at 0 s if they state one."""
    layout = table.layout
    _check_not_empty(np.isfinite(numbers), table)
    if keys.time_unit is None and COUNTER.fullmatch(name.strip()) and (np.diff(numbers) == 1).all():
        raise DataError(
            f"{table.path.name}: column {name!r} counts the rows, it is no time; set row_rate_hz, rows a second, in "
            "dataset_config.json, or time_column if another column is the time"
        )
    stated = unit_s_in(name, layout.units[layout.index(name)])
    unit_s = unit_s_of(keys.time_unit) if keys.time_unit else stated
    is_padded = any(map(PADDED.fullmatch, layout.column(layout.index(name))[:1]))          # none in a head of remarks
    t, start, unit_s = number_seconds(numbers, table.path.name, unit_s, is_padded)
    if keys.time_unit is None and unit_s not in (1.0, None):
        notes.append(f"times such as {numbers[0]:.15g} are read in units of {unit_s:.6g} s")
    if unit_s is None:
        notes.append(f"times such as {numbers[0]:.15g} are read as clock times, HHMMSS")
    if unit_s == 1.0 and stated is None and keys.time_unit is None and measured_rate(t) < SLOWEST_HZ:
        notes.append(f"{measured_rate(t):.3g} rows a second; if the times are not in seconds, set time_unit")
    return t, start


def _read_timestamps(column: pd.Series, table: Table, keys: TimeKeys) -> tuple[np.ndarray, datetime | None]:
    """Return a column of timestamps as seconds from the first one (n,), and the clock at the first one."""
    _check_not_empty(column.notna().to_numpy(), table)
    t, start = seconds_of(column, table.path.name, keys)
    unreadable = np.flatnonzero(~np.isfinite(t))
    if len(unreadable):
        expected = "seconds or a timestamp such as 2024-05-01 22:30:00.04; time_format names any other format"
        if keys.time_format is not None:
            expected = f"the time_format {keys.time_format!r}"
        elif unreadable[0]:
            expected = f"a timestamp like the first one, {column.iloc[0]!r}"
        raise DataError(f"{table.place(unreadable[0])}: time {column.iloc[unreadable[0]]!r}; expected {expected}")
    return t, start


def _check_not_empty(present: np.ndarray, table: Table) -> None:
    if not present.all():
        raise DataError(f"{table.place(present.argmin())}: the time is empty or infinite")


def _checked_times(t: np.ndarray, table: Table, keys: TimeKeys, is_local: bool, notes: list[str]) -> np.ndarray:
    """Return the rows' times (n,), those of whole seconds spread within them.

    Raises: DataError unless they increase, without an extreme jump or one of exactly an hour of a local clock.
    """
    if (spread := spread_seconds(t)) is not None:
        rate = len(t) / (t[-1] - t[0] + 1)
        notes.append(f"{rate:.4g} rows have the time of one second, on average: they are spread evenly within it")
        t = spread
    changes = clock_changes(t) if is_local else ()
    if len(changes):
        t = _settled_clock(t, changes, table, keys, notes)
    _check_times(t, table)
    return t


def _settled_clock(t: np.ndarray, rows: np.ndarray, table: Table, keys: TimeKeys, notes: list[str]) -> np.ndarray:
    """Return times of day (n,) without changes of the clock if the zone is declared; others are refused without it."""
    if keys.time_zone is None:
        row = rows[0]
        way = "back" if t[row] < t[row - 1] else "forward"
        raise DataError(
            f"{table.place(row)}: the clock is set {way} by exactly an hour; set time_zone in "
            'dataset_config.json, such as "Europe/Berlin" (or "UTC" if the clock was not changed), or --time-zone'
        )
    if keys.time_zone.upper() in ("UTC", "GMT", "ETC/UTC"):
        return t
    notes.append(f"the clock changes by an hour at row {table.line_of(rows[0])}, as clocks of {keys.time_zone} do")
    return without_clock_changes(t, rows)


def _check_times(t: np.ndarray, table: Table) -> None:
    """Raise DataError unless the rows' times (n,) increase, without an extreme jump."""
    step_s = np.diff(t)
    not_increasing = np.flatnonzero(step_s <= 0)
    if len(not_increasing):
        row = not_increasing[0] + 1
        what, hint = "goes backwards", "expected increasing times"
        if t[row] == t[row - 1]:
            what, hint = "repeats", "expected increasing times, with fractions of a second if needed"
        if len(not_increasing) > 0.1 * len(t):
            hint += "; if this column is no time, or too coarse, set time_column, or row_rate_hz, rows a second"
        raise DataError(
            f"{table.place(row)}: time {what} ({t[row - 1]:.9g} s, then {t[row]:.9g} s; "
            f"{counted(len(not_increasing), 'such row')}); {hint}"
        )
    if t[-1] - t[0] > 1000 * len(t) * np.median(step_s):
        row = int(step_s.argmax()) + 1
        raise DataError(
            f"{table.place(row)}: time jumps from {t[row - 1]:g} to {t[row]:g} s, far beyond the "
            f"recording's {len(t)} rows; split the file there"
        )


# ---- EDF, BDF, WFDB -------------------------------------------------------------------------


def _read_signal_file(path: Path, channels: list[str] | None, dialect: Dialect) -> Recording:
    """Return the recording of a signal file, with times from its start and NaN where a value is missing."""
    read = signal_files.read_signals(path, channels, dialect.annotators)
    longest = max((signal.t for signal in read.signals.values()), key=len, default=np.empty(0))
    t = longest if read.t is None else read.t
    if len(t) < 2:
        raise DataError(f"{path.name}: {counted(len(t), 'sample')}; expected at least 2")
    recording = Recording("", path, t, dict(read.signals), [], read.format, [], list(read.notes), read.start)
    spans = [(*note.span(dialect.annotation_s), note) for note in read.annotations]
    recording.annotations.extend(_annotations_within(spans, recording))
    return recording


def _annotations_within(spans: list[tuple[float, float, Annotation]], recording: Recording) -> list[Event]:
    """Return a file's annotations as events within its recording."""
    events, last_s = [], float(recording.t[-1])
    for start_s, stop_s, note in spans:
        if note.duration_s is None:
            stop_s = min(stop_s, max(last_s, start_s))               # how long it lasts is a convention
        events.append(Event(start_s, stop_s, note.text))
    return clipped(events, float(recording.t[0]), recording.end_s, recording.notes)


def clipped(events: Sequence[Event], start_s: float, end_s: float, notes: list[str], where: str = "") -> list[Event]:
    """Return events clipped to a recording, in time order; note those that had to be cut, or lie outside.

    Args:
        where: what a note begins with, such as the file they are from.
    """
    kept, cut, outside = [], [], []
    for event in sorted(events, key=lambda event: event.start_s):
        if event.end_s < start_s or event.start_s > end_s:
            outside.append(event)
            continue
        if event.start_s < math.floor(start_s) or event.end_s > end_s + 1.0:
            cut.append(event)
        kept.append(replace(event, start_s=max(event.start_s, start_s), end_s=min(event.end_s, end_s)))
    for some, what in ((cut, "cut to the recording"), (outside, "outside the recording, left out")):
        if some:
            found = f"the first {some[0].label[:40]!r} at {some[0].start_s:g} s"
            notes.append(f"{where}{counted(len(some), 'annotation')} {what}: {found}")
    return kept
