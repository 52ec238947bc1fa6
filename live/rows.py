"""Lines of text from a recorder in, rows of numbers in order of time out; faulty lines are reported and skipped."""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
import select
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from recordings.cells import DecimalSigns, is_missing, is_number, plain_number
from recordings.layouts import (
    COMMENTS,
    FACT,
    NUMBERED,
    SURE_ROWS,
    Layout,
    fitted,
    header_of,
    is_sample,
    is_units_row,
    layout_of_lines,
    split,
)
from recordings.number_times import HOUR_S, unit_s_in
from recordings.reading import DETECT, Dialect, time_column_of
from recordings.row_times import Row, RowTimes
from recordings.stateful import checked_like
from recordings.tables import HEAD_LINES, SHIFT_JIS, encoding_of
from recordings.time_formats import is_compact_date, timestamp_of
from recordings.units import factor_between, is_unspecified
from utils import DataError, plain_text

CHUNK, LONGEST = 1 << 16, 1 << 16        # bytes read at once, and kept of a line
WAIT_S = 0.2                             # between two looks for more input
JUMP_S = 60.0                            # a row further ahead than that needs another one to confirm it
RESET_S = 10.0                           # rows of an earlier time are a new recording once they span so long
OVERLAP_S = 600.0                        # after a restart, rows of so long before its state are skipped
RATE_TOLERANCE = 0.2                     # of a channel's rate
RATE_INTERVALS = 50                      # of a channel, whose median gives its rate
UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}        # marks at the start of a file
LONGEST_DOUBT = 10_000                   # rows that wait for a number that shows the decimal sign


