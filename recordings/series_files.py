"""Any table with a column of timestamps and one or more columns of values in, the rows of a series out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from recordings import tables, wall_clock
from recordings.layouts import Layout, LayoutKeys
from recordings.reading import MAX_NAMES, MAX_VALUE
from recordings.tables import Table
from recordings.windowing import TIMESTAMP_PATTERN
from utils import DataError, counted, listed

TIME_COLUMN, VALUE_COLUMN = "timestamp", "value"         # of NAB; also where a file has other columns besides
INFINITE = r"[+-]?inf(?:inity)?"


@dataclass(frozen=True)
class SeriesColumns:
    """Which columns of a file are read, and how they are written; None = detect it.

    values: channel -> its column. channels: the names that values have to have; None = those of the columns.
    usual_time: the column of the timestamps where it exists and none is given.
    """

    time: str | None = None
    usual_time: str = TIME_COLUMN
    values: Mapping[str, str] = field(default_factory=dict)
    channels: Sequence[str] | None = None
    time_format: str | None = None
    delimiter: str | None = None
    decimal: str | None = None


DETECT = SeriesColumns()


@dataclass(frozen=True)
class SeriesRows:
    """The rows of a file: timestamps (n,) as text, times (n,) as datetime64, values (n, C) with NaN = missing.

    columns: channel -> its column in the file, in the order of the values.
    """

    timestamps: np.ndarray
    times: np.ndarray
    values: np.ndarray
    time_column: str
    columns: dict[str, str]


def read_rows(path: Path, wanted: SeriesColumns = DETECT) -> SeriesRows:
    """Read the rows of a series, oldest first; timestamps may repeat, jump or be out of order now and then.

    Raises: DataError naming file and row or column: a cell that cannot be read, columns that are missing or not
        certain, rows that run backwards.
    """
    table = tables.open_table(path, LayoutKeys(delimiter=wanted.delimiter, decimal=wanted.decimal))
    layout = table.layout
    time = _time_column(layout, wanted, path)
    columns = _value_columns(layout, time, wanted, path)
    frame = tables.read_columns(table, list(columns.values()), [time])
    if len(frame) < 2:
        raise DataError(f"{path.name}: {counted(len(frame), 'row')}; expected at least 2")
    values = np.column_stack([frame[column].to_numpy(float) for column in columns.values()])     # (n, C)
    _check_values(values, list(columns.values()), table)
    stamps = _times(frame[time], wanted.time_format, table)
    _check_order(stamps, frame[time], table)
    return SeriesRows(_texts(frame[time], stamps), stamps.to_numpy(), values, time, columns)


# ---- columns --------------------------------------------------------------------------------


def _time_column(layout: Layout, wanted: SeriesColumns, path: Path) -> str:
    """Return the column of the timestamps: the given one, the usual one, or the only one that holds timestamps."""
    name = wanted.time or wanted.usual_time
    if name in layout.names:
        return name
    candidates = [] if wanted.time else layout.names
    found = [name for name in candidates if name and _holds_times(layout, name, wanted.time_format)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} columns of timestamps, {listed(found, MAX_NAMES)}" if found else f"no column {name!r}"
    raise DataError(f"{path.name}: {what}; the file has {listed(layout.names, MAX_NAMES)}; name one with --time-column")


def _value_columns(layout: Layout, time: str, wanted: SeriesColumns, path: Path) -> dict[str, str]:
    """Return channel -> column: those given or called like the channel, else the only one that holds numbers."""
    columns = dict(wanted.values)
    for channel in wanted.channels or ([] if columns else [VALUE_COLUMN]):
        same = [name for name in layout.names if name.lower() == channel.lower() and name != time]
        if channel not in columns and (channel in same or len(same) == 1):
            columns[channel] = channel if channel in same else same[0]
    missing = [column for column in columns.values() if column not in layout.names]
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; the file has {listed(layout.names, MAX_NAMES)}")
    unknown = [channel for channel in wanted.channels or [VALUE_COLUMN] if channel not in columns]
    if not unknown or (columns and wanted.channels is None):
        return {name: columns[name] for name in wanted.channels or columns}
    numbers = [name for name in layout.names if name != time and _holds_numbers(layout, name)]
    if len(numbers) == 1 and len(unknown) == 1 and not columns:
        return {unknown[0] if wanted.channels else numbers[0]: numbers[0]}
    hint = f"--channel {unknown[0]}=COLUMN" if wanted.channels else "--value-columns"
    what = f"columns of numbers: {listed(numbers, MAX_NAMES) or 'none'}"
    raise DataError(f"{path.name}: no column {unknown[0]!r}; {what}; name what to read with {hint}")


def _cells(layout: Layout, name: str) -> list[str]:
    index = layout.names.index(name)
    return [row[index].strip() for row in layout.head if index < len(row) and row[index].strip()]


def _holds_numbers(layout: Layout, name: str) -> bool:
    cells = _cells(layout, name)
    return bool(name and cells) and all(tables.is_number(cell, layout.decimal) for cell in cells)


def _holds_times(layout: Layout, name: str, time_format: str | None) -> bool:
    """Return whether all cells of a column in the first rows are dates; numbers only if they count from 1970."""
    cells = pd.Series(_cells(layout, name), dtype=str)
    if not len(cells) or (_holds_numbers(layout, name) and not cells.str.fullmatch(wall_clock.EPOCH).all()):
        return False
    try:
        return bool(wall_clock.readings_of(cells, time_format)[0].notna().all())
    except ValueError:
        return False


# ---- cells ----------------------------------------------------------------------------------


def _check_values(values: np.ndarray, columns: Sequence[str], table: Table) -> None:
    """Raise DataError on the first value (n, C) that is infinite or too large."""
    for k, column in enumerate(columns):
        large, what = np.abs(values[:, k]) > MAX_VALUE, "a number"
        if np.isnan(values[:, k]).any():                             # empty, or infinite
            texts = tables.read_columns(table, [], [column])[column].str.strip()
            large |= texts.str.fullmatch(INFINITE, case=False).eq(True).to_numpy(bool)
        if large.any():
            row = int(large.argmax())
            found, what = values[row, k], f"a number within ±{MAX_VALUE:g}"
            found = "infinite" if np.isnan(found) else f"{found:g}"
            raise DataError(f"{table.place(row)}: {column} is {found}; expected {what}")


def _times(texts: pd.Series, time_format: str | None, table: Table) -> pd.Series:
    """Return the rows' times (n,) as datetime64, as they are written, without a zone."""
    try:
        readings = wall_clock.readings_of(texts, time_format)
    except ValueError as error:
        if time_format is not None:
            raise DataError(f"{table.path.name}: --time-format {time_format!r}: {error}") from None
        where = table.path.name
        raise DataError(f"{where}: timestamps in several time zones; expected a single one, or none") from None
    if len(readings) > 1:
        raise DataError(f"{table.place(0)}: {texts.iloc[0]!r}: day or month first? say it with "
                        '--time-format, such as "%d/%m/%Y %H:%M"')  # fmt: skip
    unreadable = ~readings[0].dt.year.between(1, 9999).to_numpy(bool, na_value=False)      # also none at all
    if unreadable.any():
        row = int(unreadable.argmax())
        found = texts.iloc[row] if isinstance(texts.iloc[row], str) else ""
        expected = f"{time_format!r}" if time_format else "a timestamp such as 2014-04-01 00:05:00"
        raise DataError(f"{table.place(row)}: {texts.name} is {found!r}; expected {expected}")
    return readings[0]


def _check_order(times: pd.Series, texts: pd.Series, table: Table) -> None:
    """Raise DataError if no time (n,) differs from the one before, or most are earlier."""
    step = np.diff(times.to_numpy()).astype(float)
    if not step.any():
        raise DataError(f"{table.path.name}: all rows have the same timestamp; expected increasing timestamps")
    if (step < 0).sum() > (step > 0).sum():
        first, last = texts.iloc[0], texts.iloc[-1]
        raise DataError(
            f"{table.path.name}: rows run backwards: row {table.line_of(0)} is of {first}, the last one of {last}; "
            "sort them by time, the oldest first"
        )


def _texts(texts: pd.Series, times: pd.Series) -> np.ndarray:
    """Return timestamps (n,) as they are written, or in ISO 8601 where that is a count or not plain."""
    texts = texts.str.strip()
    is_plain = texts.str.fullmatch(TIMESTAMP_PATTERN) & ~texts.str.fullmatch(wall_clock.EPOCH)
    if is_plain.all():
        return texts.to_numpy(object)
    digits = "milliseconds" if (times.dt.microsecond != 0).any() else "seconds"
    return np.array([time.isoformat(" ", digits) for time in times.dt.to_pydatetime()], dtype=object)
