"""Windowed CSVs in, scaled batches of tensors out."""

from __future__ import annotations

import difflib
import itertools
import shlex
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import DATASET_CONFIG, dataset_names
from recordings import nab_files
from recordings.windowing import SPLITS, Meta, ScalerMeta, Segment, read_meta, read_windows
from utils import ROOT, DataError, counted

FAMILIES = ("collected-known-anomaly", "NAB-known-anomaly")          # folders of datasets


@dataclass(frozen=True)
class Scaler:
    """Per channel (C,): scaled = (value - center) / scale."""

    channels: tuple[str, ...]
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], meta: ScalerMeta, channels: Sequence[str]) -> Scaler:
        """Return the scaler of some of a dataset's channels."""
        index = [list(names).index(channel) for channel in channels]
        return cls(tuple(channels), np.array(meta.center)[index], np.array(meta.scale)[index])

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return physical values (T, C) scaled, as float32; overflowing ones are infinite."""
        with np.errstate(over="ignore"):
            return ((values - self.center) / self.scale).astype(np.float32)

    def physical(self, scaled: np.ndarray) -> np.ndarray:
        """Return scaled values (T, C) in physical units."""
        return scaled * self.scale + self.center


@dataclass(frozen=True)
class Dataset:
    """A windowed dataset in memory: the segments of each split in physical units."""

    meta: Meta
    channels: tuple[str, ...]
    scaler: Scaler
    splits: dict[str, list[Segment]]

    def scaled(self, split: str) -> list[np.ndarray]:
        """Return the scaled values (T, C) of each segment of a split."""
        return [self.scaler.scaled(segment.values) for segment in self.splits[split]]

    def normal(self, splits: Sequence[str]) -> list[Segment]:
        """Return the segments of some splits of normal data."""
        return [segment for split in splits for segment in self.splits[split]]


def dataset_folder(name: str, datasets: Path) -> Path:
    """Return the folder of a windowed dataset.

    Raises: DataError with the command that creates it, if it is missing.
    """
    if members := nab_files.series_of(name):
        raise DataError(f"dataset {name!r} is a category of series; choose one of them, such as {members[0]}")
    for folder in (*(datasets / family / name for family in FAMILIES), datasets / name):
        if (folder / "meta.json").is_file():
            return folder
    made = [path.parent for pattern in ("*/meta.json", "*/*/meta.json") for path in sorted(datasets.glob(pattern))]
    for folder in made:
        if folder.name == name:
            raise DataError(f"no windowed dataset {name!r} under {datasets}, but under {folder.parent}: name that one")
    near = difflib.get_close_matches(name, [folder.name for folder in made], 1)
    hint = f"did you mean {near[0]!r}? If not, create it" if near else "create it"
    raise DataError(f"no windowed dataset {name!r} under {datasets}; {hint} first: python {_command(name, datasets)}")


def _command(name: str, datasets: Path) -> str:
    """Return the command that prepares a dataset so that it is found in a folder of datasets."""
    out = "" if datasets.resolve() == ROOT / "datasets" else f" --out {shlex.quote(str(datasets))}"
    if name in nab_files.series_names():
        return "data_preprocess_NAB.py" + ("" if name in nab_files.known_cause() else f" --series {name}") + out
    if DATASET_CONFIG.is_file() and name in dataset_names(DATASET_CONFIG):
        return f"collected_data_preprocess.py --dataset {name}{out}"
    return (
        f"collected_data_preprocess.py --dataset {name} --dataset-config FILE{out}, where FILE has its entry, or, of a "
        f"series, data_preprocess_NAB.py --file {name}.csv{out}; one in another folder is found with --datasets DIR"
    )


def load_dataset(folder: Path, channels: Sequence[str] | None = None) -> Dataset:
    """Read a windowed dataset with all of its channels, or some in the given order."""
    meta = read_meta(folder)
    chosen = tuple(channels or meta.channels)
    unknown = [c for c in chosen if c not in meta.channels]
    if unknown:
        raise DataError(
            f"dataset.channels: no channel {unknown[0]!r} in {meta.dataset}; it has {', '.join(meta.channels)}"
        )
    if len(set(chosen)) < len(chosen):
        raise DataError("dataset.channels: a channel is listed twice")
    splits = {split: read_windows(folder / f"{split}.csv", meta, chosen) for split in SPLITS}
    check_splits_apart(splits, meta)
    return Dataset(meta, chosen, Scaler.of(list(meta.channels), meta.scaler, chosen), splits)


def check_splits_apart(splits: dict[str, list[Segment]], meta: Meta) -> None:
    """Raise DataError if train is closer than the guard to another split of the same recording."""
    for name in ("val", "test"):
        for train, other in itertools.product(splits["train"], splits[name]):
            if train.recording == other.recording and not (
                train.t[-1] <= other.t[0] - meta.guard_s or other.t[-1] + meta.guard_s <= train.t[0]
            ):
                raise DataError(
                    f"{meta.dataset}: train and {name} of {train.recording} are less than the guard of "
                    f"{meta.guard_s:g} s apart; preprocess again"
                )


def check_length(segments: Sequence[Sized], least: int, purpose: str) -> None:
    """Raise DataError unless some segment has at least the `least` steps that warm-up and horizon need."""
    longest = max((len(segment) for segment in segments), default=0)
    if longest < least:
        raise DataError(
            f"no {purpose} segment is long enough: the longest has {counted(longest, 'step')}, but warm-up and "
            f"horizon need {least}; use longer recordings or a shorter warm-up"
        )


def fitting_length(wanted: int, segments: Sequence[Sized], horizon: int, warm_up: int) -> int:
    """Return the length of windows in steps: the wanted one, or less if it exceeds the longest segment."""
    longest = max(len(segment) for segment in segments)
    return max(min(wanted, longest - horizon), warm_up + 1)


class TrainingWindows:
    """Batches of windows at random offsets in the training segments; every pass draws new ones.

    All segments are concatenated in one tensor and windows are views of it, so that memory does not
    grow with the number of windows. Each window is (steps + horizon) long: inputs and their targets.
    Shorter segments are padded with missing steps; those shorter than `least` are ignored.
    """

    def __init__(
        self,
        segments: Sequence[np.ndarray],
        *,
        steps: int,
        horizon: int,
        least: int,
        batch_size: int,
        updates: int,
        channel_dropout: float,
        seed: int,
    ) -> None:
        length = steps + horizon
        check_length(segments, least, "training")
        padded = [_pad(segment, length) for segment in segments if len(segment) >= least]
        self.steps = torch.from_numpy(np.concatenate(padded))            # (N, C)
        ends = np.cumsum([len(segment) for segment in padded])
        starts = [np.arange(end - len(segment), end - length + 1) for end, segment in zip(ends, padded, strict=True)]
        self.starts = torch.from_numpy(np.concatenate(starts))
        self.windows = self.steps.unfold(0, length, 1)                   # (N - length + 1, C, length)
        self.horizon, self.batch_size, self.updates = horizon, batch_size, updates
        self.channel_dropout = channel_dropout
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.updates

    def to(self, device: str) -> None:
        """Move all steps to a device, so that batches are cut there without copying.

        Random numbers are still drawn on the CPU: a seed gives the same batches on every device.
        """
        self.steps = self.steps.to(device)
        self.windows = self.steps.unfold(0, self.windows.shape[2], 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs x (B, T, C) and series (B, T + H, C); the targets are views of the second."""
        for _ in range(self.updates):
            draw = torch.randint(len(self.starts), (self.batch_size,), generator=self.generator)
            starts = self.starts[draw].to(self.steps.device, non_blocking=True)
            series = self.windows[starts].transpose(1, 2).contiguous()
            x = series[:, : -self.horizon]
            yield self._with_missing_channels(x), series

    def _with_missing_channels(self, x: Tensor) -> Tensor:
        """Return x with a random interval of some channels, but never of all of them, set to missing."""
        batch, steps, channels = x.shape
        if self.channel_dropout == 0 or channels == 1:
            return x
        draw = torch.rand(batch, 3, channels, generator=self.generator)
        lost = draw[:, 0] < self.channel_dropout                         # (B, C)
        lost[lost.all(dim=1)] = False
        start, end = (draw[:, 1:] * steps).sort(dim=1).values.unbind(1)  # (B, C) each
        lost, start, end = (part.to(x.device, non_blocking=True) for part in (lost, start, end))
        at = torch.arange(steps, device=x.device)[None, :, None]
        missing = lost[:, None] & (at >= start[:, None]) & (at < end[:, None])
        return x.masked_fill(missing, float("nan"))


def validation_batches(
    segments: Sequence[np.ndarray], *, steps: int, horizon: int, least: int, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """Return fixed batches (x, series), in the form of `TrainingWindows`, that cover the segments once."""
    check_length(segments, least, "calibration")
    length = steps + horizon
    windows = [
        _pad(segment[start : start + length], length)
        for segment in segments
        for start in range(0, max(len(segment) - horizon, 1), steps)
        if len(segment) - start >= least
    ]
    batches = torch.from_numpy(np.stack(windows)).split(batch_size)
    return [(series[:, :-horizon], series) for series in batches]


def _pad(segment: np.ndarray, length: int) -> np.ndarray:
    missing = max(length - len(segment), 0)
    return np.pad(segment, ((0, missing), (0, 0)), constant_values=np.nan)
