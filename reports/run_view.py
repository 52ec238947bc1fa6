"""A finished run folder, read and checked: what its page and its viewers are made from."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import read_json
from evaluation.results import RunMetrics, read_metrics
from reports.run_folder import HISTORY, LABELS, SIGNALS, STAMPS, RunFolder
from utils import DataError

UNREADABLE = (EOFError, LookupError, OSError, RuntimeError, ValueError,          # what numpy and zipfile raise
              zipfile.BadZipFile, zlib.error, tokenize.TokenError)
SHOWN = ("recording", "kind", "start_s", "end_s", "channel", "confidence", "found_by", "matched_label", "is_false")
MOST_SIGNALS = 4_000_000_000             # bytes of one array of signals.npz, unpacked


@dataclass(frozen=True)
class RunView:
    """What lies in a finished run folder; signals are read when they are asked for, recording by recording."""

    folder: RunFolder
    metrics: RunMetrics
    data: dict[str, Any]
    config: dict[str, Any]
    made: dict[str, Any]
    events: pd.DataFrame
    labels: pd.DataFrame
    history: pd.DataFrame | None

    @property
    def is_series(self) -> bool:
        return bool(self.data["is_series"])

    @property
    def recordings(self) -> list[dict[str, Any]]:
        return self.data["recordings"]

    def signals(self, place: int) -> dict[str, np.ndarray]:
        """Return the arrays of SIGNALS of a recording, (T,) and (T, C).

        Raises: DataError if they cannot be read, or have other shapes than `data.json` says.
        """
        arrays = read_signals(self.folder.signals, place)
        steps, channels = len(arrays["t"]), len(self.data["channels"])
        shapes = {"values": (steps, channels), "forecast": (steps, channels)}
        if not steps or any(arrays[name].shape != shapes.get(name, (steps,)) for name in SIGNALS):
            name = self.recordings[place]["name"]
            raise DataError(f"{self.folder.signals}: the arrays of {name!r} have other shapes than data.json says")
        return arrays

    def rows_of(self, recording: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the events and the labelled events of a recording, in time order."""
        tables = (table[table["recording"] == recording] for table in (self.events, self.labels))
        events, labels = (table.sort_values("start_s", kind="stable").to_dict("records") for table in tables)
        return events, labels


def read_run(root: Path) -> RunView:
    """Read a finished run.

    Raises: DataError naming the file that is missing, or that does not fit.
    """
    folder = RunFolder(root)
    if not folder.metrics.is_file():
        known = folder.config.is_file()
        what, advice = ("not finished", f"resume it with --resume {root}, or ") if known else ("no run folder", "")
        raise DataError(f"{root}: {what}, there is no metrics.json; {advice}name a finished run")
    metrics = read_metrics(folder.metrics)
    data, config, made = (read_json(path) for path in (folder.data, folder.config, folder.run))
    stamps = STAMPS if data.get("is_series") else ()
    events = _read_table(folder.events, (*SHOWN, *stamps), ("start_s", "end_s"))
    labels = _read_table(folder.labels, (*LABELS, *stamps), ("start_s", "end_s"))
    history = _read_table(folder.history, HISTORY, HISTORY) if folder.history.is_file() else None
    run = RunView(folder, metrics, data, config, made, events, labels, history)
    names = [recording["name"] for recording in run.recordings]
    for path, table in ((folder.events, events), (folder.labels, labels)):
        strange = table[~table["recording"].isin(names)]
        if len(strange):
            found = strange["recording"].iloc[0][:60]
            raise DataError(f"{path}: row {strange.index[0] + 2}: recording {found!r} is not in data.json")
    return run


def start_of(recording: Mapping[str, Any]) -> datetime | None:
    """Return the clock at time 0 of a recording in `data.json`; None if it has none."""
    return datetime.fromisoformat(recording["start"]) if recording.get("start") else None


def _read_table(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read a CSV as text, some columns as finite numbers; DataError naming file, row and column."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; score the run again with --resume {path.parent}")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: not a readable CSV: {' '.join(str(error).split())}") from None
    missing = [column for column in columns if column not in frame]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; score the run again with --resume {path.parent}")
    for column in numbers:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            found = frame[column].iloc[wrong[0]][:40]
            raise DataError(f"{path}: row {wrong[0] + 2}: {column} is {found!r}; expected a number")
        frame[column] = values
    return frame


def read_signals(path: Path, place: int) -> dict[str, np.ndarray]:
    """Return the arrays of one recording from `signals.npz`; DataError if they cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; score the run again with --resume {path.parent}")
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(_arrays(archive, place))
    except UNREADABLE as error:
        raise DataError(f"{path}: not readable: {' '.join(str(error).split())[:120]}; score the run again") from None


def _arrays(archive: zipfile.ZipFile, place: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a recording; a header has to promise the bytes that are there, before they are allocated."""
    for name in SIGNALS:
        entry = archive.getinfo(f"{name}_{place}.npy")
        if entry.file_size > MOST_SIGNALS:
            raise ValueError(f"{entry.file_size / 1e9:.3g} GB unpacked; expected at most {MOST_SIGNALS / 1e9:g}")
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, kind = read(file)
            promised, found = math.prod(shape) * kind.itemsize, entry.file_size - file.tell()
        if kind.kind != "f" or promised != found:
            raise ValueError(f"{entry.filename} has {found} bytes of {kind}; its header promises {promised} of floats")
        with archive.open(entry) as file:
            yield name, np.lib.format.read_array(file, allow_pickle=False)
