"""Times of rows to seconds: numbers in any unit, timestamps in any usual format, one by one or a whole column.

Numbers keep their origin, which may be a clock's (1970 for Unix time); timestamps count from the first one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from utils import DataError

if TYPE_CHECKING:
    import pandas as pd

DAY_S, HOUR_S = 86400.0, 3600.0
UNIX, EXCEL = datetime(1970, 1, 1, tzinfo=UTC), datetime(1899, 12, 30)         # the clock at 0
UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": HOUR_S, "d": DAY_S}
SPELLINGS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "sek": "s", "sekunden": "s", "msec": "ms", "millis": "ms",
    "millisecond": "ms", "milliseconds": "ms", "usec": "us", "microseconds": "us", "nanoseconds": "ns", "mins": "min",
    "minute": "min", "minutes": "min", "minuten": "min", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "std": "h",
    "stunden": "h", "day": "d", "days": "d", "tage": "d",
}  # fmt: skip
UNIX_S = (1e9, 4.1e9)                                                # 2001 to 2099
EXCEL_DAYS, MATLAB_DAYS = (20_000, 80_000), (700_000, 800_000)       # 1954 to 2119, 1916 to 2190
LONGEST_S, FASTEST_HZ = 1e10, 1e4                                    # beyond them, numbers are no seconds
ISO, ELAPSED = "ISO 8601", "h:mm:ss"                                 # beside the formats of strptime
ISO_LIKE = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d([.,]\d+)?)?|\d{8}T\d{4,6}([.,]\d+)?)(Z|[+-]\d\d:?\d\d)?"
)
ELAPSED_LIKE = re.compile(r"\d{1,3}:\d\d:\d\d([.,]\d+)?|\d{1,3}:\d\d[.,]\d+")
COMPACT_DATE = re.compile(r"(\d{8})([ T_-]?)(\d{6})(?:([.,])\d+|(\d{3}))?")
TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:(?:[.,]|:(?=\d{3}\b))(?P<part>\d{1,9}))?)?" \
    r"(?: ?(?P<half>[AaPp][Mm]))?"
DATE = r"(?:(?P<a>\d{4}|\d{1,2})(?P<mark>[./-])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{4}|\d{1,2})" \
    r"|(?P<day>\d{1,2})(?: |-)(?P<month>[A-Za-z]{3,9})(?: |-|, )(?P<year>\d{4}|\d\d)" \
    r"|(?P<month2>[A-Za-z]{3,9}) (?P<day2>\d{1,2}),? (?P<year2>\d{4}))"
STAMPS = (re.compile(f"{DATE}(?:[ T]+|, ?){TIME}"), re.compile(f"{TIME}(?: +|, ?){DATE}"), re.compile(TIME))
TIME_ALONE, DATE_ALONE = STAMPS[2], re.compile(DATE)
DIRECTIVES = {"minute": "%M", "second": "%S", "part": "%f", "half": "%p", "day": "%d", "day2": "%d"}
NO_TIME = np.iinfo(np.int64).min                                     # NaT of numpy


@dataclass(frozen=True)
class TimeKeys:
    """What a dataset declares of its tables' times; None = detect it."""

    time_format: str | None = None
    time_unit: str | None = None
    time_zone: str | None = None


DETECT = TimeKeys()


# ---- numbers --------------------------------------------------------------------------------


def unit_s_of(name: str) -> float | None:
    """Return the seconds of a unit of time such as ms, min, 1/256 s or s/256; None if it is no unit of time."""
    text = name.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u")
    if found := re.fullmatch(r"1/(\d+) ?s|s/(\d+)", text):
        ticks = int(found[1] or found[2])
        return 1.0 / ticks if ticks else None
    return UNITS_S.get(SPELLINGS.get(text, text))


def unit_s_in(column: str, unit: str = "") -> float | None:
    """Return the seconds of the unit that a time column states, in its name or its unit; None if it states none.

    An `_s` at the end of the name states none: `t_s` is also what times of other units are called.
    """
    stated = re.match(r".*?[\[(]([^\])]*)[\])]", column)
    for text in (unit, stated[1] if stated else "", column):
        if (unit_s := unit_s_of(text)) is not None:
            return unit_s
    last = re.fullmatch(r".*[_ -]([a-z]{2,}|h)", column.strip().lower())
    unit_s = unit_s_of(last[1]) if last else None
    return None if unit_s == 1 else unit_s


