"""Raw respiratory recordings in, a windowed dataset out: read, one grid, split in time, windows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from config import DatasetConfig
from recordings import reading, simulator
from recordings.reading import Dialect, Event, Recording, Samples
from recordings.resampling import grid_of, significant, to_grid
from recordings.signal_files import companions
from recordings.units import factor_between, is_known, says_nothing
from recordings.windowing import (
    SPLITS,
    EventMeta,
    Segment,
    chronological_borders,
    dataset_fingerprint,
    is_current,
    label_steps,
    normal_steps,
    runs,
    segments_where,
    write_dataset,
)
from utils import ROOT, DataError, plain_text, sha256_of

log = logging.getLogger(__name__)

RATE_TOLERANCE = 0.2                    # of a channel's declared rate
OUT = ROOT / "datasets" / "collected-known-anomaly"


def preprocess(name: str, dataset: DatasetConfig, base: Path, out: Path, force: bool = False) -> Path:
    """Make the windowed CSVs of one dataset in `out/name`; return that folder.

    Args:
        base: folder that the dataset's `raw_dir` is relative to.
        force: make them again even if the same ones are there.
    """
    from tqdm import tqdm

    folder = out / name
    raw = base / dataset.raw_dir
    files = _raw_files(name, dataset, raw)
    sources = _sources(files, dataset)
    fingerprint = dataset_fingerprint(dataset.model_dump(), sources)
    if not force and is_current(folder, fingerprint):
        log.info("%s is up to date", folder)
        return folder
    splits: dict[str, list[Segment]] = {split: [] for split in SPLITS}
    events: dict[str, list[EventMeta]] = {}
    dropped: list[str] = []
    filled: list[str] = []
    notes: list[str] = []
    for recording_name, file in tqdm(files.items(), desc="recordings", disable=None):
        recording = load_recording(file, recording_name, dataset)
        segment = on_grid(recording, dataset, filled)
        for split, parts in split_recording(segment, recording, dataset, dropped).items():
            splits[split] += parts
        events[recording_name] = labelled_events(recording)
        notes += [f"{recording_name}: {note}" for note in recording.notes]
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
        "notes": notes,
        "sources": sources,
        "fingerprint": fingerprint,
        "config": dataset.model_dump(),
    }
    meta = write_dataset(folder, splits, max(round(dataset.window_s * dataset.rate_hz), 1), facts)
    for note in notes:
        log.info("%s", note)
    log.info("%s: %s rows", folder, ", ".join(f"{rows} {split}" for split, rows in meta.rows.items()))
    return folder


def load_recording(file: Path, name: str, dataset: DatasetConfig, *, allow_dead: bool = False) -> Recording:
    """Read one raw recording of a dataset, in the declared units, with its events, labels mapped to kinds.

    Args:
        allow_dead: take channels without a value, or without any change, instead of refusing them.
    """
    in_file = {name: channel.source or name for name, channel in dataset.channels.items()}
    raw = reading.read_recording(
        file,
        list(dict.fromkeys(in_file.values())),
        _dialect(dataset),
        sentinels=_sentinels(dataset),
        name=name,
        allow_dead=allow_dead,
    )
    notes = list(raw.notes)
    channels = {
        channel: _in_unit(raw.channels[source], channel, dataset.channels[channel].unit, file, notes)
        for channel, source in in_file.items()
    }
    recording = replace(raw, channels=channels, notes=notes)
    _check_rates(recording, dataset)
    return replace(recording, events=_events_of(recording, dataset))


def _dialect(dataset: DatasetConfig) -> Dialect:
    """Return what a dataset says of how its files are written."""
    return Dialect(**{entry.name: getattr(dataset, entry.name) for entry in fields(Dialect)})


def _sentinels(dataset: DatasetConfig) -> dict[str, list[float]]:
    """Return the sentinel values of each channel by its name in the raw file."""
    return {channel.source or name: list(channel.sentinels) for name, channel in dataset.channels.items()}


def _in_unit(samples: Samples, name: str, declared: str, file: Path, notes: list[str]) -> Samples:
    """Return samples in the declared unit; note a conversion, and a unit that one side does not say."""
    if samples.unit is None or samples.unit == declared:
        return samples
    if says_nothing(samples.unit) or says_nothing(declared):
        notes.append(f"{name}: unit {samples.unit!r} in the file is taken as {declared}, values unchanged")
        return samples
    factor = factor_between(samples.unit, declared)
    if factor is None:
        unknown = [unit for unit in (samples.unit, declared) if not is_known(unit)]
        why = f"unknown unit {unknown[0]!r}" if unknown else "they do not convert"
        raise DataError(
            f"{file.name}: channel {name!r} is in {samples.unit!r}, but dataset_config.json says unit "
            f"{declared!r}: {why}; correct channels.{name}.unit"
        )
    if factor == 1.0:
        return samples
    notes.append(f"{name}: converted from {samples.unit} to {declared}")
    return Samples(samples.t, samples.values * factor, declared)


def _events_of(recording: Recording, dataset: DatasetConfig) -> list[Event]:
    """Return the labelled events: of the events file, else of dataset_config.json, else of the file itself.

    Of a file's own annotations, those in the dataset's labels are events; the others are noted.
    """
    name, start, end = recording.name, float(recording.t[0]), recording.end_s
    file, listed = _events_file(name, recording.path), dataset.events.get(name)
    if file.exists():
        if listed:
            recording.notes.append(f"events of {file.name}, not those of dataset_config.json")
        return reading.read_events(file, end, dataset.labels, _dialect(dataset), start_s=start)
    if listed is not None:
        known = [Event(e.start_s, e.end_s, e.label) for e in listed]
        where = f"dataset_config.json: events.{name}"
        return reading.check_events(known, end, dataset.labels, where, start_s=start)
    events, others = [], []
    for number, note in enumerate(recording.annotations, start=1):
        if note.label not in dataset.labels:
            others.append(note)
            continue
        where = f"{recording.path.name}: annotations"
        events += reading.check_events([note], end, dataset.labels, where, first_row=number, start_s=start)
    if others:
        found = reading.count_labels(others)
        recording.notes.append(f"{len(others)} annotations are not in labels and no events: {found}")
    return events


def _check_rates(recording: Recording, dataset: DatasetConfig) -> None:
    """Raise DataError if a channel's samples come at another rate than dataset_config.json says."""
    for name, samples in recording.channels.items():
        declared, measured = dataset.channels[name].rate_hz, reading.measured_rate(samples.t)
        if abs(measured / declared - 1) > RATE_TOLERANCE:
            raise DataError(
                f"{recording.path.name}: channel {name!r} has {measured:.4g} samples a second, but "
                f"{declared:g} are declared; correct channels.{name}.rate_hz of the dataset's entry, or times that are "
                "no seconds; a trained model takes recordings of its own rates alone"
            )


