"""Clock times: texts to dates and times of day, and back to the one way in which results show them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

import numpy as np
import pandas as pd

from recordings.clocks import NO_TIME, possible_readings, stamps_of
from recordings.number_times import NO_DATE
from recordings.time_formats import DATE_ALONE, ISO, TIME_ALONE, clean, datetime_of, formats_of, is_dated

EPOCH = r"\d{10}(?:\.\d+)?|\d{13}"       # seconds, or milliseconds, since 1970


def readings_of(texts: pd.Series, time_format: str | None = None, zone: tzinfo | None = None) -> list[pd.Series]:
    """Return each way in which texts can be dates with times (n,), NaT where one is none; two if day or month is first.

    Accepted are dates alone, ISO 8601, every format of `time_formats` that has a date, seconds and milliseconds since
    1970, or `time_format` alone if it is given. The clock is the one that is written, without its zone; with `zone`,
    times of another zone are converted to that one.

    Raises: ValueError if the texts have several time zones, or the format is none.
    """
    texts = texts.str.strip()
    if time_format is not None:
        return [_naive(pd.to_datetime(texts, format=time_format, errors="coerce"), zone)]
    first = next((text for text in texts if isinstance(text, str) and text), "")
    if pd.Series([first]).str.fullmatch(EPOCH).item():
        numbers = pd.to_numeric(texts.where(texts.str.fullmatch(EPOCH).eq(True)))
        return [pd.to_datetime(numbers * (1.0 if numbers.max() > 1e11 else 1e3), unit="ms")]
    if clean(first) != first:
        texts = texts.map(clean, na_action="ignore")
    texts = _with_midnight(texts)
    first = next((text for text in texts if isinstance(text, str) and text), "")
    formats = [way for way in formats_of(first) if way != ISO and is_dated(way)]
    if not formats:
        plain = texts.str.replace(",", ".", regex=False)
        return [_naive(pd.to_datetime(plain, format="ISO8601", errors="coerce"), zone)]
    possible = possible_readings({way: _read(texts.fillna(""), way) for way in formats})
    readings = [pd.Series(us.view("datetime64[us]"), texts.index) for us in possible.values()]
    return [one for k, one in enumerate(readings) if not any(one.equals(other) for other in readings[:k])]


def _read(texts: pd.Series, way: str) -> np.ndarray:
    """Return timestamps (n,) of a format, also with or without seconds: tables of events are written by hand."""
    us = stamps_of(texts, way)
    if (us == NO_TIME).any():
        other = re.sub(":%S([.,]%f)?", "", way) if "%S" in way else way.replace("%M", "%M:%S")
        us = np.where(us == NO_TIME, stamps_of(texts, other), us)
    return us


def _with_midnight(texts: pd.Series) -> pd.Series:
    """Return texts (n,), of which dates alone with day and month in numbers are followed by midnight."""
    alone = texts.str.fullmatch(DATE_ALONE).eq(True)
    timed = next(iter(texts[~alone].dropna()), "")
    return texts.mask(alone, texts + (" 00:00:00" if timed.count(":") > 1 else " 00:00"))


def times_of_day(texts: pd.Series) -> np.ndarray:
    """Return texts such as `22:30:15,5`, `22:30` or `10:30 PM` as seconds from midnight (n,), NaN where one is none."""
    return np.array([_seconds_of(clean(text)) if isinstance(text, str) else np.nan for text in texts], float)


def _seconds_of(text: str) -> float:
    ways = formats_of(text) if TIME_ALONE.fullmatch(text) else ()
    of_day = datetime_of(text, ways[0]) if ways else None
    return np.nan if of_day is None or of_day >= timedelta(days=1) else of_day.total_seconds()


def has_date(clock: datetime) -> bool:
    """Return whether a clock has a date, not the time of day alone."""
    return clock.date() != NO_DATE.date()


def clock_at(start: datetime | None, seconds: float) -> str:
    """Return the clock `seconds` after a start, such as `2024-03-30 23:59:59.500`; "" without a start.

    With the zone of the start, if it has one; of a start without a date, the time of day alone.
    """
    if start is None or not np.isfinite(seconds):
        return ""
    try:
        text = (start + timedelta(seconds=round(float(seconds), 3))).isoformat(sep=" ", timespec="milliseconds")
        return text if has_date(start) else text.partition(" ")[2]
    except OverflowError:                                            # outside the years 1 to 9999
        return ""


def clocks_at(start: datetime | None, t: np.ndarray) -> np.ndarray:
    """Return the clocks at times t (n,) in s after a start, as `clock_at` gives them."""
    if start is None:
        return np.full(len(t), "", dtype=object)
    zero = np.datetime64(start.replace(tzinfo=None), "ms")
    texts = np.datetime_as_string(zero + np.round(1000 * t).astype("timedelta64[ms]"), unit="ms").tolist()
    zone = start.isoformat(timespec="milliseconds")[23:]
    return np.array([text.replace("T", " ") + zone if has_date(start) else text[11:] for text in texts], dtype=object)


def time_at(start: datetime | None, seconds: float) -> str:
    """Return the time of day `seconds` after a start, such as `23:59:59`; "" without a start."""
    return "" if start is None else f"{start + timedelta(seconds=float(seconds)):%H:%M:%S}"


def seconds_of_day(clock: datetime) -> float:
    """Return the seconds from midnight to a clock."""
    return (clock - clock.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()


def _naive(stamps: pd.Series, zone: tzinfo | None) -> pd.Series:
    if stamps.dt.tz is None:
        return stamps
    return (stamps.dt.tz_convert(zone) if zone else stamps).dt.tz_localize(None)
