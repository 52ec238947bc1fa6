"""Read EDF, EDF+ and BDF files as forgivingly as their samples allow.

By hand, because each library fails on files that people have: pyEDFlib refuses any oddity in a header and reads starts
within a second wrongly, edfio reads a decimal comma wrongly and knows no EDF+D, MNE resamples slower signals.
Source: Kemp and Olivan, "European data format 'plus' (EDF+)", Clinical Neurophysiology 114 (2003), and edfplus.info.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np

from recordings.signals import (
    Annotation,
    NoSamples,
    Samples,
    SignalFile,
    check_file,
    indices_of,
    summary_of,
    unique_names,
)
from utils import DataError, counted

HEAD = 256                                                           # bytes of a header's first part, and of a signal
FIELDS = {
    "label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8, "digital_max": 8,
    "prefilter": 80, "samples": 8, "reserved": 32,
}  # fmt: skip
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
CHECKSUM = "Crc16"                                                   # which ResMed stores as if it were a signal
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
MAX_RATE_HZ = 1e6
TIMED_TEXTS = re.compile(rb"([+-]?\d+(?:[.,]\d*)?)(?:\x15(\d*(?:[.,]\d*)?))?\x14(.*)", re.DOTALL)


@dataclass(frozen=True)
class Channel:
    """A signal as the header describes it: samples of one record, from byte `offset` of the record on.

    gain, base: value = gain * digital + base. fault: why the samples have no physical value; "" if they have.
    """

    label: str
    unit: str
    samples: int
    offset: int
    gain: float = 1.0
    base: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class Header:
    """What a file's header says, checked against its size.

    kind: EDF, EDF+C, EDF+D, BDF, BDF+C or BDF+D. width: bytes of a sample. offset: bytes of the header. records: the
    complete ones in the file. start: the clock that the header states, in whole seconds.
    """

    path: Path
    kind: str
    width: int
    offset: int
    records: int
    record_s: float
    channels: list[Channel]
    start: datetime | None
    notes: list[str] = field(default_factory=list)

    @property
    def signals(self) -> list[Channel]:
        return [c for c in self.channels if c.label not in (*ANNOTATIONS, CHECKSUM)]

    @property
    def record_bytes(self) -> int:
        return self.width * sum(channel.samples for channel in self.channels)

    def bytes_of(self, channel: Channel) -> np.ndarray:
        """Return a channel's part of every record, (records, bytes)."""
        raw = np.memmap(self.path, np.uint8, "r", self.offset, (self.records, self.record_bytes))
        return np.ascontiguousarray(raw[:, channel.offset : channel.offset + self.width * channel.samples])


