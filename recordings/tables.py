"""Read tables of numbers with any usual delimiter, decimal sign, encoding and time format.

What is not declared is detected from the first rows; if they are ambiguous, the error names the
config key that resolves it. Rows are counted as in an editor: the header is row 1.
"""

from __future__ import annotations

import csv
import gzip
import re
import warnings
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
ENCODINGS = {"utf-8-sig": "UTF-8", "cp1252": "Latin-1"}             # cp1252 is the Latin-1 of Windows
ROWS_AT_ONCE = 1 << 17
HEAD_LINES = 200                                                     # inspected to detect the layout
MAX_LINE_BYTES = 1 << 20                                             # a binary file may be one endless line
READ_ERRORS = (csv.Error, EOFError, OSError, ValueError, zlib.error)      # those of pandas are ValueErrors
NUMBER = re.compile(r"\s*[+-]?(\d*)([.,]?)(\d*)([eE][+-]?\d+)?\s*")
DATE_TIME = re.compile(
    r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})[ T]+(\d{1,2})(:\d{2}(?::\d{2}(?:[.,]\d+)?)?)(?:\s?([AaPp])[Mm])?"
)
TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}:\d{2}([.,]\d+)?")
DAY_S = 86400.0


@dataclass(frozen=True)
class Layout:
    """How a table is written; `names`: its columns, `head`: its first rows, `first_row`: the row number of head[0]."""

    delimiter: str
    decimal: str
    encoding: str
    names: list[str]
    head: list[list[str]]
    first_row: int

    def __str__(self) -> str:
        return f"separated by {DELIMITERS[self.delimiter]}, decimal {self.decimal!r}, {ENCODINGS[self.encoding]}"


