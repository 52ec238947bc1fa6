"""Raw respiratory recordings in, a windowed dataset out: read, resample to one grid, split in time, cut windows."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from config import ChannelConfig, DatasetConfig
from recordings import event_files, reading, resmed_card, simulator, sleep_stages
from recordings.event_files import TimeAxis
from recordings.finding import MAX_NAMES
from recordings.reading import Dialect, Event, Recording, Samples
from recordings.resampling import grid_of, significant, to_grid
from recordings.signal_files import companions
from recordings.units import doubts_about_breathing, factor_between, is_known, is_unspecified
from recordings.windowing import (
    SPLITS,
    EventMeta,
    Segment,
    chronological_borders,
    dataset_fingerprint,
    is_current,
    label_steps,
    normal_steps,
    segments_where,
    true_runs,
    write_dataset,
)
from utils import DataError, counted, listed, sha256_of

log = logging.getLogger(__name__)

RATE_TOLERANCE = 0.2                    # relative, of a channel's declared rate


def preprocess_recordings(name: str, dataset: DatasetConfig, base: Path, out: Path, force: bool = False) -> Path:
    """Write the windowed CSVs of one dataset to `out/name`; return that folder.

    Args:
        base: folder that the dataset's `raw_dir` is relative to.
        force: write them again even if they are up to date.
    """
    from tqdm import tqdm

    folder = out / name
    files = _raw_files(name, dataset, base / dataset.raw_dir)
    sources = _sources(files, dataset)
    fingerprint = dataset_fingerprint(dataset.model_dump(), sources)
    if not force and is_current(folder, fingerprint):
        return folder
    splits: dict[str, list[Segment]] = {split: [] for split in SPLITS}
    events: dict[str, list[EventMeta]] = {}
    dropped: list[str] = []
    filled: list[str] = []
    notes: list[str] = []
    starts: dict[str, str] = {}
    stages: dict[str, list[EventMeta]] = {}
    for recording_name, file in tqdm(files.items(), desc="recordings", disable=None):
        recording = load_recording(file, recording_name, dataset)
        segment = on_grid(recording, dataset, filled)
        for split, segments in split_recording(segment, recording, dataset, dropped).items():
            splits[split] += segments
        events[recording_name] = labelled_events(recording)
        stages |= {recording_name: found} if (found := stages_of(recording, dataset)) else {}
        notes += [f"{recording_name}: {note}" for note in recording.notes]
        starts |= {recording_name: recording.start.isoformat()} if recording.start else {}
    same = {"description", "simulated", "rate_hz", "window_s", "guard_s", "delay_s", "fault_kinds"}
    facts = dataset.model_dump(include=same) | {
        "dataset": name,
        "channels": {channel: entry.unit for channel, entry in dataset.channels.items()},
        "measures": {channel: entry.measures for channel, entry in dataset.channels.items()},
        "events": events,
        "starts": starts,
        **({"stages": stages} if stages else {}),
        "dropped": dropped,
        "filled": filled,
        "notes": notes,
        "sources": sources,
        "fingerprint": fingerprint,
        "config": dataset.model_dump(),
    }
    write_dataset(folder, splits, max(round(dataset.window_s * dataset.rate_hz), 1), facts)
    for note in notes:
        log.info("%s", note)
    for doubt in doubts_about_breathing(facts["channels"], facts["measures"]):
        log.warning("%s: %s", name, doubt)
    return folder


# ---- files ----------------------------------------------------------------------------------


def _raw_files(name: str, dataset: DatasetConfig, raw: Path) -> dict[str, Path]:
    """Return the file of each recording; simulate the recordings if that has not been done, or not been finished."""
    simulated = {plan.name for plan in simulator.plan_sessions()} if dataset.simulated else set()
    unfinished = simulator.unfinished_arguments(raw)
    is_new = not raw.is_file() and not any(raw.glob("[!.]*"))
    if simulated.issuperset(dataset.split.names) and (unfinished or is_new):
        log.info("simulating recordings into %s", raw)
        simulator.write_sessions(raw, **(unfinished or {}))
    if not raw.is_dir():
        raise DataError(f"{name}: no folder {dataset.raw_dir}; {dataset.raw_hint}")
    files = {n: raw / dataset.file_pattern.replace("{name}", n) for n in dataset.split.names}
    for file in files.values():
        if not file.is_file():
            if nights := resmed_card.nights_in(raw):
                return _nights_of(name, dataset, nights)
            raise DataError(f"{name}: {file.name} is not in {dataset.raw_dir}; {dataset.raw_hint}")
    return files


def _nights_of(name: str, dataset: DatasetConfig, nights: dict[str, Path]) -> dict[str, Path]:
    """Return the folder of each night that the split names by its date."""
    for night in dataset.split.names:
        if night not in nights:
            there = listed(sorted(nights), MAX_NAMES)
            raise DataError(f"{name}: no night {night!r} on the card {dataset.raw_dir}; expected of {there}, see split")
    return {night: nights[night] for night in dataset.split.names}


def _sources(files: dict[str, Path], dataset: DatasetConfig) -> dict[str, str]:
    """Return the SHA-256 of every file that is read: recordings, their companion files, events."""
    read = [one for name, file in files.items() for one in files_read(name, file, dataset)]
    return {file.name: sha256_of(file) for file in dict.fromkeys(read)}


def files_read(name: str, file: Path, dataset: DatasetConfig | None) -> list[Path]:
    """Return all files that are read for a recording: its own, those that belong to it, its events."""
    events_file = event_files.file_of(file, name)
    own = [] if file.is_dir() else [file]                            # the night of a card is a folder
    own += companions(file, dataset and dataset.annotators)
    own += [hypnogram] if (hypnogram := sleep_stages.file_of(file, name)) else []
    return [*own, events_file] if events_file is not None and events_file.is_file() else own


# ---- reading --------------------------------------------------------------------------------


def load_recording(
    file: Path, name: str, dataset: DatasetConfig, *, allow_dead: bool = False, own_kinds: bool = False
) -> Recording:
    """Read one raw recording of a dataset, in the declared units, with its events and their labels mapped to kinds.

    Args:
        allow_dead: accept channels that have no value or are constant.
        own_kinds: whether an unknown label in an events file is a kind of its own; else it is an error.
    """
    sources = _sources_of_channels(file, dataset)
    names = list(dict.fromkeys(sources.values()))
    raw = reading.read_recording(
        file, names, dialect_of(dataset), sentinels=sentinels_of(file, dataset), name=name, allow_dead=allow_dead
    )
    channels = {
        channel: _in_unit(raw.channels[source], channel, dataset.channels[channel], raw)
        for channel, source in sources.items()
    }
    recording = replace(raw, channels=channels)
    _check_rates(recording, dataset)
    events, first_s = _read_events(recording, dataset, own_kinds), float(recording.t[0])
    for place, event in enumerate(events):
        onset_s = event.start_s - dataset.early_onset_s.get(event.label, 0.0)
        events[place] = replace(event, start_s=min(max(onset_s, first_s), event.start_s))
    return replace(recording, events=sorted(events, key=lambda event: event.start_s))


def dialect_of(dataset: DatasetConfig) -> Dialect:
    """Return how a dataset's files are written, as far as it is declared."""
    return Dialect(**{entry.name: getattr(dataset, entry.name) for entry in fields(Dialect)})


