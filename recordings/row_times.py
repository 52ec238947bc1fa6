"""Times of rows that come one by one, to seconds, by the rules of recordings/clocks.py and number_times.py."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from recordings.clocks import NO_TIME, Stamps, TimeKeys
from recordings.number_times import (
    DAY_S,
    NO_DATE,
    PADDED,
    compact_clock,
    compact_seconds,
    may_be_compact,
    may_be_days,
    origin_of,
    scaled,
    unit_of_numbers,
    unit_s_of,
)
from recordings.time_formats import is_compact_date
from recordings.wall_clock import clock_at
from utils import DataError

Row = tuple[float, list[float]]          # time in s, a value a channel, NaN = none


class RowTimes:
    """Times of rows to seconds, one after another: what a whole column gives, by the same rules.

    Rows wait as long as it is not certain what their times are: two seconds at most, or a minute where 220500.04 may be
    a clock time.

    Args:
        unit_s: the seconds of one unit that the header states.
        rate_hz: rows a second; only where there are several they may have the time of one whole second.
    """

    def __init__(self, keys: TimeKeys, unit_s: float | None, rate_hz: float) -> None:
        self.keys, self.stamps, self.spread = keys, Stamps(keys), SecondSpread(rate_hz > 1)
        self.unit_s = unit_s_of(keys.time_unit) if keys.time_unit else unit_s
        self.kind = "stamps" if keys.time_format else ""             # or numbers, compact; "" = not known
        self.waiting: list[Row] = []           # numbers that decide nothing yet, and their rows
        self.first_us, self.last_us = NO_TIME, NO_TIME               # of clock times that are numbers
        self.first_number, self.is_padded = 0.0, False               # is_padded: the first one is like 000500.04

    def take(self, text: str, number: float | None, row: list[float]) -> list[Row] | None:
        """Take a row; return the rows whose times are known now. None if the time cannot be read.

        Args:
            number: the time as a number; None if it is none.
        Raises: DataError if the times cannot be seconds and it is not certain what else they are.
        """
        if self.kind != "stamps" and number is not None and not self._is_stamp(text):
            if not self.kind and not self.waiting:
                self.is_padded = bool(PADDED.fullmatch(text))
            return self._take_number(number, row) if np.isfinite(number) else None
        if self.kind not in ("", "stamps") or self.waiting:
            return None
        t = self.stamps.take(text)
        if t is None:
            return None
        self.kind = "stamps"
        return self.spread.take(t, row)

    def at(self, t: float) -> str:
        """Return the clock at t seconds; "" where the times are none of a clock, or not certain."""
        if self.kind == "stamps" and len(self.stamps.formats) > 1:   # day or month: a later row will tell
            return ""
        return clock_at(self.stamps.start if self.kind == "stamps" else self._origin, t)

    @property
    def is_local(self) -> bool:
        """Whether the times are those of a clock whose zone is not known."""
        is_clock = self.kind == "stamps" or (self._origin is not None and self._origin.tzinfo is None)
        return is_clock and self.stamps.is_local

    @property
    def _origin(self) -> datetime | None:
        """The clock at 0 s of times that are numbers; None where they have none."""
        if self.kind == "compact":
            return NO_DATE + timedelta(seconds=self.first_us / 1e6)
        return origin_of(self.first_number, self.unit_s) if self.kind == "numbers" and self.unit_s else None

    @property
    def is_waiting(self) -> bool:
        """Whether rows wait."""
        return bool(self.waiting or self.spread.rows or self.spread.first)

    def rest(self) -> list[Row]:
        """Return the rows that still wait when the input is over."""
        return [*self._settled("numbers"), *self.spread.rest()]

    def _is_stamp(self, text: str) -> bool:
        return self.kind == "" and not self.keys.time_unit and is_compact_date(text)

    def _take_number(self, number: float, row: list[float]) -> list[Row]:
        if self.kind == "numbers":
            return self.spread.take(scaled(number, self.unit_s), row)
        if self.kind == "compact":
            if compact_seconds(np.array([number]), self.first_number) is None:
                return []
            return self.spread.take(self._clock(number), row)
        self.waiting.append((number, row))
        first = self.waiting[0][0]
        if self.unit_s is not None:
            return self._settled("numbers")
        if may_be_compact(first, self.is_padded):
            return self._settled(kind) if (kind := self._decided(first, number)) else []
        if may_be_days(first) and len(self.waiting) < 2:
            return []
        return self._settled("numbers")

    def _decided(self, first: float, number: float) -> str:
        """Return whether numbers that may be clock times are; "" = both are possible still."""
        both = compact_seconds(np.array([first, number]))
        if both is None:
            return "numbers"
        if both[0] // 60 == both[1] // 60:
            return ""
        numbers = np.array([number for number, _ in self.waiting])
        compact_clock(numbers, "time", self.is_padded)               # refuses what is not certain
        return "compact"

    def _settled(self, kind: str) -> list[Row]:
        """Return the rows that waited, now that it is known what their times are."""
        if not self.waiting:
            return []
        self.kind, waiting, self.waiting = kind, self.waiting, []
        self.first_number = waiting[0][0]
        if kind == "numbers" and self.unit_s is None:
            step = waiting[1][0] - waiting[0][0] if len(waiting) > 1 else 0.0
            try:
                self.unit_s = unit_of_numbers(waiting[0][0], step, "time")
            except DataError:
                self.kind = ""                                       # the next row may be better
                raise
        return [one for number, row in waiting for one in self._take_number(number, row)]

    def _clock(self, number: float) -> float:
        """Return a clock time as seconds from the first; it may pass midnight."""
        day_us = round(DAY_S * 1e6)
        us = round(float(compact_seconds(np.array([number]), self.first_number)[0]) * 1e6)
        if self.first_us == NO_TIME:
            self.first_us = self.last_us = us
        us += self.last_us // day_us * day_us
        us += day_us * (us - self.last_us < -day_us / 2)
        self.last_us = us
        return (us - self.first_us) / 1e6

    def state_dict(self) -> dict[str, object]:
        """Return what a later process needs to resume."""
        names = ("kind", "waiting", "first_us", "last_us", "first_number", "is_padded")
        plain = {name: getattr(self, name) for name in names}
        unit_s = -1.0 if self.unit_s is None else self.unit_s
        return plain | {"unit_s": unit_s, "stamps": self.stamps.state_dict(), "spread": self.spread.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it does not fit."""
        if state["kind"] not in ("", "stamps", "numbers", "compact"):
            raise ValueError(f"kind of times is {state['kind']!r:.40}")
        self.kind, self.waiting = state["kind"], checked_rows(state["waiting"])
        self.first_us, self.last_us = int(state["first_us"]), int(state["last_us"])
        self.first_number, self.is_padded = float(state["first_number"]), bool(state["is_padded"])
        self.unit_s = float(state["unit_s"]) if state["unit_s"] > 0 else None
        self.stamps.load_state_dict(state["stamps"])
        self.spread.load_state_dict(state["spread"])