def is_edf(path: Path) -> bool:
    """Return whether a file is EDF or BDF by its content: the version, and two numbers where a header has them."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    sizes = head[184:192].strip(b" \0"), head[252:256].strip(b" \0")
    return _width(head) > 0 and all(size.isdigit() for size in sizes)


def read_edf(path: Path, wanted: list[str] | None = None) -> SignalFile:
    """Read the wanted signals of a file (None = all that have values, the others are noted) and its annotations.

    Time 0 is the first sample. A recording with gaps (EDF+D) keeps them.

    Raises: NoSamples if the file holds no signal or no record; DataError if its records cannot be told apart, or a
        wanted signal is missing or has no scale.
    """
    header = read_header(path)
    onsets, annotations, notes = read_annotations(header)
    notes = [*header.notes, *notes]
    check_has_samples(header, annotations)
    signals, labels = header.signals, [channel.label for channel in header.signals]
    if wanted is None:
        names = unique_names(labels)
        notes += [f"{name!r} is not read: {c.fault}" for name, c in zip(names, signals, strict=True) if c.fault]
        indices = {name: k for k, name in enumerate(names) if not signals[k].fault}
        if not indices:
            raise DataError(f"{path.name}: no signal can be read: {names[0]!r}: {signals[0].fault}")
    else:
        indices = indices_of(wanted, labels, path.name)
    for name, k in indices.items():
        if signals[k].fault:
            raise DataError(f"{path.name}: signal {name!r} has no scale: {signals[k].fault}; export the file again")
    starts = _record_starts(header, onsets, notes)
    times: dict[int, np.ndarray] = {}                                # shared by signals of the same rate
    found = {name: _signal(header, signals[k], starts, times) for name, k in indices.items()}
    start, first_s = header.start, float(onsets[0]) if np.isfinite(onsets[:1]).all() else 0.0
    try:
        start = start and start + timedelta(seconds=first_s)
    except OverflowError:
        start = None
        notes.append(f"the first record is at {first_s:g} s of the header's start; the clock is not used")
    annotations = [Annotation(a.at_s - first_s, a.duration_s, a.text) for a in annotations]
    kind = header.kind.removesuffix("C")
    return SignalFile(f"{kind}, started {start}" if start else kind, found, annotations, notes, start)


def check_has_samples(header: Header, annotations: list[Annotation]) -> None:
    """Raise NoSamples, saying what the file does hold, if there is no signal or no record."""
    where = header.path.name
    if not header.signals:
        raise NoSamples(f"{where}: no signals, only {summary_of(annotations)}; name the recording that they belong to")
    if not header.records:
        found = counted(len(header.signals), "signal")
        raise NoSamples(f"{where}: no samples: {found} of 0 records; leave it out")
    if not header.record_s:
        raise DataError(f"{where}: the duration of a record is 0 s; expected how many seconds a record lasts")


# ---- the header -----------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Read a file's header.

    Raises: DataError if the layout of the records cannot be read from it.
    """
    check_file(path)
    if not path.stat().st_size:
        raise DataError(f"{path.name}: empty file; expected a header and signals")
    with path.open("rb") as file:
        head = file.read(HEAD)
        width = _width(head)
        if not width:
            raise DataError(f"{path.name}: not EDF or BDF: it begins with {head[:8]!r}; expected '0' or 255 'BIOSEMI'")
        count = _whole(head[252:256])
        if len(head) < HEAD or count is None or count < 1:
            found = _text(head[252:256]) or "nothing"
            raise DataError(f"{path.name}: not a readable EDF header: {found!r} signals; expected 1 or more")
        rest = file.read(HEAD * count)
    if len(rest) < HEAD * count:
        raise DataError(f"{path.name}: truncated: {HEAD + len(rest)} bytes; the header alone has {HEAD * (count + 1)}")
    notes = ["the header is not plain ASCII; its texts are read as Latin-1"] if not (head[8:] + rest).isascii() else []
    columns, at = {}, 0
    for name, size in FIELDS.items():
        columns[name] = [rest[at + k * size : at + (k + 1) * size] for k in range(count)]
        at += size * count
    channels = _channels(columns, width, path, notes)
    record_s = _number(_text(head[244:252]), True)
    rates = [c.samples / record_s for c in channels] if record_s else [0.0]
    if record_s is None or not 0 <= record_s < 1e9 or max(rates) > MAX_RATE_HZ:
        found = _text(head[244:252])
        raise DataError(f"{path.name}: the duration of a record is {found!r}; expected a number of seconds")
    record_bytes = width * sum(channel.samples for channel in channels)
    offset = _offset(path, head, count, record_bytes)
    records = _records(path, head, offset, record_bytes, notes)
    reserved = _text(head[192:197])
    kind = ("EDF" if width == 2 else "BDF") + (reserved[3:5] if reserved[:4] in ("EDF+", "BDF+") else "")
    start = _start(_text(head[168:176]), _text(head[176:184]), _text(head[88:168]), notes)
    return Header(path, kind, width, offset, records, record_s, channels, start, notes)


def _width(head: bytes) -> int:
    """Return the bytes of a sample by the first bytes of a file; 0 if it is neither EDF nor BDF."""
    return 3 if head[:8] == b"\xffBIOSEMI" else 2 if head[:1] == b"0" and not head[1:8].strip(b" \0") else 0


def _text(content: bytes) -> str:
    """Return a header's text; Latin-1, since every byte is a character of it."""
    return content.decode("latin-1").strip(" \0")


def _number(text: str, decimal_comma: bool) -> float | None:
    """Return a number of a header; None if it is none, or if `1,000` may be 1 or 1000."""
    if "," in text and not decimal_comma and re.fullmatch(r"[+-]?\d{1,3},\d{3}", text):
        return None
    try:
        value = float(text.replace(",", ".", 1))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(content: bytes) -> int | None:
    value = _number(_text(content), True)
    return int(value) if value is not None and value == int(value) else None


