"""The windowed CSVs: their schema, splits in time, the scaler, writing and reading.

Long form, one row a time step, physical units:

    recording, window, t_s, <channel>..., valid_<channel>..., label

The rows of a window are consecutive steps; a window crosses no gap, recording or split, and no
step is written twice, so neighbouring windows join again. `meta.json` beside the CSVs says
everything else. A missing value is NaN here, an empty cell with valid = 0 there.

A series whose rows carry timestamps has them as a further column, `timestamp`, as they were
written: they may repeat or leap. There a step is a row, and `t_s` its number times the usual
distance of two rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from config import Name, Section, Unit, check_name, read_json, validate
from recordings import tables
from utils import DataError, atomic_path, only_run_here, sha256_of, write_json

TIMESTAMP = r"\d[\d:., TZ+-]*"          # no formula, no markup
SPLITS = ("train", "val", "test")
FORMAT = 1
SCALES = (1e-30, 1e30)                   # least and largest spread of a channel: float32 holds its values
PIECE = 1 << 16                          # rows written at once: bounds the memory of a long recording


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of one recording: t (T,), values (T, C) with NaN = missing, label (T,).

    timestamp (T,): of a series, as text.
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
        return Segment(
            self.recording, self.t[start:end], self.values[start:end], self.label[start:end], timestamp
        )


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
    """A run of steps of one split."""

    recording: str
    start_s: float
    end_s: float
    steps: int


class SeriesMeta(Section):
    """A series whose steps are rows: where it comes from, and how many rows it has."""

    path: str
    rows: int


class Meta(Section):
    """`meta.json`: what the CSVs beside it hold and how they were made."""

    format: int
    dataset: Name
    description: str
    simulated: bool
    channels: dict[Name, Unit] = Field(min_length=1)                  # name -> unit
    measures: dict[Name, Literal["airflow", "effort", "other"]]       # name -> what it measures
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
    notes: list[str] = []                                            # oddities of the source that stay
    series: SeriesMeta | None = None                                 # None = recordings

    @property
    def columns(self) -> list[str]:
        """The header of the CSVs."""
        return csv_columns(list(self.channels), timestamps=self.series is not None)


# ---- splitting ------------------------------------------------------------------------------


def chronological_borders(
    start_s: float, end_s: float, val_fraction: float, test_fraction: float, guard_s: float
) -> dict[str, tuple[float, float]]:
    """Return each split's [start, end) of a recording: train first, then val, then test.

    The guard gap is cut from the end of the earlier, training side, so that nothing a later split
    is judged on was within reach of what was learnt.
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
    """Return which of the steps at t (T,) are further than `margin_s` from every event."""
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


def runs(mask: np.ndarray) -> np.ndarray:
    """Return the maximal runs of True in (T,) as [start, end) rows, shape (k, 2)."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return edges.reshape(-1, 2)


def segments_where(segment: Segment, keep: np.ndarray) -> list[Segment]:
    """Return the parts of a segment where `keep` (T,) holds and any channel has a value."""
    present = keep & np.isfinite(segment.values).any(axis=1)
    return [segment.cut(start, end) for start, end in runs(present)]


def fit_scaler(
    segments: Sequence[Segment], channels: Sequence[str], constant_scale: float | None = None
) -> ScalerMeta:
    """Return mean and standard deviation of each channel between its 1st and 99th percentile.

    Args:
        constant_scale: of a channel that does not change in the training data; None = that is an error.
    Raises: DataError if a channel has no value, or does not change.
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
        if not SCALES[0] <= scale[-1] <= SCALES[1]:
            raise DataError(
                f"channel {name!r} varies by {scale[-1]:g} in the training data; it cannot be scaled: expected "
                f"{SCALES[0]:g} to {SCALES[1]:g}, take another unit"
            )
    return ScalerMeta(center=center, scale=scale)


# ---- writing and reading --------------------------------------------------------------------


def write_dataset(
    folder: Path, splits: Mapping[str, Sequence[Segment]], window_steps: int, facts: Mapping[str, Any]
) -> Meta:
    """Write a windowed dataset: three CSVs, and `meta.json` last with their hashes, so that a torn set is never read.

    Args:
        splits: the segments of each of SPLITS.
        facts: the fields of Meta that do not follow from the segments: not format, scaler, splits, rows, hashes.
    Raises: DataError if a split has no segment, a channel cannot be scaled or the folder not written; FolderInUse if
        another process is writing it.
    """
    for split in SPLITS:
        if not splits[split]:
            raise DataError(
                f"{facts['dataset']}: nothing is left for {split}; check the split, the guard and the events"
            )
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
    return meta