class InputWarnings:
    """Reports faults of the input on stderr: of each kind the first, then the second, fourth, eighth, ... one."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.muted = False

    def warn(self, kind: str, message: str) -> None:
        """Count a fault of a kind and, if it is due, report it."""
        if self.muted:
            return
        self.count[kind] += 1
        count = self.count[kind]
        if count & (count - 1) == 0:
            text = f"{message} ({kind}: {count})" if count > 1 else message
            print(plain_text(text), file=sys.stderr, flush=True)


def read_lines(
    file: BinaryIO, follow: Path | None, stopped: Callable[[], bool], input_warnings: InputWarnings,
    encoding: str | None = None,
) -> Iterator[tuple[list[str], int]]:
    """Yield the lines that have come, without their ends, and the file position after them; none = none at present.

    Args:
        follow: the file's path, if it is read as it grows; None = the input has an end.
        stopped: whether to stop; asked before each look for more.
        encoding: of the letters; None = UTF-8, or else as in files. A mark of UTF-16 counts for more.
    """
    rest, cut, place = b"", 0, file.tell() if follow else 0          # cut: bytes dropped of a line that is too long
    encoding = _marked_encoding(follow) or encoding
    while not stopped():
        if follow is None and not _is_ready(file):
            yield [], place
            continue
        chunk = os.read(file.fileno(), CHUNK)
        if not chunk and follow is None:
            if rest:
                yield [_text(rest, encoding)], place + len(rest) + cut
            return
        if not chunk:
            if follow.is_file() and follow.stat().st_size < place + len(rest) + cut:
                input_warnings.warn("shorter files", f"{follow.name} became shorter; reading it from its start")
                place, rest, cut = os.lseek(file.fileno(), 0, os.SEEK_SET), b"", 0
            yield [], place
            time.sleep(WAIT_S)
            continue
        if not place and not rest and chunk[:2] in UTF_16:
            encoding = UTF_16[chunk[:2]]
        *lines, rest = _split_lines(rest + chunk, encoding)
        if lines:
            if encoding is None and encoding_of(b"".join(lines)) == SHIFT_JIS:
                encoding = SHIFT_JIS
            place, cut = place + sum(map(len, lines)) + cut, 0
            yield [_text(line, encoding) for line in lines], place
        cut += max(len(rest) - LONGEST, 0)                           # too long for a row: it will be refused
        rest = rest[:LONGEST]


def _is_ready(file: BinaryIO) -> bool:
    try:
        return bool(select.select([file], [], [], WAIT_S)[0])
    except OSError:                                                  # a pipe on Windows: select takes sockets only
        return True


def _marked_encoding(follow: Path | None) -> str | None:
    """Return the encoding that the start of a file has a mark of; it is followed, maybe from a place within it."""
    mark = b""
    if follow is not None:
        with follow.open("rb") as file:
            mark = file.read(2)
    return UTF_16.get(mark)


def _split_lines(data: bytes, encoding: str | None) -> list[bytes]:
    """Return lines with their ends, and last what follows them; a line ends as in a file, with CR, LF or both."""
    if encoding in UTF_16.values():
        even = len(data) // 2 * 2
        texts = re.split("(?<=\n)|(?<=\r)(?!\n)", data[:even].decode(encoding, "surrogatepass"))
        *lines, rest = (text.encode(encoding, "surrogatepass") for text in texts)
        return [*lines, rest + data[even:]]
    lines = data.splitlines(keepends=True)
    return lines if lines and not lines[-1].endswith((b"\n", b"\r")) else [*lines, b""]


def _text(line: bytes, encoding: str | None) -> str:
    return line.decode(encoding or encoding_of(line) or "utf-8", errors="replace").rstrip("\r\n")


class Rows:
    """Lines to rows, by the rules by which files are read; lines that cannot be read are reported and skipped.

    Args:
        time_column: of seconds or timestamps; the first row decides.
        channels: their columns, in the order of the values.
        series: whether the rows are those of a series, which are counted: their times are kept as written.
        dialect: how the lines are written, as far as it is declared.
        units: of the values that are returned, for each channel; "" = as the lines have them.
        source_units: of the lines, for each channel, whatever they state; "" = what they state.
        sentinels: for each channel, the values in the unit of the lines that mean "no measurement".
        rate_hz: rows a second; 0 = not known.
    """

    def __init__(
        self,
        time_column: str,
        channels: Sequence[str],
        input_warnings: InputWarnings,
        series: bool = False,
        dialect: Dialect = DETECT,
        units: Sequence[str] = (),
        source_units: Sequence[str] = (),
        sentinels: Sequence[Sequence[float]] = (),
        rate_hz: float = 0.0,
    ) -> None:
        self.time_column, self.channels, self.input_warnings = time_column, list(channels), input_warnings
        self.dialect, self.series = dialect, series
        self.wanted = [time_column, *self.channels]
        self.units = list(units) or [""] * len(self.channels)
        self.source_units = list(source_units) or [""] * len(self.channels)
        self.sentinels = [list(values) for values in sentinels] or [[] for _ in self.channels]
        self.rate_hz = rate_hz
        self.head: list[str] = []                                    # the lines before the samples
        self.layout: Layout | None = None                            # as soon as the head has been understood
        self.at_first_row, self.units_line = True, ""                # whether the next line may be one of units
        self.decimal, self.signs = dialect.decimal, DecimalSigns()   # decimal: None = no number has shown it
        self.doubtful: list[list[str]] = []                          # rows that wait for the decimal sign
        self.line_number, self.counted, self.written = 0, 0, ""      # written: the last time of a series
        self.times = RowTimes(dialect, None, rate_hz)

    def take(self, line: str) -> list[Row]:
        """Return the rows that a line completes: one as a rule, none for a line of the head or one that is not read.

        Raises: DataError if the header lacks the time or a channel, or if it is not certain how to read the rows.
        """
        self.line_number += 1
        line = line.removeprefix("\ufeff")                           # byte order mark, also of an appended file
        if self.layout is None:
            return self._take_head(line)
        if not line.strip() or self.is_head(line):
            self.head += [line] * (self._held > 0)                   # so that lines are counted
            return []
        cells = self._cells(line)
        if self.time_column in [cell.strip() for cell in cells]:     # the recorder was started again
            self.layout, self.head, self.units_line = None, [], ""
            return self._take_head(line)
        return self._take_first(line, cells) if self.at_first_row else self._take_cells(cells)

    def is_head(self, line: str) -> bool:
        """Return whether a line is one before the samples, new or again: a header, text above it, units below it."""
        line = line.removeprefix("\ufeff")
        if self.layout is None:
            return not _is_sample(line)
        if line == self.units_line or (line in self.head and not _is_sample(line)):
            return True
        if not self.at_first_row or self._held or not line.strip():
            return False
        if not is_units_row(fitted(self._cells(line), self.width), self.width, bool(self.layout.preamble)):
            return False
        self.head.append(line)
        self._use_layout()
        self.units_line, self.at_first_row = line, False
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether lines have been taken that may be rows still."""
        return bool(self.doubtful or self.times.is_waiting or self._held or (self.layout is None and self.head))

    def end_head(self) -> list[Row]:
        """Return the rows of a table without a header, or with row names, whose first lines are all there is.

        Raises: DataError if there is no header, and no names are declared.
        """
        is_open = self._held or (self.layout is None and any(line.strip() for line in self.head))
        return self._begin(self.line_number) if is_open else []

    def rest(self) -> list[Row]:
        """Return the rows that still wait when the input is over.

        Raises: DataError if there was no header, or no number that shows the decimal sign.
        """
        rows = self.end_head()
        if self.doubtful:
            raise DataError(f"ambiguous numbers such as {self.signs.examples}; set decimal in dataset_config.json")
        return [*rows, *self.times.rest()]

    # ---- the head -----------------------------------------------------------------------

    def _take_head(self, line: str) -> list[Row]:
        """Take a line before the samples; return the rows that a table without a header has begun with."""
        self.head.append(line)
        if header_of([line], self.dialect, self.wanted) is not None:
            self.at_first_row = True
            self._use_layout()
            return []
        cells = [cell.strip().strip("'\"") for cell in re.split(r"[,;\t|]", line[:LONGEST])]
        is_before = len(cells) == 1 or line.lstrip().startswith(COMMENTS) or bool(FACT.match(line))
        is_before |= any(map(NUMBERED.fullmatch, cells))             # their names stand in the lines before
        is_wrong = self.dialect.names is None and not is_before and any(name in cells for name in self.wanted)
        samples = list(itertools.takewhile(_is_sample, (line for line in reversed(self.head) if line.strip())))
        others = sum(bool(line.strip()) for line in self.head) - len(samples)
        if not is_wrong and len(samples) <= max(SURE_ROWS, others) and len(self.head) < HEAD_LINES:
            return []
        return self._begin(self.line_number)

    @property
    def _held(self) -> int:
        """How many lines from the first row on wait, as they have a cell more than the header."""
        return len(self.head) - self.layout.first_row + 1 if self.layout is not None and self.at_first_row else 0

    def _take_first(self, line: str, cells: list[str]) -> list[Row]:
        """Take one of the first rows. With a cell more than the header, a few wait: R writes row numbers so."""
        if len(fitted(cells, self.width)) == self.width + 1 and cells[0].strip("'\" ").isdecimal():
            self.head.append(line)
            return self._begin(self.line_number) if self._held == SURE_ROWS else []
        held = self._begin(self.line_number - 1) if self._held else []
        self.at_first_row = False
        self._use_first_row(cells)
        return [*held, *self._take_cells(cells)]

    def _begin(self, last: int) -> list[Row]:
        """Understand the head, of which the last lines are samples, up to line number `last`; return their rows."""
        self._use_layout()
        self.at_first_row, now = False, self.line_number
        first = self.layout.first_row - 1
        numbered = [(k, line) for k, line in enumerate(self.head[first:], start=first + 1) if line.strip()]
        if numbered:
            self._use_first_row(self._cells(numbered[0][1]))
        rows: list[Row] = []
        for k, line in numbered:                                     # a warning names its line
            self.line_number = last - len(self.head) + k
            rows += self._take_cells(self._cells(line))
        self.line_number = now
        return rows

    def _use_layout(self) -> None:
        """Understand the lines before the samples. Raises: DataError if the time or a channel is not in them."""
        layout = layout_of_lines([line + "\n" for line in self.head], "the input", self.dialect, self.wanted)
        time = time_column_of(layout, self.time_column, True)
        for name in ([] if time is None else [time]) + self.channels:
            if layout.index(name) is None:
                found = "twice" if layout.names.count(name) > 1 else "not"
                place, line = next((k, line) for k, line in enumerate(self.head, start=1) if line.strip())
                hint = "" if line.isascii() else "; if its letters are not those, set encoding in dataset_config.json"
                raise DataError(
                    f"line {self.line_number - len(self.head) + place}: column {name!r} is {found} in {line[:80]!r}; "
                    f"expected a header with {', '.join(self.wanted)}{hint}"
                )
        self.layout, self.width = layout, len(layout.names)
        self.columns = [layout.index(name) for name in self.channels]
        self.time_index, self.date_index = None if time is None else layout.index(time), None
        self.factors = [self._factor(k) for k in range(len(self.channels))]
        if time is not None and not self.times.kind and not self.times.waiting:
            stated = unit_s_in(time, layout.units[self.time_index])
            self.times = RowTimes(self.dialect, stated, self.rate_hz)

    def _factor(self, k: int) -> float:
        """Return what the values of a channel are multiplied with, for its unit. Raises: DataError for another one."""
        have, want = self.source_units[k] or self.layout.units[self.columns[k]], self.units[k]
        if not have or have == want or is_unspecified(have) or is_unspecified(want):
            return 1.0
        factor = factor_between(have, want)
        if factor is None:
            raise DataError(
                f"line {self.line_number}: channel {self.channels[k]!r} is in {have!r}; expected {want!r}, or a unit "
                "that converts to it"
            )
        return factor

    def _use_first_row(self, cells: list[str]) -> None:
        """Find out from the first row whether a column of dates belongs to the times of day."""
        if self.time_index is not None:
            first = replace(self.layout, head=[fitted(cells, self.width)])
            self.date_index = first.date_of(self.time_index)

    # ---- samples ------------------------------------------------------------------------

    def _cells(self, line: str) -> list[str]:
        if comment := self.layout.keys.comment:
            line = line.partition(comment)[0]
        try:
            return split(line, self.layout.delimiter, self.layout.quote)
        except csv.Error:                                            # not CSV: it will be refused
            return line.split(self.layout.delimiter)

    def _take_cells(self, cells: list[str]) -> list[Row]:
        cells = fitted(cells, self.width)
        if len(cells) != self.width:
            expected = f"{self.width}: {','.join(self.layout.names)[:80]}"
            hint = "; if the header lacks a name, set names in dataset_config.json" if len(cells) > self.width else ""
            self._warn("lines of another length", f"cells: {len(cells)}; expected {expected}{hint}")
            return []
        if self.decimal is None and not self._shows_decimal(cells):
            self.doubtful.append(cells)
            if len(self.doubtful) < LONGEST_DOUBT:
                return []
            self.rest()
        rows, self.doubtful = [*self.doubtful, cells], []
        return [row for cells in rows for row in self._timed(cells)]

    def _shows_decimal(self, cells: list[str]) -> bool:
        """Return whether a row can be read: no number so far leaves the decimal sign open."""
        self.signs.take(cell for cell in cells if not is_compact_date(cell))
        if self.signs.seen:
            self.decimal = self.signs.sign(self.layout.delimiter)
        return self.decimal is not None or not self.signs.seen

    def _timed(self, cells: list[str]) -> list[Row]:
        """Return the rows that are complete with the cells of a further one."""
        self.counted += 1
        values = [self._value(cells[column], k) for k, column in enumerate(self.columns)]
        if self.time_index is None:
            return [((self.counted - 1) / self.layout.rate_hz, values)]
        text = cells[self.time_index].strip()
        if self.series:
            return [(self._time_of_series(text), values)]
        if self.date_index is not None:
            text = f"{cells[self.date_index].strip()} {text}"
        number = self._number(text) if self.date_index is None else None
        try:
            rows = self.times.take(text, number, values)
        except DataError as error:
            self._warn("times that cannot be read", str(error))
            return []
        if rows is None:
            is_stamped = self.times.kind == "stamps"
            wanted = "a timestamp like the first one" if is_stamped else "seconds, or timestamps throughout"
            self._warn_of_time(text, wanted)
        return rows or []

    def _time_of_series(self, text: str) -> float:
        is_known = timestamp_of(text, self.dialect.time_format) is not None or is_number(text, ".")
        self.written = text if is_known else ""                      # it is written into the output
        if not is_known:
            self._warn_of_time(text, "a timestamp or a number")
        return 0.0

    def _value(self, text: str, k: int) -> float:
        number = self._number(text)
        if number is None:
            if not is_missing(text, self.dialect.missing):
                self._warn("values that are not numbers", f"{self.channels[k]} is {text[:40]!r}; expected a number")
            return math.nan
        if any(math.isclose(number, sentinel, rel_tol=1e-6, abs_tol=1e-9) for sentinel in self.sentinels[k]):
            return math.nan
        return number * self.factors[k]

    def _number(self, text: str) -> float | None:
        """Return a cell as a number; None if it is none, or is a word for a missing one."""
        decimal = self.decimal or "."
        text = plain_number(text, decimal, self.dialect.decimal is not None)
        if is_number(text, decimal):
            return float(text.replace(",", "."))
        return math.inf * (-1) ** text.strip().startswith("-") if text.strip().lower().lstrip("+-") == "inf" else None

    def _warn_of_time(self, text: str, wanted: str) -> None:
        self._warn("times that cannot be read", f"time {text[:40]!r}; expected {wanted}")

    def _warn(self, kind: str, message: str) -> None:
        self.input_warnings.warn(kind, f"line {self.line_number}: {message}")

    def timestamp(self, t: float) -> str:
        """Return a time in s as a timestamp, or a time of day; "" where the input has seconds."""
        if self.series:
            return self.written
        return self.times.at(t)

    @property
    def has_local_clock(self) -> bool:
        """Whether the times are those of a clock that may be changed to summer time and back."""
        return self.times.is_local

    # ---- state --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to resume."""
        names = ("head", "units_line", "line_number", "counted", "written", "doubtful")
        plain = {name: getattr(self, name) for name in names}
        signs = {"decimal": self.decimal or "", "seen": dict(self.signs.seen), "proven": sorted(self.signs.proven)}
        first = {"begun": self.layout is not None, "at_first_row": self.at_first_row}
        first |= {"date_index": -1 if self.layout is None or self.date_index is None else self.date_index}
        return plain | signs | first | {"times": self.times.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`. Raises: DataError or ValueError if it does not fit."""
        expected = {"line_number": 0, "counted": 0, "written": "", "units_line": "", "at_first_row": True}
        for name, like in expected.items():
            setattr(self, name, checked_like(like, state[name], name))
        self.head = [checked_like("", line, "head") for line in state["head"]]
        if state["begun"]:
            at_first_row = self.at_first_row
            self._use_layout()
            self.at_first_row = at_first_row
            self.date_index = state["date_index"] if 0 <= state["date_index"] < self.width else None
        self.decimal = state["decimal"] or None
        self.signs = DecimalSigns(dict(state["seen"]), set(state["proven"]))
        self.doubtful = [[checked_like("", cell, "a cell") for cell in cells] for cells in state["doubtful"]]
        self.times.load_state_dict(state["times"])


def _is_sample(line: str) -> bool:
    """Return whether a line is a row of samples with some delimiter."""
    return len(line) < LONGEST and is_sample(line)


class Clock:
    """Passes rows on in order of time; the first row and one after a jump wait for a second row near them.

    Args:
        period_s: usual distance of two rows.
    """

    def __init__(self, input_warnings: InputWarnings, period_s: float = 0.0) -> None:
        self.input_warnings, self.jump_s = input_warnings, max(JUMP_S, 10 * period_s)
        self.period_s, self.last_s = period_s, math.nan
        self.is_local = False                                        # whether times are those of a wall clock
        self.unconfirmed: Row | None = None                          # after a jump
        self.earlier: list[Row] = []                                 # rows before last_s that may be a clock set back
        self.seen_s = -math.inf                                      # rows up to here were taken before a restart

    def take(self, t: float, values: list[float], is_local: bool = False) -> tuple[list[Row], bool]:
        """Take a row; return the rows to process, and whether they begin a new recording.

        Args:
            is_local: whether its time is that of a clock that may be changed by an hour, which is named then.
        """
        self.is_local = is_local
        if self.seen_s - OVERLAP_S < t <= self.seen_s:
            return [], False
        if self.input_warnings.muted:
            self.forget_seen()
        if t <= self.last_s:
            return self._take_earlier(t, values)
        self.earlier, before = [], []
        if self.unconfirmed is not None:
            before = self._confirm(t)
        if not t <= self.last_s + self.jump_s:                       # also the first one, where last_s is NaN
            self.unconfirmed = (t, values)
            return before, False
        self.last_s = t
        return [*before, (t, values)], False

    def forget_seen(self) -> None:
        """Take every row from now on, also one from before a restart."""
        self.seen_s, self.input_warnings.muted = -math.inf, False

    def _confirm(self, t: float) -> list[Row]:
        """Return the row after a jump if one at t confirms it; it is skipped otherwise."""
        row, self.unconfirmed = self.unconfirmed, None
        if row[0] < t <= row[0] + self.jump_s:
            if not math.isnan(self.last_s) and not self._warn_of_an_hour(row[0], "forward"):
                self.input_warnings.warn("gaps", f"no rows from {self.last_s:g} to {row[0]:g} s")
            self.last_s = row[0]
            return [row]
        message = f"time jumps to {row[0]:g} s, the next row is at {t:g} s; row skipped"
        self.input_warnings.warn("jumps of time", message)
        return []

    def _take_earlier(self, t: float, values: list[float]) -> tuple[list[Row], bool]:
        what = "repeats" if t == self.last_s else "goes backwards"
        self.input_warnings.warn("rows out of order", f"time {what}: {t:g} s after {self.last_s:g} s; row skipped")
        if self.earlier and not 0 < t - self.earlier[-1][0] <= self.jump_s:
            self.earlier = []
        self.earlier.append((t, values))
        if t - self.earlier[0][0] < RESET_S:
            return [], False
        rows, self.earlier = self.earlier, []
        if not self._warn_of_an_hour(rows[0][0], "back"):
            self.input_warnings.warn("clocks set back", f"clock set back to {rows[0][0]:g} s: a new recording begins")
        self.last_s, self.unconfirmed = t, None
        return rows, True

    def _warn_of_an_hour(self, t: float, way: str) -> bool:
        """Return, and warn, whether a clock was set by exactly an hour before a row at t, as `clock_changes` finds."""
        due_s = self.last_s + self.period_s
        if not self.is_local or abs(abs(t - due_s) - HOUR_S) > self.period_s / 2 + 1e-9:
            return False
        what = "an hour without rows" if way == "forward" else "a new recording"
        message = (
            f"the clock is set {way} by exactly an hour after {self.last_s:g} s, which counts as {what}; if it was "
            "changed to or from summer time, give --time-zone, such as Europe/Berlin"
        )
        self.input_warnings.warn("clock changes", message)
        return True

    def rest(self) -> list[Row]:
        """Return the row that still waits for confirmation when the input ends."""
        return [self.unconfirmed] if self.unconfirmed is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to resume."""
        return {name: getattr(self, name) for name in ("last_s", "unconfirmed", "earlier")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`; rows that were taken already are skipped if they come again."""
        rows = [*state["earlier"], *([state["unconfirmed"]] if state["unconfirmed"] else [])]
        for t, values in rows:
            checked_like([0.0] * (len(values) + 1), [t, *values], "a row")
        self.last_s = checked_like(math.nan, state["last_s"], "last_s")
        self.earlier = [tuple(row) for row in state["earlier"]]
        self.unconfirmed = tuple(state["unconfirmed"]) if state["unconfirmed"] else None
        if not math.isnan(self.last_s):
            self.seen_s, self.input_warnings.muted = self.last_s, True


class RateCheck:
    """Warns once of each channel whose samples have another rate than in training."""

    def __init__(self, channels: Sequence[str], rates_hz: Sequence[float], input_warnings: InputWarnings) -> None:
        self.channels, self.rates_hz, self.input_warnings = list(channels), list(rates_hz), input_warnings
        self.last_s = [math.nan] * len(self.channels)
        self.intervals: list[list[float]] = [[] for _ in self.channels]
        self.done = False

    def take(self, t: float, values: Sequence[float]) -> None:
        """Take a row that the clock has passed on."""
        for k, value in enumerate(values):
            if value == value and len(self.intervals[k]) < RATE_INTERVALS:           # not NaN
                if t > self.last_s[k]:
                    self.intervals[k].append(t - self.last_s[k])
                    if len(self.intervals[k]) == RATE_INTERVALS:
                        self._check(k)
                self.last_s[k] = t
        self.done = all(len(intervals) == RATE_INTERVALS for intervals in self.intervals)

    def _check(self, k: int) -> None:
        name, expected, found = self.channels[k], self.rates_hz[k], 1 / statistics.median(self.intervals[k])
        if abs(found / expected - 1) > RATE_TOLERANCE:
            message = f"channel {name!r} has {found:.4g} samples a second; expected {expected:g}, as in training"
            self.input_warnings.warn(f"rate of {name}", f"{message}: its scores are not reliable")
