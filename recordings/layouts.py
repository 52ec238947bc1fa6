"""How a table is written, found in its first lines: lines before the header, delimiter, names, units, missing words.

What is certain is detected; what is not is an error that names the key of dataset_config.json that settles it. Files
and live rows are read by the same rules. Rows are counted as in an editor: the first line is row 1.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from recordings.cells import MISSING, DecimalSigns, is_missing, is_number
from recordings.number_times import unit_s_in, unit_s_of
from recordings.time_formats import TIME_ALONE, clean, is_compact_date, is_date, is_stamp
from recordings.units import is_known
from utils import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blanks"}
COMMENTS = ("#", "%", "//")                                          # that a line before the header may begin with
FACT = re.compile(r"[A-Za-z][\w ]*=(\t|\s*$)")                            # LabChart: Interval=, ChannelTitle=
NUMBERED = re.compile(r"CH\d+")                                       # a channel of AcqKnowledge
TIME_NAME = re.compile(r"(t|t_\w{1,3}|time.*|elapsed.*|date.*|datum.*|zeit.*|uhrzeit.*|temps.*|heure.*|tiempo.*|hora.*"
                       r"|fecha.*|tempo.*|ora|tijd.*|\u6642.*|\u65f6.*|\u65e5.*)(\W.*)?$", re.IGNORECASE)
RULE = re.compile(r"[-=+|: ]{2,}")                                   # below a header: ----; `--` alone is a value
SURE_ROWS = 3                                                        # of numbers, without a header before them
RATES = (                                                            # in the lines before the header
    (re.compile(r"sampl\w*[ _-]?(?:rate|freq\w*)[^\d\n]{0,16}([\d.]+)", re.IGNORECASE), False),
    (re.compile(r"(?m)^\W*rate[^\d\n]{1,6}([\d.]+) ?(?:hz|$)", re.IGNORECASE), False),
    (re.compile(r"([\d.]+) samples?/s(?:ec|econd)?", re.IGNORECASE), False),
    (re.compile(r"([\d.]+) msec/sample", re.IGNORECASE), 1e3),
    (re.compile(r"interval[^\d\n]{1,4}([\d.]+) ?s\b", re.IGNORECASE), 1.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayoutKeys:
    """What a dataset declares of how its tables are written; None = detect it.

    skip_rows: lines before the header. comment: what the lines, or ends of lines, begin with that are not read.
    names: of the columns, instead of a header's. missing: words that mean "no value", besides the usual ones.
    row_rate_hz: rows a second of a table without a time column. encoding: of its letters, as Python calls it.
    """

    delimiter: str | None = None
    decimal: str | None = None
    skip_rows: int | None = None
    comment: str | None = None
    names: Sequence[str] | None = None
    missing: Sequence[str] = ()
    row_rate_hz: float | None = None
    encoding: str | None = None


DETECT = LayoutKeys()


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    decimal: None = its first rows leave it open. names: of the columns. units: of the columns, "" = not stated.
    head: the first rows. first_row: the row number of head[0]. quote: around cells. preamble: the lines before the
    header. rate_hz: rows a second that the file states, or the dataset. start: the clock at the first row as the
    lines before the header state it. keys: what was declared. rows: of samples; None = all lines to the end. skipped:
    lines that are none, counted from first_row.
    """

    delimiter: str
    decimal: str | None
    names: list[str]
    units: list[str]
    head: list[list[str]]
    first_row: int
    quote: str = '"'
    encoding: str = "utf-8-sig"
    preamble: list[str] = field(default_factory=list)
    rate_hz: float | None = None
    start: datetime | None = None
    keys: LayoutKeys = DETECT
    rows: int | None = None
    skipped: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"separated by {DELIMITERS[self.delimiter]}, decimal {self.decimal or '.'!r}"

    def index(self, name: str) -> int | None:
        """Return the column of a name, also of `flow` for `flow [L/s]`; None if there is none, or two."""
        for names in (self.names, [bare_name(name) for name in self.names]):
            if names.count(name) == 1:
                return names.index(name)
        return None

    def column(self, index: int) -> list[str]:
        """Return the cells of a column in the first rows."""
        return [row[index] for row in self.head if index < len(row)]

    def date_of(self, time: int) -> int | None:
        """Return the column of dates that belongs to a column of times of day; None if there is none, or several."""
        times = self.column(time)
        if not times or not TIME_ALONE.fullmatch(clean(times[0])):
            return None
        others = [k for k in range(len(self.names)) if k != time and self.column(k)]
        dates = [k for k in others if all(map(is_date, self.column(k)))]
        return dates[0] if len(dates) == 1 else None


