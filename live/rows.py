"""Lines of text from a recorder in, rows of numbers in order of time out; faulty lines are reported and skipped."""

from __future__ import annotations

import csv
import math
import os
import select
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from recordings.stateful import checked_like
from recordings.tables import is_number, timestamp_of
from utils import DataError, plain_text

CHUNK, LONGEST = 1 << 16, 1 << 16        # bytes read at once, and kept of a line
WAIT_S = 0.2                             # between two looks for more input
JUMP_S = 60.0                            # a row further ahead than that needs another one to confirm it
RESET_S = 10.0                           # rows of an earlier time are a new recording once they span so long
OVERLAP_S = 600.0                        # after a restart, rows of so long before its state are skipped
RATE_TOLERANCE = 0.2                     # of a channel's rate
RATE_INTERVALS = 50                      # of a channel, whose median gives its rate
Row = tuple[float, list[float]]          # time in s, a value a channel, NaN = none


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
    file: BinaryIO, follow: Path | None, stopped: Callable[[], bool], input_warnings: InputWarnings
) -> Iterator[tuple[str | None, int]]:
    """Yield each line without its end, and the file position after it, as the lines come; None = no line at present.

    Args:
        follow: the file's path, if it is read as it grows; None = the input has an end.
        stopped: whether to stop; asked before each line.
    """
    rest, cut, place = b"", 0, file.tell() if follow else 0          # cut: bytes dropped of a line that is too long
    while not stopped():
        if follow is None and not _is_ready(file):
            yield None, place
            continue
        chunk = os.read(file.fileno(), CHUNK)
        if not chunk and follow is None:
            if rest:
                yield _text(rest), place + len(rest) + cut
            return
        if not chunk:
            if follow.is_file() and follow.stat().st_size < place + len(rest) + cut:
                input_warnings.warn("shorter files", f"{follow.name} became shorter; reading it from its start")
                place, rest, cut = os.lseek(file.fileno(), 0, os.SEEK_SET), b"", 0
            yield None, place
            time.sleep(WAIT_S)
            continue
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if stopped():
                return
            place, cut = place + len(line) + 1 + cut, 0
            yield _text(line), place
        cut += max(len(rest) - LONGEST, 0)                           # too long for a row: it will be refused
        rest = rest[:LONGEST]


def _is_ready(file: BinaryIO) -> bool:
    try:
        return bool(select.select([file], [], [], WAIT_S)[0])
    except OSError:                                                  # a pipe on Windows: select takes sockets only
        return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")


