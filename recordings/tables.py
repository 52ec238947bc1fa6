"""Read tables of numbers with any usual delimiter, decimal sign, encoding and preamble.

What is not declared is detected (recordings/layouts.py); where the file leaves a doubt, the error names the config key
that settles it. Rows are counted as in an editor: the first line is row 1.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import warnings
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recordings.cells import MISSING, NUMBER, DecimalSigns, has_thousands, is_number, plain_number
from recordings.layouts import FACT, Layout, LayoutKeys, is_data, layout_of_lines, split
from utils import DataError, counted

ENCODINGS = {"utf-8-sig": "UTF-8", "cp1252": "Latin-1", "cp932": "Shift-JIS"}
ENCODINGS |= dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "UTF-16")
JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]{2}")               # two of Kana or Kanji
HALF_WIDTH = re.compile("[\uff61-\uff9f]")                          # Kana of one byte: letters of other encodings
ROWS_AT_ONCE = 1 << 17
HEAD_LINES = 200                                                     # inspected to detect the layout
MAX_HEAD = 1 << 20                                                   # bytes of a line: a binary file may be one
MOST_FOOTER = 10                                                     # lines
READ_ERRORS = (csv.Error, EOFError, OSError, ValueError, zlib.error)      # those of pandas are ValueErrors
WORDS = sorted({form for word in MISSING - {""} for form in (word, word.upper(), word.capitalize())} | {"NaN", "N/a"})


class NotANumber(DataError):
    """A cell of a column of numbers is a text."""

    def __init__(self, message: str, column: str, row: int, cell: str) -> None:
        super().__init__(message)
        self.column, self.row, self.cell = column, row, cell


def layout_of(
    path: Path,
    delimiter: str | None = None,
    decimal: str | None = None,
    keys: LayoutKeys | None = None,
    wanted: Sequence[str] = (),
) -> Layout:
    """Return how a table is written, as far as it is not declared.

    Args:
        keys: all that is declared, instead of the delimiter and the decimal sign alone.
        wanted: columns that are looked for, by which the header is known; the first is the time.
    Raises: DataError if the file cannot be read, has no header, or is ambiguous.
    """
    keys = keys or LayoutKeys(delimiter, decimal)
    text, encoding = _head_of(path, keys.encoding)
    lines = list(io.StringIO(text, newline=""))[:HEAD_LINES]
    layout = layout_of_lines(lines, path.name, keys, wanted)
    return replace(layout, encoding=encoding)


def describe_layout(layout: Layout) -> str:
    """Return how a table is written, in words."""
    return f"{layout}, {ENCODINGS.get(layout.encoding, layout.encoding)}"


def read_columns(path: Path, layout: Layout, floats: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Return columns of a table: those named in `floats` as float64 with NaN where there is no value, `texts` as str.

    `attrs["decimal"]` is the decimal sign, also where only rows far down show it.

    Raises: DataError naming row and column of the first cell that is not a number, or the row that has more cells than
        the header; DataError if the decimal sign matters and no number of the file proves it.
    """
    index = {name: layout.index(name) for name in (*floats, *texts)}
    for name in (*floats, *texts):
        if index[name] is None:
            raise DataError(f"{path.name}: {layout.names.count(name)} columns are called {name!r}; rename them")
    numeric, words = [index[name] for name in floats], [index[name] for name in texts]
    columns, layout = _settled_columns(path, layout, numeric, words)
    frame = pd.DataFrame({name: columns[k] for name, k in index.items()}, copy=False)
    frame.attrs["decimal"] = layout.decimal or "."
    return frame


def _settled_columns(
    path: Path, layout: Layout, floats: Sequence[int], texts: Sequence[int]
) -> tuple[dict[int, Any], Layout]:
    """Return columns by their numbers, and the layout with the decimal sign of the whole file if it matters."""
    try:
        columns = _columns(path, layout, floats, texts, float)
        if layout.decimal is not None or not any(_has_fractions(columns[index]) for index in floats):
            return columns, layout
    except ValueError:                                               # some cell is not a number: find it
        if layout.decimal is not None:
            return _columns(path, layout, floats, texts, str), layout
    layout = replace(layout, decimal=_decimal_of(path, layout, floats))
    try:
        return _columns(path, layout, floats, texts, float), layout
    except ValueError:
        return _columns(path, layout, floats, texts, str), layout