def _sources_of_channels(file: Path, dataset: DatasetConfig) -> dict[str, str]:
    """Return each channel's name in the raw file; the night of a card has names of its own."""
    named = {name: channel.source or name for name, channel in dataset.channels.items()}
    if not resmed_card.is_night(file):
        return named
    return {name: resmed_card.channel_for(source, dataset.channels[name].measures) for name, source in named.items()}


def sentinels_of(file: Path, dataset: DatasetConfig) -> dict[str, list[float]]:
    """Return the sentinel values of each channel by its name in the raw file."""
    sources = _sources_of_channels(file, dataset)
    return {sources[name]: list(channel.sentinels) for name, channel in dataset.channels.items()}


def _in_unit(samples: Samples, name: str, channel: ChannelConfig, recording: Recording) -> Samples:
    """Return samples in the declared unit; note a conversion, or a unit that is not specified on one side."""
    declared = channel.unit
    samples = replace(samples, unit=channel.source_unit or samples.unit)
    if samples.unit is None or samples.unit == declared:
        return samples
    if is_unspecified(samples.unit) or is_unspecified(declared):
        recording.notes.append(f"{name}: unit {samples.unit!r} in the file is read as {declared}, values unchanged")
        return samples
    factor = factor_between(samples.unit, declared)
    if factor is None:
        unknown = [unit for unit in (samples.unit, declared) if not is_known(unit)]
        reason = f"unknown unit {unknown[0]!r}" if unknown else "they are not convertible"
        raise DataError(
            f"{recording.path.name}: channel {name!r} is in {samples.unit!r}, but dataset_config.json declares unit "
            f"{declared!r}: {reason}; correct channels.{name}.unit"
        )
    if factor == 1.0:
        return samples
    recording.notes.append(f"{name}: converted from {samples.unit} to {declared}")
    return replace(samples, values=samples.values * factor, unit=declared, resolution=samples.resolution * factor)


def _check_rates(recording: Recording, dataset: DatasetConfig) -> None:
    """Raise DataError if a channel's measured sampling rate differs from the one in dataset_config.json."""
    for name, samples in recording.channels.items():
        declared, measured = dataset.channels[name].rate_hz, reading.measured_rate(samples.t)
        if abs(measured / declared - 1) > RATE_TOLERANCE:
            raise DataError(
                f"{recording.path.name}: channel {name!r} has {measured:.4g} samples a second, but {declared:g} are "
                f"declared; correct channels.{name}.rate_hz in dataset_config.json, or set time_unit if the times are "
                "not in seconds; a trained model accepts only recordings with its own rates"
            )


