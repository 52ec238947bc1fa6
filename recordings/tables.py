"""Read tables of numbers with any usual delimiter, decimal sign, encoding and preamble.

What is not declared is detected (recordings/layouts.py); where the file leaves a doubt, the error names the config key
that settles it. Rows are counted as in an editor: the first line is row 1.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import re
import warnings
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recordings.cells import MISSING, NUMBER, DecimalSigns, has_thousands, is_number, plain_number
from recordings.layouts import DETECT, FACT, Layout, LayoutKeys, is_data, layout_of_lines, split
from utils import DataError, counted

SHIFT_JIS = "cp932"                                                  # as Windows has it
ENCODINGS = {"utf-8-sig": "UTF-8", "cp1252": "Latin-1", SHIFT_JIS: "Shift-JIS"}
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


@dataclass(frozen=True)
class Table:
    """The file of a table, and how it is written."""

    path: Path
    layout: Layout

    def __str__(self) -> str:
        return f"{self.layout}, {ENCODINGS.get(self.layout.encoding, self.layout.encoding)}"

    def line_of(self, row: int) -> int:
        """Return the number, as an editor shows it, of the line in which a row begins; the first row is 0."""
        skipped = frozenset(self.layout.skipped)
        rows = (line for k, (line, _, text) in enumerate(_records(self)) if text and k not in skipped)
        with contextlib.suppress(csv.Error):
            return next(itertools.islice(rows, row, None), self.layout.first_row + row)
        return self.layout.first_row + row

    def place(self, row: int) -> str:
        """Return what a message about a row begins with."""
        return f"{self.path.name}: row {self.line_of(row)}"


def open_table(path: Path, keys: LayoutKeys = DETECT, wanted: Sequence[str] = ()) -> Table:
    """Return a table, of which the first lines say how it is written, as far as that is not declared.

    Args:
        keys: what is declared.
        wanted: columns that are looked for, by which the header is known; the first is the time.
    Raises: DataError if the file cannot be read, has no header, or is ambiguous.
    """
    text, encoding = _head_of(path, keys.encoding)
    lines = list(io.StringIO(text, newline=""))[:HEAD_LINES]
    return Table(path, replace(layout_of_lines(lines, path.name, keys, wanted), encoding=encoding))


def read_columns(table: Table, floats: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Return columns of a table: those named in `floats` as float64 with NaN where there is no value, `texts` as str.

    `attrs["decimal"]` is the decimal sign, also where only rows far down show it.

    Raises: DataError naming row and column of the first cell that is not a number, or the row that has more cells than
        the header; DataError if the decimal sign matters and no number of the file proves it.
    """
    names = table.layout.names
    index = {name: table.layout.index(name) for name in (*floats, *texts)}
    for name, k in index.items():
        if k is None:
            raise DataError(f"{table.path.name}: {names.count(name)} columns are called {name!r}; rename them")
    columns, decimal = _settled_columns(table, [index[name] for name in floats], [index[name] for name in texts])
    frame = pd.DataFrame({name: columns[k] for name, k in index.items()}, copy=False)
    frame.attrs["decimal"] = decimal or "."
    return frame


def _settled_columns(
    table: Table, floats: Sequence[int], texts: Sequence[int]
) -> tuple[dict[int, Any], str | None]:
    """Return columns by their numbers, and the decimal sign, that of the whole file if it matters."""
    decimal = table.layout.decimal
    try:
        columns = _columns(table, floats, texts, float)
        if decimal is not None or not any(_has_fractions(columns[index]) for index in floats):
            return columns, decimal
    except ValueError:                                               # some cell is not a number: find it
        if decimal is not None:
            return _columns(table, floats, texts, str), decimal
    decimal = _decimal_of(table, floats)
    table = replace(table, layout=replace(table.layout, decimal=decimal))
    try:
        return _columns(table, floats, texts, float), decimal
    except ValueError:
        return _columns(table, floats, texts, str), decimal


# ---- the first and last lines ---------------------------------------------------------------