# ---- the first and last lines ---------------------------------------------------------------


def without_other_lines(path: Path, layout: Layout) -> tuple[Layout, list[str]] | None:
    """Return the layout without lines that are no samples, and notes on them; None if there are none.

    They are the header, or lines before it, where a logger that was started again repeats them, and what stands after
    the last sample, such as `Total;12.5`. A line that begins with a digit is a sample, if a damaged one.
    """
    lines, last, skipped = 0, 0, []                                  # lines: not empty, from the first sample on
    first = ""                                                       # of the lines after the last sample
    try:
        with _opened(path) as binary, io.TextIOWrapper(binary, layout.encoding, errors="replace", newline=None) as file:
            head = {next(file).strip() for _ in range(layout.first_row - 1)}
            for place, line in enumerate(map(str.strip, file)):
                if not line:
                    continue
                is_datum = _begins_as_sample(line, layout)
                if line in head and not is_datum:
                    skipped.append(place)
                    continue
                lines += 1
                if is_datum:
                    last, first = lines, ""
                first = first or ("" if last == lines else line)
    except (StopIteration, *READ_ERRORS):
        return None
    notes, after = [], lines - last
    if skipped:
        rows = f"first in row {skipped[0] + layout.first_row}"
        notes.append(f"{counted(len(skipped), 'line')} left out that {'repeat' if skipped[1:] else 'repeats'} the "
                     f"header or lines before it, {rows}")  # fmt: skip
    if 0 < after <= MOST_FOOTER and last > 1:
        notes.append(f"{counted(after, 'line')} after the last sample left out: {first[:40]!r}")
        layout = replace(layout, rows=last)
    return (replace(layout, skipped=tuple(skipped)), notes) if notes else None


def _begins_as_sample(line: str, layout: Layout) -> bool:
    cells = split(line, layout.delimiter, layout.quote)
    return is_data(cells) or "".join(cells).lstrip(" '\"")[:1].isdigit()