class Rows:
    """Lines to rows; lines that cannot be read are reported and skipped.

    Args:
        time_column: of seconds or timestamps; the first row decides.
        channels: their columns, in the order of the values.
        series: whether the rows are those of a series, which are counted: their times are kept as written.
        layout: how the lines are written, as far as it is declared: delimiter, decimal, time_format.
    """

    def __init__(
        self,
        time_column: str,
        channels: Sequence[str],
        input_warnings: InputWarnings,
        series: bool = False,
        layout: Mapping[str, str | None] | None = None,
    ) -> None:
        self.time_column, self.channels, self.input_warnings = time_column, list(channels), input_warnings
        self.header, self.columns, self.delimiter = "", [], ","
        self.layout, self.series = dict(layout or {}), series
        self.stamped: bool | None = None                             # whether times are timestamps; None = not known
        self.origin: datetime | None = None                          # the first timestamp
        self.line_number, self.written = 0, ""                       # written: the last time of a series

    def take(self, line: str) -> Row | None:
        """Return the row of a line; None for a header, a blank line, or one that cannot be read.

        Raises: DataError if a header lacks the time or a channel.
        """
        self.line_number += 1
        line = line.removeprefix("\ufeff")                           # byte order mark, also of an appended file
        if not self.header:
            self.use_header(line)
            return None
        if not line or line == self.header:
            return None
        cells = _cells(line, self.delimiter)
        if self.time_column in cells:                                # the recorder was started again
            self.use_header(line)
            return None
        if len(cells) != self.width:
            self._warn("lines of another length", f"cells: {len(cells)}; expected {self.width}: {self.header[:80]}")
            return None
        t = self._time(cells[self.columns[0]].strip())
        if t is None:
            return None
        return t, [self._value(cells[k], name) for k, name in zip(self.columns[1:], self.channels, strict=True)]

    def use_header(self, header: str) -> None:
        """Take the names of the columns.

        Raises: DataError if the time or a channel is not among them.
        """
        self.delimiter = self.layout.get("delimiter") or max(",;\t", key=header.count)
        self.comma = (self.layout.get("decimal") or ("." if self.delimiter == "," else ",")) == ","
        names = [name.strip() for name in _cells(header, self.delimiter)]
        wanted = [self.time_column, *self.channels]
        for name in wanted:
            if names.count(name) != 1:
                found = "twice" if name in names else "not"
                raise DataError(
                    f"line {self.line_number}: column {name!r} is {found} in {header[:80]!r}; expected a header with "
                    f"{', '.join(wanted)}"
                )
        self.header, self.width, self.columns = header, len(names), [names.index(name) for name in wanted]

    def _time(self, text: str) -> float | None:
        """Return a time in s, of timestamps since the first one; None if it cannot be read."""
        time_format = self.layout.get("time_format")
        if self.series:
            known = timestamp_of(text, time_format) is not None or is_number(text, ".")
            self.written = text if known else ""                     # it is written into the output
            if not known:
                self._warn_of_time(text, "a timestamp or a number")
            return 0.0
        try:
            if not self.stamped:
                t = self._number(text)
                if math.isfinite(t):
                    self.stamped = False
                    return t
        except ValueError:
            if self.stamped is None and timestamp_of(text, time_format) is not None:
                self.stamped = True
        stamp = timestamp_of(text, time_format) if self.stamped else None
        try:
            self.origin = self.origin or stamp
            return (stamp - self.origin).total_seconds()
        except TypeError:                                            # no timestamp, or one without the others' zone
            wanted = "a timestamp like the first one" if self.stamped else "seconds, or timestamps throughout"
            self._warn_of_time(text, wanted)
            return None

    def _value(self, text: str, name: str) -> float:
        try:
            return self._number(text)
        except ValueError:
            if text and not text.isspace():
                self._warn("values that are not numbers", f"{name} is {text[:40]!r}; expected a number")
            return math.nan

    def _number(self, text: str) -> float:
        return float(text.replace(",", ".") if self.comma else text)

    def _warn_of_time(self, text: str, wanted: str) -> None:
        self._warn("times that cannot be read", f"time {text[:40]!r}; expected {wanted}")

    def _warn(self, kind: str, message: str) -> None:
        self.input_warnings.warn(kind, f"line {self.line_number}: {message}")

    def timestamp(self, t: float) -> str:
        """Return a time in s as a timestamp; "" where the input has seconds."""
        if self.origin is None:
            return self.written
        try:
            return (self.origin + timedelta(seconds=t)).isoformat(sep=" ", timespec="milliseconds")
        except OverflowError:                                        # after the year 9999
            return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to resume."""
        state = {name: getattr(self, name) for name in ("header", "stamped", "line_number", "written")}
        return state | {"origin": self.origin.isoformat() if self.origin else ""}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`."""
        expected = {"header": "", "line_number": 0, "written": ""}
        header, self.line_number, self.written = (checked_like(expected[name], state[name], name) for name in expected)
        if header:
            self.use_header(header)
        self.stamped = None if state["stamped"] is None else checked_like(False, state["stamped"], "stamped")
        self.origin = datetime.fromisoformat(state["origin"]) if state["origin"] else None


def _cells(line: str, delimiter: str) -> list[str]:
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter))
        except csv.Error:                                            # not CSV: it will be refused
            pass
    return line.split(delimiter)


class Clock:
    """Passes rows on in order of time; the first row and one after a jump wait for a second row near them.

    Args:
        period_s: usual distance of two rows.
    """

    def __init__(self, input_warnings: InputWarnings, period_s: float = 0.0) -> None:
        self.input_warnings, self.jump_s = input_warnings, max(JUMP_S, 10 * period_s)
        self.last_s = math.nan
        self.unconfirmed: Row | None = None                          # after a jump
        self.earlier: list[Row] = []                                 # rows before last_s that may be a clock set back
        self.seen_s = -math.inf                                      # rows up to here were taken before a restart

    def take(self, t: float, values: list[float]) -> tuple[list[Row], bool]:
        """Take a row; return the rows to process, and whether they begin a new recording."""
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
            if not math.isnan(self.last_s):
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
        rows, self.earlier, self.last_s, self.unconfirmed = self.earlier, [], t, None
        self.input_warnings.warn("clocks set back", f"clock set back to {rows[0][0]:g} s: a new recording begins")
        return rows, True

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