def dataset_fingerprint(config: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Return what tells two windowed datasets apart: format, config and the SHA-256 of every source."""
    content = json.dumps([FORMAT, config, sources], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def is_current(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder holds this very dataset, its files as they were written."""
    try:
        meta = read_meta(folder)
        sums = {split: sha256_of(folder / f"{split}.csv") for split in SPLITS}
    except (DataError, OSError):
        return False
    return meta.fingerprint == fingerprint and meta.hashes == sums


def write_windows(
    path: Path, segments: Iterable[Segment], channels: Sequence[str], window_steps: int, timestamps: bool = False
) -> list[SpanMeta]:
    """Write one split's CSV atomically; return its spans. Each segment is freed once written."""
    spans, first_window = [], 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(csv_columns(channels, timestamps)) + "\n")
        for segment in segments:
            for first in range(0, len(segment), PIECE):
                piece = segment.cut(first, first + PIECE)
                windows = first_window + (first + np.arange(len(piece))) // window_steps
                frame = _window_frame(piece, channels, windows)
                frame.to_csv(file, header=False, index=False, lineterminator="\n")
            first_window += -(-len(segment) // window_steps)
            spans.append(
                SpanMeta(
                    recording=segment.recording,
                    start_s=float(segment.t[0]),
                    end_s=float(segment.t[-1]),
                    steps=len(segment),
                )
            )
    return spans


def csv_columns(channels: Sequence[str], timestamps: bool = False) -> list[str]:
    """Return the header of a windowed CSV."""
    times = ["t_s", "timestamp"] if timestamps else ["t_s"]
    return ["recording", "window", *times, *channels, *(f"valid_{c}" for c in channels), "label"]


def _window_frame(segment: Segment, channels: Sequence[str], windows: np.ndarray) -> pd.DataFrame:
    valid = np.isfinite(segment.values)
    columns: dict[str, Any] = {
        "recording": segment.recording,
        "window": windows,
        "t_s": np.round(segment.t, 6),
    }
    if segment.timestamp is not None:
        columns["timestamp"] = segment.timestamp
    columns |= dict(zip(channels, segment.values.T, strict=True))
    columns |= {f"valid_{c}": v.astype(np.int8) for c, v in zip(channels, valid.T, strict=True)}
    return pd.DataFrame(columns | {"label": segment.label})


def read_meta(folder: Path) -> Meta:
    """Read and check `meta.json` of a windowed dataset."""
    path = folder / "meta.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; make the dataset with its preprocessing script first")
    meta = validate(Meta, read_json(path), path.name)
    if meta.format != FORMAT:
        raise DataError(f"{path.name}: format is {meta.format}; expected {FORMAT}: preprocess again")
    for key in ("center", "scale"):
        if len(getattr(meta.scaler, key)) != len(meta.channels):
            raise DataError(f"{path.name}: scaler.{key} needs one number for each of {len(meta.channels)} channels")
    if not SCALES[0] <= min(meta.scaler.scale) <= max(meta.scaler.scale) <= SCALES[1]:
        raise DataError(f"{path.name}: scaler.scale is {meta.scaler.scale}; expected {SCALES[0]:g} to {SCALES[1]:g}")
    if meta.measures.keys() != meta.channels.keys():
        raise DataError(f"{path.name}: measures is of {list(meta.measures)}; expected those of {list(meta.channels)}")
    unknown = {span.recording for split in meta.splits.values() for span in split} - meta.events.keys()
    if unknown:
        raise DataError(f"{path.name}: events has no entry for {min(unknown)!r}; expected the list of its events")
    return meta


def read_windows(path: Path, meta: Meta, channels: Sequence[str]) -> list[Segment]:
    """Read one split's CSV and join neighbouring windows into segments again.

    Raises: DataError naming file, row and column where the file does not keep to the schema.
    """
    frame, as_written = _read_rows(path, meta, channels)
    recording, t = frame["recording"].cat, frame["t_s"].to_numpy()
    number = recording.codes.to_numpy()
    values = np.empty((len(frame), len(channels)), np.float32)
    for k, channel in enumerate(channels):
        values[:, k] = frame[channel].to_numpy()
        values[frame[f"valid_{channel}"].to_numpy() == 0, k] = np.nan
    label = frame["label"].to_numpy()
    timestamp = frame["timestamp"].to_numpy() if meta.series else None
    whole = Segment("", t, values, label, timestamp)
    segments = [
        replace(whole.cut(start, end), recording=str(recording.categories[number[start]]))
        for start, end in _joined(number, t, meta.rate_hz, path)
    ]
    if not as_written:                                               # said last: a wrong row says more
        raise DataError(
            f"{path.name}: not the file that meta.json was written with: it was changed, or is being made at this "
            "moment; preprocess again"
        )
    return segments


