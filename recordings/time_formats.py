"""Timestamps as texts: the formats that one may have, in numbers or in words of several languages, and its time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from recordings.number_times import DAY_S, HOUR_S
from utils import DataError

ISO, ELAPSED = "ISO 8601", "h:mm:ss"                                 # beside the formats of strptime
ISO_LIKE = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d([.,]\d+)?)?|\d{8}T\d{4,6}([.,]\d+)?)(Z|[+-]\d\d:?\d\d)?"
)
ELAPSED_LIKE = re.compile(r"\d{1,3}:\d\d:[0-5]\d([.,]\d+)?|\d{1,3}:[0-5]\d[.,]\d+")
COMPACT_DATE = re.compile(r"(\d{8})([ T_-]?)(\d{6})(?:([.,])\d+|(\d{3}))?")
TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:(?:[.,]|:(?=\d{3}\b))(?P<part>\d{1,9}))?)?" \
    r"(?: ?(?P<half>[AaPp][Mm]))?"
DATE = r"(?:(?P<a>\d{4}|\d{1,2})(?P<mark>[./-])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{4}|\d{1,2})" \
    r"|(?P<day>\d{1,2})(?: |-)(?P<month>[A-Za-z]{3})(?: |-|, )(?P<year>\d{4}|\d\d)" \
    r"|(?P<month2>[A-Za-z]{3}) (?P<day2>\d{1,2}),? (?P<year2>\d{4}))"
STAMPS = (re.compile(f"{DATE}(?:[ T]+|, ?){TIME}"), re.compile(f"{TIME}(?: +|, ?){DATE}"), re.compile(TIME))
TIME_ALONE, DATE_ALONE = STAMPS[2], re.compile(DATE)
DIRECTIVES = {"minute": "%M", "second": "%S", "part": "%f", "half": "%p", "day": "%d", "day2": "%d"}
IN_NUMBERS = re.compile(r"[\d:.,/-]+(?:[ T][\d:.,/-]+)?Z?")
MONTHS = {
    name: month
    for month, names in {
        "Jan": "january januar j\u00e4nner janvier janv enero ene gennaio gen januari",
        "Feb": "february februar februari f\u00e9vrier f\u00e9vr fevrier febrero febbraio",
        "Mar": "march m\u00e4rz m\u00e4r mrz maerz mars marzo maart mrt",
        "Apr": "april avril avr abril abr aprile",
        "May": "mai mayo maggio mag mei maj",
        "Jun": "june juni juin junio giugno giu",
        "Jul": "july juli juillet juil julio luglio lug",
        "Aug": "august ao\u00fbt aout agosto ago augustus",
        "Sep": "september sept septembre septiembre settembre set",
        "Oct": "october oktober okt octobre octubre ottobre ott",
        "Nov": "november novembre noviembre",
        "Dec": "december dezember dez d\u00e9cembre d\u00e9c decembre diciembre dic dicembre",
    }.items()
    for name in names.split()
}
WEEKDAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:mon|diens|donners|frei|sams|sonn)tag|mittwoch"
    r"|mon|tue|wed|thu|fri|sat|sun|mo|di|mi|do|fr|sa|so)"
)
REWRITTEN = [
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        ("[\u00a0\u202f]", " "),
        ("(\\d{4})\u5e74(\\d{1,2})\u6708(\\d{1,2})\u65e5", r"\1-\2-\3"),     # of Chinese and Japanese
        (rf"^{WEEKDAY}\.?,? +", ""),
        (r"(?<![a-z])([ap])(?:\. ?m\.?| m)(?![a-z])", r"\1m"),
        (r" uhr$", ""),
        (r" (?:utc|gmt)$", "Z"),
        (r"(?<=\d) (?=[+-]\d\d:?\d\d$)", ""),
        (r"^(\d{1,2})\. (?=[^\W\d])", r"\1 "),
        (r" (?:at|um|\u00e0|de) ", " "),
        (r"^([^\W\d]{3,10}) +(\d{1,2}) ([\d:.,]+) (\d{4})$", r"\1 \2, \4 \3"),              # of ctime of C
    )
]



def bare(text: str) -> str:
    """Return a timestamp without blanks, quotes and brackets around it."""
    return text.strip().strip("'\"[]").strip()


def clean(text: str) -> str:
    """Return a timestamp as `bare` does, with names of months as in English, and without names of weekdays."""
    text = bare(text)
    if IN_NUMBERS.fullmatch(text):
        return text
    for pattern, plain in REWRITTEN:
        text = pattern.sub(plain, text)
    return re.sub(r"[^\W\d_]{3,10}\.?", lambda found: MONTHS.get(found[0].lower().rstrip("."), found[0]), text)


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
            directives[name] = "%b" if "month" in name else "%Y" if len(found[name]) == 4 else "%y"
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
    text = bare(text) if time_format else clean(text)
    formats = (time_format,) if time_format else formats_of(text)
    found = next((stamp for way in formats if (stamp := datetime_of(text, way)) is not None), None)
    return found if isinstance(found, datetime) else None


def check_format(time_format: str, where: str) -> None:
    """Raise DataError if strptime does not know the format."""
    try:
        datetime.strptime("", time_format)
    except (ValueError, re.error) as error:                          # re.error: a directive stands there twice
        if "does not match" not in str(error):
            raise DataError(f"{where}: time_format {time_format!r} in dataset_config.json: {error}") from None
