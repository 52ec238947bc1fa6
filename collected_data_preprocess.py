"""Turn raw respiratory recordings into windowed CSVs.

    python collected_data_preprocess.py                      # the embedded, simulated recordings
    python collected_data_preprocess.py --dataset cpap       # an entry of dataset_config.json
    python collected_data_preprocess.py --inspect my_night.csv.gz

Read -> one causal grid -> split in time -> scaler from training data alone -> windows. What the
data is stands in dataset_config.json; what was dropped or filled is written to meta.json.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import recordings
import respiratory_simulator
from config import DATASET_CONFIG, DatasetConfig, dataset_names, load_dataset
from recordings import Event, Recording
from resampling import grid_of, significant, to_grid
from utils import ROOT, DataError, run_cli, setup_logging, sha256_of
from windowing import (
    SPLITS,
    EventMeta,
    Segment,
    chronological_borders,
    fingerprint_of,
    is_current,
    label_steps,
    normal_steps,
    runs,
    segments_where,
    write_dataset,
)

log = logging.getLogger(__name__)

RATE_TOLERANCE = 0.2                    # of a channel's declared rate
OUT = ROOT / "datasets" / "collected-known-anomaly"


def preprocess(name: str, dataset: DatasetConfig, base: Path, out: Path, force: bool = False) -> Path:
    """Make the windowed CSVs of one dataset in `out/name`; return that folder.

    Args:
        base: folder that the dataset's `raw_dir` is relative to.
        force: make them again even if the same ones are there.
    """
    folder = out / name
    raw = base / dataset.raw_dir
    files = _raw_files(name, dataset, raw)
    events_files = [file for file in map(_events_file, files, files.values()) if file.is_file()]
    sources = {file.name: sha256_of(file) for file in [*files.values(), *events_files]}
    fingerprint = fingerprint_of(dataset.model_dump(), sources)
    if not force and is_current(folder, fingerprint):
        log.info("%s is up to date", folder)
        return folder
    splits: dict[str, list[Segment]] = {split: [] for split in SPLITS}
    events: dict[str, list[EventMeta]] = {}
    dropped: list[str] = []
    filled: list[str] = []
    for recording_name, file in tqdm(files.items(), desc="recordings", disable=None):
        recording = load_recording(file, recording_name, dataset)
        segment = on_grid(recording, dataset, filled)
        for split, parts in split_recording(segment, recording, dataset, dropped).items():
            splits[split] += parts
        events[recording_name] = labelled_events(recording)
    facts = {
        "dataset": name,
        "description": dataset.description,
        "simulated": dataset.simulated,
        "channels": {channel: entry.unit for channel, entry in dataset.channels.items()},
        "measures": {channel: entry.measures for channel, entry in dataset.channels.items()},
        "rate_hz": dataset.rate_hz,
        "window_s": dataset.window_s,
        "guard_s": dataset.guard_s,
        "delay_s": dataset.delay_s,
        "fault_kinds": list(dataset.fault_kinds),
        "events": events,
        "dropped": dropped,
        "filled": filled,
        "sources": sources,
        "fingerprint": fingerprint,
        "config": dataset.model_dump(),
    }
    meta = write_dataset(folder, splits, max(round(dataset.window_s * dataset.rate_hz), 1), facts)
    log.info("%s: %s rows", folder, ", ".join(f"{rows} {split}" for split, rows in meta.rows.items()))
    return folder


def load_recording(file: Path, name: str, dataset: DatasetConfig) -> Recording:
    """Read one raw recording of a dataset with its events, labels mapped to kinds."""
    recording = recordings.read_recording(
        file,
        list(dataset.channels),
        time_column=dataset.time_column,
        sentinels={c: list(channel.sentinels) for c, channel in dataset.channels.items()},
        name=name,
    )
    _check_rates(recording, dataset)
    start, end = float(recording.t[0]), float(recording.t[-1])
    events_file = _events_file(name, file)
    if name in dataset.events:
        known = [Event(e.start_s, e.end_s, e.label) for e in dataset.events[name]]
        events = recordings.check_events(known, end, dataset.labels, f"events.{name}", start_s=start)
    elif events_file.is_file():
        events = recordings.read_events(events_file, end, dataset.labels, start_s=start)
    else:
        events = []
    return Recording(name, file, recording.t, recording.channels, events)


def _check_rates(recording: Recording, dataset: DatasetConfig) -> None:
    """Raise DataError if a channel's samples come at another rate than dataset_config.json says."""
    for name, samples in recording.channels.items():
        declared, measured = dataset.channels[name].rate_hz, recordings.measured_rate(samples.t)
        if abs(measured / declared - 1) > RATE_TOLERANCE:
            raise DataError(
                f"{recording.path.name}: channel {name!r} has {measured:.4g} samples a second, but "
                f"dataset_config.json says rate_hz {declared:g}; correct channels.{name}.rate_hz"
            )


def labelled_events(recording: Recording) -> list[EventMeta]:
    """Return a recording's events as `meta.json` holds them."""
    return [EventMeta(start_s=e.start_s, end_s=e.end_s, kind=e.label) for e in recording.events]


