"""What the readers of EDF, BDF, WFDB and of device cards return: signals with their own times, and annotations."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from utils import DataError, counted


class NoSamples(DataError):
    """A file without samples, such as one of annotations alone: it is sound, but it is no recording."""


@dataclass(frozen=True)
class Samples:
    """The samples of one channel: times (n,) in s, strictly increasing, and values (n,), NaN = missing.

    unit: as the file has it, "" = it says that there is none; None = it says nothing. resolution: the smallest
    difference of values that the file can store; 0 = any.
    """

    t: np.ndarray
    values: np.ndarray
    unit: str | None = None
    resolution: float = 0.0


@dataclass(frozen=True)
class Annotation:
    """An annotation in a file.

    at_s: its start, or its end where the device stamps the end (`is_end`). duration_s: None if the file states none.
    """

    at_s: float
    duration_s: float | None
    text: str
    is_end: bool = False

    def span(self, default_s: float) -> tuple[float, float]:
        """Return start and end in s; `default_s` is how long one without a duration lasts."""
        duration_s = default_s if self.duration_s is None else self.duration_s
        return (self.at_s - duration_s, self.at_s) if self.is_end else (self.at_s, self.at_s + duration_s)


@dataclass(frozen=True)
class SignalFile:
    """The requested signals and all annotations of a file.

    notes: what a user should know about how it was read. start: the clock at time 0 as the file states it.
    t: the times of all rows, where no single signal covers the recording; None = those of the longest signal.
    """

    format: str
    signals: dict[str, Samples]
    annotations: list[Annotation]
    notes: list[str] = field(default_factory=list)
    start: datetime | None = None
    t: np.ndarray | None = None


def unique_names(labels: Sequence[str]) -> list[str]:
    """Return a distinct name for each signal.

    A label that occurs once is the name; others get `.1`, `.2` and so on, whatever no label in the file has taken.
    An empty label becomes `signal 3`, by its place.
    """
    counts, taken, names = Counter(labels), set(labels), []
    for place, label in enumerate(labels, start=1):
        name = base = label or f"signal {place}"
        if counts[label] > 1 or not label:
            choices = itertools.chain([] if label else [base], (f"{base}.{number}" for number in itertools.count(1)))
            name = next(choice for choice in choices if choice not in taken)
            taken.add(name)
        names.append(name)
    return names


def indices_of(wanted: Sequence[str], labels: Sequence[str], where: str) -> dict[str, int]:
    """Return the index of each wanted signal, by its label or by its name in `unique_names`.

    Raises: DataError with the names that there are if one is missing or not unique.
    """
    names = unique_names(labels)
    for name in wanted:
        if name not in names:
            same = [names[k] for k, label in enumerate(labels) if label == name]
            if same:
                raise DataError(f"{where}: {len(same)} signals are called {name!r}; choose {' or '.join(same)}")
            raise DataError(f"{where}: no signal {name!r}; the file has {', '.join(names) or 'none'}")
    return {name: names.index(name) for name in wanted}


def summary_of(annotations: Sequence[Annotation]) -> str:
    """Return how many annotations there are of each text, for a message."""
    counts = Counter(annotation.text for annotation in annotations).most_common(5)
    found = ", ".join(f"{text[:40]!r} ({count})" for text, count in counts)
    return f"{counted(len(annotations), 'annotation')}: {found}" if annotations else "no annotation"


def all_times(signals: Sequence[Samples]) -> np.ndarray:
    """Return the times at which any of the signals has a sample, (n,), increasing."""
    times = {id(signal.t): signal.t for signal in signals}.values()  # many share one array
    return functools.reduce(np.union1d, times)


def check_file(path: Path) -> None:
    """Raise DataError unless `path` is a file."""
    if not path.is_file():
        raise DataError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
