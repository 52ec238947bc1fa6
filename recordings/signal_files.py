"""Read signals and annotations of EDF, EDF+ and BDF files (pyEDFlib) and of WFDB records (wfdb).

Each signal keeps its own rate, unit and samples; only the requested ones are read. Files must be
local: whatever a header refers to is expected in the same folder.
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

from utils import DataError, counted

EDF_SUFFIXES = (".edf", ".bdf")
WFDB_SUFFIXES = (".hea",)
ANNOTATORS = ("atr", "apn", "st", "resp", "arousal", "breath")       # looked for if none is declared
WFDB_BITS = {
    "8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 32 / 3, "311": 32 / 3,
    "508": 0, "516": 0, "524": 0,                                    # compressed (FLAC): any size
}  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """Values (n,) of one signal from the file's start, NaN = missing; `resolution`: distance of two digital levels."""

    unit: str
    rate_hz: float
    values: np.ndarray
    resolution: float


@dataclass(frozen=True)
class Annotation:
    """An annotation in a file; `duration_s` is None if the file states no duration."""

    start_s: float
    duration_s: float | None
    text: str


@dataclass(frozen=True)
class SignalFile:
    """The requested signals and all annotations of a file."""

    format: str
    signals: dict[str, Signal]
    annotations: list[Annotation]
    start: datetime | None = None


def is_signal_file(path: Path) -> bool:
    """Return whether this module reads the file, by its suffix."""
    return path.suffix.lower() in (*EDF_SUFFIXES, *WFDB_SUFFIXES)


def read_signals(
    path: Path, wanted: Sequence[str] | None = None, annotators: Sequence[str] | None = None
) -> SignalFile:
    """Read the wanted signals of a file (None = all) and its annotations.

    Signals of the same name become `name.1`, `name.2` and so on.

    Args:
        annotators: WFDB annotation files, by suffix; None = those of ANNOTATORS that exist.
    Raises: DataError if the file is damaged or truncated, or a wanted signal is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() in EDF_SUFFIXES:
        return _read_edf(path, wanted)
    return _read_wfdb(path, wanted, annotators)


def companions(path: Path, annotators: Sequence[str] | None = None) -> list[Path]:
    """Return the files that are read besides `path`: a WFDB record's signals and annotations."""
    if path.suffix.lower() not in WFDB_SUFFIXES:
        return []
    return [*_signal_files(path, _wfdb_header(path)), *_annotation_files(path, annotators)]