def _head_of(path: Path, declared: str | None = None) -> tuple[str, str]:
    """Return the first lines of a file and its encoding, which may be declared."""
    if not path.is_file():
        raise DataError(f"{path}: {'a folder; expected a file' if path.exists() else 'no such file'}")
    try:
        with _opened(path) as file:
            head = b"".join(file.readline(MAX_HEAD) for _ in range(HEAD_LINES))
    except READ_ERRORS as error:
        raise _not_readable(path, error) from None
    if declared is not None and not head.startswith(codecs.BOM_UTF8):
        return _decoded(head, declared, path), declared
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:                           # of UTF-16, every second byte of plain text
        zeros = [head[k : MAX_HEAD : 2].count(0) / max(len(head[k : MAX_HEAD : 2]), 1) for k in (0, 1)]
        encoding = "utf-16-le" if zeros[1] > 0.9 > zeros[0] else "utf-16-be" if zeros[0] > 0.9 > zeros[1] else None
        if encoding is None:
            raise DataError(f"{path.name}: not a readable CSV: it contains binary data")
    if encoding is not None:                                         # its lines may end within a character
        text = head[: len(head) // 2 * 2].decode(encoding, errors="replace")
        if "\0" in text or text.count("\ufffd") > 1 or not text[:20].lstrip("\ufeff").isascii():
            raise DataError(f"{path.name}: not a readable CSV: it contains binary data")
        return text.rpartition("\n")[0] + "\n" if text.count("\n") > 1 else text, encoding
    encoding = encoding_of(head)
    if encoding is not None:
        return head.decode(encoding), encoding
    raise DataError(
        f"{path.name}: not a readable CSV: neither UTF-8 nor Latin-1 text; set encoding in dataset_config.json, "
        'such as "cp932" or "gb18030", or save it as UTF-8'
    )


def encoding_of(data: bytes) -> str | None:
    """Return the encoding of some letters: UTF-8, the Shift-JIS or the Latin-1 of Windows; None = none of them."""
    for encoding in ("utf-8-sig", "cp932", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "cp932" or (JAPANESE.search(text) and not HALF_WIDTH.search(text)):
            return encoding
    return None


def _decoded(head: bytes, encoding: str, path: Path) -> str:
    """Return first lines in a declared encoding; the last one may end within a letter."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError as error:
        row, found = head.count(b"\n", 0, error.start) + 1, head[error.start : error.start + 4]
        raise DataError(
            f"{path.name}: row {row} holds {found!r}, which is no letter in {encoding}; correct encoding in "
            "dataset_config.json"
        ) from None


MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


# ---- reading --------------------------------------------------------------------------------


def _columns(
    path: Path, layout: Layout, floats: Sequence[int], texts: Sequence[int], float_type: type
) -> dict[int, Any]:
    """Return columns, read in parts, so that a table takes no more memory than its numbers."""
    types = dict.fromkeys(texts, str) | dict.fromkeys(floats, float_type)
    growing = {index: array("d") for index in floats}                # concatenating parts would take twice the memory
    parts: dict[int, list] = {index: [] for index in texts}
    row = layout.first_row
    for frame in _read(path, layout, types):
        for index in floats:
            growing[index].frombytes(_to_floats(frame[index], path, layout, index, row).view(np.uint8))
        for index in texts:
            parts[index].append(frame[index])
        row += len(frame)
    columns: dict[int, Any] = {index: np.asarray(column) for index, column in growing.items()}
    for index in texts:
        columns[index] = pd.concat(parts.pop(index), ignore_index=True) if parts[index] else pd.Series(dtype=str)
    return columns


def _read(path: Path, layout: Layout, types: dict[int, type]) -> Iterator[pd.DataFrame]:
    """Yield the rows in parts, with columns by index and the given types; ValueError if a cell has another type."""
    width, row = len(layout.names), layout.first_row
    columns = range(width + (layout.keys.comment is not None))       # a delimiter before a comment makes a cell more
    options = {
        "sep": r"\s+" if layout.delimiter == " " else layout.delimiter, "decimal": layout.decimal or ".",
        "header": None, "names": columns, "index_col": False, "dtype": types, "low_memory": False,
        "quotechar": layout.quote, "comment": layout.keys.comment, "na_values": [*WORDS, *layout.keys.missing],
        "nrows": layout.rows, "skiprows": layout.skipped,
    }  # fmt: skip
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            for frame in _parts(path, layout, options):
                if width in frame and len(more := np.flatnonzero(frame[width].notna())):
                    raise DataError(f"{path.name}: row {row + more[0]}: more cells than the header, which has {width}")
                row += len(frame)
                yield frame
    except pd.errors.ParserWarning:                                  # index_col=False: cells are never row names
        raise DataError(
            f"{path.name}: row {layout.first_row}: more cells than the header; if it lacks a name, set names in "
            "dataset_config.json, one for each column"
        ) from None
    except pd.errors.EmptyDataError:                                 # a header alone
        return
    except READ_ERRORS as error:
        if isinstance(error, ValueError) and not isinstance(error, (UnicodeError, pd.errors.ParserError)):
            raise
        raise _not_readable(path, error, layout.first_row - 1) from None


def _parts(path: Path, layout: Layout, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield ROWS_AT_ONCE rows at a time; after the first byte that is not UTF-8, in the encoding of Windows."""
    done = 0
    try:
        for frame in _parts_in(path, layout, layout.encoding, options):
            yield frame
            done += len(frame)
    except UnicodeDecodeError:                                       # after the lines that the encoding was taken from
        if layout.keys.encoding is not None:
            raise
        for frame in _parts_in(path, layout, "cp1252", options):
            if frame.index[0] >= done:
                yield frame


def _parts_in(path: Path, layout: Layout, encoding: str, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield the rows from the first one of samples on: what stands before it may be no CSV."""
    with _opened(path) as binary, io.TextIOWrapper(binary, encoding, newline="") as file:
        for _ in range(layout.first_row - 1):
            file.readline()
        with pd.read_csv(file, chunksize=ROWS_AT_ONCE, **options) as reader:
            yield from reader


def _to_floats(column: pd.Series, path: Path, layout: Layout, index: int, first_row: int) -> np.ndarray:
    """Return a column as float64, NaN for empty and infinite cells; DataError with the row of a text."""
    if column.dtype == float:
        numbers = column.to_numpy()
    else:
        texts = column.str.strip()
        is_word = texts.str.lower().isin(MISSING) | texts.isin(layout.keys.missing)
        texts = texts.mask(is_word)
        decimal = layout.decimal or "."
        declared = layout.keys.decimal is not None
        texts = texts.map(lambda text: plain_number(text, decimal, declared), na_action="ignore")
        if decimal == ",":
            texts = texts.where(~texts.str.contains(".", regex=False, na=False), "?").str.replace(",", ".")
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        wrong = np.flatnonzero(np.isnan(numbers) & texts.notna().to_numpy())
        if len(wrong):
            row, cell = wrong[0], column.iloc[wrong[0]]
            hint = f" with decimal {decimal!r}" if any(is_number(cell, sign) for sign in ".,") else ""
            if FACT.match(cell):
                hint = "; a new block of LabChart begins here: split the file, a block in each"
            elif has_thousands(cell):
                hint += "; if it has thousands separators, set decimal in dataset_config.json"
            elif not any(letter.isdigit() for letter in cell):
                hint += '; if it means "no value", set missing in dataset_config.json'
                if row + first_row == layout.first_row:
                    hint += ", or skip_rows if lines stand before the header"
            name = layout.names[index]
            message = f"{path.name}: row {row + first_row}: column {name!r} holds {cell!r}; expected a number{hint}"
            raise NotANumber(message, name, row + first_row, cell)
    return np.where(np.isinf(numbers), np.nan, numbers)


def _has_fractions(numbers: np.ndarray) -> bool:
    """Return whether some numbers (n,) are not whole; NaN counts as whole."""
    return bool((numbers != np.floor(numbers))[np.isfinite(numbers)].any())


def _decimal_of(path: Path, layout: Layout, floats: Sequence[int]) -> str:
    """Return the decimal sign that numbers anywhere in a file prove.

    Raises: DataError naming the first number that leaves it open, if none proves it.
    """
    signs, first, row = DecimalSigns(), None, layout.first_row
    for frame in _read(path, layout, dict.fromkeys(floats, str)):
        for index in floats:
            marked = frame[index][frame[index].str.contains(r"[.,]", na=False)]
            signs.take(marked.unique())
            open_ = [k for k, cell in marked.items() if NUMBER.fullmatch(cell)][:1] if first is None else []
            if open_:
                first = (row + int(open_[0] - frame.index[0]), frame[index][open_[0]].strip())
        if signs.proven:
            break
        row += len(frame)
    if len(signs.proven) == 1:
        return signs.proven.pop()
    if first is None:                                                # no number has a sign
        return "."
    raise DataError(
        f"{path.name}: row {first[0]}: ambiguous numbers such as {signs.examples}; set decimal in dataset_config.json"
    )


def _not_readable(path: Path, error: Exception, before: int = 0) -> DataError:
    """Return an error of reading as one line; before: rows before those that the parser has seen."""
    reason = " ".join(str(error).split())
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason):       # a message of pandas
        return DataError(
            f"{path.name}: row {int(found[2]) + before}: {found[3]} cells; the header has {found[1]}; if it lacks a "
            "name, set names in dataset_config.json, one for each column"
        )
    if found := re.search(r"EOF inside string starting at row (\d+)", reason):
        return DataError(f"{path.name}: row {int(found[1]) + before + 1}: an unclosed quotation mark")
    return DataError(f"{path.name}: not a readable CSV: {reason}")
