"""What is understood of recordings, in lines of text: channels, rates, gaps, flatlines, events."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from config import DatasetConfig
from recordings import event_files, resmed_card, wall_clock
from recordings.finding import expanded, left_out_line
from recordings.preprocessing import dialect_of, sentinels_of
from recordings.reading import (
    DETECT,
    Event,
    Recording,
    Samples,
    equal_runs,
    measured_rate,
    name_of,
    read_recording,
)
from recordings.signals import NoSamples
from utils import DataError, counted, plain_text

log = logging.getLogger(__name__)

COARSE = 150                             # levels, of which fewer say nothing by repeating
MIN_GAP_S, MIN_FLATLINE_S = 0.5, 2.0     # the shortest ones that are reported


def inspect(given: Sequence[Path], dataset: DatasetConfig | None) -> None:
    """Print a description of each file, or of each recording in a folder; events files belong to their recordings.

    Raises: DataError on the first file that cannot be read, after all others are described.
    """
    errors: list[DataError] = []
    empty: list[Path] = []
    for path in given:
        in_folder = path.is_dir() and not resmed_card.is_night(path)
        for file in expanded(path):
            if len(given) > 1 and name_of(file).endswith(event_files.NAME_ENDS):
                continue
            try:
                print(plain_text("\n".join(_describe(file, dataset))))
            except NoSamples as error:
                empty.append(file) if in_folder else errors.append(error)
            except DataError as error:
                errors.append(error)
    if empty:
        print(plain_text(left_out_line(empty)))
    for error in errors[1:]:
        log.error("%s", error)
    if errors:
        raise errors[0]


def _describe(file: Path, dataset: DatasetConfig | None) -> list[str]:
    dialect, sentinels = (dialect_of(dataset), sentinels_of(file, dataset)) if dataset else (DETECT, {})
    recording = read_recording(file, None, dialect, sentinels=sentinels)
    beside = event_files.read_beside(recording, dialect, columns=dataset and dataset.event_columns)
    recording.events.extend(beside.events or ())
    recording.annotations.extend(beside.annotations)
    return describe(recording, dataset.labels if dataset else None)


def describe(recording: Recording, labels: Mapping[str, str] | None = None) -> list[str]:
    """Return lines of text on a recording: channels, rates, gaps, flatlines, events.

    Args:
        labels: the dataset's, to report for each annotation whether it is an event.
    """
    at = wall_clock.clock_at(recording.start, float(recording.t[0]))
    lines = [
        f"{recording.path.name}: {counted(len(recording.t), 'row')}, {recording.duration_s:.2f} s "
        f"({recording.duration_s / 3600:.2f} h), time from {recording.t[0]:g} s" + (f", clock {at}" if at else ""),
        f"  {recording.format}",
    ]
    for name, samples in recording.channels.items():
        lines += _describe_channel(name, samples)
    lines += [f"  {note}" for note in recording.notes]
    lines.append(f"  events: {len(recording.events)}")
    lines += [f"    {e.start_s:g} to {e.end_s:g} s: {e.label}" for e in recording.events]
    if recording.annotations:
        lines.append(f"  annotations in the file: {len(recording.annotations)}")
        lines += _describe_annotations(recording.annotations, labels)
    return lines


def _describe_channel(name: str, samples: Samples) -> list[str]:
    t, values, step_s = samples.t, samples.values, np.diff(samples.t)
    rate = measured_rate(t)
    unit = f" {samples.unit}" if samples.unit else ""
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    lines = [
        f"  {name}: {rate:.4g} Hz, {counted(len(values), 'sample')}, "
        f"1 / 50 / 99 %: {low:.4g} / {middle:.4g} / {high:.4g}, "
        f"range {values.min():.4g} to {values.max():.4g}{unit}"
    ]
    gaps = np.flatnonzero(step_s > max(MIN_GAP_S, 1.5 / rate))
    if len(gaps):
        longest = gaps[np.argmax(step_s[gaps])]
        lines.append(
            f"    {counted(len(gaps), 'gap')}, {step_s[gaps].sum():.1f} s in total, the longest "
            f"{step_s[longest]:.1f} s at {t[longest]:.1f} s"
        )
    if _is_coarse(values):                                           # SpO2 in whole per cent repeats by nature
        return lines
    runs = equal_runs(values)
    duration_s, level = (runs[:, 1] - runs[:, 0]) / rate, values[runs[:, 0]]
    for kind, place, found in (
        ("flatline", "", duration_s >= MIN_FLATLINE_S),
        ("run", " at the lowest value", (duration_s >= 3 / rate) & (level == values.min())),
        ("run", " at the highest value", (duration_s >= 3 / rate) & (level == values.max())),
    ):
        if found.any():
            lines.append(
                f"    {counted(found.sum(), kind)}{place}, the longest {duration_s[found].max():.1f} s, "
                f"the first at {t[runs[found][0, 0]]:.1f} s"
            )
    return lines


def _is_coarse(values: np.ndarray) -> bool:
    """Return whether a channel's values (n,) are few whole numbers, as of an oximeter or a pulse."""
    return np.array_equal(values, np.round(values)) and 1 < len(np.unique(values)) < COARSE


def _describe_annotations(annotations: Sequence[Event], labels: Mapping[str, str] | None) -> list[str]:
    lines = []
    for label, count in Counter(a.label for a in annotations).most_common():
        same = [a for a in annotations if a.label == label]
        total_s = sum(a.end_s - a.start_s for a in same)
        use = "" if labels is None else f": {labels[label]}" if label in labels else ": not in labels, not an event"
        lines.append(f"    {label!r}: {count}, the first at {same[0].start_s:g} s, {total_s:g} s in total{use}")
    return lines