def without_other_lines(table: Table) -> tuple[Table, list[str]] | None:
    """Return the table without lines that are no samples, and notes on them; None if there are none.

    They are the header, or lines before it, where a logger that was started again repeats them, and what stands after
    the last sample, such as `Total;12.5`. A line that begins with a digit is a sample, if a damaged one.
    """
    path, layout = table.path, table.layout
    rows, last, skipped, first_skipped = 0, 0, [], 0                 # rows: from the first sample on
    after, first_after = 0, ""                                       # lines after the last sample
    try:
        with _opened(path) as binary, io.TextIOWrapper(binary, layout.encoding, errors="replace", newline="") as file:
            head = {next(file).strip() for _ in range(layout.first_row - 1)} - {""}
        for k, (line, lines, text) in enumerate(_records(table)):
            is_datum = bool(text) and _begins_as_sample(text, layout)
            if text.strip() in head and not is_datum:
                skipped.append(k)
                first_skipped = first_skipped or line
            elif text:
                rows += 1
                last, after, first_after = (rows, 0, "") if is_datum else (last, after + lines, first_after or text)
    except (StopIteration, *READ_ERRORS):
        return None
    notes = []
    if skipped:
        notes.append(f"{counted(len(skipped), 'line')} left out that {'repeat' if skipped[1:] else 'repeats'} the "
                     f"header or lines before it, first in row {first_skipped}")  # fmt: skip
    if 0 < after <= MOST_FOOTER and last > 1:
        notes.append(f"{counted(after, 'line')} after the last sample left out: {first_after[:40]!r}")
        layout = replace(layout, rows=last)
    return (replace(table, layout=replace(layout, skipped=tuple(skipped))), notes) if notes else None


def _line_after(table: Table, records: int) -> int:
    """Return the number of the line that follows so many records."""
    after = table.layout.first_row
    with contextlib.suppress(csv.Error):
        for line, lines, _ in itertools.islice(_records(table), records):
            after = line + lines
    return after


def _begins_as_sample(line: str, layout: Layout) -> bool:
    cells = split(line, layout.delimiter, layout.quote)
    return is_data(cells) or "".join(cells).lstrip(" '\"")[:1].isdigit()