def unit_of_numbers(first: float, step: float, where: str) -> tuple[float, datetime | None]:
    """Return the seconds of one unit of undeclared times, and the clock at 0 if they have one.

    Args:
        first, step: the first number and the usual distance of two.
    Raises: DataError if they cannot be seconds, and it is not certain what else they are.
    """
    for unit_s in (1.0, 1e-3, 1e-6, 1e-9):
        if UNIX_S[0] <= first * unit_s < UNIX_S[1]:
            return unit_s, UNIX
    for days, origin in ((EXCEL_DAYS, EXCEL), (MATLAB_DAYS, None)):
        if days[0] <= first < days[1] and 0 < step < 1 / FASTEST_HZ:
            return DAY_S, origin
    if abs(first) > LONGEST_S or 0 < step < 1 / FASTEST_HZ:
        apart = f", {step:.3g} apart," if step else ""
        raise DataError(
            f"{where}: times such as {first:.15g}{apart} cannot be seconds; set time_unit in dataset_config.json, "
            'such as "ms", "1/256 s" or "d" (days)'
        )
    return 1.0, None


def may_be_days(first: float) -> bool:
    """Return whether a number may be days of Excel or MATLAB, so that the distance to the next one decides."""
    return any(low <= first < high for low, high in (EXCEL_DAYS, MATLAB_DAYS))


def may_be_compact(first: float) -> bool:
    """Return whether a first number may be a clock time such as 220500.04 or 220500040."""
    return first >= 1e4 and compact_seconds(np.array([first])) is not None


def compact_seconds(numbers: np.ndarray, first: float | None = None) -> np.ndarray | None:
    """Return numbers (n,) such as 220500.04 as seconds of a day; None if one of them is no clock time.

    Args:
        first: the first number of the recording, if it is not that of `numbers`: 220500040 has milliseconds.
    """
    numbers = numbers / 1000 if (numbers[0] if first is None else first) >= 1e6 else numbers
    whole = np.floor(numbers + 1e-7)
    hour, minute, second = whole // 10_000, whole // 100 % 100, whole % 100
    if not ((numbers >= 0) & (hour < 24) & (minute < 60) & (second < 60)).all():
        return None
    return np.round(3600 * hour + 60 * minute + second + (numbers - whole), 6)


