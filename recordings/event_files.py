"""Files of labelled events beside recordings: tables in seconds or clock times, Luna, NSRR, MNE, and EDF+."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from recordings import clocks, edf, tables, wall_clock
from recordings.cells import DecimalSigns
from recordings.layouts import LayoutKeys
from recordings.number_times import DAY_S, unit_s_in, unit_s_of
from recordings.reading import DETECT, Dialect, Event, Recording, clipped
from utils import DataError, counted

# Of a recording NAME, the first of these that exists. Tables hold events alone, so that each label has to be known;
# the others hold sleep stages and remarks as well, and only what is in the dataset's labels is an event.
TABLES = ("{}.events.csv", "{}.events.tsv", "{}.events.txt")
ANNOTATIONS = (
    "{}.annot", "{}-nsrr.xml", "{}.xml", "{}-annot.csv", "{}_annot.csv", "{}-annot.txt", "{}_annot.txt",
    "{}.annotations.edf", "{}-annot.edf", "{}_annot.edf",
)  # fmt: skip
# What is found may be saved as labels: these kinds are labels that every dataset knows.
KINDS = ("central_apnea", "obstructive_apnea", "mixed_apnea", "apnea", "hypopnea", "periodic_breathing", "cough",
         "motion", "tachypnea", "other")  # fmt: skip
CLASSES = {"central", "obstructive", "mixed"}                            # of apneas
NAME_ENDS = (".events", "-annot", "_annot", ".annotations", ".hypnogram")            # of files that are no recordings
# What the columns of a table are called, without their unit and signs; the first of a row that is there counts.
NAMES = {
    "start": ("start", "start time", "starttime", "start clock", "onset", "begin", "begin time", "beginn", "anfang",
              "startzeit", "anfangszeit", "startzeitpunkt", "von", "start timestamp", "from", "debut", "début",
              "inicio", "inizio", "time", "zeit", "uhrzeit", "zeitpunkt"),
    "end": ("end", "end time", "endtime", "end clock", "stop", "stop time", "stoptime", "offset", "ende", "endzeit",
            "endzeitpunkt", "stoppzeit", "bis", "end timestamp", "to", "fin", "fine"),
    "duration": ("duration", "dauer", "length", "länge", "durée", "duree", "duración", "durata"),
    "label": ("label", "label name", "event type", "event", "type", "typ", "description", "trial type", "ereignis",
              "event concept", "annotation", "kind", "class", "name", "beschreibung", "ereignistyp", "ereignisart",
              "bezeichnung", "art"),
}  # fmt: skip
Place = Callable[[int], str]             # of a row, counted from 0: what a message about it begins with
ELAPSED = re.compile(r"0\+(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")              # of Luna, from the start of the recording
UNKNOWN_DATE = date(1985, 1, 1)                                          # of EDF+
NO_EVENTS = ("recording start time",)                                   # of NSRR: the first one is none


@dataclass(frozen=True)
class TimeAxis:
    """The time of a recording, first and last in s, its clock at time 0, and the declared zone of that; None = none."""

    start_s: float
    end_s: float
    clock: datetime | None = None
    zone: ZoneInfo | None = None

    @classmethod
    def of(cls, recording: Recording, time_zone: str | None = None) -> TimeAxis:
        """Return the time of a recording."""
        clock = recording.start
        zone = ZoneInfo(time_zone) if time_zone and clock is not None and clock.tzinfo is not None else None
        return cls(float(recording.t[0]), recording.end_s, clock, zone)


class Beside(NamedTuple):
    """What the file of events beside a recording holds; no file = nothing.

    events: None if the file is no table of events, but of annotations, of which some may be events.
    """

    file: Path | None = None
    events: list[Event] | None = None
    annotations: Sequence[Event] = ()


def file_of(recording: Path, name: str) -> Path | None:
    """Return the file of a recording's events; None if there is none."""
    paths = (recording.with_name(pattern.format(name)) for pattern in (*TABLES, *ANNOTATIONS))
    return next((path for path in paths if path.exists()), None)


