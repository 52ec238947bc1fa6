"""Read WFDB records, of one segment or of several, with the package wfdb.

Files must be local: whatever a header refers to is expected in the same folder.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from recordings.signals import (
    Annotation,
    NoSamples,
    Samples,
    SignalFile,
    all_times,
    check_file,
    indices_of,
    unique_names,
)
from utils import DataError, counted

ANNOTATORS = ("atr", "apn", "st", "resp", "arousal", "breath")       # looked for if none is declared
NO_SEGMENT = "~"                                                     # the name of a gap between segments
BITS = {
    "8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 32 / 3, "311": 32 / 3,
    "508": 0, "516": 0, "524": 0,                                    # compressed (FLAC): any size
}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """A part of a record: its own header, and where it begins in the record, in frames."""

    path: Path
    header: Any
    first: int


def read_wfdb(path: Path, wanted: list[str] | None, annotators: Sequence[str] | None) -> SignalFile:
    """Read the wanted signals of a record (None = all) and its annotations.

    A signal is missing where a record of several segments has a gap, or a segment is without it.

    Args:
        annotators: annotation files, by suffix; None = those of ANNOTATORS that exist.
    Raises: DataError if a file is missing, damaged or truncated, or a wanted signal is missing.
    """
    check_file(path)
    header = _header(path)
    segments = _segments(path, header)
    labels = list(dict.fromkeys(name for part in segments for name in _names(part.header)))
    if len(segments) == 1:
        labels = _labels(segments[0].header)
    indices = indices_of(unique_names(labels) if wanted is None else wanted, labels, path.name)
    numbers = {name: unique_names(labels)[k] for name, k in indices.items()}
    notes: list[str] = []
    pieces: dict[str, list[tuple[Segment, Samples]]] = {name: [] for name in numbers}
    for part in segments:
        for name, signal in _read_segment(part, list(numbers.values()), header.fs, notes).items():
            pieces[name].append((part, signal))
    signals = _joined(path, pieces)
    annotations = [a for file in _annotation_files(path, annotators) for a in _read_annotations(file, header.fs)]
    started = f", started {header.base_time}" if header.base_time else ""
    start = datetime.combine(header.base_date, header.base_time) if header.base_time and header.base_date else None
    of = f", {counted(len(segments), 'segment')}" if _is_multi(header) else ""
    rows = all_times(list(signals.values())) if _is_multi(header) and signals else None
    return SignalFile(f"WFDB{of}{started}", signals, annotations, list(dict.fromkeys(notes)), start, rows)


def companions(path: Path, annotators: Sequence[str] | None = None) -> list[Path]:
    """Return the files that are read besides a record's header: those of its segments, signals and annotations."""
    files = []
    for part in _segments(path, _header(path)):
        files += [*([] if part.path == path else [part.path]), *_signal_files(part.path, part.header)]
    return [*files, *_annotation_files(path, annotators)]


def segment_names(path: Path) -> set[str]:
    """Return the names of the segments that a header lists; none if it is not that of several segments."""
    lines = [line.split() for line in path.read_text("latin-1").splitlines() if not line.startswith("#")]
    lines = [words for words in lines if words]
    return {words[0] for words in lines[1:]} if lines and "/" in lines[0][0] else set()


# ---- headers --------------------------------------------------------------------------------


def _wfdb(path: Path) -> ModuleType:
    try:
        return importlib.import_module("wfdb")
    except ImportError:
        raise DataError(f"{path.name}: reading WFDB needs wfdb; pip install -r requirements-formats.txt") from None


