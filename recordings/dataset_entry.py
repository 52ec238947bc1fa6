"""Recordings in, an entry of `dataset_config.json` out that reads them; what is guessed is said in its description."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config import BREATHING, NAB, ROW_LABELS, DatasetConfig, check_name, read_json, validate
from recordings import event_files, reading, units
from recordings.layouts import bare_name, unit_in
from recordings.reading import Recording, Samples
from utils import DataError, write_json

GRID_HZ = 5.0                                                    # breathing needs no more
MEASURES = (                                                     # by name, where the unit does not say it
    ("oximetry", re.compile(r"sp ?o2|sa ?o2|satur|oxim|oxygen.(?:level|sat)", re.IGNORECASE)),
    ("effort", re.compile(r"thor|chest|abd|belt|effort|\brip\b|brust|bauch|ceinture", re.IGNORECASE)),
    ("airflow", units.LIKE_AIRFLOW),
)
NO_AIRFLOW = re.compile(rf"{units.NO_BREATHS.pattern}|(?<!nasal.)press|(?<!flow.)rate|volume|set", re.IGNORECASE)
SLOWEST_BREATHING_HZ = 1.0                                       # of samples that show each breath
NO_VALUE = {"oximetry": [0.0, 127.0, 255.0, -1.0]}                     # of SpO2, none of which a person has
BREATHING_EVENT = re.compile(r"apn|hypop|rera|desat|cough|artefact|artifact", re.IGNORECASE)
PLAIN = re.compile(r"[^\w ().,%-]+")


def write_entry(files: Sequence[Path], target: Path, name: str) -> dict[str, Any]:
    """Add an entry for recordings to a file of datasets, which is made if it is missing; return the entry.

    Raises: DataError if the files are no recordings of one kind in one folder, or there is such an entry already.
    """
    check_name(name, "--write-entry: the name of a dataset,")
    content = read_json(target) if target.exists() else {}
    if name in content or name == NAB or name.startswith("_"):
        raise DataError(f"{target.name}: {name!r} is taken; choose another name for the entry")
    files = [file for file in files if not reading.name_of(file).endswith(event_files.NAME_ENDS)]
    entry = entry_of(files, target.resolve().parent)
    validate(DatasetConfig, entry, f"{target.name}: {name}")
    write_json(target, content | {name: entry})
    return entry


def entry_of(files: Sequence[Path], base: Path) -> dict[str, Any]:
    """Return the entry of some recordings.

    Args:
        base: the folder of the file that the entry goes into.
    """
    folders, patterns = {file.resolve().parent for file in files}, {_pattern(file) for file in files}
    if len(folders) != 1 or len(patterns) != 1:
        found = ", ".join(sorted(map(str, folders if len(folders) != 1 else patterns))) or "no recording"
        raise DataError(f"--write-entry: {found}; expected recordings of one format in one folder")
    recordings = [reading.read_recording(file) for file in files]
    channels, guesses = _channels(recordings)
    names = [recording.name for recording in recordings]
    train = {"train": names[:-1], "test": names[-1:]} if len(names) > 1 else {"train": names, "test_fraction": 0.2}
    time_column = recordings[0].time_column
    return {
        "description": f"written by --inspect; guessed, to be checked: {'; '.join([*guesses, 'split', 'labels'])}",
        "raw_dir": os.path.relpath(folders.pop(), base),
        "raw_hint": f"put {', '.join(file.name for file in files)[:200]} there",
        "file_pattern": patterns.pop(),
        **({"time_column": time_column} if time_column else {}),
        "channels": channels,
        "rate_hz": min(GRID_HZ, max(channel["rate_hz"] for channel in channels.values())),
        "split": train | {"val_fraction": 0.2},
        "labels": _labels(recordings),
    }


def _pattern(file: Path) -> str:
    return "{name}" + file.name.removeprefix(reading.name_of(file))


def _channels(recordings: Sequence[Recording]) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of the channels that are signals in every recording, and what of them is guessed."""
    channels: dict[str, Any] = {}
    guesses = []
    for source, samples in recordings[0].channels.items():
        if not all(source in other.channels and _is_signal(other.channels[source]) for other in recordings):
            continue
        far = {level for recording in recordings for level in reading.far_levels(recording.channels[source].values)}
        stated = samples.unit or unit_in(source)
        unit = stated or units.unit_at_end(source)
        name = _channel_name(bare_name(source), channels)
        measures, rate_hz = _measures(source, unit), _rate(samples)
        measures = "other" if measures in BREATHING and rate_hz < SLOWEST_BREATHING_HZ else measures
        unit = unit or {"oximetry": "%"}.get(measures, "a.u.")
        usual = NO_VALUE.get(measures, [])
        no_value = [*usual, *sorted(far - {*usual})]
        in_unit = "" if stated else f", in {unit}"
        except_at = f", no value where it is {', '.join(f'{level:g}' for level in sorted(far))}" if far else ""
        guesses.append(f"{name} measures {measures}{in_unit}{except_at}")
        channels[name] = {"unit": unit, "measures": measures, "rate_hz": rate_hz}
        channels[name] |= {"source": source} if name != source else {}
        channels[name] |= {"sentinels": no_value} if no_value else {}
    if not channels:
        raise DataError(f"{recordings[0].path.name}: no channel that varies in all of the files, and is no count")
    return channels, guesses


def _channel_name(source: str, taken: Mapping[str, Any]) -> str:
    """Return a plain name for a channel that no other channel and no column of the windowed CSVs has."""
    name = PLAIN.sub(" ", source).strip(" .=+-@")[:90] or "channel"
    if name in taken or name in ROW_LABELS or name.startswith("valid_"):
        name = f"channel {len(taken) + 1} {name}"
    return name


def _is_signal(samples: Samples) -> bool:
    """Return whether values vary, but do not rise at each sample, as a count or a second clock does."""
    steps = np.diff(samples.values)
    return bool(steps.any()) and not (steps > 0).all()


def _measures(name: str, unit: str) -> str:
    """Return what a channel measures, by its name and unit."""
    for measures, pattern in MEASURES:
        if pattern.search(name) and not (measures == "airflow" and NO_AIRFLOW.search(name)):
            return measures
    is_flow = bool(unit) and units.factor_between(unit, "L/min") is not None
    return "airflow" if is_flow and not NO_AIRFLOW.search(name) else "other"


def _rate(samples: Samples) -> float:
    """Return the sampling rate, rounded to what a device may have."""
    rate = reading.measured_rate(samples.t)
    return float(f"{rate:.4g}") if abs(rate - round(rate)) > 0.01 * rate else float(round(rate))


def _labels(recordings: Sequence[Recording]) -> dict[str, str]:
    """Return label -> kind of what is labelled: all of events files, of annotations what sounds like breathing."""
    known: Mapping[str, str] = {}
    for recording in recordings:
        beside = event_files.read_beside(recording)
        annotations = beside.annotations or recording.annotations
        labels = [event.label for event in beside.events or ()]
        labels += [one.label for one in annotations if BREATHING_EVENT.search(one.label)]
        known = known | {label: kind for label in labels if (kind := event_files.kind_of_its_own(label, {}))}
    return dict(known)
