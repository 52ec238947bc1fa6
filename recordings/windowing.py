"""The windowed CSVs: their schema, splits in time, the scaler, writing and reading.

Long form, one row a time step, physical units:

    recording, window, t_s, <channel>..., valid_<channel>..., label

The rows of a window are consecutive steps; a window crosses no gap, recording or split, and no
step is written twice, so that adjacent windows can be joined again. `meta.json` beside the CSVs
holds everything else. A missing value is NaN in memory, and an empty cell with valid = 0 in a CSV.

The datasets of NAB series have one more column, `timestamp`, copied from the source, where
timestamps may repeat or jump. There, a step is a row, and `t_s` is the row number times the
median distance of two rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from config import Measured, Name, Section, Unit, check_name, read_json, validate
from recordings import tables
from recordings.layouts import LayoutKeys
from utils import DataError, atomic_path, counted, only_run_here, sha256_of, write_json

log = logging.getLogger(__name__)

TIMESTAMP_PATTERN = r"\d[\d:., TZ+-]*"   # excludes formulas and markup
SPLITS = ("train", "val", "test")
FORMAT = 1
MIN_SCALE, MAX_SCALE = 1e-30, 1e30       # spread of a channel that float32 can hold
ROWS_AT_ONCE = 1 << 16                   # rows written at once: bounds the memory of a long recording


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of one recording: t (T,), values (T, C) with NaN = missing, label (T,).

    timestamp (T,): as text, for NAB series only.
    """

    recording: str
    t: np.ndarray
    values: np.ndarray
    label: np.ndarray
    timestamp: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.t)

    def cut(self, start: int, end: int) -> Segment:
        """Return the steps [start, end) as views."""
        timestamp = None if self.timestamp is None else self.timestamp[start:end]
        return Segment(self.recording, self.t[start:end], self.values[start:end], self.label[start:end], timestamp)


Span = tuple[float, float]               # first and last time in s, both included


def overlap(one: Span, other: Span) -> bool:
    """Return whether two spans share an instant; touching is overlapping."""
    return one[0] <= other[1] and other[0] <= one[1]


class EventMeta(Section):
    start_s: float
    end_s: float
    kind: Name

    @model_validator(mode="after")
    def _check(self) -> EventMeta:
        if self.end_s < self.start_s:
            raise ValueError(f"event {self.start_s:g} to {self.end_s:g} s ends before it starts")
        return self


class ScalerMeta(Section):
    """Per channel: scaled = (value - center) / scale."""

    center: list[float]
    scale: list[float]


class SpanMeta(Section):
    """One segment of a split."""

    recording: str
    start_s: float
    end_s: float
    steps: int


class SeriesMeta(Section):
    """Source and length of a NAB series, whose steps are rows."""

    path: str
    rows: int


class Meta(Section):
    """`meta.json`: the content of the CSVs beside it, and how they were made."""

    format: int
    dataset: Name
    description: str
    simulated: bool
    channels: dict[Name, Unit] = Field(min_length=1)                  # name -> unit
    measures: dict[Name, Measured]       # name -> what it measures
    rate_hz: float = Field(gt=0)
    window_s: float = Field(gt=0)
    guard_s: float = Field(ge=0)
    delay_s: float = Field(ge=0)
    scaler: ScalerMeta
    fault_kinds: list[Name]
    events: dict[str, list[EventMeta]]                               # recording -> labelled events
    splits: dict[str, list[SpanMeta]]
    rows: dict[str, int]
    hashes: dict[str, str] = {}                                      # split -> SHA-256 of its CSV
    dropped: list[str]
    filled: list[str]
    sources: dict[str, str]                                          # file -> SHA-256
    fingerprint: str
    config: dict[str, Any]
    starts: dict[str, str] = {}                                      # recording -> its clock at time 0, ISO 8601
    stages: dict[str, list[EventMeta]] = {}                          # recording -> its sleep stages, if scored
    notes: list[str] = []                                            # peculiarities of the source
    series: SeriesMeta | None = None                                 # None = recordings

    @field_validator("starts")
    @classmethod
    def _check_starts(cls, starts: dict[str, str]) -> dict[str, str]:
        for start in starts.values():
            datetime.fromisoformat(start)                            # a ValueError says what is wrong
        return starts

    def start_of(self, recording: str) -> datetime | None:
        """Return the clock at time 0 of a recording; None if it has none."""
        return datetime.fromisoformat(self.starts[recording]) if recording in self.starts else None

    @property
    def columns(self) -> list[str]:
        """The header of the CSVs."""
        return csv_columns(list(self.channels), timestamps=self.series is not None)