def _import_optional(name: str, what: str, path: Path) -> ModuleType:
    """Import an optional package; raise DataError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(name.lower())
    except ImportError:
        raise DataError(f"{path.name}: reading {what} needs {name}; pip install -r requirements-formats.txt") from None


@contextlib.contextmanager
def _as_data_error(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a reader into a DataError; suppress its warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:                                       # the readers check little and raise anything
        reason = " ".join(str(error).replace(f"{path}: ", "").split()) or type(error).__name__
        raise DataError(f"{path.name}: not a readable {what}: {reason}") from None


def _indices(names: Sequence[str], wanted: Sequence[str] | None, path: Path) -> dict[str, int]:
    """Return the index of each wanted signal among all names."""
    if wanted is None:
        wanted = names
    for name in wanted:
        if name not in names:
            same = [other for other in names if other.rpartition(".")[0] == name]
            if same:
                raise DataError(f"{path.name}: {len(same)} signals are called {name!r}; choose {' or '.join(same)}")
            raise DataError(f"{path.name}: no signal {name!r}; the file has {', '.join(names)}")
    return {name: names.index(name) for name in wanted}


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with .1, .2 and so on appended to repeated ones."""
    return [
        f"{name}.{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


# ---- EDF ------------------------------------------------------------------------------------


def _read_edf(path: Path, wanted: Sequence[str] | None) -> SignalFile:
    pyedflib = _import_optional("pyEDFlib", "EDF", path)
    _check_edf_header(path)
    with _as_data_error(path, "EDF"), pyedflib.EdfReader(str(path), pyedflib.READ_ALL_ANNOTATIONS) as file:
        names = _unique_names(file.getSignalLabels())
        signals = {name: _edf_signal(file, index) for name, index in _indices(names, wanted, path).items()}
        annotations = [
            Annotation(float(start), float(duration) if duration >= 0 else None, str(text).strip())
            for start, duration, text in zip(*file.readAnnotations(), strict=True)
        ]
        kind = ("EDF", "EDF+", "BDF", "BDF+")[file.filetype]
        start = file.getStartdatetime()
        return SignalFile(f"{kind}, started {start}", signals, annotations, start)


def _edf_signal(file: Any, index: int) -> Signal:
    physical = file.getPhysicalMaximum(index) - file.getPhysicalMinimum(index)
    resolution = abs(physical / (file.getDigitalMaximum(index) - file.getDigitalMinimum(index)))
    rate_hz = float(file.getSampleFrequency(index))
    return Signal(file.getPhysicalDimension(index), rate_hz, file.readSignal(index), resolution)


def _check_edf_header(path: Path) -> None:
    """Raise DataError if a file has gaps or is shorter than declared; pyEDFlib would print that to the terminal."""
    size, width = path.stat().st_size, 2 if path.suffix.lower() == ".edf" else 3
    if not size:
        raise DataError(f"{path.name}: empty file; expected a header and signals")
    with path.open("rb") as file:
        head = file.read(256)
        try:
            expected, records, signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
            if size >= expected:
                file.seek(256 + 216 * signals)
                expected += records * width * sum(int(file.read(8)) for _ in range(signals))
        except (ValueError, OSError):                                # not an EDF file: pyEDFlib gives the reason
            return
    if head[195:197] == b"+D":
        kind = head[192:197].decode("ascii", "replace")
        raise DataError(
            f"{path.name}: {kind}, a recording with gaps between its records, is not supported; "
            f"export it as {kind[:-1]}C"
        )
    if size < expected:
        raise DataError(f"{path.name}: truncated: {size} bytes; its header declares {expected}")


# ---- WFDB -----------------------------------------------------------------------------------


def _read_wfdb(path: Path, wanted: Sequence[str] | None, annotators: Sequence[str] | None) -> SignalFile:
    wfdb = _import_optional("wfdb", "WFDB", path)
    header = _wfdb_header(path)
    _check_wfdb_sizes(path, header)
    indices = _indices(_unique_names([name or f"signal {k}" for k, name in enumerate(header.sig_name)]), wanted, path)
    with _as_data_error(path, "WFDB record"):
        record = wfdb.rdrecord(_record_name(path), channels=list(indices.values()), smooth_frames=False)
        parts = zip(record.units, record.samps_per_frame, record.e_p_signal, record.adc_gain, strict=True)
        signals = {
            name: Signal(unit or "", float(header.fs * per_frame), values, abs(1 / gain))
            for name, (unit, per_frame, values, gain) in zip(indices, parts, strict=True)
        }
    annotations = [a for file in _annotation_files(path, annotators) for a in _wfdb_annotations(file, header.fs)]
    started = f", started {header.base_time}" if header.base_time else ""
    return SignalFile(f"WFDB{started}", signals, annotations, header.base_datetime)


def _wfdb_header(path: Path) -> Any:
    """Return a record's checked header."""
    wfdb = _import_optional("wfdb", "WFDB", path)
    if not path.read_bytes().strip():
        raise DataError(f"{path.name}: empty file; expected a WFDB header")
    with _as_data_error(path, "WFDB header"):
        header = wfdb.rdheader(_record_name(path))
    if isinstance(header, wfdb.MultiRecord):
        raise DataError(f"{path.name}: a multi-segment WFDB record; read its segments separately")
    if not header.n_sig or not header.sig_name or len(header.sig_name) != header.n_sig:
        declared, found = counted(header.n_sig, "signal"), len(header.sig_name or [])
        raise DataError(f"{path.name}: not a readable WFDB header: {declared} declared, {found} described")
    if not header.fs or header.fs <= 0:
        raise DataError(f"{path.name}: not a readable WFDB header: the sampling rate is {header.fs}")
    return header


def _record_name(path: Path) -> str:
    """Return a record's name for wfdb, which never searches elsewhere for an absolute path without suffix."""
    return str(path.absolute().with_suffix(""))


def _signal_files(path: Path, header: Any) -> list[Path]:
    for name in header.file_name:
        if not path.with_name(name).is_file():
            raise DataError(f"{path.name}: its signal file {name} is missing; expected it in the same folder")
    return [path.with_name(name) for name in dict.fromkeys(header.file_name)]


def _check_wfdb_sizes(path: Path, header: Any) -> None:
    """Raise DataError if a signal file is shorter than the header declares."""
    for file in _signal_files(path, header):
        signals = [k for k, name in enumerate(header.file_name) if name == file.name]
        storage, offset = header.fmt[signals[0]], header.byte_offset[signals[0]] or 0
        if storage not in WFDB_BITS:
            raise DataError(f"{path.name}: unknown signal format {storage!r}; expected one of {', '.join(WFDB_BITS)}")
        if header.sig_len:
            samples = header.sig_len * sum(header.samps_per_frame[k] for k in signals)
            expected, size = offset + math.ceil(samples * WFDB_BITS[storage] / 8), file.stat().st_size
            if size < expected:
                raise DataError(f"{file.name}: truncated: {size} bytes; {path.name} declares {expected}")


def _annotation_files(path: Path, annotators: Sequence[str] | None) -> list[Path]:
    files = [path.with_suffix(f".{suffix}") for suffix in (ANNOTATORS if annotators is None else annotators)]
    missing = [file.name for file in files if not file.is_file()]
    if missing and annotators is not None:
        raise DataError(f"{path.name}: its annotation file {missing[0]} is missing; see annotators")
    return [file for file in files if file.is_file()]


def _wfdb_annotations(file: Path, fs: float) -> list[Annotation]:
    """Return a file's annotations with the text of their note, or else their symbol.

    A note `(x` begins an annotation that a later note `x)` ends, as in the PhysioNet challenge of 2018.
    """
    wfdb = _import_optional("wfdb", "WFDB", file)
    with _as_data_error(file, "WFDB annotation file"):
        read = wfdb.rdann(_record_name(file), file.suffix[1:])
        times = np.asarray(read.sample) / (read.fs or fs)
        symbols = [symbol if isinstance(symbol, str) else "?" for symbol in read.symbol]     # NaN: unknown code
        texts = [note.strip("\0 ") or symbol for note, symbol in zip(read.aux_note, symbols, strict=True)]
    found: list[Annotation] = []
    open_notes: dict[str, int] = {}                                  # text -> index in `found`
    for start_s, text in zip(times.tolist(), texts, strict=True):
        if text.endswith(")") and text[:-1] in open_notes:
            index = open_notes.pop(text[:-1])
            found[index] = Annotation(found[index].start_s, start_s - found[index].start_s, text[:-1])
            continue
        if text.startswith("(") and len(text) > 1:
            open_notes[text[1:]] = len(found)
        found.append(Annotation(start_s, None, text))
    return found
