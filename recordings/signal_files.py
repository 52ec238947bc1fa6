"""Read signals and annotations of EDF, EDF+ and BDF files (pyEDFlib) and of WFDB records (wfdb).

Each signal keeps its own rate, its unit and its samples; only those asked for are read. Files are
local ones: whatever a header names has to lie beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from utils import DataError

EDF = (".edf", ".bdf")
WFDB = (".hea",)
ANNOTATORS = ("atr", "apn", "st", "resp", "arousal", "breath")       # looked for where none is declared
WFDB_BITS = {
    "8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 32 / 3, "311": 32 / 3,
    "508": 0, "516": 0, "524": 0,                                    # compressed (FLAC): any size
}  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """Values (n,) of one signal from the file's start, NaN = missing; `step`: distance of two digital levels."""

    unit: str
    rate_hz: float
    values: np.ndarray
    step: float


@dataclass(frozen=True)
class Annotation:
    """What a file itself says of a time; `duration_s` is None where it says no duration."""

    start_s: float
    duration_s: float | None
    text: str


@dataclass(frozen=True)
class SignalFile:
    """What was read of a file: the names of all its signals, and those asked for."""

    format: str
    names: list[str]
    signals: dict[str, Signal] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)


def is_signal_file(path: Path) -> bool:
    """Return whether this module reads the file, by its suffix."""
    return path.suffix.lower() in (*EDF, *WFDB)


def read_signals(
    path: Path, wanted: Sequence[str] | None = None, annotators: Sequence[str] | None = None
) -> SignalFile:
    """Read the wanted signals of a file (None = all) and its annotations.

    Signals of the same name are told apart as `name.1`, `name.2` and so on.

    Args:
        annotators: WFDB annotation files, by suffix; None = those of ANNOTATORS beside the record.
    Raises: DataError if the file is damaged or cut off, or a wanted signal is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() in EDF:
        return _read_edf(path, wanted)
    return _read_wfdb(path, wanted, annotators)


def companions(path: Path, annotators: Sequence[str] | None = None) -> list[Path]:
    """Return the files besides `path` that reading it reads: a WFDB record's signals and annotations."""
    if path.suffix.lower() not in WFDB:
        return []
    return [*_signal_files(path, _wfdb_header(path)), *_annotation_files(path, annotators)]


def _needs(name: str, what: str, path: Path) -> ModuleType:
    """Import an optional package; a missing one is a line that says what to install."""
    try:
        return importlib.import_module(name.lower())
    except ImportError:
        raise DataError(
            f"{path.name}: reading {what} needs {name}; pip install -r requirements-formats.txt"
        ) from None