def _read_events(recording: Recording, dataset: DatasetConfig, own_kinds: bool = False) -> list[Event]:
    """Return the labelled events from a file beside it, else from dataset_config.json, else from the recording itself.

    Annotations are events if their label is in the dataset's labels; the others are noted.
    """
    name, axis, own = recording.name, TimeAxis.of(recording), {} if own_kinds else None
    beside = event_files.read_beside(recording, dialect_of(dataset), dataset.labels, dataset.event_columns, own)
    file, listed = beside.file, dataset.events.get(name)
    if file is not None and listed:
        recording.notes.append(f"events read from {file.name}, not from dataset_config.json")
    if beside.events is not None:
        recording.notes.extend(
            f"{file.name}: label {label!r} is not one of the model's; its events are of the kind {kind!r}; "
            "--map-label maps it to another"
            for label, kind in (own or {}).items()
        )
        return beside.events
    if file is None and listed is not None:
        known, what = [Event(e.start_s, e.end_s, e.label) for e in listed], f"dataset_config.json: events.{name}: row"
        return event_files.check_events(known, axis, dataset.labels, lambda k: f"{what} {k + 1}")
    annotations, path = (recording.annotations, recording.path) if file is None else (beside.annotations, file)
    numbers = [k for k, note in enumerate(annotations, start=1) if note.label in dataset.labels]
    if others := Counter(note.label for note in annotations if note.label not in dataset.labels):
        found = ", ".join(f"{label!r} ({count})" for label, count in others.most_common())
        recording.notes.append(f"{counted(others.total(), 'annotation')} not in labels, not used as events: {found}")
    return event_files.check_events(
        [annotations[k - 1] for k in numbers], axis, dataset.labels, lambda k: f"{path.name}: annotation {numbers[k]}"
    )


def stages_of(recording: Recording, dataset: DatasetConfig) -> list[EventMeta] | None:
    """Return the sleep stages of a recording, if somebody scored them."""
    dialect = dialect_of(dataset)
    axis = TimeAxis.of(recording, dialect.time_zone)
    return sleep_stages.read_stages(recording.path, recording.name, axis, recording.annotations, dialect)


def labelled_events(recording: Recording) -> list[EventMeta]:
    """Return a recording's events as they are stored in `meta.json`."""
    return [EventMeta(start_s=e.start_s, end_s=e.end_s, kind=e.label) for e in recording.events]


# ---- resampling and splitting ---------------------------------------------------------------


def on_grid(recording: Recording, dataset: DatasetConfig, filled: list[str]) -> Segment:
    """Return a recording on the dataset's grid, with labels; list held and flatline samples in `filled`.

    The recording's samples are removed from it channel by channel to save memory.
    """
    grid = grid_of(recording.t, dataset.rate_hz)
    values = np.empty((len(dataset.channels), grid.steps)).T             # (T, C), contiguous by channel
    for k, (name, channel) in enumerate(dataset.channels.items()):
        resampled = to_grid(
            recording.channels.pop(name), channel.rate_hz, grid, low_pass_hz=channel.low_pass_hz,
            delay_s=dataset.delay_s, fill_s=dataset.fill_s, flatline_s=channel.longest_flat_s,
        )  # fmt: skip
        if resampled.held:
            held = counted(resampled.held, "sample")
            filled.append(f"{recording.name}: {name}: {held} in short gaps filled with the last value")
        if resampled.flat:
            filled.append(f"{recording.name}: {name}: {counted(resampled.flat, 'flatline sample')} set to missing")
        values[:, k] = significant(resampled.values)
    t = grid.t
    return Segment(recording.name, t, values, label_steps(t, [(e.start_s, e.end_s) for e in recording.events]))


def split_recording(
    segment: Segment, recording: Recording, dataset: DatasetConfig, dropped: list[str]
) -> dict[str, list[Segment]]:
    """Return the segments of each split; list the steps that no split contains in `dropped`.

    Training and calibration contain no step in or near a labelled event.
    """
    start, end = float(segment.t[0]), float(segment.t[-1]) + 0.5 / dataset.rate_hz
    if recording.name in dataset.split.train:
        borders = chronological_borders(
            start, end, dataset.split.val_fraction, dataset.split.test_fraction, dataset.guard_s
        )
    else:
        borders = {"val" if recording.name in dataset.split.val else "test": (start, end)}
    spans = [(event.start_s, event.end_s) for event in recording.events]
    normal = normal_steps(segment.t, spans, dataset.normal_margin_s)
    splits = {}
    unused = np.ones(len(segment), bool)
    for split, (first, last) in borders.items():
        keep = (segment.t >= first) & (segment.t < last)
        unused &= ~keep
        if split != "test":
            _note_dropped(segment, keep & ~normal, f"{split}: in or near a known anomaly", dropped)
            keep &= normal
        empty = keep & ~np.isfinite(segment.values).any(axis=1)
        _note_dropped(segment, empty, f"{split}: no channel has a value", dropped)
        splits[split] = segments_where(segment, keep)
    _note_dropped(segment, unused, "guard between two splits", dropped)
    return splits


def _note_dropped(segment: Segment, steps: np.ndarray, reason: str, dropped: list[str]) -> None:
    for start, end in true_runs(steps):
        span = f"{segment.t[start]:g} to {segment.t[end - 1]:g} s"
        dropped.append(f"{segment.recording}: {span}, {counted(end - start, 'step')}: {reason}")