def compact_clock(numbers: np.ndarray, where: str) -> np.ndarray | None:
    """Return numbers (n,) that are clock times as seconds from the first; None if they are not.

    Of seconds, none of 60 to 99 of each hundred would be missing over more than a minute.

    Raises: DataError if rows are so far apart that both are possible.
    """
    if not may_be_compact(numbers[0]) or (seconds := compact_seconds(numbers)) is None:
        return None
    if not (np.diff(seconds // 60) != 0).any():
        return None                                                  # within a minute, both are the same
    since = continue_after(np.round(seconds * 1e6).astype(np.int64), int(DAY_S * 1e6))
    if np.median(np.diff(since)) >= 40e6:
        raise DataError(
            f"{where}: times such as {numbers[0]:.15g}: clock times or seconds? set time_format, such as "
            '"%H%M%S", or time_unit in dataset_config.json'
        )
    return (since - since[0]) / 1e6


def number_seconds(
    numbers: np.ndarray, where: str, unit_s: float | None
) -> tuple[np.ndarray, datetime | None, float | None]:
    """Return times that are numbers (n,) in seconds, the clock at 0 s if they state one, the seconds of their unit.

    Args:
        unit_s: seconds of one unit as far as it is stated. Of clock times such as 220500.04 there is none.
    Raises: DataError if it is not certain what the numbers are.
    """
    if unit_s is None and (since := compact_clock(numbers, where)) is not None:
        return since, None, None
    origin = None
    if unit_s is None:
        steps = np.diff(numbers)
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        unit_s, origin = unit_of_numbers(float(numbers[0]), step, where)
    elif UNIX_S[0] <= numbers[0] * unit_s < UNIX_S[1] and unit_s <= 1:
        origin = UNIX
    elif unit_s == DAY_S and EXCEL_DAYS[0] <= numbers[0] < EXCEL_DAYS[1]:
        origin = EXCEL
    return scaled(numbers, unit_s), origin, unit_s


def scaled(numbers, unit_s: float):
    """Return numbers, or one, in seconds; by division where that is exact to the last place."""
    return numbers * unit_s if unit_s >= 1 else numbers / round(1 / unit_s)


# ---- formats of timestamps ------------------------------------------------------------------


def clean(text: str) -> str:
    """Return a timestamp without blanks, quotes and brackets around it."""
    return text.strip().strip("'\"[]").strip()


def is_stamp(text: str) -> bool:
    """Return whether a cell is a timestamp or a time of day in a format that is recognised."""
    text = clean(text)
    return bool(formats_of(text)) and any(datetime_of(text, way) is not None for way in formats_of(text))


def is_date(text: str) -> bool:
    """Return whether a cell is a date alone."""
    return bool(DATE_ALONE.fullmatch(clean(text)) or re.fullmatch(r"\d{4}-\d\d-\d\d", clean(text)))


def is_compact_date(text: str) -> bool:
    """Return whether a number is date and time, such as 20240330235500."""
    text = clean(text)
    return bool(COMPACT_DATE.fullmatch(text)) and "1900" <= text[:4] < "2100" and is_stamp(text)


def formats_of(text: str) -> tuple[str, ...]:
    """Return the formats that a first timestamp may have: several where day, month and year may be mistaken.

    They are those of `strptime`, or ISO or ELAPSED. Dates with points and four digits of the year begin with the day.
    """
    if ISO_LIKE.fullmatch(text):
        return (ISO,)
    if ELAPSED_LIKE.fullmatch(text):
        return (ELAPSED,)
    if found := COMPACT_DATE.fullmatch(text):
        part = f"{found[4]}%f" if found[4] else "%f" if found[5] else ""
        return (f"%Y%m%d{found[2]}%H%M%S{part}",)
    found = next(filter(None, (pattern.fullmatch(text) for pattern in STAMPS)), None)
    if found is None:
        return ()
    groups = found.groupdict()
    if not groups.get("a"):
        return (_format(found, {}),)
    orders = ("Ymd",) if len(groups["a"]) == 4 else ("dmY", "mdY") if groups["mark"] != "." else ("dmY",)
    if len(groups["a"]) < 4 and len(groups["c"]) < 4:
        orders = ("dmy", "mdy", "ymd")
    return tuple(_format(found, dict(zip("abc", order, strict=True))) for order in orders)


def _format(found: re.Match[str], order: dict[str, str]) -> str:
    """Return the strptime format of a match of a timestamp, with a, b and c of its date in that order."""
    text = found.string
    directives = DIRECTIVES | {name: f"%{letter}" for name, letter in order.items()}
    directives["hour"] = "%I" if found["half"] else "%H"
    for name in ("month", "month2", "year", "year2"):
        if name in found.groupdict() and found[name]:
            directives[name] = ("%b" if len(found[name]) == 3 else "%B") if "month" in name else (
                "%Y" if len(found[name]) == 4 else "%y"
            )
    names = [name for name, value in found.groupdict().items() if value and name in directives]
    for name in sorted(names, key=found.start, reverse=True):
        text = text[: found.start(name)] + directives[name] + text[found.end(name) :]
    return text


def is_dated(time_format: str) -> bool:
    """Return whether times in that format have a date; those of others may pass midnight."""
    return time_format == ISO or (time_format != ELAPSED and bool(re.search("%[djcx]", time_format)))


def period_of(time_format: str, text: str) -> int:
    """Return after how many microseconds times without a date begin again: a day, or an hour without the hours."""
    hours = text.count(":") > 1 if time_format == ELAPSED else bool(re.search("%[HIcXT]", time_format))
    return round((DAY_S if hours else HOUR_S) * 1e6)


def datetime_of(text: str, time_format: str) -> datetime | timedelta | None:
    """Return a timestamp, or the time of day or since the start as timedelta; None if it has another format."""
    try:
        if time_format == ISO:
            return datetime.fromisoformat(text.replace(",", "."))
        if time_format == ELAPSED:
            if not ELAPSED_LIKE.fullmatch(text):
                return None
            *hours, minutes, seconds = text.replace(",", ".").split(":")
            whole, _, part = seconds.partition(".")
            micro = int(part[:6].ljust(6, "0")) if part else 0
            if int(whole) > 59:
                return None
            return timedelta(hours=int(*hours or [0]), minutes=int(minutes), seconds=int(whole), microseconds=micro)
        text = re.sub(r"([.,:]\d{6})\d+", r"\1", text)               # strptime takes no more digits
        found = datetime.strptime(text, time_format)
    except ValueError:
        return None
    if is_dated(time_format):
        return found
    return timedelta(hours=found.hour, minutes=found.minute, seconds=found.second, microseconds=found.microsecond)


def variants_of(time_format: str) -> tuple[str, ...]:
    """Return a format and those with the fraction of a second left out, or added where it has none."""
    if "%f" in time_format:
        return time_format, re.sub("[.,]%f", "", time_format)
    return time_format, time_format.replace("%S", "%S.%f"), time_format.replace("%S", "%S,%f")


def timestamp_of(text: str, time_format: str | None = None) -> datetime | None:
    """Return a timestamp with a date, as its first possible format or `time_format` has it; None if it is not one."""
    text = clean(text)
    formats = (time_format,) if time_format else formats_of(text)
    found = next((stamp for way in formats if (stamp := datetime_of(text, way)) is not None), None)
    return found if isinstance(found, datetime) else None


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
        self.formats: tuple[str, ...] = ()                           # that all timestamps so far may have
        self.first, self.text, self.has_zone = "", "", False         # the first timestamp, the last one
        self.origin: dict[str, int] = {}                             # by format, in microseconds
        self.last: dict[str, int] = {}
        self.passed_us = 0                                           # of times of day: the days that are over
        self.ambiguous_us, self.second = NO_TIME, False              # in an hour that comes twice

    def take(self, text: str) -> float | None:
        """Return the seconds of a timestamp from the first one; None if it cannot be read."""
        text = clean(text)
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
        """The first timestamp, if it has a date and it is certain which one."""
        if len(self.formats) != 1:
            return None
        stamp = self.read(self.first, self.formats[0])
        return stamp.replace(tzinfo=stamp.tzinfo or self.zone) if isinstance(stamp, datetime) else None

    def at(self, t: float) -> str:
        """Return the clock at t seconds after the first timestamp, in ISO 8601 or as time of day; "" if not certain."""
        if len(self.formats) != 1:
            return ""
        start, zone = self.start, self.zone
        try:
            if start is None:
                midnight = UNIX + timedelta(microseconds=self.origin[self.formats[0]])
                return (midnight + timedelta(seconds=t)).time().isoformat("milliseconds")
            if zone is not None and not self.has_zone:               # seconds are not those of the wall clock
                return (start.astimezone(UTC) + timedelta(seconds=t)).astimezone(zone).isoformat(" ", "milliseconds")
            return (start + timedelta(seconds=t)).isoformat(" ", "milliseconds")
        except OverflowError:                                        # after the year 9999
            return ""

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
    """Return timestamps as seconds from the first one (n,), NaN where one cannot be read, and the first if it is dated.

    Accepted are ISO 8601, times of day (which may pass midnight) or since the start, dates with numbers or names of
    months before or after the time, YYYYMMDDHHMMSS; or time_format alone if it is given.

    Raises: DataError if the order of day and month matters and is not certain, or time_format is none.
    """
    stamps = Stamps(keys)
    if keys.time_format:
        _check_format(keys.time_format, where)
    first = clean(str(texts.iloc[0]))
    formats = stamps.declared or formats_of(first)
    read = {way: _column(texts, way, first, stamps) for way in formats}
    since = {way: (us - us[0]) / 1e6 for way, us in read.items() if (us != NO_TIME).all()}
    if not since:
        best = min(read.values(), key=lambda us: (us == NO_TIME).sum(), default=np.full(len(texts), NO_TIME))
        return np.where(best == NO_TIME, np.nan, 0.0), None
    near = {way: t for way, t in since.items() if np.abs(np.diff(t)).max(initial=0) < DAY_S / 2}
    kept = near or since
    way, t = next(iter(kept.items()))
    if any(not np.array_equal(t, other) for other in kept.values()):
        raise DataError(
            f"{where}: time {first!r}: day or month first? set time_format in dataset_config.json, such as {way!r}"
        )
    stamps.take(first)
    stamps.formats = tuple(kept)
    return t, stamps.start


def _check_format(time_format: str, where: str) -> None:
    """Raise DataError if strptime does not know the format."""
    try:
        datetime.strptime("", time_format)
    except ValueError as error:
        if "does not match" not in str(error):
            raise DataError(f"{where}: time_format {time_format!r} in dataset_config.json: {error}") from None


def _column(texts: pd.Series, way: str, first: str, stamps: Stamps) -> np.ndarray:
    """Return timestamps in one format as microseconds (n,), int64, NO_TIME for one in another format.

    Mostly all have their digits at the same places, or are ISO 8601, which numpy and pandas read at once: strptime
    takes ten seconds for a night.
    """
    us = _iso_column(texts) if way == ISO else _by_places(texts, way, first)
    if us is None or (us == NO_TIME).any():
        us = np.array([_microseconds_of(stamps.read(clean(text), way)) for text in texts], np.int64)
    if not is_dated(way) and (us != NO_TIME).all():
        us = continue_after(us, period_of(way, first))
    if is_dated(way) and stamps.zone is not None and (us != NO_TIME).all() and stamps.read(first, way).tzinfo is None:
        us = _in_zone(us, str(stamps.zone))
    return us


def _microseconds_of(stamp: datetime | timedelta | None) -> int:
    """Return a timestamp in microseconds since 1970, in UTC if it has a zone, or a time since the start."""
    if stamp is None:
        return NO_TIME
    if isinstance(stamp, datetime):
        stamp = stamp - (UNIX if stamp.tzinfo else UNIX.replace(tzinfo=None))
    return stamp // timedelta(microseconds=1)


def _iso_column(texts: pd.Series) -> np.ndarray:
    """Return timestamps in ISO 8601 as microseconds (n,), in UTC; NO_TIME for another format."""
    import pandas as pd

    stamps = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
    return stamps.to_numpy(dtype="datetime64[us]").view(np.int64)


def _by_places(texts: pd.Series, way: str, first: str) -> np.ndarray | None:
    """Return timestamps as microseconds (n,) if all have digits where the first one has them; None if not."""
    places = _places_of(first, way)
    try:
        letters = np.asarray(texts, dtype="S")                       # (n,) of the longest one's width
    except UnicodeEncodeError:
        return None
    width = letters.dtype.itemsize
    if places is None or width != len(first):
        return None
    chars = letters.view(np.uint8).reshape(len(letters), width)      # (n, width)
    is_digit = np.zeros(width, bool)
    for start, end in places.values():
        is_digit[start:end] = True
    digits = chars - np.uint8(ord("0"))                              # wraps around below "0"
    if (chars[:, ~is_digit] != chars[0, ~is_digit]).any() or (digits[:, is_digit] > 9).any():
        return None
    fields = {}
    for name, (start, end) in places.items():
        fields[name] = digits[:, start:end].astype(np.int64) @ 10 ** np.arange(end - start - 1, -1, -1)
    if way != ELAPSED and "H" in fields and (fields["H"] > 23).any():
        return None
    return _microseconds_of_fields(fields, places)


def _places_of(text: str, way: str) -> dict[str, tuple[int, int]] | None:
    """Return the first and last place of each number of a timestamp by its directive; None if it has other parts."""
    places, at = {}, 0
    widths = {"Y": (4, 4), "y": (2, 2), "f": (1, 6), "H": (1, 3 if way == ELAPSED else 2)}
    for directive, literal in re.findall(r"%(.)|(.)", "%H:%M:%S.%f" if way == ELAPSED else way):
        if at == len(text) or (literal and text[at] in (literal, ",") and literal in (text[at], ".")):
            at += 1
            continue
        least, most = widths.get(directive, (1, 2))
        digits = re.match(rf"\d{{{least},{most}}}", text[at:]) if directive and directive in "YmdHMSfy" else None
        if digits is None or directive in places:
            return None
        places[directive] = (at, at + digits.end())
        at += digits.end()
    return places if at >= len(text) else None


def _microseconds_of_fields(fields: dict[str, np.ndarray], places: dict[str, tuple[int, int]]) -> np.ndarray | None:
    """Return the numbers of timestamps, (n,) each by its directive, as microseconds; None if one is out of range."""
    zero = np.zeros(len(next(iter(fields.values()))), np.int64)
    hour, minute, second, part = (fields.get(name, zero) for name in "HMSf")
    if (minute > 59).any() or (second > 59).any():
        return None
    part = part * 10 ** (6 - (places["f"][1] - places["f"][0])) if "f" in places else part
    us = (3600 * hour + 60 * minute + second) * 1_000_000 + part
    if not {"d", "m", "Y", "y"} & fields.keys():
        return us
    year, month, day = fields.get("Y"), fields.get("m"), fields.get("d")
    if year is None and "y" in fields:
        year = fields["y"] + np.where(fields["y"] < 69, 2000, 1900)  # as strptime does
    if year is None or month is None or day is None or (month < 1).any() or (month > 12).any() or (day < 1).any():
        return None
    months = (12 * (year - 1970) + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():
        return None
    return days.astype(np.int64) * round(DAY_S * 1e6) + us


def continue_after(us: np.ndarray, period_us: int) -> np.ndarray:
    """Return times of day (n,), int64, that go on where they begin again: at midnight, or after an hour."""
    steps = np.diff(us)
    return us + period_us * np.r_[0, np.cumsum(steps < -period_us / 2)]


def _in_zone(us: np.ndarray, zone: str) -> np.ndarray:
    """Return local times in microseconds (n,) in UTC; of an hour that comes twice, the second one after a jump back."""
    import pandas as pd

    local = pd.Series(us.view("datetime64[us]"))
    both = [
        local.dt.tz_localize(zone, ambiguous=np.full(len(local), first), nonexistent="NaT").dt.tz_convert("UTC")
        for first in (True, False)
    ]
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
