"""Lines of text from a recorder in, rows of numbers in their order out; what is wrong with one is said and survived."""

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

CHUNK, LONGEST = 1 << 16, 1 << 16        # bytes read at once, and of a line
WAIT_S = 0.2                             # between two looks at what is waited for
JUMP_S = 60.0                            # a row further ahead than that needs another one to be believed
RESET_S = 10.0                           # rows of an earlier clock, for so long, are a new recording
OVERLAP_S = 600.0                        # behind a restart, rows from so long before are skipped; older ones are news
RATE_TOLERANCE = 0.2                     # of a channel's rate
Row = tuple[float, list[float]]          # time in s, a value a channel, NaN = none


class InputWarnings:
    """Says on stderr what is wrong: of each kind the first, then the second, fourth, eighth, ... time."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.muted = False

    def say(self, kind: str, message: str) -> None:
        """Count a complaint of a kind and, if it is due, print it."""
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
    """Yield each line without its end, and the place in the file behind it, as the lines come; None = nothing for now.

    Args:
        follow: the file's path, if it is to be read on as it grows; None = the input ends.
        stopped: whether to stop; asked before each line.
    """
    rest, cut, place = b"", 0, file.tell() if follow else 0          # cut: bytes left out of an endless line
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
                input_warnings.say("shorter files", f"{follow.name} became shorter; reading it from its start")
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
        cut += max(len(rest) - LONGEST, 0)                           # no line of a recorder: it will be refused
        rest = rest[:LONGEST]


def _is_ready(file: BinaryIO) -> bool:
    try:
        return bool(select.select([file], [], [], WAIT_S)[0])
    except OSError:                                                  # of pipes, where select knows sockets alone
        return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")


class Rows:
    """Lines to rows; what cannot be read is said and left out.

    Args:
        time_column: of seconds or timestamps; the first row decides.
        channels: their columns, in the order of the values.
        series: whether times are kept as they are written: the rows of a series count, not their times.
        layout: how the lines are written, where it is declared: delimiter, decimal, time_format.
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
        self.origin: datetime | None = None                          # of timestamps, the first one
        self.number, self.written = 0, ""                            # of lines; the last time of a series

    def take(self, line: str) -> Row | None:
        """Return the row of a line; None for a header, a blank line, or one that cannot be read.

        Raises: DataError if the first line is no header with the time and every channel.
        """
        self.number += 1
        line = line.removeprefix("\ufeff")                           # a file's mark, also of one behind another
        if not self.header:
            self.use_header(line)
            return None
        if not line or line == self.header:
            return None
        cells = _cells(line, self.delimiter)
        if self.time_column in cells:                                # the recorder began anew
            self.use_header(line)
            return None
        if len(cells) != self.width:
            self._complain("lines of another length", f"{len(cells)} cells; expected {self.width}: {self.header[:80]}")
            return None
        t = self._time(cells[self.columns[0]].strip())
        if t is None:
            return None
        return t, [self._number(cells[k], name) for k, name in zip(self.columns[1:], self.channels, strict=True)]

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
                    f"line {self.number}: column {name!r} is {found} in {header[:80]!r}; expected a header with "
                    f"{', '.join(wanted)}"
                )
        self.header, self.width, self.columns = header, len(names), [names.index(name) for name in wanted]

    def _time(self, text: str) -> float | None:
        """Return a time in s, of timestamps since the first one; None if it cannot be read."""
        if self.series:
            known = timestamp_of(text, self.layout.get("time_format")) is not None or is_number(text, ".")
            self.written = text if known else ""                     # it is written into the output
            if not known:
                self._complain("times that cannot be read", f"time {text[:40]!r}; expected a timestamp or a number")
            return 0.0
        time_format = self.layout.get("time_format")
        try:
            if not self.stamped:
                t = float(text.replace(",", ".") if self.comma else text)
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
            self._complain("times that cannot be read", f"time {text[:40]!r}; expected {wanted}")
            return None

    def _number(self, text: str, name: str) -> float:
        try:
            return float(text.replace(",", ".") if self.comma else text)
        except ValueError:
            if text and not text.isspace():
                self._complain("values that are no numbers", f"{name} is {text[:40]!r}; expected a number")
            return math.nan

    def _complain(self, kind: str, message: str) -> None:
        self.input_warnings.say(kind, f"line {self.number}: {message}")

    def timestamp(self, t: float) -> str:
        """Return a time in s as a timestamp; "" where the input has seconds."""
        if self.origin is None:
            return self.written
        try:
            return (self.origin + timedelta(seconds=t)).isoformat(sep=" ", timespec="milliseconds")
        except OverflowError:                                        # behind the year 9999
            return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to read on."""
        origin = self.origin.isoformat() if self.origin else ""
        return {
            "header": self.header,
            "stamped": self.stamped,
            "origin": origin,
            "number": self.number,
            "written": self.written,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        fresh = {"header": "", "number": 0, "written": ""}
        header, self.number, self.written = (checked_like(fresh[name], state[name], name) for name in fresh)
        if header:
            self.use_header(header)
        self.stamped = None if state["stamped"] is None else checked_like(False, state["stamped"], "stamped")
        self.origin = datetime.fromisoformat(state["origin"]) if state["origin"] else None


def _cells(line: str, delimiter: str) -> list[str]:
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter))
        except csv.Error:                                            # no CSV: it will be refused as it is
            pass
    return line.split(delimiter)


class Clock:
    """Lets rows through in their order: their times rise, and the first one and a leap need a second row near them.

    Args:
        period_s: usual distance of two rows.
    """

    def __init__(self, input_warnings: InputWarnings, period_s: float = 0.0) -> None:
        self.input_warnings, self.jump_s = input_warnings, max(JUMP_S, 10 * period_s)
        self.last_s = math.nan
        self.doubted: Row | None = None                              # behind a leap, not confirmed yet
        self.back: list[Row] = []                                    # of an earlier clock
        self.seen_s = -math.inf                                      # rows up to here were taken before a restart

    def take(self, t: float, values: list[float]) -> tuple[list[Row], bool]:
        """Take a row; return the rows that may go on, and whether they begin a new recording."""
        if self.seen_s - OVERLAP_S < t <= self.seen_s:
            return [], False
        if self.input_warnings.muted:
            self.forget_seen()
        if t <= self.last_s:
            return self._earlier(t, values)
        self.back, before = [], []
        if self.doubted is not None:
            before = self._settle_doubt(t)
        if not t <= self.last_s + self.jump_s:                            # also the first one
            self.doubted = (t, values)
            return before, False
        self.last_s = t
        return [*before, (t, values)], False

    def forget_seen(self) -> None:
        """Take every row from now on, also one from before a restart."""
        self.seen_s, self.input_warnings.muted = -math.inf, False

    def _settle_doubt(self, t: float) -> list[Row]:
        """Return the row behind a leap if one at t confirms it; it is left out otherwise."""
        doubted, self.doubted = self.doubted, None
        if doubted[0] < t <= doubted[0] + self.jump_s:
            if not math.isnan(self.last_s):
                self.input_warnings.say("gaps", f"no rows from {self.last_s:g} to {doubted[0]:g} s")
            self.last_s = doubted[0]
            return [doubted]
        self.input_warnings.say("leaps of time", f"time jumps to {doubted[0]:g} s, the next row is at {t:g} s")
        return []

    def _earlier(self, t: float, values: list[float]) -> tuple[list[Row], bool]:
        what = "repeats" if t == self.last_s else "goes backwards"
        self.input_warnings.say("rows out of order", f"time {what}: {t:g} s behind {self.last_s:g} s; left out")
        if self.back and not 0 < t - self.back[-1][0] <= self.jump_s:
            self.back = []
        self.back.append((t, values))
        if t - self.back[0][0] < RESET_S:
            return [], False
        rows, self.back, self.last_s, self.doubted = self.back, [], t, None
        self.input_warnings.say("clocks set back", f"clock set back to {rows[0][0]:g} s: a new recording begins")
        return rows, True

    def rest(self) -> list[Row]:
        """Return the row that waits for its confirmation when the input ends."""
        return [self.doubted] if self.doubted is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on."""
        return {"last_s": self.last_s, "doubted": self.doubted, "back": self.back}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; rows that were taken already are skipped, should they come again."""
        rows = [*state["back"], *([state["doubted"]] if state["doubted"] else [])]
        for t, values in rows:
            checked_like([0.0] * (len(values) + 1), [t, *values], "a row")
        self.last_s = checked_like(math.nan, state["last_s"], "last_s")
        self.back = [tuple(row) for row in state["back"]]
        self.doubted = tuple(state["doubted"]) if state["doubted"] else None
        if not math.isnan(self.last_s):
            self.seen_s, self.input_warnings.muted = self.last_s, True


class RateCheck:
    """Says once of each channel whether its samples come at another rate than the model learnt."""

    INTERVALS = 50                                                   # of a channel, whose median counts

    def __init__(self, channels: Sequence[str], rates_hz: Sequence[float], input_warnings: InputWarnings) -> None:
        self.channels, self.rates_hz, self.input_warnings = list(channels), list(rates_hz), input_warnings
        self.last_s = [math.nan] * len(self.channels)
        self.intervals: list[list[float]] = [[] for _ in self.channels]
        self.done = False

    def take(self, t: float, values: Sequence[float]) -> None:
        """Take a row that was let through."""
        for k, value in enumerate(values):
            if value == value and len(self.intervals[k]) < self.INTERVALS:
                if t > self.last_s[k]:
                    self.intervals[k].append(t - self.last_s[k])
                    if len(self.intervals[k]) == self.INTERVALS:
                        self._check(k)
                self.last_s[k] = t
        self.done = all(len(intervals) == self.INTERVALS for intervals in self.intervals)

    def _check(self, k: int) -> None:
        measured = 1 / statistics.median(self.intervals[k])
        if abs(measured / self.rates_hz[k] - 1) > RATE_TOLERANCE:
            self.input_warnings.say(
                f"rate of {self.channels[k]}",
                f"channel {self.channels[k]!r} comes {measured:.4g} times a second, but the model learnt it at "
                f"{self.rates_hz[k]:g}: its scores mean nothing",
            )