def _channels(columns: dict[str, list[bytes]], width: int, path: Path, notes: list[str]) -> list[Channel]:
    """Return the channels of a header, given the bytes of every channel's field; note a decimal comma."""
    limits = ("physical_min", "physical_max", "digital_min", "digital_max")
    texts = [[_text(columns[name][k]) for name in limits] for k in range(len(columns["label"]))]
    commas = [text for row in texts for text in row if "," in text]
    decimal_comma = any(not re.fullmatch(r"[+-]?\d{1,3},\d{3}", text) for text in commas)
    if decimal_comma:
        notes.append(f"the header has decimal commas, such as {commas[0]!r}")
    channels, offset = [], 0
    for k, row in enumerate(texts):
        label, samples = _text(columns["label"][k]), _whole(columns["samples"][k])
        if samples is None or samples < 0:
            found = _text(columns["samples"][k])
            raise DataError(f"{path.name}: signal {label!r}: {found!r} samples in a record; expected a whole number")
        fault, gain, base = _scale(row, decimal_comma)
        if not samples:
            fault = "it has 0 samples in a record"
        channels.append(Channel(label, _text(columns["unit"][k]), samples, offset, gain, base, fault))
        offset += width * samples
    if not offset:
        raise DataError(f"{path.name}: no signal has samples; expected samples in a record")
    return channels


def _scale(texts: list[str], decimal_comma: bool) -> tuple[str, float, float]:
    """Return why there is no scale (or ""), gain and base, given physical and digital minimum and maximum."""
    limits = [_number(text, decimal_comma) for text in texts]
    for name, text, limit in zip(("physical", "physical", "digital", "digital"), texts, limits, strict=True):
        if limit is None:
            return f"a {name} limit is {text!r}, no plain number", 1.0, 0.0
    low, high, first, last = limits
    if low == high:
        return f"its physical minimum and maximum are both {low:g}", 1.0, 0.0
    if first >= last:
        return f"its digital minimum is {first:g}, its digital maximum {last:g}", 1.0, 0.0
    gain = (high - low) / (last - first)
    return "", gain, low - first * gain


def _offset(path: Path, head: bytes, count: int, record_bytes: int) -> int:
    """Return where the records begin, by the header's number of bytes and its number of signals."""
    computed, declared = HEAD * (count + 1), _whole(head[184:192])
    if declared in (computed, None):
        return computed
    body, records = path.stat().st_size - computed, _whole(head[236:244])
    if records is not None and body == records * record_bytes:
        return computed
    raise DataError(
        f"{path.name}: its header declares {declared} bytes of itself, but has {counted(count, 'signal')}; "
        f"expected {computed} bytes"
    )


def _records(path: Path, head: bytes, offset: int, record_bytes: int, notes: list[str]) -> int:
    """Return how many records are read: those that are declared, as far as they are there, or else all."""
    declared, body = _whole(head[236:244]), path.stat().st_size - offset
    there = max(body, 0) // record_bytes
    if declared is None or declared < 1:
        found = _text(head[236:244])
        if there:
            notes.append(f"the header says {found!r} records; the {there} complete ones in the file are read")
        return there
    if not there:
        raise DataError(f"{path.name}: truncated: none of the {counted(declared, 'record')} in the header is complete")
    if there < declared:
        notes.append(f"cut off: {there} of {declared} records are complete and are read")
    elif body > declared * record_bytes:
        notes.append(f"{body - declared * record_bytes} bytes behind the last of {declared} records are not read")
    return min(declared, there)


def _start(day: str, clock: str, about: str, notes: list[str]) -> datetime | None:
    """Return the clock at the start of a header's first second; None, noted, if the header states no real one.

    Args:
        day, clock: the fields dd.mm.yy and hh.mm.ss.
        about: the description of the recording; `Startdate dd-MMM-yyyy` in an EDF+ is beyond doubt.
    """
    numbers, clocks = (re.fullmatch(r"\s*(\d{1,2})\D(\d{1,2})\D(\d{2})\s*", text) for text in (day, clock))
    stated = re.search(r"Startdate (\d{1,2})-([A-Za-z]{3})-(\d{4})", about)
    header_date = stated_date = None
    try:
        if numbers:
            d, m, y = map(int, numbers.groups())
            header_date = date(y + (1900 if y >= 85 else 2000), m, d)
    except ValueError:
        pass
    try:
        if stated and stated[2].upper() in MONTHS:
            stated_date = date(int(stated[3]), MONTHS.index(stated[2].upper()) + 1, int(stated[1]))
    except ValueError:
        pass
    is_blank = not re.search(r"[1-9]", day)                          # made anonymous: the clock is zero as well
    try:
        start = datetime.combine(stated_date or header_date, time(*map(int, clocks.groups())))
    except (TypeError, ValueError, AttributeError):
        start = None
    if start is None or is_blank:
        notes.append(f"the header's start, {day!r} {clock!r}, is no date and time; there is no clock")
        return None
    if start.date() != header_date or not re.fullmatch(r"\d\d\.\d\d\.\d\d", day):
        notes.append(f"the header's start date, {day!r}, is read as {start.date()}")
    return start


