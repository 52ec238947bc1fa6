"""Find the recordings in a folder: its files of the formats that can be read, or the nights of a ResMed card."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from recordings import resmed_card
from recordings.event_files import NAME_ENDS
from recordings.reading import TABLE_SUFFIXES, name_of
from recordings.signal_files import EDF_SUFFIXES, WFDB_SUFFIXES, is_signal_file
from recordings.wfdb_records import ANNOTATORS, segment_names
from utils import DataError, counted, listed

log = logging.getLogger(__name__)

FORMATS = (*TABLE_SUFFIXES, *(f"{suffix}.gz" for suffix in TABLE_SUFFIXES), *EDF_SUFFIXES, *WFDB_SUFFIXES)
NUMBER = re.compile(r'"?[+-]?\d[\d.:/-]*"?')                         # or a timestamp
MAX_NAMES = 5                                                        # of files that are listed in one line


def recordings_in(folder: Path) -> list[Path]:
    """Return the recordings in a folder, sorted by name: the nights of a card, else its files; log what is left out.

    Files of events belong to recordings and are none themselves, as do the signals and segments of WFDB records.

    Raises: DataError if there is none, or if it is the card of another maker than ResMed.
    """
    nights = resmed_card.nights_in(folder)
    if nights:
        return list(nights.values())
    resmed_card.check_supported(folder)
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in paths if path.is_file() and not name_of(path).endswith(NAME_ENDS)]
    found = [path for path in files if _is_recording(path)]
    segments = {name for path in found if path.suffix.lower() in WFDB_SUFFIXES for name in segment_names(path)}
    found = [path for path in found if path.suffix.lower() not in WFDB_SUFFIXES or path.stem not in segments]
    left_out = [path.name for path in files if path not in found and not _belongs_to_wfdb(path, files)]
    left_out += [f"{path.name}/" for path in paths if path.is_dir()]
    if not found:
        cards = [path.name for path in paths if path.is_dir() and resmed_card.nights_in(path)]
        hint = f"; name one of the cards in it: {listed(cards, MAX_NAMES)}" if cards else ""
        formats = f"a ResMed card or files *{' or *'.join(FORMATS)}"
        raise DataError(f"{folder}: no recording in this folder; expected {formats}{hint}")
    if left_out:
        log.info("%s: left out, as they are no recordings: %s", folder, listed(left_out, MAX_NAMES))
    return found


def expanded(path: Path) -> list[Path]:
    """Return the recordings that a path names: the file itself, those in a folder, or those that match a pattern.

    Raises: DataError if there is none.
    """
    if path.is_dir():
        return recordings_in(path)
    if path.exists() or not any(letter in str(path) for letter in "*?["):
        return [path]
    files = sorted(Path(name) for name in glob.glob(str(path)))
    if not files:
        raise DataError(f"{path}: no file matches this pattern")
    return [one for file in files for one in (resmed_card.nights_in(file).values() if file.is_dir() else [file])]


def left_out_line(files: Sequence[Path]) -> str:
    """Return the line that names files without samples."""
    return f"{counted(len(files), 'file')} without samples left out: {listed([file.name for file in files], MAX_NAMES)}"


def _is_recording(path: Path) -> bool:
    """Return whether a file is of a format that can be read; of texts, those that end in a row of numbers."""
    if path.suffix.lower() == ".txt":
        return _ends_in_numbers(path)
    return path.name.lower().endswith(FORMATS) or is_signal_file(path)


def _ends_in_numbers(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2000, 0))
        lines = file.read().replace(b"\0", b"").decode("latin-1").split("\n")        # UTF-16 has a zero in each letter
    last = next((line for line in reversed(lines) if line.strip()), "")
    return sum(bool(NUMBER.fullmatch(cell)) for cell in re.split(r"[;|,\s]+", last)) > 1


def _belongs_to_wfdb(path: Path, files: Sequence[Path]) -> bool:
    stems = {file.stem for file in files if file.suffix.lower() in WFDB_SUFFIXES}
    is_part = path.suffix.lower() in (".dat", *WFDB_SUFFIXES) or path.stem in stems
    return bool(stems) and (is_part or path.suffix[1:] in ANNOTATORS)