def layout_of(path: Path, delimiter: str | None = None, decimal: str | None = None) -> Layout:
    """Return how a table is written; delimiter and decimal sign are detected if they are None.

    Raises: DataError if the file cannot be read, has no header, or is ambiguous.
    """
    text, encoding = _head_of(path)
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    skipped = 0
    if lines and (declared := re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\r\n"))):     # written by Excel
        lines, skipped, delimiter = lines[1:], 1, delimiter or declared[1]
    if not lines:
        raise DataError(f"{path.name}: empty file; expected a header and rows of samples")
    try:
        delimiter = delimiter or _delimiter_of(lines, path)
        names, *rows = csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise _not_readable(path, error) from None
    decimal = decimal or _decimal_of([cell for row in rows for cell in row], delimiter, path)
    return Layout(delimiter, decimal, encoding, [name.strip() for name in names], rows, 2 + skipped)


def read_columns(path: Path, layout: Layout, floats: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Return columns of a table: those named in `floats` as float64 with NaN for an empty cell, `texts` as str.

    Raises: DataError naming row and column of the first cell that is not a number, or the row that
        has more cells than the header.
    """
    for name in (*floats, *texts):
        if layout.names.count(name) > 1:
            raise DataError(f"{path.name}: {layout.names.count(name)} columns are called {name!r}; rename them")
    try:
        return _columns(path, layout, floats, texts, float)
    except ValueError:                                               # some cell is not a number: find it
        return _columns(path, layout, floats, texts, str)


def is_number(text: str, decimal: str) -> bool:
    """Return whether a cell is a number with this decimal sign."""
    found = NUMBER.fullmatch(text)
    return bool(found and (found[1] or found[3]) and found[2] in ("", decimal))


def seconds_of(texts: pd.Series, where: str, time_format: str | None = None) -> np.ndarray:
    """Return timestamps as seconds from the first one (n,), NaN where one cannot be read.

    Accepted are ISO 8601, `31.12.2024 23:59:59,5`, dates with slashes if the order of day and month
    is unambiguous, times of day (which may pass midnight), or `time_format` alone if it is given.
    """
    if time_format is not None:
        seconds = _parse(texts, time_format, where)
        return seconds if re.search("%[djcx]", time_format) else _continue_after_midnight(seconds)
    first = str(texts.iloc[0]).strip()
    if TIME_OF_DAY.fullmatch(first):
        clock = texts.str.strip().str.replace(",", ".", regex=False)
        return _continue_after_midnight(pd.to_timedelta(clock, errors="coerce").dt.total_seconds().to_numpy())
    if DATE_TIME.fullmatch(first):
        return _parse_dates(texts, where)
    seconds = _parse(texts, "ISO8601", where)
    if np.isfinite(seconds).all():
        return seconds
    return _parse(texts.str.strip().str.replace(",", ".", regex=False), "ISO8601", where)


def timestamp_of(text: str, time_format: str | None = None) -> datetime | None:
    """Return a timestamp in ISO 8601, as `31.12.2024 23:59:59,5` or in `time_format`; None if it is not one."""
    try:
        if time_format is not None:
            return datetime.strptime(text, time_format)
        found = DATE_TIME.fullmatch(text)
        return datetime.fromisoformat(_iso(found, day_first=True) if found and found[2] == "." else text)
    except ValueError:
        return None


# ---- detection ------------------------------------------------------------------------------


def _head_of(path: Path) -> tuple[str, str]:
    """Return the first lines of a file and its encoding."""
    if not path.is_file():
        raise DataError(f"{path}: {'a folder; expected a file' if path.exists() else 'no such file'}")
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            head = b"".join(file.readline(MAX_LINE_BYTES) for _ in range(HEAD_LINES))
    except READ_ERRORS as error:
        raise _not_readable(path, error) from None
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path.name}: not a readable CSV: UTF-16 text; save it as UTF-8")
    if b"\0" in head:
        raise DataError(f"{path.name}: not a readable CSV: it contains binary data")
    for encoding in ENCODINGS:
        try:
            return head.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path.name}: not a readable CSV: neither UTF-8 nor Latin-1 text")


def _delimiter_of(lines: list[str], path: Path) -> str:
    """Return the delimiter that splits the header; if several do, the one that gives all rows the same width."""
    widths = {d: [len(row) for row in csv.reader(lines, delimiter=d)] for d in DELIMITERS}
    possible = [d for d in DELIMITERS if widths[d][0] > 1]
    if len(possible) > 1:
        regular = [d for d in possible if len(set(widths[d])) == 1]
        if len(regular) != 1:
            names = " or ".join(DELIMITERS[d] for d in possible)
            raise DataError(f"{path.name}: row 1: separated by {names}? set delimiter in dataset_config.json")
        return regular[0]
    return possible[0] if possible else ","


def _decimal_of(cells: list[str], delimiter: str, path: Path) -> str:
    """Return the decimal sign. 1,234 alone may be a fraction or thousands; 0,5 is unambiguous."""
    seen, proven = {}, set()
    for cell in cells:
        found = NUMBER.fullmatch(cell)
        if found and found[2] and (found[1] or found[3]):
            seen[found[2]] = cell.strip()
            if len(found[3]) != 3 or len(found[1]) > 3 or found[1].startswith("0") or not found[1]:
                proven.add(found[2])
    if delimiter == "," and "," not in seen:
        return "."
    if len(proven) == 1:
        return proven.pop()
    if seen:
        examples = " and ".join(seen.values())
        raise DataError(f"{path.name}: ambiguous numbers such as {examples}; set decimal in dataset_config.json")
    return "."


# ---- reading --------------------------------------------------------------------------------


def _columns(path: Path, layout: Layout, floats: Sequence[str], texts: Sequence[str], float_type: type) -> pd.DataFrame:
    """Return the named columns, read in parts, so that a table takes no more memory than its numbers."""
    index = {name: layout.names.index(name) for name in (*floats, *texts)}
    types = {index[name]: str for name in texts} | {index[name]: float_type for name in floats}
    growing = {name: array("d") for name in floats}                  # concatenating parts would take twice the memory
    parts: dict[str, list] = {name: [] for name in texts}
    row = layout.first_row
    for frame in _read(path, layout, types):
        for name in floats:
            growing[name].frombytes(_to_floats(frame[index[name]], name, path, layout, row).view(np.uint8))
        for name in texts:
            parts[name].append(frame[index[name]])
        row += len(frame)
    columns = {name: np.asarray(column) for name, column in growing.items()}
    joined = {name: pd.concat(parts.pop(name), ignore_index=True) for name in texts}
    return pd.DataFrame(columns | joined, copy=False)


def _read(path: Path, layout: Layout, types: dict[int, type]) -> Iterator[pd.DataFrame]:
    """Yield the rows in parts, with columns by index and the given types; ValueError if a cell has another type."""
    options = {
        "sep": layout.delimiter, "decimal": layout.decimal, "encoding": layout.encoding, "header": 0,
        "names": range(len(layout.names)), "skiprows": layout.first_row - 2, "index_col": False, "dtype": types,
        "low_memory": False,
    }  # fmt: skip
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            yield from _parts(path, options)
    except pd.errors.ParserWarning:                                  # index_col=False: cells are never row names
        raise DataError(f"{path.name}: row {layout.first_row}: more cells than the header") from None
    except READ_ERRORS as error:
        if isinstance(error, ValueError) and not isinstance(error, (UnicodeError, pd.errors.ParserError)):
            raise
        raise _not_readable(path, error) from None


def _parts(path: Path, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield ROWS_AT_ONCE rows at a time; after the first byte that is not UTF-8, in the encoding of Windows."""
    done = 0
    try:
        with pd.read_csv(path, chunksize=ROWS_AT_ONCE, **options) as reader:
            for frame in reader:
                yield frame
                done += len(frame)
    except UnicodeDecodeError:                                       # after the lines that the encoding was taken from
        with pd.read_csv(path, chunksize=ROWS_AT_ONCE, **options | {"encoding": "cp1252"}) as reader:
            for frame in reader:
                if frame.index[0] >= done:
                    yield frame


def _to_floats(column: pd.Series, name: str, path: Path, layout: Layout, first_row: int) -> np.ndarray:
    """Return a column as float64, NaN for empty and infinite cells; DataError with the row of a text."""
    if column.dtype == float:
        numbers = column.to_numpy()
    else:
        texts = column.str.strip()
        if layout.decimal == ",":
            texts = texts.where(~texts.str.contains(".", regex=False, na=False), "?").str.replace(",", ".")
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        wrong = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
        if len(wrong):
            row, cell = wrong[0], column.iloc[wrong[0]]
            hint = f" with decimal {layout.decimal!r}" if any(is_number(cell, sign) for sign in ".,") else ""
            raise DataError(
                f"{path.name}: row {row + first_row}: column {name!r} holds {cell!r}; expected a number{hint}"
            )
    return np.where(np.isinf(numbers), np.nan, numbers)


def _not_readable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason):       # a message of pandas
        return DataError(f"{path.name}: row {found[2]}: {found[3]} cells; the header has {found[1]}")
    if found := re.search(r"EOF inside string starting at row (\d+)", reason):
        return DataError(f"{path.name}: row {int(found[1]) + 1}: an unclosed quotation mark")
    return DataError(f"{path.name}: not a readable CSV: {reason}")


# ---- times ----------------------------------------------------------------------------------


def _parse(texts: pd.Series, time_format: str, where: str) -> np.ndarray:
    """Return seconds from the first text (n,), NaN for a text in another format."""
    try:
        stamps = pd.to_datetime(texts, errors="coerce", utc=True, format=time_format)
    except ValueError as error:
        raise DataError(f"{where}: time_format {time_format!r} in dataset_config.json: {error}") from None
    seconds = (stamps - stamps.min()).dt.total_seconds().to_numpy()
    return seconds - seconds[0] if np.isfinite(seconds[0]) else seconds


def _parse_dates(texts: pd.Series, where: str) -> np.ndarray:
    """Return seconds from the first of timestamps such as 31.12.2024 23:59:59,5 or 12/31/2024 11:59:59 PM.

    Dates with points begin with the day. Only time differences matter: if both orders of day and
    month give the same ones, either is correct.
    """
    found = [DATE_TIME.fullmatch(text.strip()) for text in texts]
    orders = [True] if found[0][2] == "." else [True, False]
    parsed = [_parse(pd.Series([_iso(f, order) for f in found], dtype=str), "ISO8601", where) for order in orders]
    complete = [seconds for seconds in parsed if np.isfinite(seconds).all()]
    if len(complete) == 2 and not np.array_equal(*complete):
        raise DataError(
            f"{where}: time {texts.iloc[0]!r}: day or month first? set time_format in dataset_config.json, "
            'such as "%d/%m/%Y %H:%M:%S.%f"'
        )
    return complete[0] if complete else min(parsed, key=lambda seconds: np.isnan(seconds).sum())


def _iso(found: re.Match[str] | None, day_first: bool) -> str:
    """Return a match of DATE_TIME in ISO 8601; "" for None."""
    if found is None:
        return ""
    day, _, month, year, hour, rest, half = found.groups()
    if not day_first:
        day, month = month, day
    if half:
        hour = int(hour) % 12 + (12 if half in "pP" else 0)
    return f"{year}-{month:0>2}-{day:0>2}T{hour:0>2}{rest.replace(',', '.')}"


def _continue_after_midnight(seconds: np.ndarray) -> np.ndarray:
    """Return times of day (n,) as seconds from the first: a jump back by more than half a day is midnight."""
    days = np.cumsum(np.r_[False, np.diff(seconds) < -DAY_S / 2])
    return seconds + days * DAY_S - seconds[0]
