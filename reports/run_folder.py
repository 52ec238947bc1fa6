"""The run folder: the one place that knows its layout, creates it and fills it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from pydantic import Field

from config import Section, read_json, validate
from evaluation.results import NightSummary
from recordings.windowing import Meta
from reports.csv_rows import csv_rows, quoted
from utils import DataError, atomic_path, git_commit, only_run_here, versions, write_json, write_text

RUNS = "runs.json"                          # of a folder of several runs
AROUND_S, AROUND_ROWS = (30.0, 20.0), (200, 100)        # a close-up shows before and after its event; rows of a series
HISTORY = ("epoch", "train_loss", "val_loss", "learning_rate", "seconds")
ALARMS = ("recording", "start_s", "end_s", "peak_score", "peak_t_s", "channel", "matched_label", "found_by")
EXPLAINED = ("overlaps", "component", "contributions")  # of an alarm, after the columns above
LABELS = ("recording", "start_s", "end_s", "kind", "found_by")
CANDIDATES = ("recording", "kind", "start_s", "end_s", "duration_s", "reduction", "baseline_reduction", "effort",
              "desaturation", "desaturation_delay_s", "confidence", "channel")
EVENTS = (*CANDIDATES, "found_by", "component", "profile", "matched_label", "iou", "is_false")
STAMPS = ("start_timestamp", "end_timestamp")       # of rows of series, as they are written
CLOCKS = ("start_clock", "end_clock")               # of recordings that have a clock
SIGNALS = ("t", "values", "forecast", "score", "threshold")
MISFITS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)   # of files of a run
COHORT, FAILED = "cohort.json", "failed.csv"     # in the folder of a cohort, see reports/cohort.py
QUICK = 1                                   # of zlib's levels: half the time of its usual one, 4 % more bytes
LONG_NAME = 100                             # bytes; a longer name is cut in the names of pictures


class RunFolder:
    """Paths of one run, `experiments/<name>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config, self.checkpoint, self.log = root / "config.json", root / "checkpoint.safetensors", root / "log.txt"
        self.metrics, self.run, self.data = root / "metrics.json", root / "run.json", root / "data.json"
        self.history, self.scores = root / "history.csv", root / "scores.csv"
        self.events, self.labels = root / "events.csv", root / "labels.csv"
        self.alarms, self.rejected_events = root / "alarms.csv", root / "rejected_events.csv"
        self.nights = root / "nights.csv"
        self.free_response = root / "plots" / "free_response.png"
        self.bland_altman = root / "plots" / "bland_altman.png"
        self.signals, self.plots, self.report = root / "signals.npz", root / "plots", root / "report.html"
        self.viewers, self.tensorboard = root / "viewer", root / "tensorboard"

    def overview(self, recording: str) -> Path:
        """Return where the picture of a whole recording goes."""
        return self.plots / f"{_stem(recording)}.png"

    def export(self, recording: str, end: str) -> Path:
        """Return where a recording's events go for another program; end: of the file's name."""
        return self.root / "exports" / f"{_stem(recording)}{end}"

    def viewer(self, recording: str) -> Path:
        """Return where the viewer of a recording goes."""
        return self.viewers / f"{_stem(recording)}.html"

    def close_up(self, recording: str, start_s: float, verdict: str) -> Path:
        """Return where the picture of an event goes; verdict: found, false or missed."""
        return self.plots / "events" / f"{_stem(recording)}_{start_s:07.1f}_{verdict}.png"


def _stem(recording: str) -> str:
    """Return a recording's name as a part of a file's name: no path, and not too long."""
    plain = re.sub(r"[/\\\x00]", "_", recording)
    if len(plain.encode()) <= LONG_NAME:
        return plain
    return f"{plain[: LONG_NAME // 4]}-{hashlib.sha256(recording.encode()).hexdigest()[:8]}"


def new_run(root: Path) -> RunFolder:
    """Create an empty run folder; what a run that was killed at once may have left there is nothing.

    Raises: DataError if there is a run already, or the folder cannot be made.
    """
    check_unused(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be used as a run folder ({error.strerror})") from None
    return RunFolder(root)


def night_folder(cohort: Path, recording: str) -> Path:
    """Return the run folder of a recording in the folder of a cohort."""
    return cohort / "nights" / _stem(recording)


class SeveralRuns(Section):
    """`runs.json`: what a folder of several runs holds."""

    seeds: int = Field(gt=0)
    folders: list[str] = Field(min_length=1)


def read_runs(root: Path) -> SeveralRuns:
    """Read `runs.json` of a folder of several runs."""
    return validate(SeveralRuns, read_json(root / RUNS), RUNS)


def check_unused(root: Path) -> None:
    """Raise DataError if there is a run already, or something that is no folder; one that never began is none."""
    try:
        if root.exists() and any(not path.name.startswith(".") and path.name != RUNS for path in root.iterdir()):
            advice = f"resume it with --resume {root}, or " if _trains(RunFolder(root)) else ""
            raise DataError(f"{root}: not empty; {advice}name another --out")
    except OSError as error:
        raise DataError(f"{root}: cannot be used as a run folder ({error.strerror})") from None


def _trains(run: RunFolder) -> bool:
    """Return whether a folder is of a run that trains, or of several; one of scored recordings is not."""
    several, is_scored = (run.root / RUNS).is_file(), run.metrics.is_file() and not run.checkpoint.is_file()
    return several or (run.config.is_file() and not is_scored)


@contextlib.contextmanager
def at_work_in(root: Path, new: bool) -> Iterator[None]:
    """Hold a run folder for this process; a new one has to be empty.

    Raises: DataError if it is not, or another process is at work in it.
    """
    if new:
        new_run(root)
    with only_run_here(root):
        if new:
            new_run(root)                                        # still: another process may have been quicker
        yield


def default_root(parent: Path, dataset: str) -> Path:
    """Return a new folder name for a run of a dataset, by date, time and process."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    root, count = parent / f"{dataset}-{stamp}", 1
    while root.exists():
        count += 1
        root = parent / f"{dataset}-{stamp}-{count}"
    return root


def write_run(run: RunFolder, *, seed: int, device: str, seconds: Mapping[str, float], simulated: bool) -> None:
    """Write `run.json`: what made the numbers."""
    content = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "device": device,
        "seconds": dict(seconds),
        "simulated": simulated,
        "git_commit": git_commit(),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    write_json(run.run, content)


def write_history(run: RunFolder, history: Sequence[Mapping[str, float]]) -> None:
    """Write `history.csv`, one row an epoch."""
    frame = pd.DataFrame(list(history), columns=list(HISTORY))
    write_text(run.history, frame.to_csv(index=False, float_format="%.8g"))


@dataclass
class RunFiles:
    """What was found, taken recording after recording: large tables go to disk at once, small ones are kept."""

    _scores: BinaryIO
    _signals: zipfile.ZipFile | None
    alarms: list[Mapping[str, Any]] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    labels: list[Mapping[str, Any]] = field(default_factory=list)
    rejected: list[Mapping[str, Any]] = field(default_factory=list)
    nights: list[NightSummary] = field(default_factory=list)
    recordings: list[Mapping[str, Any]] = field(default_factory=list)

    def add_scores(self, part: Mapping[str, Any]) -> None:
        """Append to `scores.csv`, one row a step: recording, t_s, score, ... as arrays (T,)."""
        if self._scores.tell() == 0:
            self._scores.write((",".join(map(quoted, part)) + "\n").encode())
        self._scores.write(csv_rows(list(part.values()), places=6))

    def add_recording(self, about: Mapping[str, Any], signals: Mapping[str, np.ndarray]) -> None:
        """Append one recording to `signals.npz`, its arrays of SIGNALS under `<name>_<place>`; keep what it is."""
        for name in SIGNALS if self._signals is not None else ():
            entry = zipfile.ZipInfo(f"{name}_{len(self.recordings)}.npy")        # with no date: the same bytes again
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(signals[name]), allow_pickle=False)
            self._signals.writestr(entry, content.getbuffer(), zipfile.ZIP_DEFLATED, QUICK)
        self.recordings.append(about)


@contextlib.contextmanager
def run_files(run: RunFolder, times: Sequence[str] = (), signals: bool = True) -> Iterator[RunFiles]:
    """Give the files of what was found; all of them are there if the block succeeds, else none is touched.

    Args:
        times: further columns of alarms, events and labels: STAMPS of series, CLOCKS of recordings that have a clock.
        signals: whether `signals.npz` is written, which a page is made from.
    """
    with contextlib.ExitStack() as renamed:
        scores = renamed.enter_context(atomic_path(run.scores))
        packed = renamed.enter_context(atomic_path(run.signals)) if signals else None
        with contextlib.ExitStack() as open_files:
            rows = open_files.enter_context(scores.open("wb"))
            archive = open_files.enter_context(zipfile.ZipFile(packed, "w")) if packed else None
            files = RunFiles(rows, archive)
            yield files
        write_alarms(run, files.alarms, times)
        write_table(run.events, files.events, (*EVENTS, *times))
        write_labels(run, files.labels, times)
        if files.nights:
            write_nights(run, files, times)


def write_alarms(run: RunFolder, rows: Sequence[Mapping[str, Any]], times: Sequence[str] = ()) -> None:
    """Write `alarms.csv`, one row an alarm, lost signal or desaturation: what a stream prints.

    Args:
        rows: event (FoundEvent), matched_label ("" = none, or another event counts for it), found_by, overlaps (a
            label's kind, "" = false), what it is due to (component, contributions), and the columns of `times`.
    """
    columns = [*ALARMS, *EXPLAINED, *times]
    digits = {"start_s": 3, "end_s": 3, "peak_score": 4, "peak_t_s": 3}
    frame = pd.DataFrame([vars(row["event"]) | dict(row) for row in rows], columns=columns).round(digits)
    write_text(run.alarms, frame.to_csv(index=False))


def write_labels(run: RunFolder, rows: Sequence[Mapping[str, Any]], times: Sequence[str] = ()) -> None:
    """Write `labels.csv`, one row a labelled event; found_by is lstm, signal_loss or empty."""
    frame = pd.DataFrame(rows, columns=[*LABELS, *times])
    write_text(run.labels, frame.round({"start_s": 3, "end_s": 3}).to_csv(index=False))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as a CSV, numbers to three decimals; what a row lacks is empty."""
    frame = pd.DataFrame(rows, columns=list(columns))
    write_text(path, frame.round(3).to_csv(index=False))


def write_nights(run: RunFolder, files: RunFiles, times: Sequence[str] = ()) -> None:
    """Write rejected candidates and nights: `NightSummary`, one row a recording."""
    write_table(run.rejected_events, files.rejected, (*CANDIDATES, "reason", *times))
    nights = pd.DataFrame([night.model_dump() for night in files.nights])
    write_text(run.nights, nights.round(4).to_csv(index=False))


def write_data(run: RunFolder, facts: Mapping[str, Any], recordings: Sequence[Mapping[str, Any]]) -> None:
    """Write `data.json`: what the data was, and the recordings that were scored, in the order of `signals.npz`."""
    write_json(run.data, {**facts, "recordings": list(recordings)})


def dataset_facts(meta: Meta, channels: Sequence[str]) -> dict[str, Any]:
    """Return what `data.json` says of a windowed dataset, of the channels that were used."""
    own = meta.config.get("channels", {})
    return {
        "dataset": meta.dataset,
        "description": meta.description,
        "simulated": meta.simulated,
        "is_series": meta.series is not None,
        "rate_hz": meta.rate_hz,
        "delay_s": meta.delay_s,
        "guard_s": meta.guard_s,
        "channels": [
            {"name": name, "unit": meta.channels[name], "measures": meta.measures[name]}
            | {"rate_hz": own.get(name, {}).get("rate_hz", meta.rate_hz)}
            for name in channels
        ],
        "splits": {
            split: {
                "recordings": len({span.recording for span in spans}),
                "steps": meta.rows[split],
                "hours": meta.rows[split] / meta.rate_hz / 3600,
            }
            for split, spans in meta.splits.items()
        },
        "dropped": meta.dropped,
        "filled": meta.filled,
        "notes": meta.notes,
        "sources": meta.sources,
    }