def labelled_events(recording: Recording) -> list[EventMeta]:
    """Return a recording's events as `meta.json` holds them."""
    return [EventMeta(start_s=e.start_s, end_s=e.end_s, kind=e.label) for e in recording.events]


def on_grid(recording: Recording, dataset: DatasetConfig, filled: list[str]) -> Segment:
    """Return a recording on the dataset's grid, labelled; note held and stuck samples in `filled`.

    The recording's samples are given up channel by channel, for the sake of memory.
    """
    grid = grid_of(recording.t, dataset.rate_hz)
    values = np.empty((len(dataset.channels), grid.steps)).T             # (T, C), a channel's values side by side
    for k, (name, channel) in enumerate(dataset.channels.items()):
        resampled = to_grid(
            recording.channels.pop(name),
            channel.rate_hz,
            grid,
            low_pass_hz=channel.low_pass_hz,
            delay_s=dataset.delay_s,
            fill_s=dataset.fill_s,
            flatline_s=channel.longest_flat_s,
        )
        if resampled.held:
            filled.append(f"{recording.name}: {name}: {resampled.held} short-gap samples hold the last value")
        if resampled.stuck:
            filled.append(f"{recording.name}: {name}: {resampled.stuck} stuck samples count as missing")
        values[:, k] = significant(resampled.values)
    t = grid.t
    return Segment(recording.name, t, values, label_steps(t, [(e.start_s, e.end_s) for e in recording.events]))


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


def _sources(files: dict[str, Path], dataset: DatasetConfig) -> dict[str, str]:
    """Return the SHA-256 of every file that is read: recordings, what belongs to them, events."""
    read = list(files.values())
    for name, file in files.items():
        read += companions(file, dataset.annotators)
        read += [events_file] if (events_file := _events_file(name, file)).is_file() else []
    return {file.name: sha256_of(file) for file in dict.fromkeys(read)}


def _raw_files(name: str, dataset: DatasetConfig, raw: Path) -> dict[str, Path]:
    """Return the file of each recording; the simulator's are made if their folder is missing, or was cut off."""
    simulated = {plan.name for plan in simulator.plan_sessions()} if dataset.simulated else set()
    unfinished = simulator.cut_off(raw)
    is_new = not raw.is_file() and not any(raw.glob("[!.]*"))
    if simulated.issuperset(dataset.split.names) and (unfinished or is_new):
        log.info("simulating recordings into %s", raw)
        simulator.write_sessions(raw, **(unfinished or {}))
    if not raw.is_dir():
        raise DataError(f"{name}: no folder {dataset.raw_dir}; {dataset.raw_hint}")
    files = {n: raw / dataset.file_pattern.replace("{name}", n) for n in dataset.split.names}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{name}: {file.name} is not in {dataset.raw_dir}; {dataset.raw_hint}")
    return files


def inspect(files: Sequence[Path], dataset: DatasetConfig | None) -> None:
    """Print what is understood of each file; change nothing. Files of events are told of with their recordings.

    Raises: DataError for the first that cannot be read, behind all others.
    """
    refused: list[DataError] = []
    for file in files:
        if len(files) > 1 and reading.name_of(file).endswith(".events"):
            continue
        try:
            print(plain_text("\n".join(_describe(file, dataset))))
        except DataError as error:
            refused.append(error)
    for error in refused[1:]:
        log.error("%s", error)
    if refused:
        raise refused[0]


def _describe(file: Path, dataset: DatasetConfig | None) -> list[str]:
    dialect, sentinels = (_dialect(dataset), _sentinels(dataset)) if dataset else (reading.DETECT, {})
    name = reading.name_of(file)
    recording = reading.read_recording(file, None, dialect, sentinels=sentinels, name=name)
    events_file = _events_file(name, file)
    if events_file.exists():
        start, end = float(recording.t[0]), recording.end_s
        events = reading.read_events(events_file, end, None, dialect, start_s=start)
        recording = replace(recording, events=events)
    return reading.describe(recording, dataset.labels if dataset else None)