def on_grid(recording: Recording, dataset: DatasetConfig, filled: list[str]) -> Segment:
    """Return a recording on the dataset's grid, labelled; note held and stuck samples in `filled`."""
    grid = grid_of(recording.t, dataset.rate_hz)
    columns = []
    for name, channel in dataset.channels.items():
        resampled = to_grid(
            recording.channels[name],
            channel.rate_hz,
            grid,
            low_pass_hz=channel.low_pass_hz,
            delay_s=dataset.delay_s,
            fill_s=dataset.fill_s,
            stuck_s=channel.stuck_s,
        )
        if resampled.held:
            filled.append(f"{recording.name}: {name}: {resampled.held} short-gap samples hold the last value")
        if resampled.stuck:
            filled.append(f"{recording.name}: {name}: {resampled.stuck} stuck samples count as missing")
        columns.append(significant(resampled.values))
    values = np.column_stack(columns)                                # (T, C)
    label = label_steps(grid.t, [(e.start_s, e.end_s) for e in recording.events])
    return Segment(recording.name, grid.t, values, label)


def split_recording(
    segment: Segment, recording: Recording, dataset: DatasetConfig, dropped: list[str]
) -> dict[str, list[Segment]]:
    """Return the segments of each split; note what normal-only training drops in `dropped`."""
    start, end = float(segment.t[0]), float(segment.t[-1]) + 0.5 / dataset.rate_hz
    if recording.name in dataset.split.train:
        borders = chronological_borders(
            start, end, dataset.split.val_fraction, dataset.split.test_fraction, dataset.guard_s
        )
    else:
        borders = {"val" if recording.name in dataset.split.val else "test": (start, end)}
    spans = [(event.start_s, event.end_s) for event in recording.events]
    normal = normal_steps(segment.t, spans, dataset.normal_margin_s)
    parts = {}
    unused = np.ones(len(segment), bool)
    for split, (first, last) in borders.items():
        keep = (segment.t >= first) & (segment.t < last)
        unused &= ~keep
        if split != "test":
            _note_dropped(segment, keep & ~normal, f"{split}: in or near a known anomaly", dropped)
            keep &= normal
        empty = keep & ~np.isfinite(segment.values).any(axis=1)
        _note_dropped(segment, empty, f"{split}: no channel has a value", dropped)
        parts[split] = segments_where(segment, keep)
    _note_dropped(segment, unused, "guard between two splits", dropped)
    return parts


def _note_dropped(segment: Segment, steps: np.ndarray, why: str, dropped: list[str]) -> None:
    for start, end in runs(steps):
        span = f"{segment.t[start]:g} to {segment.t[end - 1]:g} s"
        dropped.append(f"{segment.recording}: {span}, {end - start} steps: {why}")


def _events_file(name: str, file: Path) -> Path:
    """Return where the labelled events of a recording stand, if they do."""
    return file.with_name(f"{name}.events.csv")


def _raw_files(name: str, dataset: DatasetConfig, raw: Path) -> dict[str, Path]:
    """Return the file of each recording; simulated ones are made if their folder is missing."""
    if dataset.simulated and not raw.is_dir():
        log.info("simulating recordings into %s", raw)
        respiratory_simulator.write_sessions(raw)
    if not raw.is_dir():
        raise DataError(f"{name}: no folder {dataset.raw_dir}; {dataset.raw_hint}")
    files = {n: raw / dataset.file_pattern.replace("{name}", n) for n in dataset.split.names}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{name}: {file.name} is not in {dataset.raw_dir}; {dataset.raw_hint}")
    return files


def inspect(files: Sequence[Path], dataset: DatasetConfig | None) -> None:
    """Print what is understood of each file; change nothing."""
    for file in files:
        name = recordings.name_of(file)
        sentinels = {c: list(v.sentinels) for c, v in dataset.channels.items()} if dataset else {}
        time_column = dataset.time_column if dataset else "t_s"
        recording = recordings.read_recording(
            file, time_column=time_column, sentinels=sentinels, name=name, allow_constant=True
        )
        events_file = _events_file(name, file)
        if events_file.is_file():
            start, end = float(recording.t[0]), float(recording.t[-1])
            events = recordings.read_events(events_file, end, start_s=start)
            recording = Recording(name, file, recording.t, recording.channels, events)
        print("\n".join(recordings.describe(recording)))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F")
    parser.add_argument("--dataset", default=None, metavar="NAME", help="entry to prepare (simulated)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR")
    parser.add_argument("--inspect", type=Path, nargs="+", metavar="FILE", help="only print what is understood")
    parser.add_argument("--force", action="store_true", help="make the CSVs again even if they are current")
    parser.add_argument("--list", action="store_true", help="list the datasets of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        if args.list:
            print("\n".join(dataset_names(args.dataset_config)))
        elif args.inspect:
            inspect(args.inspect, load_dataset(args.dataset_config, args.dataset) if args.dataset else None)
        else:
            name = args.dataset or "simulated"
            dataset = load_dataset(args.dataset_config, name)
            print(preprocess(name, dataset, args.dataset_config.resolve().parent, args.out, args.force))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