class SecondSpread:
    """Rows with the time of one whole second spread within it, as they come: what `spread_seconds` does of a column.

    The rows of a second wait until it is over, those of the first one until the second is.
    """

    def __init__(self, is_on: bool) -> None:
        self.is_on, self.usual = is_on, 0                            # usual: rows of the last second
        self.first: list[Row] = []
        self.rows: list[Row] = []

    def take(self, t: float, row: list[float]) -> list[Row]:
        """Take a row; return those whose second is over."""
        if not self.is_on:
            return [(t, row)]
        if t != np.floor(t):
            self.is_on, held = False, [*self.first, *self.rows]
            self.first, self.rows = [], []
            return [*held, (t, row)]
        over = self._over() if self.rows and t != self.rows[0][0] else []
        if not self.is_on:
            return [*over, (t, row)]
        self.rows.append((t, row))
        return over

    def rest(self) -> list[Row]:
        """Return the rows that still wait; the last second may be cut off."""
        first, rows, self.first, self.rows = self.first, self.rows, [], []
        return [*_within(first, len(first)), *_within(rows, max(len(rows), self.usual))]

    def _over(self) -> list[Row]:
        rows, self.rows = self.rows, []
        if self.usual:
            self.usual = len(rows)
            return _within(rows, len(rows))
        if not self.first:
            self.first = rows
            return []
        first, self.first = self.first, []
        if len(rows) < 2 or rows[0][0] != first[0][0] + 1:           # one row a second, or fewer
            self.is_on = False
            return [*first, *rows]
        self.usual = len(rows)
        return [*_within(first, max(len(first), len(rows)), max(len(rows) - len(first), 0)), *_within(rows, len(rows))]

    def state_dict(self) -> dict[str, object]:
        """Return what a later process needs to resume."""
        return {name: getattr(self, name) for name in ("is_on", "usual", "first", "rows")}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it does not fit."""
        self.is_on, self.usual = bool(state["is_on"]), int(state["usual"])
        self.first, self.rows = checked_rows(state["first"]), checked_rows(state["rows"])


def _within(rows: list[Row], of: int, missing: int = 0) -> list[Row]:
    """Return rows of one second spread evenly over `of` places, without those that are missing before them."""
    return [(t + (number + missing) / of, row) for number, (t, row) in enumerate(rows)]


def checked_rows(rows: object) -> list[Row]:
    """Return rows of a stored state. Raises ValueError or TypeError if they are none."""
    return [(float(t), [float(value) for value in values]) for t, values in rows]
