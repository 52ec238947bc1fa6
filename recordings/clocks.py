"""Timestamps to seconds, one by one or a whole column, and the rules for rows whose clock is too coarse or is set.

Seconds count from the first timestamp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING

import numpy as np

from recordings.number_times import DAY_S, HOUR_S, NO_DATE, UNIX, continue_after
from recordings.time_formats import (
    ELAPSED,
    ELAPSED_LIKE,
    ISO,
    TIME_ALONE,
    bare,
    check_format,
    clean,
    datetime_of,
    formats_of,
    is_dated,
    period_of,
    variants_of,
)
from utils import DataError

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE = 1 << 16                                               # bounds the memory of digits
PLACES, TWO = {"Y": r"\d{4}", "f": r"\d{1,9}"}, r"\d\d"              # digits of a part of a timestamp
NO_TIME = np.iinfo(np.int64).min                                     # NaT of numpy


@dataclass(frozen=True, kw_only=True)
class TimeKeys:
    """What a dataset declares of its tables' times; None = detect it.

    time_format: of `strptime`. time_unit: of times that are numbers. time_zone: of clock times.
    """

    time_format: str | None = None
    time_unit: str | None = None
    time_zone: str | None = None


DETECT = TimeKeys()


# ---- timestamps one by one ------------------------------------------------------------------


class Stamps:
    """Timestamps to seconds from the first one, one after another.

    Args:
        keys: what is declared of them.
    """

    def __init__(self, keys: TimeKeys) -> None:
        from zoneinfo import ZoneInfo

        self.zone = ZoneInfo(keys.time_zone) if keys.time_zone else None
        self.declared = (keys.time_format,) if keys.time_format else ()
        self.clean = bare if keys.time_format else clean
        self.formats: tuple[str, ...] = ()                           # that all timestamps so far may have
        self.first, self.text, self.has_zone = "", "", False         # the first timestamp, the last one
        self.origin: dict[str, int] = {}                             # by format, in microseconds
        self.last: dict[str, int] = {}
        self.passed_us = 0                                           # of times of day: the days that are over
        self.ambiguous_us, self.second = NO_TIME, False              # in an hour that comes twice

    def take(self, text: str) -> float | None:
        """Return the seconds of a timestamp from the first one; None if it cannot be read."""
        text = self.clean(text)
        formats = self.formats or self.declared or formats_of(text)
        read = {way: us for way in formats if (us := self._microseconds(text, way)) is not None}
        if not read:
            return None
        if not self.first:
            self.first, self.origin, self.has_zone = text, read, self._is_aware(text, next(iter(read)))
        else:                                                        # formats that continue, where others leap by days
            near = {way: us for way, us in read.items() if abs(us - self.last[way]) < DAY_S / 2 * 1e6}
            read = near or read
        self.formats, self.last, self.text = tuple(read), read, text
        way = self.formats[0]
        return (read[way] - self.origin[way]) / 1e6

    @property
    def is_local(self) -> bool:
        """Whether they are times of a clock whose zone is not known."""
        return self.zone is None and not self.has_zone

    @property
    def start(self) -> datetime | None:
        """The clock at the first timestamp, with its zone; on NO_DATE where the date is missing, or not certain.

        None of times since the start, such as 00:00:00 or 100:00:00.
        """
        if not self.formats:
            return None
        stamp = self.read(self.first, self.formats[0])
        if isinstance(stamp, timedelta):
            is_clock = (self.declared or TIME_ALONE.fullmatch(self.first)) and timedelta(0) < stamp < timedelta(days=1)
            return NO_DATE + stamp if is_clock else None
        if len(self.formats) > 1:
            return datetime.combine(NO_DATE, stamp.time())
        stamp = stamp.replace(tzinfo=stamp.tzinfo or self.zone)      # seconds go on where the zone's clock is changed
        return stamp if stamp.tzinfo is None else stamp.replace(tzinfo=timezone(stamp.utcoffset()))

    def read(self, text: str, way: str) -> datetime | timedelta | None:
        """Return a timestamp in a format, or a time of day or since the start; None if it has another format."""
        variants = (way,) if way in self.declared else variants_of(way)
        return next((stamp for variant in variants if (stamp := datetime_of(text, variant)) is not None), None)

    def _is_aware(self, text: str, way: str) -> bool:
        stamp = self.read(text, way)
        return isinstance(stamp, datetime) and stamp.tzinfo is not None

    def _microseconds(self, text: str, way: str) -> int | None:
        stamp = self.read(text, way)
        if isinstance(stamp, timedelta):
            return self._continued(_microseconds_of(stamp), way)
        if stamp is None or (self.first and (stamp.tzinfo is not None) != self.has_zone):
            return None                                              # with a zone, or without, as the first one
        if stamp.tzinfo is None and self.zone is not None:
            return self._in_zone(stamp)
        return _microseconds_of(stamp)

    def _continued(self, us: int, way: str) -> int:
        """Return a time of day that goes on where it begins again, at midnight."""
        us += self.passed_us
        if self.first and us - self.last[way] < -(period_us := period_of(way, self.first)) / 2:
            self.passed_us += period_us
            us += period_us
        return us

    def _in_zone(self, stamp: datetime) -> int | None:
        """Return a local time as microseconds in UTC; of an hour that comes twice, the second one after a jump back."""
        both = [stamp.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        if both[0].astimezone(self.zone).replace(tzinfo=None) != stamp:
            return None                                              # in an hour that is left out
        us = _microseconds_of(stamp)
        if both[0] == both[1]:
            self.ambiguous_us, self.second = NO_TIME, False
        else:
            self.second = self.second or us < self.ambiguous_us
            self.ambiguous_us = us
        return _microseconds_of(both[self.second])

    def state_dict(self) -> dict[str, object]:
        """Return what a later process needs to resume: the first timestamp, and the last one with its distance."""
        since_us = self.last[self.formats[0]] - self.origin[self.formats[0]] if self.formats else 0
        return {
            "first": self.first, "last": self.text, "formats": list(self.formats), "since_us": since_us,
            "passed_us": self.passed_us, "second": self.second,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it does not fit."""
        if not isinstance(state["formats"], (list, tuple)):
            raise ValueError(f"formats is {state['formats']!r:.60}; expected a list")
        if not state["first"]:
            return
        formats = tuple(state["formats"])
        if self.take(state["first"]) is None or not formats or not set(formats) <= set(self.formats):
            raise ValueError(f"formats are {formats!r:.60}; expected those of {state['first']!r:.40}")
        self.formats, self.passed_us, self.text = formats, int(state["passed_us"]), state["last"]
        stamp = self.read(self.text, formats[0])
        if stamp is None:
            raise ValueError(f"last is {self.text!r:.40}; expected a timestamp")
        if self.zone is not None and isinstance(stamp, datetime) and stamp.tzinfo is None:
            self._in_zone(stamp)
        self.second = bool(state["second"])
        self.last = {way: self.origin[way] + int(state["since_us"]) for way in formats}