@contextlib.contextmanager
def _as_data_error(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of wfdb into a DataError; suppress its warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:                                       # wfdb checks little and raises anything
        reason = " ".join(str(error).replace(f"{path}: ", "").split()) or type(error).__name__
        raise DataError(f"{path.name}: not a readable {what}: {reason}") from None


def _record_name(path: Path) -> str:
    """Return a record's name for wfdb, which never searches elsewhere for an absolute path without suffix."""
    return str(path.absolute().with_suffix(""))


def _header(path: Path) -> Any:
    """Return a record's or a segment's checked header."""
    wfdb = _wfdb(path)
    if not path.read_bytes().strip():
        raise DataError(f"{path.name}: empty file; expected a WFDB header")
    with _as_data_error(path, "WFDB header"):
        header = wfdb.rdheader(_record_name(path))
    if not header.fs or not 0 < header.fs < math.inf:
        raise DataError(f"{path.name}: not a readable WFDB header: the sampling rate is {header.fs}")
    if not _is_multi(header) and (not header.n_sig or len(header.sig_name or []) != header.n_sig):
        declared, found = counted(header.n_sig, "signal"), len(getattr(header, "sig_name", None) or [])
        if not header.n_sig and not found and header.sig_len is None:
            raise NoSamples(f"{path.name}: not a readable WFDB header: {declared} declared, {found} described")
        raise DataError(f"{path.name}: not a readable WFDB header: {declared} declared, {found} described")
    return header


def _is_multi(header: Any) -> bool:
    return hasattr(header, "seg_name")


def _labels(header: Any) -> list[str]:
    return [name or f"signal {k}" for k, name in enumerate(header.sig_name)]


def _names(header: Any) -> list[str]:
    return unique_names(_labels(header))


def _segments(path: Path, header: Any) -> list[Segment]:
    """Return the segments that hold samples, in order; a record of one segment is its own.

    Raises: DataError if a segment's header is missing, or says something else than the record's.
    """
    if not _is_multi(header):
        _check_sizes(path, header)
        return [Segment(path, header, 0)]
    segments, first = [], 0
    for name, frames in zip(header.seg_name, header.seg_len, strict=True):
        if name != NO_SEGMENT and frames:
            file = path.with_name(f"{name}.hea")
            if not name or not file.is_file() or file == path:
                raise DataError(f"{path.name}: its segment {file.name} is missing; expected it in the same folder")
            own = _header(file)
            if _is_multi(own) or own.fs != header.fs or own.sig_len != frames:
                found = "several segments" if _is_multi(own) else f"{own.sig_len} frames at {own.fs:g} Hz"
                raise DataError(f"{file.name}: {found}; {path.name} declares {frames} frames at {header.fs:g} Hz")
            _check_sizes(file, own)
            segments.append(Segment(file, own, first))
        first += frames
    if not segments:
        raise NoSamples(f"{path.name}: no samples: none of {counted(len(header.seg_name), 'segment')} holds any")
    return segments


def _signal_files(path: Path, header: Any) -> list[Path]:
    for name in header.file_name:
        if not path.with_name(name).is_file():
            raise DataError(f"{path.name}: its signal file {name} is missing; expected it in the same folder")
    return [path.with_name(name) for name in dict.fromkeys(header.file_name)]


def _check_sizes(path: Path, header: Any) -> None:
    """Raise DataError if a signal file is shorter than the header declares."""
    for file in _signal_files(path, header):
        signals = [k for k, name in enumerate(header.file_name) if name == file.name]
        storage, offset = header.fmt[signals[0]], header.byte_offset[signals[0]] or 0
        if storage not in BITS:
            raise DataError(f"{path.name}: unknown signal format {storage!r}; expected one of {', '.join(BITS)}")
        if header.sig_len:
            samples = header.sig_len * sum(header.samps_per_frame[k] for k in signals)
            expected, size = offset + math.ceil(samples * BITS[storage] / 8), file.stat().st_size
            if size < expected:
                raise DataError(f"{file.name}: truncated: {size} bytes; {path.name} declares {expected}")


def _stated(path: Path) -> list[tuple[bool, bool]]:
    """Return whether a header states a gain, and a unit, for each signal; wfdb fills in 200 steps and mV."""
    lines = [line for line in path.read_text("latin-1").splitlines() if line.strip() and not line.startswith("#")]
    fields = [(line.split()[2:3] or [""])[0] for line in lines[1:]]
    return [(field[:1] in "-.123456789" and field[:1] != "", "/" in field) for field in fields]


# ---- samples --------------------------------------------------------------------------------


def _read_segment(part: Segment, wanted: list[str], fs: float, notes: list[str]) -> dict[str, Samples]:
    """Return those of the wanted signals that a segment has, in time from the segment's start."""
    names, stated = _names(part.header), _stated(part.path)
    indices = {name: names.index(name) for name in wanted if name in names}
    if not indices:
        return {}
    with _as_data_error(part.path, "WFDB record"):
        record = _wfdb(part.path).rdrecord(
            _record_name(part.path), channels=list(indices.values()), smooth_frames=False
        )
        facts = zip(record.units, record.samps_per_frame, record.e_p_signal, record.adc_gain, strict=True)
        facts = dict(zip(indices, facts, strict=True))
    signals, times = {}, {}
    for name, (unit, per_frame, values, gain) in facts.items():
        has_gain, has_unit = stated[indices[name]]
        if not has_unit:
            notes.append(f"{name!r} has no unit in the header")
        if not has_gain:
            notes.append(f"{name!r} has no gain in the header; {gain:g} steps are read as 1, as WFDB prescribes")
        t = times.setdefault(per_frame, np.arange(len(values)) / float(fs * per_frame))
        signals[name] = Samples(t, values, (unit or "") if has_unit else "", abs(1 / gain))
    return signals


def _joined(path: Path, pieces: dict[str, list[tuple[Segment, Samples]]]) -> dict[str, Samples]:
    """Return each signal with its parts one behind the other; those of the same times share them.

    Raises: DataError if a signal changes its unit or its rate from one segment to another.
    """
    signals, times = {}, {}
    for name, parts in pieces.items():
        if len(parts) == 1 and not parts[0][0].first:
            signals[name] = parts[0][1]
            continue
        for (before, one), (after, other) in zip(parts, parts[1:], strict=False):
            rates = [part.header.samps_per_frame[_names(part.header).index(name)] for part in (before, after)]
            if one.unit != other.unit or rates[0] != rates[1]:
                raise DataError(
                    f"{path.name}: signal {name!r} is in {one.unit!r} with {rates[0]} samples a frame in "
                    f"{before.path.name}, in {other.unit!r} with {rates[1]} in {after.path.name}; expected the same"
                )
        key = tuple((part.first, id(signal.t)) for part, signal in parts)
        if key not in times:
            times[key] = np.concatenate([part.first / part.header.fs + signal.t for part, signal in parts])
        values = np.concatenate([signal.values for _, signal in parts])
        signals[name] = Samples(times[key], values, parts[0][1].unit, max(s.resolution for _, s in parts))
    return signals


# ---- annotations ----------------------------------------------------------------------------


def _annotation_files(path: Path, annotators: Sequence[str] | None) -> list[Path]:
    files = [path.with_suffix(f".{suffix}") for suffix in (ANNOTATORS if annotators is None else annotators)]
    missing = [file.name for file in files if not file.is_file()]
    if missing and annotators is not None:
        raise DataError(f"{path.name}: its annotation file {missing[0]} is missing; see annotators")
    return [file for file in files if file.is_file()]


def _read_annotations(file: Path, fs: float) -> list[Annotation]:
    """Return a file's annotations with the text of their note, or else their symbol.

    A note `(x` begins an annotation that a later note `x)` ends, as in the PhysioNet challenge of 2018.
    """
    with _as_data_error(file, "WFDB annotation file"):
        read = _wfdb(file).rdann(_record_name(file), file.suffix[1:])
        times = np.asarray(read.sample) / (read.fs or fs)
        symbols = [symbol if isinstance(symbol, str) else "?" for symbol in read.symbol]     # NaN: unknown code
        texts = [note.strip("\0 ") or symbol for note, symbol in zip(read.aux_note, symbols, strict=True)]
    found: list[Annotation] = []
    open_notes: dict[str, int] = {}                                  # text -> index in `found`
    for at_s, text in zip(times.tolist(), texts, strict=True):
        if text.endswith(")") and text[:-1] in open_notes:
            index = open_notes.pop(text[:-1])
            found[index] = Annotation(found[index].at_s, at_s - found[index].at_s, text[:-1])
            continue
        if text.startswith("(") and len(text) > 1:
            open_notes[text[1:]] = len(found)
        found.append(Annotation(at_s, None, text))
    return found