def _records(table: Table) -> Iterator[tuple[int, int, str]]:
    """Yield of each record from the first row on the number of its first line, how many lines it has, and its text.

    The text of a blank line and of a comment, which are no rows, is empty. pandas, too, counts a record with quoted
    line breaks as one.

    Raises: csv.Error if a cell is longer than any that is meant.
    """
    layout, comment, taken = table.layout, table.layout.keys.comment, []

    def lines(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield "" if comment and line.startswith(comment) else line

    blank = " \r\n" if layout.delimiter == "\t" else " \t\r\n"
    with _opened(table.path) as binary:
        file = io.TextIOWrapper(binary, layout.encoding, errors="replace", newline="")
        for _ in range(layout.first_row - 1):
            file.readline()
        first = layout.first_row
        for cells in csv.reader(lines(file), delimiter=layout.delimiter, quotechar=layout.quote):
            yield first, len(taken), "".join(taken).strip(blank) if cells else ""
            first += len(taken)
            taken.clear()


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
    if encoding := encoding_of(head):
        return head.decode(encoding), encoding
    raise DataError(
        f"{path.name}: not a readable CSV: neither UTF-8 nor Latin-1 text; set encoding in dataset_config.json, "
        'such as "cp932" or "gb18030", or save it as UTF-8'
    )


def encoding_of(text: bytes) -> str | None:
    """Return the encoding of a text without a mark: UTF-8, Shift-JIS where it is certain, Latin-1; None = no text."""
    for encoding in ("utf-8-sig", SHIFT_JIS, "cp1252"):
        try:
            letters = text.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != SHIFT_JIS or (JAPANESE.search(letters) and not HALF_WIDTH.search(letters)):
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


def _columns(table: Table, floats: Sequence[int], texts: Sequence[int], float_type: type) -> dict[int, Any]:
    """Return columns, read in parts, so that a table takes no more memory than its numbers."""
    types = dict.fromkeys(texts, str) | dict.fromkeys(floats, float_type)
    growing = {index: array("d") for index in floats}                # concatenating parts would take twice the memory
    parts: dict[int, list] = {index: [] for index in texts}
    for frame in _read(table, types):
        for index in floats:
            growing[index].frombytes(_to_floats(frame[index], table, index).view(np.uint8))
        for index in texts:
            parts[index].append(frame[index])
    columns: dict[int, Any] = {index: np.asarray(column) for index, column in growing.items()}
    for index in texts:
        columns[index] = pd.concat(parts.pop(index), ignore_index=True) if parts[index] else pd.Series(dtype=str)
    return columns


def _read(table: Table, types: dict[int, type]) -> Iterator[pd.DataFrame]:
    """Yield the rows in parts, with columns by index and the given types; ValueError if a cell has another type."""
    layout, width = table.layout, len(table.layout.names)
    columns = range(width + (layout.keys.comment is not None))       # a delimiter before a comment makes a cell more
    options = {
        "sep": r"\s+" if layout.delimiter == " " else layout.delimiter, "decimal": layout.decimal or ".",
        "header": None, "names": columns, "index_col": False, "dtype": types, "low_memory": False,
        "quotechar": layout.quote, "comment": layout.keys.comment, "na_values": [*WORDS, *layout.keys.missing],
        "nrows": layout.rows, "skiprows": layout.skipped,
    }  # fmt: skip
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            for frame in _parts(table, options):
                if width in frame and len(more := np.flatnonzero(frame[width].notna())):
                    place = table.place(int(frame.index[more[0]]))
                    raise DataError(f"{place}: more cells than the header, which has {width}")
                yield frame
    except pd.errors.ParserWarning:                                  # index_col=False: cells are never row names
        raise DataError(
            f"{table.place(0)}: more cells than the header; if it lacks a name, set names in "
            "dataset_config.json, one for each column"
        ) from None
    except pd.errors.EmptyDataError:                                 # a header alone
        return
    except READ_ERRORS as error:
        if isinstance(error, ValueError) and not isinstance(error, (UnicodeError, pd.errors.ParserError)):
            raise
        raise _not_readable(table.path, error, table) from None


def _parts(table: Table, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield ROWS_AT_ONCE rows at a time; after the first byte that is not UTF-8, in the encoding of Windows."""
    done = 0
    try:
        for frame in _parts_in(table, table.layout.encoding, options):
            yield frame
            done += len(frame)
    except UnicodeDecodeError:                                       # after the lines that the encoding was taken from
        if table.layout.keys.encoding is not None:
            raise
        for frame in _parts_in(table, "cp1252", options):
            if frame.index[0] >= done:
                yield frame


def _parts_in(table: Table, encoding: str, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield the rows from the first one of samples on: what stands before it may be no CSV."""
    with _opened(table.path) as binary, io.TextIOWrapper(binary, encoding, newline="") as file:
        for _ in range(table.layout.first_row - 1):
            file.readline()
        with pd.read_csv(file, chunksize=ROWS_AT_ONCE, **options) as reader:
            yield from reader


def _to_floats(column: pd.Series, table: Table, index: int) -> np.ndarray:
    """Return a column as float64, NaN for empty and infinite cells; DataError with the row of a text.

    Args:
        column: the cells, indexed by the number of their row.
    """
    layout = table.layout
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
            row, cell = int(column.index[wrong[0]]), column.iloc[wrong[0]]
            hint = f" with decimal {decimal!r}" if any(is_number(cell, sign) for sign in ".,") else ""
            if FACT.match(cell):
                hint = "; a new block of LabChart begins here: split the file, a block in each"
            elif has_thousands(cell):
                hint += "; if it has thousands separators, set decimal in dataset_config.json"
            elif not any(letter.isdigit() for letter in cell):
                hint += '; if it means "no value", set missing in dataset_config.json'
                if not row:
                    hint += ", or skip_rows if lines stand before the header"
            name, line = layout.names[index], table.line_of(row)
            message = f"{table.path.name}: row {line}: column {name!r} holds {cell!r}; expected a number{hint}"
            raise NotANumber(message, name, line, cell)
    return np.where(np.isinf(numbers), np.nan, numbers)


def _has_fractions(numbers: np.ndarray) -> bool:
    """Return whether some numbers (n,) are not whole; NaN counts as whole."""
    return bool((numbers != np.floor(numbers))[np.isfinite(numbers)].any())


def _decimal_of(table: Table, floats: Sequence[int]) -> str:
    """Return the decimal sign that numbers anywhere in a file prove.

    Raises: DataError naming the first number that leaves it open, if none proves it.
    """
    signs, first = DecimalSigns(), None
    for frame in _read(table, dict.fromkeys(floats, str)):
        for index in floats:
            marked = frame[index][frame[index].str.contains(r"[.,]", na=False)]
            signs.take(marked.unique())
            if first is None:
                first = next((row for row, cell in marked.items() if NUMBER.fullmatch(cell)), None)
        if signs.proven:
            break
    if len(signs.proven) == 1:
        return signs.proven.pop()
    if first is None:                                                # no number has a sign
        return "."
    raise DataError(
        f"{table.place(first)}: ambiguous numbers such as {signs.examples}; set decimal in dataset_config.json"
    )


def _not_readable(path: Path, error: Exception, table: Table | None = None) -> DataError:
    """Return an error of reading as one line; `table` if it is one of the parser, which counts records."""
    reason = " ".join(str(error).split())
    if table and (found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)):
        return DataError(
            f"{path.name}: row {_line_after(table, int(found[2]) - 1)}: {found[3]} cells; the header has {found[1]}; "
            "if it lacks a name, set names in dataset_config.json, one for each column"
        )
    if table and (found := re.search(r"EOF inside string starting at row (\d+)", reason)):
        return DataError(f"{path.name}: row {_line_after(table, int(found[1]))}: an unclosed quotation mark")
    return DataError(f"{path.name}: not a readable CSV: {reason}")