# ---- splitting ------------------------------------------------------------------------------


def chronological_borders(
    start_s: float, end_s: float, val_fraction: float, test_fraction: float, guard_s: float
) -> dict[str, tuple[float, float]]:
    """Return each split's [start, end) of a recording in s: train first, then val, then test.

    The guard gap is cut from the end of the earlier split, so that no later split is evaluated on
    steps within reach of the training data.
    """
    duration = end_s - start_s
    test = end_s - test_fraction * duration
    val = test - val_fraction * duration
    borders = {"train": (start_s, val - guard_s if val < end_s else end_s)}
    if val_fraction:
        borders["val"] = (val, test - guard_s if test < end_s else end_s)
    if test_fraction:
        borders["test"] = (test, end_s)
    return borders


def normal_steps(t: np.ndarray, events: Sequence[tuple[float, float]], margin_s: float) -> np.ndarray:
    """Return which of the steps at t (T,) are farther than `margin_s` from every event."""
    normal = np.ones(len(t), bool)
    for start, end in events:
        normal &= (t < start - margin_s) | (t > end + margin_s)
    return normal


def label_steps(t: np.ndarray, events: Iterable[tuple[float, float]]) -> np.ndarray:
    """Return 1 for the steps at t (T,) inside an event, both ends included, else 0."""
    label = np.zeros(len(t), np.int8)
    for start, end in events:
        label[(t >= start) & (t <= end)] = 1
    return label


def true_runs(mask: np.ndarray, seams: Sequence[int] = ()) -> np.ndarray:
    """Return the maximal runs of True in (T,) that cross no seam as [start, end) rows, shape (k, 2)."""
    mask, seams = np.asarray(mask, bool), np.asarray(seams, int)
    begins, ends = mask.copy(), mask.copy()
    begins[1:] &= ~mask[:-1]
    ends[:-1] &= ~mask[1:]
    begins[seams], ends[seams - 1] = mask[seams], mask[seams - 1]
    return np.column_stack([np.flatnonzero(begins), np.flatnonzero(ends) + 1])


def segments_where(segment: Segment, keep: np.ndarray) -> list[Segment]:
    """Return the parts of a segment where `keep` (T,) is true and any channel has a value."""
    present = keep & np.isfinite(segment.values).any(axis=1)
    return [segment.cut(start, end) for start, end in true_runs(present)]


def fit_scaler(segments: Sequence[Segment], channels: Sequence[str], constant_scale: float | None = None) -> ScalerMeta:
    """Return mean and standard deviation of each channel, clipped to its 1st and 99th percentile.

    Args:
        constant_scale: scale of a channel that is constant in the training data; None = raise an error.
    Raises: DataError if a channel has no value, is constant, or varies too little or too much.
    """
    center, scale = [], []
    for k, name in enumerate(channels):
        column = np.concatenate([segment.values[:, k] for segment in segments])      # (N,)
        column = column[np.isfinite(column)]
        if not len(column) or (np.ptp(column) == 0 and constant_scale is None):
            found = "has no value" if not len(column) else f"is constant at {column[0]:g}"
            raise DataError(f"channel {name!r} {found} in the training data; it cannot be scaled")
        clipped = np.clip(column, *np.quantile(column, [0.01, 0.99]))
        center.append(float(clipped.mean()))
        scale.append(float(clipped.std() or column.std() or constant_scale))
        if not MIN_SCALE <= scale[-1] <= MAX_SCALE:
            raise DataError(
                f"channel {name!r} varies by {scale[-1]:g} in the training data; it cannot be scaled: expected "
                f"{MIN_SCALE:g} to {MAX_SCALE:g}, choose another unit"
            )
    return ScalerMeta(center=center, scale=scale)