# ---- records --------------------------------------------------------------------------------


def read_annotations(header: Header) -> tuple[np.ndarray, list[Annotation], list[str]]:
    """Return the onset of each record (records,), NaN = not stated, the annotations, and notes on unreadable ones.

    All times are in s from the start that the header states. The first annotation signal keeps the records' times.
    """
    onsets, found, unreadable = np.full(header.records, np.nan), [], 0
    sources = [channel for channel in header.channels if channel.label in ANNOTATIONS]
    for number, channel in enumerate(sources):
        for record, block in enumerate(header.bytes_of(channel) if header.records else ()):
            lists = [part for part in block.tobytes().split(b"\0") if part]
            for place, part in enumerate(lists):
                match = TIMED_TEXTS.fullmatch(part)
                if not match:
                    unreadable += 1
                    continue
                at_s = float(match[1].replace(b",", b"."))
                if number == place == 0:
                    onsets[record] = at_s
                lasts = (match[2] or b"").replace(b",", b".").strip(b".")
                texts = [_annotation_text(text) for text in match[3].split(b"\x14")]
                found += [Annotation(at_s, float(lasts) if lasts else None, text) for text in texts if text]
    notes = [f"unreadable and left out: {counted(unreadable, 'annotation')}"] if unreadable else []
    return onsets, found, notes


def _annotation_text(content: bytes) -> str:
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        return content.decode("latin-1").strip()


def _record_starts(header: Header, onsets: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Return when each record starts (records,), in s from the first; None if they follow each other without a gap.

    Raises: DataError if a recording with gaps does not say when a record starts, or if two records overlap.
    """
    where, record_s = header.path.name, header.record_s
    half_step_s = record_s / max(1, *(channel.samples for channel in header.signals)) / 2
    starts = onsets - onsets[0]
    off_s = np.abs(starts - np.arange(header.records) * record_s)
    if not header.kind.endswith("+D"):
        if np.nanmax(off_s, initial=0.0) > record_s:
            notes.append(f"the records' times are off by up to {np.nanmax(off_s):g} s; they are read without gaps")
        return None
    unknown = np.flatnonzero(~np.isfinite(starts))
    if len(unknown):
        place = f"record {unknown[0] + 1}"
        raise DataError(f"{where}: {place} has no time; expected one in a recording with gaps, {header.kind}")
    if off_s.max() <= half_step_s:
        notes.append(f"{header.kind} without gaps")
        return None
    overlap = np.flatnonzero(np.diff(starts) < record_s - half_step_s)
    if len(overlap):
        k = overlap[0]
        raise DataError(
            f"{where}: record {k + 2} starts at {starts[k + 1]:g} s, the one before at {starts[k]:g} s; expected a "
            f"distance of at least {record_s:g} s, the duration of a record"
        )
    gaps_s = np.diff(starts) - record_s
    gaps_s = gaps_s[gaps_s > half_step_s]
    notes.append(f"{header.kind}: {counted(len(gaps_s), 'gap')} between records, {gaps_s.sum():g} s in total")
    return starts


def _signal(header: Header, channel: Channel, starts: np.ndarray | None, times: dict[int, np.ndarray]) -> Samples:
    """Return a channel's samples; `times` holds the times of channels with so many samples in a record."""
    if channel.samples not in times:
        rate_hz = channel.samples / header.record_s
        if starts is None:
            t = np.arange(header.records * channel.samples) / rate_hz
        else:
            t = (starts[:, None] + np.arange(channel.samples) / rate_hz).ravel()
        times[channel.samples] = t
    raw = header.bytes_of(channel)
    if header.width == 2:
        digital = raw.view("<i2").ravel()
    else:
        padded = np.zeros((raw.size // 3, 4), np.uint8)
        padded[:, 1:] = raw.reshape(-1, 3)
        digital = padded.view("<i4").ravel() >> 8                    # the sign is that of the highest byte
    values = digital * channel.gain
    values += channel.base
    return Samples(times[channel.samples], values, channel.unit, abs(channel.gain))
