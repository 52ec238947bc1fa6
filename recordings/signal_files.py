"""Recordings that are no tables: which files they are, and the reader of each format.

Each signal keeps its own rate, unit and samples; only the requested ones are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recordings import resmed_card, wfdb_records
from recordings.edf import is_edf, read_edf
from recordings.signals import NoSamples, SignalFile, check_file
from utils import DataError

EDF_SUFFIXES = (".edf", ".bdf", ".rec")
WFDB_SUFFIXES = (".hea",)


def is_signal_file(path: Path) -> bool:
    """Return whether this module reads what is there: EDF and BDF by content, a night of a card by its files' names."""
    return path.suffix.lower() in (*EDF_SUFFIXES, *WFDB_SUFFIXES) or is_edf(path) or resmed_card.is_night(path)


def read_signals(
    path: Path, wanted: Sequence[str] | None = None, annotators: Sequence[str] | None = None
) -> SignalFile:
    """Read the wanted signals of a file (None = all) and its annotations.

    Args:
        annotators: WFDB annotation files, by suffix; None = known ones that exist.
    Raises: NoSamples if the file is sound, but no recording; DataError if it cannot be read without doubt, or a
        wanted signal is missing.
    """
    if resmed_card.is_night(path):
        return resmed_card.read_night(path, wanted)
    check_file(path)
    wanted = None if wanted is None else list(wanted)
    if path.suffix.lower() in WFDB_SUFFIXES and not is_edf(path):
        return wfdb_records.read_wfdb(path, wanted, annotators)
    try:
        return read_edf(path, wanted)
    except NoSamples:
        raise
    except DataError as error:
        if wanted is None or not resmed_card.FILE.fullmatch(path.name):
            raise
        raise DataError(f"{error}; name its folder to read the night of the card as a whole") from None


def companions(path: Path, annotators: Sequence[str] | None = None) -> list[Path]:
    """Return the files that are read besides `path`: those of a night, a WFDB record's signals and annotations."""
    if resmed_card.is_night(path):
        return resmed_card.files_of(path)
    return wfdb_records.companions(path, annotators) if path.suffix.lower() in WFDB_SUFFIXES else []