# ---- a whole column of timestamps -----------------------------------------------------------


def seconds_of(texts: pd.Series, where: str, keys: TimeKeys = DETECT) -> tuple[np.ndarray, datetime | None]:
    """Return timestamps as seconds from the first one (n,), NaN where one cannot be read, and the clock at the first.

    Accepted are ISO 8601, times of day (which may pass midnight) or since the start, dates with numbers or names of
    months before or after the time, YYYYMMDDHHMMSS; or time_format alone if it is given.

    Raises: DataError if the order of day and month matters and is not certain, or time_format is none.
    """
    stamps = Stamps(keys)
    if keys.time_format:
        check_format(keys.time_format, where)
    first = stamps.clean(str(texts.iloc[0]))
    possible = stamps.declared or formats_of(first)
    formats = [way for way in possible if stamps.read(first, way) is not None] or possible
    if not formats:
        return np.full(len(texts), np.nan), None
    kept = possible_readings({way: _column(texts, way, first, stamps) for way in formats})
    way, us = next(iter(kept.items()))
    if (us == NO_TIME).any():
        return np.where(us == NO_TIME, np.nan, 0.0), None
    t = (us - us[0]) / 1e6
    if any(not np.array_equal(us - us[0], other - other[0]) for other in kept.values()):
        raise DataError(
            f"{where}: time {first!r}: day or month first? set time_format in dataset_config.json, such as {way!r}"
        )
    stamps.take(first)
    stamps.formats = tuple(kept)
    return t, stamps.start