def bare_name(name: str) -> str:
    """Return the name of a column without the unit behind it, `flow` for `flow [L/s]`; the name itself without one."""
    return name.partition("[")[0].partition("(")[0].strip() if unit_in(name) else name


def unit_in(name: str) -> str:
    """Return the known unit in brackets in the name of a column; "" if there is none."""
    found = re.match(r"[^\[(]*\S\s*[\[(]([^\])]*)[\])]", name)
    return found[1] if found and (is_known(found[1]) or unit_s_of(found[1]) is not None) else ""


def is_datum(cell: str) -> bool:
    """Return whether a cell is what a sample has: a number with any decimal sign, a timestamp, a date."""
    return is_number(cell, None) or is_stamp(cell) or is_date(cell)


def is_data(cells: Sequence[str]) -> bool:
    """Return whether cells are a row of samples: the first one is a datum, as are at least half of all."""
    full = [cell for cell in cells if not is_missing(cell)]
    return bool(full) and is_datum(full[0]) and 2 * sum(map(is_datum, full)) >= len(full)


def is_sample(line: str) -> bool:
    """Return whether a line is a row of samples with any delimiter."""
    return any(is_data(line.split(delimiter)) for delimiter in DELIMITERS)


def split(line: str, delimiter: str, quote: str = '"') -> list[str]:
    """Return the cells of a line, without what a delimiter at its end adds. Raises: csv.Error if it is no CSV."""
    if delimiter == " ":
        return line.split()
    if quote not in line:
        return line.rstrip("\r\n").split(delimiter)
    return next(csv.reader([line], delimiter=delimiter, quotechar=quote), [])


def fitted(cells: list[str], width: int) -> list[str]:
    """Return cells without an empty one after the last column, which a delimiter at the end of the row makes."""
    return cells[:width] if len(cells) == width + 1 and not cells[width].strip() else cells


# ---- the first lines ------------------------------------------------------------------------


def layout_of_lines(
    lines: Sequence[str], where: str, keys: LayoutKeys = DETECT, wanted: Sequence[str] = ()
) -> Layout:
    """Return how a table is written.

    Args:
        lines: its first lines, with their ends.
        wanted: columns that are looked for, by which a header is known; the first is the time.
    Raises: DataError if there is no header, or if it is ambiguous how the lines are to be read.
    """
    rows = _without_repeats([(number, line) for number, line in enumerate(lines, start=1) if line.strip()])
    preamble: list[str] = []
    if rows and (declared := re.fullmatch(r'"?sep=(.)"?', rows[0][1].strip("\r\n"))):     # written by Excel
        rows, keys = rows[1:], replace(keys, delimiter=keys.delimiter or declared[1])
    if keys.skip_rows:
        preamble += [line for number, line in rows if number <= keys.skip_rows]
        rows = [(number, line) for number, line in rows if number > keys.skip_rows]
    comments = keys.comment or COMMENTS
    while rows and (rows[0][1].lstrip().startswith(comments) or FACT.match(rows[0][1])):
        if _holds(rows[0][1], wanted, keys):
            break
        preamble.append(rows.pop(0)[1])
    if any(line.startswith("ChannelTitle=") for line in preamble):   # LabChart: behind a sample, as #* Lights off
        keys = replace(keys, comment=keys.comment or "#")
    if keys.comment:
        rows = [(number, line.partition(keys.comment)[0]) for number, line in rows]
        rows = [(number, line) for number, line in rows if line.strip()]
    if not rows:
        raise DataError(f"{where}: empty file; expected a header and rows of samples")
    quote = "'" if rows[0][1].lstrip().startswith("'") else '"'
    try:
        return _with_stated_channels(_layout(rows, where, keys, wanted, quote, preamble), lines, wanted)
    except csv.Error as error:
        raise DataError(f"{where}: not a readable CSV: {error}") from None