# ---- writing and reading --------------------------------------------------------------------


def write_dataset(
    folder: Path, splits: Mapping[str, Sequence[Segment]], window_steps: int, facts: Mapping[str, Any]
) -> Meta:
    """Write a windowed dataset: three CSVs, then `meta.json` with their hashes, so that a partial set is never read.

    Args:
        splits: the segments of each of SPLITS.
        facts: the fields of Meta that do not follow from the segments: not format, scaler, splits, rows, hashes.
    Raises: DataError if a split has no segment, a channel cannot be scaled or the folder cannot be written;
        FolderInUse if another process is writing to it.
    """
    for split in SPLITS:
        if not splits[split]:
            raise DataError(f"{facts['dataset']}: no data left for {split}; check split, gaps, guard and events")
    channels, timestamps = list(facts["channels"]), facts.get("series") is not None
    scaler = fit_scaler(splits["train"], channels, constant_scale=1.0 if timestamps else None)
    paths = {split: folder / f"{split}.csv" for split in SPLITS}
    with only_run_here(folder):
        (folder / "meta.json").unlink(missing_ok=True)
        spans = {
            split: write_windows(path, splits[split], channels, window_steps, timestamps)
            for split, path in paths.items()
        }
        rows = {split: sum(span.steps for span in spans[split]) for split in SPLITS}
        hashes = {split: sha256_of(path) for split, path in paths.items()}
        meta = Meta(format=FORMAT, scaler=scaler, splits=spans, rows=rows, hashes=hashes, **facts)
        write_json(folder / "meta.json", meta.model_dump())
    log.info("%s: %s rows", folder, ", ".join(f"{count} {split}" for split, count in rows.items()))
    return meta


