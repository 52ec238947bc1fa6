"""Times of rows that are numbers, to seconds: in any unit, since any origin, or clock times such as 220500.04."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

from utils import DataError

DAY_S, HOUR_S = 86400.0, 3600.0
UNIX, EXCEL = datetime(1970, 1, 1, tzinfo=UTC), datetime(1899, 12, 30)         # the clock at 0
NO_DATE = datetime(1900, 1, 1)           # the date of a time of day alone, as of strptime
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
PADDED = re.compile(r"\s*0\d{5}(?:[.,]\d+)?\s*")                     # 000500.04: no number begins so



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


def origin_of(first: float, unit_s: float) -> datetime | None:
    """Return the clock at 0 of times that are numbers, by the first one and the seconds of their unit; None = none."""
    if UNIX_S[0] <= first * unit_s < UNIX_S[1] and unit_s <= 1:
        return UNIX
    return EXCEL if unit_s == DAY_S and EXCEL_DAYS[0] <= first < EXCEL_DAYS[1] else None


def unit_of_numbers(first: float, step: float, where: str) -> float:
    """Return the seconds of one unit of undeclared times.

    Args:
        first, step: the first number and the usual distance of two.
    Raises: DataError if they cannot be seconds, and it is not certain what else they are.
    """
    for unit_s in (1.0, 1e-3, 1e-6, 1e-9):
        if UNIX_S[0] <= first * unit_s < UNIX_S[1]:
            return unit_s
    if may_be_days(first) and 0 < step < 1 / FASTEST_HZ:
        return DAY_S
    if abs(first) > LONGEST_S or 0 < step < 1 / FASTEST_HZ:
        apart = f", {step:.3g} apart," if step else ""
        raise DataError(
            f"{where}: times such as {first:.15g}{apart} cannot be seconds; set time_unit in dataset_config.json, "
            'such as "ms", "1/256 s" or "d" (days), or time_format if they are clock times'
        )
    return 1.0


def may_be_days(first: float) -> bool:
    """Return whether a number may be days of Excel or MATLAB, so that the distance to the next one decides."""
    return any(low <= first < high for low, high in (EXCEL_DAYS, MATLAB_DAYS))


def may_be_compact(first: float, is_padded: bool = False) -> bool:
    """Return whether a first number may be a clock time such as 220500.04, 220500040 or, if padded, 000500.04."""
    return (first >= 1e4 or is_padded) and compact_seconds(np.array([first])) is not None


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


def compact_clock(numbers: np.ndarray, where: str, is_padded: bool = False) -> np.ndarray | None:
    """Return numbers (n,) that are clock times as seconds from the first; None if they are not.

    Of seconds, none of 60 to 99 of each hundred would be missing over more than a minute.

    Args:
        is_padded: whether the first one is written with a 0 before it, as 000500.04 is.
    Raises: DataError if both are possible: rows are far apart, or the hour may be 0 and its zeros left out.
    """
    if (seconds := compact_seconds(numbers)) is None:
        return None
    minutes_passed = (np.diff(seconds // 60) != 0).sum()
    if not minutes_passed:
        return None                                                  # within a minute, both are the same
    since = continue_after(np.round(seconds * 1e6).astype(np.int64), round(DAY_S * 1e6))
    is_far_apart, may_be = np.median(np.diff(since)) >= 40e6, may_be_compact(numbers[0], is_padded)
    if not may_be and (is_far_apart or minutes_passed < 2):
        return None
    if not may_be or is_far_apart:
        raise DataError(
            f"{where}: times such as {numbers[0]:.15g}: clock times or seconds? set time_format, such as "
            '"%H%M%S", or time_unit in dataset_config.json'
        )
    return (since - since[0]) / 1e6


def continue_after(us: np.ndarray, period_us: int) -> np.ndarray:
    """Return times of day (n,), int64, that go on where they begin again: at midnight, or after an hour."""
    steps = np.diff(us)
    return us + period_us * np.r_[0, np.cumsum(steps < -period_us / 2)]


def number_seconds(
    numbers: np.ndarray, where: str, unit_s: float | None, is_padded: bool = False
) -> tuple[np.ndarray, datetime | None, float | None]:
    """Return times that are numbers (n,) in seconds, the clock at 0 s if they state one, the seconds of their unit.

    Args:
        unit_s: seconds of one unit as far as it is stated. Of clock times such as 220500.04 there is none.
        is_padded: whether the first one is written like 000500.04.
    Raises: DataError if it is not certain what the numbers are.
    """
    if unit_s is None and (since := compact_clock(numbers, where, is_padded)) is not None:
        return since, NO_DATE + timedelta(seconds=float(compact_seconds(numbers[:1])[0])), None
    if unit_s is None:
        steps = np.diff(numbers)
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        unit_s = unit_of_numbers(float(numbers[0]), step, where)
    return scaled(numbers, unit_s), origin_of(float(numbers[0]), unit_s), unit_s


def scaled(numbers, unit_s: float):
    """Return numbers, or one, in seconds; by division where that is exact to the last place."""
    return numbers * unit_s if unit_s >= 1 else numbers / round(1 / unit_s)
