"""Recordings that are no tables: which files they are, and the reader of each format.

Each signal keeps its own rate, unit and samples; only the requested ones are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recordings import wfdb_records
from recordings.edf import is_edf, read_edf
from recordings.signals import SignalFile, check_file

EDF_SUFFIXES = (".edf", ".bdf", ".rec")
WFDB_SUFFIXES = (".hea",)


def is_signal_file(path: Path) -> bool:
    """Return whether this module reads the file: EDF and BDF by its content, whatever its suffix."""
    return path.suffix.lower() in (*EDF_SUFFIXES, *WFDB_SUFFIXES) or is_edf(path)


def read_signals(
    path: Path, wanted: Sequence[str] | None = None, annotators: Sequence[str] | None = None
) -> SignalFile:
    """Read the wanted signals of a file (None = all) and its annotations.

    Args:
        annotators: WFDB annotation files, by suffix; None = known ones that exist.
    Raises: NoSamples if the file is sound, but no recording; DataError if it cannot be read without doubt, or a
        wanted signal is missing.
    """
    check_file(path)
    wanted = None if wanted is None else list(wanted)
    if path.suffix.lower() in WFDB_SUFFIXES and not is_edf(path):
        return wfdb_records.read_wfdb(path, wanted, annotators)
    return read_edf(path, wanted)


def companions(path: Path, annotators: Sequence[str] | None = None) -> list[Path]:
    """Return the files that are read besides `path`: a WFDB record's signals and annotations."""
    return wfdb_records.companions(path, annotators) if path.suffix.lower() in WFDB_SUFFIXES else []