def dataset_fingerprint(config: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Return a hash of everything that determines a windowed dataset: format, config, SHA-256 of every source."""
    content = json.dumps([FORMAT, config, sources], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def is_current(folder: Path, fingerprint: str) -> bool:
    """Return, and log, whether a folder holds the dataset with this fingerprint, with unchanged files."""
    try:
        meta = read_meta(folder)
        hashes = {split: sha256_of(folder / f"{split}.csv") for split in SPLITS}
    except (DataError, OSError):
        return False
    if meta.fingerprint != fingerprint or meta.hashes != hashes:
        return False
    log.info("%s is up to date", folder)
    return True


def write_windows(
    path: Path, segments: Iterable[Segment], channels: Sequence[str], window_steps: int, timestamps: bool = False
) -> list[SpanMeta]:
    """Write one split's CSV atomically; return its spans."""
    spans, first_window = [], 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(csv_columns(channels, timestamps)) + "\n")
        for segment in segments:
            for first in range(0, len(segment), ROWS_AT_ONCE):
                piece = segment.cut(first, first + ROWS_AT_ONCE)
                windows = first_window + (first + np.arange(len(piece))) // window_steps
                frame = _window_frame(piece, channels, windows)
                frame.to_csv(file, header=False, index=False, lineterminator="\n")
            first_window += -(-len(segment) // window_steps)
            start_s, end_s = float(segment.t[0]), float(segment.t[-1])
            spans.append(SpanMeta(recording=segment.recording, start_s=start_s, end_s=end_s, steps=len(segment)))
    return spans


def csv_columns(channels: Sequence[str], timestamps: bool = False) -> list[str]:
    """Return the header of a windowed CSV."""
    times = ["t_s", "timestamp"] if timestamps else ["t_s"]
    return ["recording", "window", *times, *channels, *(f"valid_{c}" for c in channels), "label"]


def _window_frame(segment: Segment, channels: Sequence[str], windows: np.ndarray) -> pd.DataFrame:
    valid = np.isfinite(segment.values)
    columns: dict[str, Any] = {"recording": segment.recording, "window": windows, "t_s": np.round(segment.t, 6)}
    if segment.timestamp is not None:
        columns["timestamp"] = segment.timestamp
    columns |= dict(zip(channels, segment.values.T, strict=True))
    columns |= {f"valid_{c}": v.astype(np.int8) for c, v in zip(channels, valid.T, strict=True)}
    return pd.DataFrame(columns | {"label": segment.label})


def read_meta(folder: Path) -> Meta:
    """Read and check `meta.json` of a windowed dataset."""
    path = folder / "meta.json"
    content = read_json(path, if_absent="run the dataset's preprocessing script first")
    meta = validate(Meta, content, path.name)
    if meta.format != FORMAT:
        raise DataError(f"{path.name}: format is {meta.format}; expected {FORMAT}; preprocess again")
    for key in ("center", "scale"):
        if len(getattr(meta.scaler, key)) != len(meta.channels):
            raise DataError(f"{path.name}: scaler.{key} needs {counted(len(meta.channels), 'number')}, one per channel")
    if not MIN_SCALE <= min(meta.scaler.scale) <= max(meta.scaler.scale) <= MAX_SCALE:
        raise DataError(f"{path.name}: scaler.scale is {meta.scaler.scale}; expected {MIN_SCALE:g} to {MAX_SCALE:g}")
    if meta.measures.keys() != meta.channels.keys():
        raise DataError(f"{path.name}: measures has {list(meta.measures)}; expected {list(meta.channels)}")
    unknown = {span.recording for split in meta.splits.values() for span in split} - meta.events.keys()
    if unknown:
        raise DataError(f"{path.name}: events has no entry for {min(unknown)!r}; expected the list of its events")
    return meta


def read_windows(path: Path, meta: Meta, channels: Sequence[str]) -> list[Segment]:
    """Read one split's CSV and join adjacent windows into segments.

    Raises: DataError naming file, row and column if the file violates the schema.
    """
    frame, is_unchanged = _read_rows(path, meta, channels)
    recording, t = frame["recording"].cat, frame["t_s"].to_numpy()
    recording_code = recording.codes.to_numpy()
    values = np.empty((len(frame), len(channels)), np.float32)
    for k, channel in enumerate(channels):
        values[:, k] = frame[channel].to_numpy()
        values[frame[f"valid_{channel}"].to_numpy() == 0, k] = np.nan
    label = frame["label"].to_numpy()
    timestamp = frame["timestamp"].to_numpy() if meta.series else None
    whole = Segment("", t, values, label, timestamp)
    segments = [
        replace(whole.cut(start, end), recording=str(recording.categories[recording_code[start]]))
        for start, end in _segment_borders(recording_code, t, meta.rate_hz, path)
    ]
    if not is_unchanged:                                             # checked last: an error in a row says more
        raise DataError(
            f"{path.name}: not the file that meta.json describes: it was changed, or is being written at the moment; "
            "preprocess again"
        )
    return segments


def _read_rows(path: Path, meta: Meta, channels: Sequence[str]) -> tuple[pd.DataFrame, bool]:
    """Return the checked rows of a split, and whether its file has the hash in `meta.json`."""
    flags = ["label", *(f"valid_{c}" for c in channels)]
    float_columns = ["t_s", *channels]
    text_columns = ["recording", "timestamp"] if meta.series else ["recording"]
    wanted = {*text_columns, *float_columns, *flags}
    types = {"timestamp": str, "recording": "category"}
    types |= {**dict.fromkeys(float_columns, float), **dict.fromkeys(flags, np.int8)}
    options = {"dtype": types, "keep_default_na": False, "na_values": [""], "low_memory": False}
    try:
        with path.open("rb") as file:                                # opened once: it may be replaced meanwhile
            found = hashlib.file_digest(file, "sha256").hexdigest()
            is_unchanged = not meta.hashes or found == meta.hashes.get(path.stem)
            file.seek(0)
            frame = pd.read_csv(file, usecols=wanted.__contains__, **options)
    except FileNotFoundError:
        raise DataError(f"{path.name}: no such file; preprocess the dataset again") from None
    except (ValueError, OSError, OverflowError, pd.errors.ParserError) as error:
        _check_cells(path, float_columns, flags)
        raise DataError(f"{path.name}: {' '.join(str(error).split())}; preprocess again") from None
    missing = sorted(wanted - set(frame))
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected {', '.join(meta.columns)}")
    expected = meta.rows.get(path.stem)
    if len(frame) != expected:
        rows = counted(len(frame), "row")
        raise DataError(f"{path.name}: {rows}; expected {expected}, as in meta.json; preprocess again")
    _check_flags(frame, flags, path)
    for channel in channels:
        wrong = (frame[f"valid_{channel}"].to_numpy() == 1) & ~np.isfinite(frame[channel].to_numpy())
        if wrong.any():
            raise DataError(f"{path.name}: row {wrong.argmax() + 2}: {channel} has no value, but valid_{channel} is 1")
    empty = frame[text_columns].isna().any(axis=1).to_numpy() | ~np.isfinite(frame["t_s"].to_numpy())
    if empty.any():
        raise DataError(f"{path.name}: row {empty.argmax() + 2}: no recording or no time; preprocess again")
    for name in frame["recording"].cat.categories:
        check_name(str(name), f"{path.name}: recording")
    if meta.series:
        wrong = ~frame["timestamp"].str.fullmatch(TIMESTAMP_PATTERN).to_numpy(bool)
        if wrong.any():
            row, found = wrong.argmax() + 2, frame["timestamp"].iloc[wrong.argmax()]
            raise DataError(f"{path.name}: row {row}: timestamp is {found!r}; preprocess again")
    return frame, is_unchanged


def _check_cells(path: Path, float_columns: Sequence[str], flags: Sequence[str]) -> None:
    """Raise DataError on the first cell that is not a number, or not a flag, if there is one."""
    table = tables.open_table(path, LayoutKeys(delimiter=",", decimal="."))
    names = table.layout.names
    frame = tables.read_columns(table, [name for name in (*float_columns, *flags) if name in names])
    _check_flags(frame, frame.columns.intersection(flags), path)


def _check_flags(frame: pd.DataFrame, flags: Iterable[str], path: Path) -> None:
    for flag in flags:
        found = frame[flag].to_numpy()
        wrong = (found != 0) & (found != 1)
        if wrong.any():
            row = wrong.argmax()
            raise DataError(f"{path.name}: row {row + 2}: {flag} is {found[row]:g}; expected 0 or 1")


def _segment_borders(code: np.ndarray, t: np.ndarray, rate_hz: float, path: Path) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of the runs of rows with one recording code (T,) whose times t (T,) are one step apart."""
    if not len(t):
        return
    same = code[1:] == code[:-1]
    distance = np.diff(t) * rate_hz                                  # in steps
    typical = np.median(distance[same]) if same.any() else 1.0
    if typical > 0 and abs(typical - 1) > 0.01:
        raise DataError(
            f"{path.name}: rows are {typical / rate_hz:g} s apart; expected {1 / rate_hz:g} s, as in meta.json; "
            "preprocess again"
        )
    not_increasing = np.flatnonzero(same & (distance < 0.5))
    if len(not_increasing):
        raise DataError(f"{path.name}: row {not_increasing[0] + 3}: t_s does not increase; preprocess again")
    edges = np.flatnonzero(~same | (np.abs(distance - 1) > 0.01)) + 1
    yield from zip(np.r_[0, edges].tolist(), np.r_[edges, len(t)].tolist(), strict=True)