@contextlib.contextmanager
def _one_line(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one line; keep its warnings quiet."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:                                       # the readers check little and raise anything
        reason = " ".join(str(error).replace(f"{path}: ", "").split()) or type(error).__name__
        raise DataError(f"{path.name}: not a readable {what}: {reason}") from None


def _positions(names: Sequence[str], wanted: Sequence[str] | None, path: Path) -> dict[str, int]:
    """Return where the wanted signals stand among all names."""
    if wanted is None:
        wanted = names
    for name in wanted:
        if name not in names:
            several = [other for other in names if other.rpartition(".")[0] == name]
            if several:
                raise DataError(f"{path.name}: {len(several)} signals are called {name!r}; say {' or '.join(several)}")
            raise DataError(f"{path.name}: no signal {name!r}; the file has {', '.join(names)}")
    return {name: names.index(name) for name in wanted}


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return the names with .1, .2 and so on behind those that stand there several times."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(f"{name}.{seen[name]}" if names.count(name) > 1 else name)
    return unique


# ---- EDF ------------------------------------------------------------------------------------


def _read_edf(path: Path, wanted: Sequence[str] | None) -> SignalFile:
    pyedflib = _needs("pyEDFlib", "EDF", path)
    _check_edf_header(path)
    with _one_line(path, "EDF"), pyedflib.EdfReader(str(path), pyedflib.READ_ALL_ANNOTATIONS) as file:
        names = _told_apart(file.getSignalLabels())
        signals = {name: _edf_signal(file, at) for name, at in _positions(names, wanted, path).items()}
        annotations = [
            Annotation(float(start), float(duration) if duration >= 0 else None, str(text).strip())
            for start, duration, text in zip(*file.readAnnotations(), strict=True)
        ]
        kind = ("EDF", "EDF+", "BDF", "BDF+")[file.filetype]
        return SignalFile(f"{kind}, started {file.getStartdatetime()}", names, signals, annotations)


def _edf_signal(file: Any, at: int) -> Signal:
    physical = file.getPhysicalMaximum(at) - file.getPhysicalMinimum(at)
    step = abs(physical / (file.getDigitalMaximum(at) - file.getDigitalMinimum(at)))
    return Signal(file.getPhysicalDimension(at), float(file.getSampleFrequency(at)), file.readSignal(at), step)


def _check_edf_header(path: Path) -> None:
    """Raise DataError where a file has gaps or is shorter than its header says, which pyEDFlib would print."""
    found, width = path.stat().st_size, 2 if path.suffix.lower() == ".edf" else 3
    if not found:
        raise DataError(f"{path.name}: empty file; expected a header and signals")
    with path.open("rb") as file:
        head = file.read(256)
        try:
            promised, records, signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
            if found >= promised:
                file.seek(256 + 216 * signals)
                promised += records * width * sum(int(file.read(8)) for _ in range(signals))
        except (ValueError, OSError):                                # not EDF at all: pyEDFlib says why
            return
    if head[195:197] == b"+D":
        kind = head[192:197].decode("ascii", "replace")
        raise DataError(
            f"{path.name}: {kind}, a recording with gaps between its records, is not read; export it as {kind[:-1]}C"
        )
    if found < promised:
        raise DataError(f"{path.name}: cut off: {found} bytes; its header says {promised}")


# ---- WFDB -----------------------------------------------------------------------------------


def _read_wfdb(path: Path, wanted: Sequence[str] | None, annotators: Sequence[str] | None) -> SignalFile:
    wfdb = _needs("wfdb", "WFDB", path)
    header = _wfdb_header(path)
    _check_wfdb_sizes(path, header)
    names = _told_apart([name or f"signal {k}" for k, name in enumerate(header.sig_name)])
    positions = _positions(names, wanted, path)
    with _one_line(path, "WFDB record"):
        record = wfdb.rdrecord(_base(path), channels=list(positions.values()), smooth_frames=False)
        parts = zip(record.units, record.samps_per_frame, record.e_p_signal, record.adc_gain, strict=True)
        signals = {
            name: Signal(unit or "", float(header.fs * per_frame), values, abs(1 / gain))
            for name, (unit, per_frame, values, gain) in zip(positions, parts, strict=True)
        }
    annotations = [a for file in _annotation_files(path, annotators) for a in _wfdb_annotations(file, header.fs)]
    started = f", started {header.base_time}" if header.base_time else ""
    return SignalFile(f"WFDB{started}", names, signals, annotations)


def _wfdb_header(path: Path) -> Any:
    """Return a record's header, as far as it can be read."""
    wfdb = _needs("wfdb", "WFDB", path)
    if not path.read_bytes().strip():
        raise DataError(f"{path.name}: empty file; expected a WFDB header")
    with _one_line(path, "WFDB header"):
        header = wfdb.rdheader(_base(path))
    if isinstance(header, wfdb.MultiRecord):
        raise DataError(f"{path.name}: a WFDB record of several segments; give its segments one by one")
    if not header.n_sig or not header.sig_name or len(header.sig_name) != header.n_sig:
        found = len(header.sig_name or [])
        raise DataError(f"{path.name}: not a readable WFDB header: {header.n_sig} signals promised, {found} described")
    if not header.fs or header.fs <= 0:
        raise DataError(f"{path.name}: not a readable WFDB header: the sampling rate is {header.fs}")
    return header


def _base(path: Path) -> str:
    """Return a record's name for wfdb: an absolute path without suffix is never looked for elsewhere."""
    return str(path.absolute().with_suffix(""))


def _signal_files(path: Path, header: Any) -> list[Path]:
    for name in header.file_name:
        if not path.with_name(name).is_file():
            raise DataError(f"{path.name}: its signal file {name} is not beside it")
    return [path.with_name(name) for name in dict.fromkeys(header.file_name)]


def _check_wfdb_sizes(path: Path, header: Any) -> None:
    """Raise DataError where a signal file is shorter than the header says."""
    for file in _signal_files(path, header):
        mine = [k for k, name in enumerate(header.file_name) if name == file.name]
        form, offset = header.fmt[mine[0]], header.byte_offset[mine[0]] or 0
        if form not in WFDB_BITS:
            raise DataError(f"{path.name}: unknown signal format {form!r}; expected one of {', '.join(WFDB_BITS)}")
        if header.sig_len:
            samples = header.sig_len * sum(header.samps_per_frame[k] for k in mine)
            promised, found = offset + math.ceil(samples * WFDB_BITS[form] / 8), file.stat().st_size
            if found < promised:
                raise DataError(f"{file.name}: cut off: {found} bytes; {path.name} says {promised}")


def _annotation_files(path: Path, annotators: Sequence[str] | None) -> list[Path]:
    files = [path.with_suffix(f".{suffix}") for suffix in (ANNOTATORS if annotators is None else annotators)]
    missing = [file.name for file in files if not file.is_file()]
    if missing and annotators is not None:
        raise DataError(f"{path.name}: its annotation file {missing[0]} is not beside it; see annotators")
    return [file for file in files if file.is_file()]


def _wfdb_annotations(file: Path, fs: float) -> list[Annotation]:
    """Return a file's annotations: the text of its note, or its symbol where it has none.

    A note `(x` begins what a later note `x)` ends, as in the PhysioNet challenge of 2018.
    """
    wfdb = _needs("wfdb", "WFDB", file)
    with _one_line(file, "WFDB annotation file"):
        read = wfdb.rdann(_base(file), file.suffix[1:])
        times = np.asarray(read.sample) / (read.fs or fs)
        symbols = [symbol if isinstance(symbol, str) else "?" for symbol in read.symbol]     # NaN: of no known code
        texts = [note.strip("\0 ") or symbol for note, symbol in zip(read.aux_note, symbols, strict=True)]
    found: list[Annotation] = []
    begun: dict[str, int] = {}
    for start, text in zip(times.tolist(), texts, strict=True):
        if text.endswith(")") and text[:-1] in begun:
            at = begun.pop(text[:-1])
            found[at] = Annotation(found[at].start_s, start - found[at].start_s, text[:-1])
            continue
        if text.startswith("(") and len(text) > 1:
            begun[text[1:]] = len(found)
        found.append(Annotation(start, None, text))
    return found