def _read_rows(path: Path, meta: Meta, channels: Sequence[str]) -> tuple[pd.DataFrame, bool]:
    """Return the checked rows of a split, and whether its file is the one that `meta.json` was written with."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; preprocess the dataset again")
    flags = ["label", *(f"valid_{c}" for c in channels)]
    numbers = ["t_s", *channels]
    texts = ["recording", "timestamp"] if meta.series else ["recording"]
    wanted = {*texts, *numbers, *flags}
    types = {"timestamp": str, "recording": "category"}
    types |= {**dict.fromkeys(numbers, float), **dict.fromkeys(flags, np.int8)}
    how = {"dtype": types, "keep_default_na": False, "na_values": [""], "low_memory": False}
    try:
        with path.open("rb") as file:                                # one open file: it may be replaced meanwhile
            found = hashlib.file_digest(file, "sha256").hexdigest()
            as_written = not meta.hashes or found == meta.hashes.get(path.stem)
            file.seek(0)
            frame = pd.read_csv(file, usecols=wanted.__contains__, **how)
    except (ValueError, OSError, OverflowError, pd.errors.ParserError) as error:
        _tell_wrong_cell(path, numbers, flags)
        raise DataError(f"{path.name}: {' '.join(str(error).split())}; preprocess again") from None
    missing = sorted(wanted - set(frame))
    if missing:
        raise DataError(f"{path.name}: no column {missing[0]!r}; expected {', '.join(meta.columns)}")
    if len(frame) != meta.rows.get(path.stem):
        raise DataError(
            f"{path.name}: {len(frame)} rows, but meta.json says {meta.rows.get(path.stem)}; preprocess again"
        )
    for flag in flags:
        wrong = frame[flag].to_numpy().view(np.uint8) > 1
        if wrong.any():
            row = wrong.argmax()
            raise DataError(f"{path.name}: row {row + 2}: {flag} is {frame[flag].iloc[row]}; expected 0 or 1")
    for channel in channels:
        wrong = (frame[f"valid_{channel}"].to_numpy() == 1) & ~np.isfinite(frame[channel].to_numpy())
        if wrong.any():
            raise DataError(f"{path.name}: row {wrong.argmax() + 2}: {channel} has no value, but valid_{channel} is 1")
    lost = frame[texts].isna().any(axis=1).to_numpy() | ~np.isfinite(frame["t_s"].to_numpy())
    if lost.any():
        raise DataError(f"{path.name}: row {lost.argmax() + 2}: no recording or no time; preprocess again")
    for name in frame["recording"].cat.categories:
        check_name(str(name), f"{path.name}: recording")
    strange = ~frame["timestamp"].str.fullmatch(TIMESTAMP).to_numpy(bool) if meta.series else np.zeros(len(frame), bool)
    if strange.any():
        row = int(strange.argmax())
        raise DataError(f"{path.name}: row {row + 2}: timestamp is {frame['timestamp'].iloc[row]!r}; preprocess again")
    return frame, as_written


def _tell_wrong_cell(path: Path, numbers: Sequence[str], flags: Sequence[str]) -> None:
    """Raise DataError on the first cell that is no number, or no flag, if there is one."""
    layout = tables.layout_of(path, ",", ".")
    frame = tables.read_columns(path, layout, [name for name in (*numbers, *flags) if name in layout.names])
    for flag in frame.columns.intersection(flags):
        wrong = ~frame[flag].isin([0, 1]).to_numpy()
        if wrong.any():
            row = wrong.argmax()
            raise DataError(f"{path.name}: row {row + 2}: {flag} is {frame[flag].iloc[row]:g}; expected 0 or 1")


def _joined(recording: np.ndarray, t: np.ndarray, rate_hz: float, path: Path) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of the runs of rows of one recording, a number (T,), whose times are one step apart."""
    if not len(t):
        return
    same = recording[1:] == recording[:-1]
    steps = np.diff(t) * rate_hz
    usual = np.median(steps[same]) if same.any() else 1.0
    if usual > 0 and abs(usual - 1) > 0.01:
        raise DataError(
            f"{path.name}: rows are {usual / rate_hz:g} s apart, but meta.json says rate_hz {rate_hz:g}; "
            "preprocess again"
        )
    back = np.flatnonzero(same & (steps < 0.5))
    if len(back):
        raise DataError(f"{path.name}: row {back[0] + 3}: t_s does not rise; preprocess again")
    edges = np.flatnonzero(~same | (np.abs(steps - 1) > 0.01)) + 1
    yield from zip(np.r_[0, edges].tolist(), np.r_[edges, len(t)].tolist(), strict=True)