def possible_readings(read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return those of several readings, format -> microseconds (n,), that may be meant.

    They are complete, and without leaps of days where others leap; the most complete one if none is complete.
    """
    complete = {way: us for way, us in read.items() if (us != NO_TIME).all()}
    if not complete:
        best = min(read, key=lambda way: (read[way] == NO_TIME).sum())
        return {best: read[best]}
    near = {way: us for way, us in complete.items() if np.abs(np.diff(us)).max(initial=0) < DAY_S / 2 * 1e6}
    return near or complete


def stamps_of(texts: pd.Series, way: str) -> np.ndarray:
    """Return timestamps of one format, with a date, in microseconds (n,), NO_TIME where one has another format."""
    return _column(texts, way, clean(str(texts.iloc[0])), Stamps(DETECT))


def _column(texts: pd.Series, way: str, first: str, stamps: Stamps) -> np.ndarray:
    """Return timestamps in one format as microseconds (n,), int64, NO_TIME for one in another format.

    Of those in numbers, the digits are read by their places. pandas takes up to twenty times as long, and strptime,
    for those that have to be cleaned, thirty times.
    """
    us = _read_by_places(texts, (way,) if way in stamps.declared else variants_of(way))
    unread = np.flatnonzero(us == NO_TIME)
    us[unread] = _read_by_pandas(texts.iloc[unread], way, first)
    unread = np.flatnonzero(us == NO_TIME)
    us[unread] = [_microseconds_of(stamps.read(stamps.clean(text), way)) for text in texts.iloc[unread]]
    if not is_dated(way) and (us != NO_TIME).all():
        us = continue_after(us, period_of(way, first))
    if is_dated(way) and stamps.zone is not None and (us != NO_TIME).all() and stamps.read(first, way).tzinfo is None:
        us = _in_zone(us, str(stamps.zone))
    return us


def _read_by_places(texts: pd.Series, ways: Sequence[str]) -> np.ndarray:
    """Return timestamps in numbers, of one of these formats, as microseconds (n,), int64; NO_TIME for all others."""
    us = np.full(len(texts), NO_TIME)
    patterns = [_pattern_of(way) for way in ways]
    if None in patterns:
        return us
    for first in range(0, len(texts), ROWS_AT_ONCE):
        part = texts.iloc[first : first + ROWS_AT_ONCE].fillna("").to_numpy(object)
        lengths = np.fromiter(map(len, part), int, len(part))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            found = next(filter(None, (pattern.fullmatch(part[rows[0]]) for pattern in patterns)), None)
            if found is not None and all(map(str.isascii, part[rows])):
                us[first + rows] = _of_places(part[rows], found, is_clock=ways[0] != ELAPSED)
    return us


def _pattern_of(way: str) -> re.Pattern[str] | None:
    """Return what timestamps of a format look like; None if they are not numbers alone."""
    if way == ELAPSED:
        form = r"(?:(?P<H>\d{1,3}):)?(?P<M>\d\d):(?P<S>\d\d)(?:[.,](?P<f>\d+))?"
        return re.compile(rf"(?=(?:{ELAPSED_LIKE.pattern})\Z){form}")
    text = re.sub("%([YymdHMSf])", lambda found: f"(?P<{found[1]}>{PLACES.get(found[1], TWO)})", re.escape(way))
    return None if "%" in text or way == ISO else re.compile(text)


def _of_places(texts: np.ndarray, found: re.Match[str], is_clock: bool) -> np.ndarray:
    """Return timestamps (n,) of one length and form as microseconds; NO_TIME where one has other signs, or is none.

    Args:
        found: the first of them, with the places of its numbers. is_clock: whether a day has no more than 24 hours.
    """
    signs = texts.astype(bytes).view(np.uint8).reshape(len(texts), -1)           # (n, letters)
    digits = np.array([sign.isdigit() for sign in found.string])
    good = (signs[:, ~digits] == signs[0, ~digits]).all(axis=1) & (signs[:, digits] - ord("0") < 10).all(axis=1)
    numbers = {"Y": 1970, "m": 1, "d": 1, "H": 0, "M": 0, "S": 0, "f": 0}
    for name, text in found.groupdict().items():
        if text is not None:
            places = signs[:, found.start(name) : found.end(name)][:, :6] - ord("0")
            powers = 10 ** np.arange(places.shape[1])[::-1] * (10 ** (6 - places.shape[1]) if name == "f" else 1)
            numbers[name] = places @ powers                          # (n,)
    if "y" in numbers:
        numbers["Y"] = 1900 + numbers["y"] + 100 * (numbers["y"] < 69)           # as strptime has it
    months = np.array(12 * (numbers["Y"] - 1970) + numbers["m"] - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (numbers["d"] - 1)
    seconds = 3600 * numbers["H"] + 60 * numbers["M"] + numbers["S"]
    good &= (numbers["m"] > 0) & (numbers["m"] < 13) & (days.astype("datetime64[M]") == months) & (numbers["S"] < 60)
    if is_clock:
        good &= (numbers["H"] < 24) & (numbers["M"] < 60)
    return np.where(good, days.astype("datetime64[us]").astype(np.int64) + 1_000_000 * seconds + numbers["f"], NO_TIME)


def _read_by_pandas(texts: pd.Series, way: str, first: str) -> np.ndarray:
    """Return timestamps as microseconds (n,), int64, in UTC if they have a zone; NO_TIME for those of another form."""
    import pandas as pd

    if way == ELAPSED:
        texts = texts.where(texts.str.fullmatch(ELAPSED_LIKE)).str.replace(",", ".", regex=False)
        spans = pd.to_timedelta(texts if first.count(":") > 1 else "0:" + texts, errors="coerce")
        return spans.to_numpy(dtype="timedelta64[us]").view(np.int64)
    try:
        found = pd.to_datetime(texts, format="ISO8601" if way == ISO else way, errors="coerce", utc=True)
    except ValueError:                                               # a directive that pandas does not know
        return np.full(len(texts), NO_TIME)
    us = found.to_numpy(dtype="datetime64[us]").view(np.int64)
    return us if is_dated(way) else np.where(us == NO_TIME, us, us - _microseconds_of(NO_DATE))


def _microseconds_of(stamp: datetime | timedelta | None) -> int:
    """Return a timestamp in microseconds since 1970, in UTC if it has a zone, or a time since the start."""
    if stamp is None:
        return NO_TIME
    if isinstance(stamp, datetime):
        stamp = stamp - (UNIX if stamp.tzinfo else UNIX.replace(tzinfo=None))
    return stamp // timedelta(microseconds=1)


def passes_in(zone: str | tzinfo, local: pd.Series, nonexistent: str) -> tuple[pd.Series, pd.Series]:
    """Return local times (n,) in UTC: of an hour that comes twice its first pass, and its second one.

    Args:
        nonexistent: what becomes of times in an hour that is left out, as pandas has it.
    """

    def in_utc(is_first: bool) -> pd.Series:
        ambiguous = np.full(len(local), is_first)
        return local.dt.tz_localize(zone, ambiguous=ambiguous, nonexistent=nonexistent).dt.tz_convert("UTC")

    return in_utc(True), in_utc(False)


def _in_zone(us: np.ndarray, zone: str) -> np.ndarray:
    """Return local times in microseconds (n,) in UTC; of an hour that comes twice, the second one after a jump back."""
    import pandas as pd

    both = passes_in(zone, pd.Series(us.view("datetime64[us]")), nonexistent="NaT")
    first_us, second_us = (one.to_numpy(dtype="datetime64[us]").view(np.int64) for one in both)
    ambiguous = first_us != second_us
    back = np.r_[False, np.diff(us) < 0] & ambiguous
    runs, backs = np.cumsum(~ambiguous), np.cumsum(back)             # runs: the same within a run of ambiguous times
    before = np.zeros(runs.max() + 1, np.int64)
    np.maximum.at(before, runs[~ambiguous], backs[~ambiguous])       # jumps back before a run
    return np.where(ambiguous & (backs > before[runs]), second_us, first_us)


# ---- rules for the seconds ------------------------------------------------------------------


def spread_seconds(t: np.ndarray) -> np.ndarray | None:
    """Return rows whose times (n,) are whole seconds, several rows to a second, spread evenly; None for other rows.

    The first second may have begun before the recording, and the last one may be cut off: both have the rows of their
    neighbour.
    """
    starts = np.flatnonzero(np.r_[True, np.diff(t) != 0])
    counts = np.diff(np.r_[starts, len(t)])
    if len(counts) < 3 or np.median(counts) < 2 or (t != np.floor(t)).any() or (np.diff(t) < 0).any():
        return None
    if np.median(np.diff(t[starts])) != 1:                           # rounded to more than a second
        return None
    number = np.arange(len(t)) - np.repeat(starts, counts)
    of = counts.copy()
    of[0], of[-1] = max(counts[0], counts[1]), max(counts[-1], counts[-2])
    number[: counts[0]] += of[0] - counts[0]
    return t + number / np.repeat(of, counts)


def clock_changes(t: np.ndarray) -> np.ndarray:
    """Return the rows of (n,) whose time is an hour before or after the one that is due, if rows are close enough."""
    steps = np.diff(t)
    usual = np.median(steps)
    if not 0 < usual <= 10:
        return np.empty(0, int)
    off = np.abs(steps - usual)
    return np.flatnonzero(np.abs(off - HOUR_S) <= usual / 2 + 1e-9) + 1


def without_clock_changes(t: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return times (n,) as if the clock had not been set at these rows."""
    steps = np.diff(t, prepend=t[0])
    steps[rows] -= HOUR_S * np.sign(steps[rows])
    return t[0] + np.cumsum(steps)