def _without_repeats(rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return lines without those that were there before and are no samples: a logger that restarts writes its header.

    Lines within quotes are all kept.
    """
    if any(line.count('"') % 2 for _, line in rows):
        return rows
    first = {line: number for number, line in reversed(rows)}        # of each text, its first line
    return [(number, line) for number, line in rows if number == first[line] or is_sample(line)]


def _layout(
    rows: list[tuple[int, str]], where: str, keys: LayoutKeys, wanted: Sequence[str], quote: str, preamble: list[str]
) -> Layout:
    lines = [line for _, line in rows]
    found = header_of(lines, keys, wanted, quote)
    if found is None:
        first, delimiter = _body_of(lines, f"{where}: row {rows[0][0]}", keys, quote)
        found = first + _behind_facts(lines[first:], delimiter, quote), delimiter
    first, delimiter = found
    first -= first > 0 and _has_row_names(_table_rows(rows[first - 1 :], delimiter, quote))
    preamble = [*preamble, *(line for _, line in rows[:first])]
    table = _table_rows(rows[first:], delimiter, quote)
    cells, after = table[0][1], 1
    if delimiter != " " and len(cells) > 1 and not cells[-1].strip() and is_data(cells):
        cells = cells[:-1]
    names = [name.strip().strip("'\"") for name in cells]
    if is_data(cells):
        names, after = _names_without_header(cells, table, where, keys, preamble), 0
        after += 2 * (_empatica(table, len(cells)) is not None)
    elif keys.names is not None:
        names = _declared_names(keys.names, table[-1][1], where)
    elif _has_row_names(table):
        names = ["", *names]
    units = [unit_in(name) for name in names]
    if len(table) > after and after == 1 and is_units_row(fitted(table[1][1], len(names)), len(names), bool(preamble)):
        below = [clean(cell).strip("()[] ") for cell in table[1][1]]
        if not all(map(RULE.fullmatch, filter(None, below))):
            units = [unit if is_missing(b) or is_datum(b) else b for unit, b in zip(units, below, strict=False)]
        after = 2
    head = [fitted(cells, len(names)) for _, cells, _ in table[after:]]
    first_row = table[after][0] if len(table) > after else table[-1][2] + 1
    decimal = keys.decimal or _sign_of(head, delimiter)
    rate_hz, start = keys.row_rate_hz or _rate_in(preamble), _start_in(preamble)
    if after == 2 and (stated := _empatica(table, len(names))) is not None and is_data(table[0][1]):
        start, rate_hz = stated
    return Layout(delimiter, decimal, names, [*units, *[""] * (len(names) - len(units))], head, first_row, quote,
                  preamble=preamble, rate_hz=rate_hz, start=start, keys=keys)  # fmt: skip


def _has_row_names(table: list[tuple[int, list[str], int]]) -> bool:
    """Return whether all rows have a cell more than the header, first their number: `write.table` of R writes so.

    It is certain where the second cells, below the first name, increase like times.
    """
    (_, header, _), *rows = table
    cells = [[cell.strip("'\" ") for cell in cells] for _, cells, _ in rows]
    if len(rows) < SURE_ROWS or any(map(is_datum, header)) or any(len(row) != len(header) + 1 for row in cells):
        return False
    if not all(row[0].isdecimal() and is_number(row[1], ".") and row[-1] for row in cells):
        return False
    first, times = int(cells[0][0]), [float(row[1]) for row in cells]
    is_counted = first > 0 and all(int(row[0]) == number for number, row in enumerate(cells, start=first))
    return is_counted and all(before < after for before, after in zip(times, times[1:], strict=False))


def _table_rows(rows: list[tuple[int, str]], delimiter: str, quote: str) -> list[tuple[int, list[str], int]]:
    """Return records as number of their first line, cells, and number of their last line."""
    if delimiter == " ":
        return [(number, line.split(), number) for number, line in rows]
    reader = csv.reader([line for _, line in rows], delimiter=delimiter, quotechar=quote)
    table, begun = [], 0
    for cells in reader:
        table.append((rows[begun][0], cells, rows[reader.line_num - 1][0]))
        begun = reader.line_num
    return table


def header_of(
    lines: Sequence[str], keys: LayoutKeys, wanted: Sequence[str], quote: str = '"'
) -> tuple[int, str] | None:
    """Return which line is the header, as it has all wanted names, and its delimiter; None if none has them.

    A file that states its rate needs no time column, the first of the wanted ones.
    """
    if not wanted or keys.names is not None:
        return None
    for names in (wanted, wanted[1:]) if keys.row_rate_hz else (wanted,):
        for number, line in enumerate(lines):
            for delimiter in [keys.delimiter] if keys.delimiter else DELIMITERS:
                try:
                    cells = [cell.strip().strip("'\"") for cell in split(line, delimiter, quote)]
                except csv.Error:
                    continue
                if names and all(name in cells or name in map(bare_name, cells) for name in names):
                    return number, delimiter
    return None


def _holds(line: str, wanted: Sequence[str], keys: LayoutKeys) -> bool:
    """Return whether a line that begins like a comment is the header: `#t_s` is wanted."""
    return bool(wanted) and header_of([line], keys, wanted) is not None


def is_units_row(cells: Sequence[str], width: int, after_preamble: bool = False) -> bool:
    """Return whether the row after the header is no row of samples: units, a rule such as `----`, or
    AcqKnowledge's numbers of samples.
    """
    full = [clean(cell) for cell in cells if cell.strip()]
    if all(map(RULE.fullmatch, full)) and max(map(len, full), default=0) > 3:
        return True
    if len(cells) != width or not full:
        return False
    if after_preamble and not cells[0].strip():
        return True
    texts = [cell for cell in full if cell.lower() not in MISSING]
    units = [cell for cell in texts if is_known(cell.strip("()[] ")) or _is_time_unit(cell)]
    return bool(units) and not any(map(is_datum, full))


def _is_time_unit(cell: str) -> bool:
    text = cell.strip("()[] ").lower()
    return unit_s_of(text) is not None or bool(re.fullmatch(r"[hmsdy]{1,4}([:./ -][hmsdy]{1,4})+", text))


# ---- delimiter and first line of the table --------------------------------------------------


def _body_of(lines: list[str], where: str, keys: LayoutKeys, quote: str) -> tuple[int, str]:
    """Return the first line of the table and its delimiter."""
    delimiters = [keys.delimiter] if keys.delimiter else list(DELIMITERS)
    rows = {d: [split(line, d, quote) for line in lines] for d in delimiters}
    widths = {d: _widths(rows[d]) for d in delimiters}
    usual = {d: Counter(w[len(w) // 2 :]).most_common(1)[0][0] for d, w in widths.items()}
    headers = {d: header for d in delimiters if (header := _full_header(rows[d])) is not None}
    regular = [d for d in delimiters if d in headers or (usual[d] > 1 and _is_regular(widths[d], usual[d]))]
    if " " in regular and len(regular) > 1:
        regular.remove(" ")
    begins = {d: headers[d] if d in headers else _begin(widths[d], usual[d]) for d in regular}
    is_quoted = lines[0].count(quote) % 2 == 1                       # a header over two lines
    if len(lines) > 2 and regular and min(begins.values()) > 0 and not is_quoted:
        best = max(regular, key=lambda d: (_share_of_data(rows[d][begins[d] :]), usual[d]))
        if _share_of_data(rows[best][begins[best] + 1 :]) > 0.5:
            return begins[best], best
    if not regular and len(lines) > SURE_ROWS and all(is_number(line, None) for line in lines[-SURE_ROWS:]):
        numbers = [number for number, line in enumerate(lines) if not is_number(line, None)]
        if len(numbers) and max(numbers) > 0:
            return max(numbers), ","
    return 0, keys.delimiter or _delimiter_of(lines, where, quote)


def _widths(rows: list[list[str]]) -> list[int]:
    """Return the number of cells of each row, without an empty one at its end."""
    return [len(cells) - (len(cells) > 1 and not cells[-1].strip()) for cells in rows]


def _is_regular(widths: list[int], usual: int) -> bool:
    body = widths[len(widths) // 2 :]
    return body.count(usual) >= 0.9 * len(body)


def _begin(widths: list[int], usual: int) -> int:
    """Return the first of the lines from which on all have the usual width, but for a few far down."""
    others = [number for number, width in enumerate(widths) if width < usual and number < len(widths) // 2]
    return max(others, default=-1) + 1


def _full_header(rows: list[list[str]]) -> int | None:
    """Return the first row of as many texts, none empty, as all rows after it have cells; None without any.

    Cells of the rows below it may be empty, also the last one.
    """
    width = len(rows[-1])
    after = next((k + 1 for k in range(len(rows) - 1, -1, -1) if len(rows[k]) != width), 0)
    texts = (k for k in range(after, len(rows)) if not any(is_missing(cell) or is_datum(cell) for cell in rows[k]))
    return next(texts, None) if width > 1 else None


def _behind_facts(lines: list[str], delimiter: str, quote: str) -> int:
    """Return the header behind lines such as `Device,XYZ` that are as wide as the table; 0 unless that is certain.

    It is, if the header begins with a name of time, or if one of two or more such lines has a value that no header has.
    """
    rows = [fitted(cells, len(cells) - 1) for cells in _split_all(lines, delimiter, quote)]
    samples = next((k for k in range(len(rows) - 1, -1, -1) if not is_data(rows[k])), -1) + 1
    width = len(rows[-1])
    header = samples - 1 - (samples > 1 and is_units_row(rows[samples - 1], width))
    is_plain = len(rows) == len(lines)                               # no line ends within quotes
    if not is_plain or not 0 < header < len(rows) - 2 or any(is_missing(c) or is_datum(c) for c in rows[header]):
        return 0
    if any(TIME_NAME.match(cells[0].strip()) and not any(map(is_datum, cells[1:])) for cells in rows[:header]):
        return 0
    is_sure = header > 1 and any(is_datum(cell) for cells in rows[:header] for cell in cells[1:])
    return header if is_sure or TIME_NAME.match(rows[header][0].strip()) else 0


def _share_of_data(rows: list[list[str]]) -> float:
    cells = [cell for row in rows for cell in row if not is_missing(cell)]
    return sum(map(is_datum, cells)) / max(len(cells), 1)


def _delimiter_of(lines: list[str], where: str, quote: str) -> str:
    """Return the delimiter that splits the header; if several do, the one that gives all rows the same width."""
    widths = {d: [len(row) for row in _split_all(lines, d, quote)] for d in DELIMITERS}
    possible = [d for d in DELIMITERS if widths[d][0] > 1 and d != " "]
    if len(possible) > 1:
        regular = [d for d in possible if len(set(widths[d])) == 1]
        data = [d for d in regular if all(map(is_datum, split(lines[0], d, quote)))]          # without a header
        regular = data if len(data) == 1 else regular
        if len(regular) != 1:
            names = " or ".join(DELIMITERS[d] for d in possible)
            raise DataError(f"{where}: separated by {names}? set delimiter in dataset_config.json")
        return regular[0]
    if not possible and widths[" "][0] > 1 and len(lines) > 1 and len(set(widths[" "])) == 1:
        return " "
    return possible[0] if possible else ","


def _split_all(lines: list[str], delimiter: str, quote: str) -> list[list[str]]:
    return [cells for _, cells, _ in _table_rows(list(enumerate(lines)), delimiter, quote)]


def is_time(layout: Layout, index: int) -> bool:
    """Return whether a column is the time of rows whose rate is stated elsewhere: a counter of samples is none."""
    cells = layout.column(index)
    if cells and is_stamp(cells[0]):
        return True
    try:
        first, second = (float(cell.replace(",", ".")) for cell in cells[:2])
    except ValueError:
        return False
    unit_s = unit_s_in(layout.names[index], layout.units[index])
    units_s = (1.0, 1e-3, 60.0) if unit_s is None else (unit_s,)
    return any(abs((second - first) * unit_s * layout.rate_hz - 1) < 0.1 for unit_s in units_s)


# ---- what stands before the table -----------------------------------------------------------


def _declared_names(names: Sequence[str], cells: list[str], where: str) -> list[str]:
    if len(names) != len(fitted(cells, len(names))):
        raise DataError(f"{where}: names in dataset_config.json has {len(names)} columns; the file has {len(cells)}")
    return list(names)


def _names_without_header(
    cells: list[str], table: list[tuple[int, list[str], int]], where: str, keys: LayoutKeys, preamble: list[str]
) -> list[str]:
    """Return the names of columns that have no header: those declared, or those that the lines before them state."""
    if keys.names is not None:
        return _declared_names(keys.names, cells, where)
    stated = _names_in(preamble, len(cells))
    if stated is not None:
        return stated
    if _empatica(table, len(cells)) is not None:
        return ["value"] if len(cells) == 1 else [f"value_{k + 1}" for k in range(len(cells))]
    raise DataError(
        f"{where}: row {table[0][0]} holds only numbers or times: a header is missing; set names in "
        f'dataset_config.json, such as {json.dumps(["t_s", *[f"channel_{k}" for k in range(1, len(cells))]][:4])}'
    )


def _names_in(preamble: list[str], width: int) -> list[str] | None:
    """Return the names of so many columns that lines before the table state; None if they state none."""
    text = "".join(preamble)
    found: list[str] = []
    for line in preamble:
        body = line.strip().lstrip("#%/ ").strip()
        if match := re.match(r"(?:labels|column ?names|columns|channel ?titles?|signal id) ?:?= ?(.*)|"
                             r"signal id: ?(.*)", body, re.IGNORECASE):  # fmt: skip
            names = re.split(r"[,;\t]", (match[1] or match[2] or "").strip("[]\t "))
            found = [re.split(r"[\\/]", name.strip().strip("'\""))[-1] for name in names if name.strip()]
    if columns := re.search(r'"column": ?(\[[^\]]*\])', text):       # OpenSignals
        found = [str(name) for name in json.loads(columns[1])]
    if len(found) == width:
        return found
    if found and len(found) == width - 1:
        return ["time", *found]
    if preamble and preamble[-1].lstrip().startswith(COMMENTS):      # numpy.savetxt writes its header so
        body = preamble[-1].strip().lstrip("#%/ ")
        for delimiter in DELIMITERS:
            names = [name.strip() for name in split(body, delimiter)]
            if len(names) == width and not any(map(is_datum, names)) and all(names) and ":" not in body:
                return names
    return None


def _with_stated_channels(layout: Layout, lines: Sequence[str], wanted: Sequence[str]) -> Layout:
    """Return a layout with the channels that lines before the table state: AcqKnowledge a name and a unit of each of
    `CH1,CH2`, LabChart the units.
    """
    before = [line.strip("\r\n") for line in lines[: layout.first_row - 1]]
    names, units = list(layout.names), list(layout.units)
    columns = [k for k, name in enumerate(names) if NUMBERED.fullmatch(name)]
    for place, line in enumerate(before, start=1):
        key, *stated = line.split("\t")
        if key == "UnitName=" and len(stated) == len(names) - 1:
            units[1:] = ["" if unit == "*" else unit.strip() for unit in stated]
        elif columns and re.fullmatch(rf"{len(columns)} channels?", line.strip()):
            stated = [text.strip() for text in before[place : place + 2 * len(columns)]]
            is_plain = len({*stated[::2]}) == len(columns) and not {*wanted} & {names[k] for k in columns}
            for k, name, unit in zip(columns, stated[::2], stated[1::2], strict=False):
                names[k], units[k] = name if is_plain else names[k], unit
            if len(columns) == len(names) and _are_counts(layout.head):
                layout = replace(layout, head=layout.head[1:], first_row=layout.first_row + 1)
    return replace(layout, names=names, units=units)


def _are_counts(head: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row has the numbers of samples, of which there are as many as rows, or more."""
    return all(cell.isdecimal() and int(cell) >= len(head) - 1 for cell in head[0])


def _rate_in(preamble: list[str]) -> float | None:
    """Return the rows a second that lines before the table state; None if they state none, or several."""
    text, found = "".join(preamble).replace('"', ""), set()
    for pattern, interval in RATES:
        for number in pattern.findall(text):
            if number.strip(".") and number.count(".") < 2 and float(number) > 0:
                found.add(interval / float(number) if interval else float(number))
    return found.pop() if len(found) == 1 else None


def _start_in(preamble: list[str]) -> datetime | None:
    """Return the clock at the first row that OpenSignals states."""
    text = "".join(preamble)
    date, time = (re.search(rf'"{name}": ?"([^"]*)"', text) for name in ("date", "time"))
    try:
        day = datetime.strptime(date[1], "%Y-%m-%d")
        return datetime.combine(day, datetime.strptime(time[1].partition(".")[0], "%H:%M:%S").time())
    except (TypeError, ValueError):
        return None


def _empatica(table: list[tuple[int, list[str], int]], width: int) -> tuple[datetime, float] | None:
    """Return start and rate of a table of Empatica, whose first two rows they are, in each column; None of others."""
    if len(table) < 4:
        return None
    (start, *starts), (rate, *rates) = ([cell.strip() for cell in fitted(table[k][1], width)] for k in (0, 1))
    if not (is_number(start, ".") and is_number(rate, ".") and {start} >= {*starts} and {rate} >= {*rates}):
        return None
    if not (1e9 <= float(start) < 4.1e9 and 0 < float(rate) <= 1e4) or is_number(table[2][1][0], ".") is False:
        return None
    if float(table[2][1][0]) >= 1e9 or "".join(table[2][1]) == "".join(table[1][1]):
        return None
    return datetime.fromtimestamp(float(start), UTC), float(rate)


def _sign_of(head: list[list[str]], delimiter: str) -> str | None:
    signs = DecimalSigns()
    signs.take(cell for row in head for cell in row if not is_compact_date(cell))
    return signs.sign(delimiter)