def read_beside(
    recording: Recording,
    dialect: Dialect = DETECT,
    labels: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    own_kinds: dict[str, str] | None = None,
) -> Beside:
    """Read the file of events beside a recording, and note in the recording how; arguments as of `read_events`.

    Annotations are clipped to the recording; their labels are as written.
    """
    file, notes = file_of(recording.path, recording.name), recording.notes
    if file is None:
        return Beside()
    axis = TimeAxis.of(recording, dialect.time_zone)
    if file.name in [pattern.format(recording.name) for pattern in TABLES]:
        return Beside(file, read_events(file, axis, labels, dialect, columns, own_kinds, notes))
    found = read_annotations(file, axis, dialect, notes)
    return Beside(file, None, clipped(found, axis.start_s, axis.end_s, notes, f"{file.name}: "))


def read_events(
    path: Path,
    axis: TimeAxis,
    labels: Mapping[str, str] | None = None,
    dialect: Dialect = DETECT,
    columns: Mapping[str, str] | None = None,
    own_kinds: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> list[Event]:
    """Read a table of events: start and end or duration, in seconds or clock times, and a label, mapped to a kind.

    Args:
        columns: what is called otherwise: start, end, duration or label -> its column.
        own_kinds: takes label -> kind of the labels that are not in the map, each a kind of its own; None = an error.
        notes: takes what a user should know about how the file was read.
    Raises: DataError naming file and row if an event ends before it starts, lies outside the recording, has a
        label that is not in the map, or is in clock times, but the recording has no clock.
    """
    events, place = table_events(path, axis, dialect, columns or {}, [] if notes is None else notes)
    return check_events(events, axis, labels, place, own_kinds)


def read_annotations(
    path: Path, axis: TimeAxis, dialect: Dialect = DETECT, notes: list[str] | None = None
) -> list[Event]:
    """Read the annotations of a recording from a file of Luna, NSRR, MNE or EDF+, with their texts as labels.

    Args:
        notes: takes what a user should know about how the file was read.
    Raises: DataError naming file and row if one cannot be read.
    """
    suffix, notes = path.suffix.lower(), [] if notes is None else notes
    if suffix == ".edf":
        return _edf_annotations(path, axis, dialect)
    if suffix == ".xml":
        return _xml_annotations(path, dialect, notes)
    return _luna_annotations(path, axis) if suffix == ".annot" else _mne_annotations(path, axis, dialect, notes)


def check_events(
    events: Sequence[Event],
    axis: TimeAxis,
    labels: Mapping[str, str] | None,
    place: Place,
    own_kinds: dict[str, str] | None = None,
) -> list[Event]:
    """Return the events in time order, with labels mapped to kinds; DataError on the first invalid one."""
    checked = []
    for row, event in enumerate(events):
        found = f"event {event.start_s:g} to {event.end_s:g} s"
        if not np.isfinite([event.start_s, event.end_s]).all():
            raise DataError(f"{place(row)}: {found}: start and end must be numbers")
        if event.end_s < event.start_s:
            raise DataError(f"{place(row)}: {found} ends before it starts; swap start_s and end_s")
        if event.start_s < math.floor(axis.start_s) or event.end_s > axis.end_s + 1.0:
            span = f"{axis.start_s:g} to {axis.end_s:g} s"
            raise DataError(f"{place(row)}: {found} lies outside the recording, {span}")
        kind = event.label if labels is None else labels.get(event.label)
        if kind is None and event.label in (*KINDS, *labels.values()):
            kind = event.label
        if kind is None and own_kinds is not None and (kind := kind_of_its_own(event.label, labels)):
            own_kinds[event.label] = kind
        if kind is None:
            raise DataError(
                f"{place(row)}: label {event.label!r} is not in the dataset's labels; "
                f"expected one of {', '.join(labels) or '(none)'}"
            )
        checked.append(replace(event, label=kind))
    return sorted(checked, key=lambda event: event.start_s)


def kind_of_its_own(label: str, labels: Mapping[str, str]) -> str | None:
    """Return the kind of an unknown label: that of the same words (`Apnea-Obstructive`), else itself; None if empty."""
    for plain, known in ((str.lower, labels), (_words, labels), (_words, {kind: kind for kind in KINDS})):
        same = {kind for name, kind in known.items() if plain(label) in (plain(name), plain(kind))}
        if len(same) == 1:
            return same.pop()
    return re.sub(r"\W+", "_", label.lower()).strip("_")[:100] or None


def _words(label: str) -> set[str]:
    """Return the words of a label, whatever their order, case and signs; hypopneas of any class are hypopneas."""
    words = set(re.findall(r"[^\W_]+", label.lower().replace("pnoea", "pnea"))) - {"event"}
    return words - CLASSES if "hypopnea" in words else words


# ---- tables ---------------------------------------------------------------------------------


def table_events(
    path: Path, axis: TimeAxis, dialect: Dialect, columns: Mapping[str, str], notes: list[str]
) -> tuple[list[Event], Place]:
    """Return the events of a table as they are written, and where each of them stands."""
    keys = LayoutKeys(delimiter=dialect.delimiter, decimal=dialect.decimal, encoding=dialect.encoding)
    table = tables.open_table(path, keys)
    found = _columns(table.layout.names, columns, path)
    frame = tables.read_columns(table, [], list(dict.fromkeys(found.values())))
    frame = frame[: np.flatnonzero(frame.notna().any(axis=1))[-1] + 1] if frame.notna().any(axis=None) else frame[:0]
    parts = {what: frame[name] for what, name in found.items()}
    start, end, labels = _spans(parts, table.layout.decimal, axis, table.place)
    return _events(start, end, labels, dialect, path.name, notes), table.place


def _columns(names: Sequence[str], given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return start, end or duration, and label -> the column of a table."""
    plain = [_plain(name) for name in names]
    found = dict(given)
    for what, known in NAMES.items():
        same = [name for word in known for name, short in zip(names, plain, strict=True) if short == word]
        if same and what not in found:
            found[what] = same[0]
    unknown = [name for name in given.values() if name not in names]
    missing = [what for what in ("start", "label") if what not in found]
    missing += [] if {"end", "duration"} & set(found) else ["end"]
    if unknown or missing:
        what = f"no column {unknown[0]!r}" if unknown else f"no column of the {missing[0]}"
        found_names = ", ".join(repr(name[:40])[1:-1] for name in names[:20])
        raise DataError(
            f"{path.name}: {what}; the file has {found_names}; expected start_s,end_s,label or "
            "onset,duration,description, or event_columns in dataset_config.json"
        )
    return {what: found[what] for what in ("start", "end" if "end" in found else "duration", "label")}


def _plain(name: str) -> str:
    """Return the name of a column in small letters, without its unit."""
    words = re.sub(r"[\W_]+", " ", name.lower()).split()
    return " ".join(words[:-1] if len(words) > 1 and unit_s_of(words[-1]) is not None else words)


def _spans(
    parts: Mapping[str, pd.Series], decimal: str | None, axis: TimeAxis, place: Place
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Return start and end (n,) in s, NaN where no duration is stated, and labels of columns of texts."""
    if not len(parts["label"]):
        return np.empty(0), np.empty(0), []
    labels = parts["label"].fillna("").str.strip()
    start, days = _times(parts["start"], decimal, axis, place)
    if "end" in parts:
        end, end_days = _times(parts["end"], decimal, axis, place)
        if days and end_days:                                        # times of day: an end is within a day of its start
            end = start + (end - start) % DAY_S
    else:
        end = start + _durations(parts["duration"], decimal, place)
    return start, end, labels.tolist()


def _events(
    start: np.ndarray, end: np.ndarray, labels: Sequence[str], dialect: Dialect, where: str, notes: list[str]
) -> list[Event]:
    """Return events of starts and ends (n,) in s; one whose end is NaN lasts as long as is declared, which is noted."""
    unknown = np.isnan(end)
    if unknown.any():
        lasting = f"taken as {dialect.annotation_s:g} s long (annotation_s)"
        notes.append(f"{where}: {counted(int(unknown.sum()), 'event')} without a duration, {lasting}")
    end = np.where(unknown, start + dialect.annotation_s, end)
    return [Event(*event) for event in zip(start.tolist(), end.tolist(), labels, strict=True)]


def _times(texts: pd.Series, decimal: str | None, axis: TimeAxis, place: Place) -> tuple[np.ndarray, bool]:
    """Return times as seconds on the recording's axis (n,), and whether they were times of day without a date."""
    texts = texts.str.strip()
    numbers = _numbers(texts, decimal)
    if np.isfinite(numbers).any() and not texts.str.fullmatch(wall_clock.EPOCH).eq(True).all():
        _check_all(np.isfinite(numbers), texts, "seconds, or clock times throughout", place)
        return numbers * (unit_s_in(str(texts.name)) or 1.0), False
    of_day = wall_clock.times_of_day(texts)
    is_of_day = bool(np.isfinite(of_day).any())
    if is_of_day:
        _check_all(np.isfinite(of_day), texts, "a time of day such as 23:59:59", place)
    else:
        stamps = _dates(texts, axis, place)
        if (stamps.dt.year == 1970).all() and not (axis.clock and axis.clock.year == 1970):
            return (stamps - pd.Timestamp(1970, 1, 1)).dt.total_seconds().to_numpy(), False      # of MNE: elapsed
    if axis.clock is None:
        raise DataError(
            f"{place(0)}: {texts.iloc[0]!r} is a clock time, but the recording has no clock (its times "
            "are seconds); write seconds from its start"
        )
    zero = axis.clock.replace(tzinfo=None)
    if not is_of_day and wall_clock.has_date(zero):
        return _since_zero(stamps, axis), False
    if not is_of_day:
        of_day = (stamps - stamps.dt.normalize()).dt.total_seconds().to_numpy()
    seconds = _on_axis(of_day, zero, axis, place)
    if axis.zone is not None and wall_clock.has_date(zero):
        seconds = _since_zero(pd.Series(pd.Timestamp(zero) + pd.to_timedelta(seconds, unit="s")), axis)
    return seconds, True


def _since_zero(stamps: pd.Series, axis: TimeAxis) -> np.ndarray:
    """Return local times with dates (n,) as seconds from time 0; they pass the changes of a declared zone's clock."""
    if axis.zone is None:
        return (stamps - pd.Timestamp(axis.clock.replace(tzinfo=None))).dt.total_seconds().to_numpy()
    passes = clocks.passes_in(axis.zone, stamps, nonexistent="shift_forward")
    first, second = ((one - pd.Timestamp(axis.clock)).dt.total_seconds().to_numpy() for one in passes)
    return np.where(first < axis.start_s, second, first)             # of an hour that comes twice


def _on_axis(of_day: np.ndarray, zero: datetime, axis: TimeAxis, place: Place) -> np.ndarray:
    """Return times of day (n,) as seconds from time 0, within the recording if it was there at that time of day."""
    if axis.end_s - axis.start_s > DAY_S:
        hours = (axis.end_s - axis.start_s) / 3600
        raise DataError(
            f"{place(0)}: times of day without a date, but the recording is {hours:.0f} h long; "
            "write dates as well"
        )
    middle = (axis.start_s + axis.end_s) / 2
    seconds = of_day - wall_clock.seconds_of_day(zero)
    return seconds + DAY_S * np.round((middle - seconds) / DAY_S)       # the nearest day


def _dates(texts: pd.Series, axis: TimeAxis, place: Place) -> pd.Series:
    """Return dates with times (n,); of two orders of day and month the one that lies in the recording."""
    try:
        readings = wall_clock.readings_of(texts, zone=axis.zone or (axis.clock.tzinfo if axis.clock else None))
    except ValueError:
        raise DataError(f"{place(0)}: timestamps in several time zones; expected a single one, or none") from None
    expected = "seconds or a clock time such as 2024-05-01 22:30:00"
    _check_all(readings[0].notna().to_numpy(), texts, expected, place)
    if len(readings) > 1 and axis.clock is not None:
        zero = pd.Timestamp(axis.clock.replace(tzinfo=None))
        first, last = (zero + timedelta(seconds=t) for t in (axis.start_s, axis.end_s))
        readings = sorted(readings, key=lambda one: -((one >= first) & (one <= last)).sum())
    return readings[0]


def _durations(texts: pd.Series, decimal: str | None, place: Place) -> np.ndarray:
    """Return durations in s (n,), of numbers or H:MM:SS; NaN where a cell is empty."""
    texts = texts.str.strip()
    numbers = _numbers(texts, decimal) * (unit_s_in(str(texts.name)) or 1.0)
    spans = texts.where(texts.str.count(":") == 2).str.replace(",", ".", regex=False)
    seconds = np.where(np.isfinite(numbers), numbers, pd.to_timedelta(spans, errors="coerce").dt.total_seconds())
    is_empty = texts.isna().to_numpy() | texts.eq("").to_numpy(bool, na_value=True)
    good = is_empty | (np.isfinite(seconds) & (seconds >= 0))
    _check_all(good, texts, "a duration in seconds, or as H:MM:SS", place)
    return np.where(is_empty, np.nan, seconds)


def _numbers(texts: pd.Series, decimal: str | None) -> np.ndarray:
    """Return texts as numbers (n,), NaN where one is none."""
    plain = texts.str.replace(",", ".", regex=False) if decimal == "," else texts
    return pd.to_numeric(plain, errors="coerce").to_numpy(float, na_value=np.nan)


def _check_all(good: np.ndarray, texts: pd.Series, expected: str, place: Place) -> None:
    if not good.all():
        row = int(np.argmin(good))
        found = texts.iloc[row] if isinstance(texts.iloc[row], str) else ""
        raise DataError(f"{place(row)}: {texts.name} is {found!r}; expected {expected}")


# ---- annotation files -----------------------------------------------------------------------


def text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from None


def _luna_annotations(path: Path, axis: TimeAxis) -> list[Event]:
    """Read an .annot file of Luna: class, instance, channel, start, stop, meta; without a header, the same columns.

    Source: the description of annotations in Luna's documentation. A stop may be a duration, `+30`, or `...`, the
    start of the next annotation.
    """
    lines = [(n, line) for n, line in enumerate(text_of(path).splitlines(), start=1) if line.strip()]
    rows = [(n, re.split(r"\t" if "\t" in line else r" +", line)) for n, line in lines if not line.startswith("#")]
    names = ["class", "instance", "channel", "start", "stop"]
    if rows and "start" in (header := [cell.strip().lower() for cell in rows[0][1]]):
        names, rows = header, rows[1:]
    if missing := [name for name in ("class", "start", "stop") if name not in names]:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected class, instance, channel, start, stop, meta")
    texts = []
    for number, cells in rows:
        if len(cells) <= max(map(names.index, ("class", "start", "stop"))):
            raise DataError(f"{path.name}: row {number}: {counted(len(cells), 'cell')}; expected {', '.join(names)}")
        texts.append([number, *(cells[names.index(name)].strip() for name in ("class", "start", "stop"))])
    events: list[Event] = []
    for k, (number, label, start, stop) in enumerate(texts):
        place = f"{path.name}: row {number}"
        start_s = _luna_time(start, axis, place)
        if stop == "...":
            end_s = _luna_time(texts[k + 1][2], axis, place) if k + 1 < len(texts) else axis.end_s
        elif stop.startswith("+"):
            end_s = start_s + _luna_time(stop[1:], replace(axis, clock=None), place)
        else:
            end_s = _luna_time(stop, axis, place)
            end_s += DAY_S if end_s < start_s and ":" in stop else 0.0
        events.append(Event(start_s, end_s, label))
    return events


def _luna_time(text: str, axis: TimeAxis, place: str) -> float:
    if elapsed := ELAPSED.fullmatch(text):
        hours, minutes, seconds = map(float, elapsed.groups())
        return 3600 * hours + 60 * minutes + seconds
    stamp = re.sub(r"^(\d{1,2}[-/.]\d{1,2}[-/.]\d{4})-", r"\1 ", text)       # 31-12-2024-22:30:00
    return float(_times(pd.Series([stamp], name="time", dtype=str), ".", axis, lambda _: place)[0][0])


def _xml_annotations(path: Path, dialect: Dialect, notes: list[str]) -> list[Event]:
    """Read the <ScoredEvent>s of NSRR and Compumedics: Start and Duration in seconds, EventConcept or Name.

    Of a concept such as `Obstructive apnea|Obstructive Apnea`, the label is the part before the line. The decimal sign
    may be a comma.
    """
    import xml.etree.ElementTree as ElementTree

    text = text_of(path)
    if "<!ENTITY" in text or "<!DOCTYPE" in text:                    # nested entities could grow without limit
        raise DataError(f"{path.name}: an XML file with a DOCTYPE; expected a plain file of NSRR")
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path.name}: not readable as XML: {error}") from None
    rows = []
    for number, one in enumerate(root.iter("ScoredEvent"), start=1):
        label = (one.findtext("EventConcept") or one.findtext("Name") or "").partition("|")[0].strip()
        if label.lower() not in NO_EVENTS:
            start, duration = ((one.findtext(name) or "").strip() for name in ("Start", "Duration"))
            rows.append((number, start, duration or "nan", label))
    signs = DecimalSigns()
    signs.take(text for _, *texts, _ in rows for text in texts)
    decimal = signs.sign(";") or "."                                 # a comma that may mean thousands is refused
    events = []
    for number, *texts, _ in rows:
        try:
            events.append([float(text.replace(",", ".") if decimal == "," else text) for text in texts])
        except ValueError:
            found = " and ".join(map(repr, texts))
            raise DataError(
                f"{path.name}: ScoredEvent {number}: Start and Duration are {found}; expected numbers of seconds"
            ) from None
    if not events and root.find(".//ScoredEvents") is None:
        raise DataError(f"{path.name}: no <ScoredEvents>; expected an annotation file of NSRR")
    start, duration = np.array(events).reshape(-1, 2).T              # (n,) each
    return _events(start, start + duration, [label for *_, label in rows], dialect, path.name, notes)


def _mne_annotations(path: Path, axis: TimeAxis, dialect: Dialect, notes: list[str]) -> list[Event]:
    """Read onset, duration, description as MNE writes them: .csv with dates, .txt with seconds from `orig_time`."""
    lines = [(number, line) for number, line in enumerate(text_of(path).splitlines(), start=1) if line.strip()]
    comments = [line for _, line in lines if line.startswith("#")]
    if not comments:
        return table_events(path, axis, dialect, {}, notes)[0]
    names = [cell.strip() for cell in comments[-1].lstrip("# ").split(",")]
    last = len(names) - 1                                                # a description may contain commas
    del lines[: len(comments)]
    reader = csv.reader(line for _, line in lines)
    rows = [(lines[reader.line_num - 1][0], cells) for cells in reader]
    if any(len(cells) <= last for _, cells in rows) or not {"onset", "duration", "description"} <= set(names):
        raise DataError(f"{path.name}: expected lines of onset, duration, description behind a line that says so")
    frame = pd.DataFrame([[*cells[:last], ",".join(cells[last:])] for _, cells in rows], columns=names, dtype=str)
    parts = {"start": frame["onset"], "duration": frame["duration"], "label": frame["description"]}
    spans = _spans(parts, ".", axis, lambda row: f"{path.name}: row {rows[row][0]}")
    events = _events(*spans, dialect, path.name, notes)
    origin = next((line.partition(":")[2].strip() for line in comments if "orig_time" in line), "None")
    shift_s = 0.0
    if origin != "None" and axis.clock is not None and wall_clock.has_date(axis.clock):
        first = wall_clock.readings_of(pd.Series([origin]))[0].iloc[0]
        shift_s = (first - pd.Timestamp(axis.clock.replace(tzinfo=None))).total_seconds() if pd.notna(first) else 0.0
    return [replace(event, start_s=event.start_s + shift_s, end_s=event.end_s + shift_s) for event in events]


def _edf_annotations(path: Path, axis: TimeAxis, dialect: Dialect) -> list[Event]:
    """Read the annotations of an EDF+ file; its start and the recording's, where both are known, set them apart."""
    header = edf.read_header(path)
    onsets, annotations, _ = edf.read_annotations(header)
    is_dated = header.start is not None and header.start.date() != UNKNOWN_DATE
    if is_dated and axis.clock is not None and wall_clock.has_date(axis.clock):
        shift_s = (header.start - axis.clock.replace(tzinfo=None)).total_seconds()
    else:
        within_s = float(onsets[0]) if len(onsets) else 0.0
        shift_s = -within_s if 0 < within_s < 1 else 0.0             # the start lies within a second
    spans = [(*note.span(dialect.annotation_s), note.text) for note in annotations]
    return [Event(start_s + shift_s, end_s + shift_s, text) for start_s, end_s, text in spans]
