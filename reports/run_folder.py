"""The run folder: the one place that knows its layout, creates it and fills it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from pydantic import Field

from config import Section, read_json, validate
from evaluation.results import (
    LSTM,
    Agreement,
    DetectorMetrics,
    Estimate,
    NightAgreement,
    NightSummary,
    RunMetrics,
)
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


Table = list[list[str]]                     # cells as text, the header first


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    header, *rows = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])


def results_table(results: Sequence[RunMetrics]) -> str:
    """Return the results of one or more seeds in Markdown: at the deployed threshold, then over all thresholds."""
    tables = deployed_rows(results), free_response_rows(results), *respiratory_tables(results).values()
    return "\n\n".join(markdown(table) for table in tables if len(table) > 1)


def deployed_rows(results: Sequence[RunMetrics]) -> Table:
    """Return what was found at the deployed threshold, and what that cost, a row a kind or number."""
    detectors = _by_detector(results)
    table = [["at the deployed threshold", "events", *detectors]]
    first, *others = detectors.values()
    for kind, measures in first[0].kinds.items():
        cells = [_percent([one.kinds[kind].recall for one in seeds]) for seeds in detectors.values()]
        if kind in results[0].fault_kinds:
            cells = [f"{cells[0]} (signal loss)"] + ["(signal loss)"] * len(others)
        table.append([f"{kind}: found", str(measures.labelled), *cells])
    for title, number in (
        ("false events an hour", attrgetter("events.false_events_per_hour")),
        ("median delay, s", attrgetter("events.delay_median_s")),
        ("average precision", attrgetter("threshold_free.auc_pr")),
        ("VUS-PR", attrgetter("threshold_free.vus_pr")),
    ):
        table.append([title, "", *(_number([number(one) for one in seeds]) for seeds in detectors.values())])
    return table


def free_response_rows(results: Sequence[RunMetrics]) -> Table:
    """Return recall against false events an hour, a row a detector for all kinds together and for each of them."""
    first = results[0].detectors[LSTM]
    rates = [f"{rate:g}" for rate in first.free_response.false_events_per_hour]
    table = [["recall by false events an hour (thresholds read off the test span)", "events", *rates]]
    labelled = {kind: first.kinds[kind].labelled for kind in first.free_response.kinds}
    for kind, events in {"all kinds": sum(labelled.values()), **labelled}.items() if labelled else ():
        for name, seeds in _by_detector(results).items():
            curves = [one.free_response for one in seeds]
            recalls = zip(*(curve.kinds.get(kind, curve.recall) for curve in curves), strict=True)
            table.append([f"{kind}: {name}", str(events), *map(_percent, recalls)])
    return table


def respiratory_rows(results: Sequence[RunMetrics]) -> Table:
    """Return how respiratory events fit the labelled ones, one row; the header alone where none are labelled."""
    seeds = [result.respiratory for result in results if result.respiratory]
    table = [["respiratory events by profile", "labelled", "found", "F1 at IoU 0.2", "at 0.5", "onset error, s",
              "duration error, s", "AHI bias", "mean absolute error"]]  # fmt: skip
    if seeds:
        numbers = [
            _number([one.found for one in seeds], 0),
            *(_number([one.f1[least] for one in seeds]) for least in seeds[0].f1),
            *(_number([getattr(one, name) for one in seeds], 1) for name in
              ("onset_error_s", "duration_error_s", "ahi_bias", "ahi_mae")),
        ]  # fmt: skip
        table.append([seeds[0].profile, str(seeds[0].labelled), *numbers])
    return table


def respiratory_tables(results: Sequence[RunMetrics]) -> dict[str, Table]:
    """Return the tables of respiratory events against labels by their captions; one alone may be a header alone.

    What is said of single kinds and nights is said of one run; those of several seeds have pages of their own.
    """
    tables = {"respiratory events against the labelled ones": respiratory_rows(results)}
    seeds = [result.respiratory for result in results if result.respiratory]
    if agreements := [one.agreement for one in seeds if one.agreement]:
        tables["agreement over nights, with 95 % intervals"] = agreement_rows(agreements)
    if len(seeds) == 1:
        tables["labelled and found kinds, pairs at IoU 0.2"] = confusion_rows(seeds[0].kinds)
        if agreements:
            tables["labelled and found by night"] = night_agreement_rows(agreements[0].nights)
    return tables


def agreement_rows(agreements: Sequence[Agreement]) -> Table:
    """Return how nights agree with their labels, a row a seed."""
    table = [["agreement over nights (95 % intervals)", "nights", "AHI bias", "mean absolute error",
              "limits of agreement", "ICC(2,1)", "F1 at IoU 0.2"]]  # fmt: skip
    for number, one in enumerate(agreements, start=1):
        limits = " to ".join(f"{limit:.1f}" for limit in one.limits)
        table.append([
            f"run {number}" if len(agreements) > 1 else "found less labelled", str(len(one.nights)),
            _estimate(one.bias, 1), _estimate(one.mae, 1), limits, _estimate(one.icc, 2), _estimate(one.f1, 2),
        ])  # fmt: skip
    return table


def confusion_rows(kinds: Mapping[str, Mapping[str, int]]) -> Table:
    """Return labelled kinds against those they were found as, a row a labelled kind."""
    called = sorted({name for row in kinds.values() for name in row if name})
    header = ["labelled as, found as", *(name.replace("_", " ") for name in called), "not found"]
    rows = [[kind.replace("_", " "), *(str(row.get(name, 0)) for name in (*called, ""))] for kind, row in kinds.items()]
    return [header, *rows]


def night_agreement_rows(nights: Sequence[NightAgreement]) -> Table:
    """Return labelled and found events of each night, a row a night."""
    table = [["night", "labelled", "found", "paired", "AHI labelled", "AHI found", "F1 at IoU 0.2"]]
    for night in nights:
        counts = [str(count) for count in (night.labelled, night.found, night.paired)]
        rates = [_number([rate], 1) for rate in (night.labelled_ahi, night.found_ahi)]
        table.append([night.recording, *counts, *rates, _number([night.f1])])
    return table


def _estimate(one: Estimate, places: int) -> str:
    if math.isnan(one.value):
        return "-"
    interval = "" if math.isnan(one.low) else f" ({one.low:.{places}f} to {one.high:.{places}f})"
    return f"{one.value:.{places}f}{interval}"


NIGHT_NUMBERS = {                                # of a night, in tables that people read: name -> title, decimals
    "hours": ("hours", 2), "breathing_hours": ("with breathing", 2), "ahi": ("REI", 1), "ahi_low": ("from", 1),
    "ahi_high": ("to", 1), "central_index": ("central", 1), "obstructive_index": ("obstructive", 1),
    "mixed_index": ("mixed", 1), "unclassified_index": ("unclassified", 1), "hypopnea_index": ("hypopneas", 1),
    "longest_event_s": ("longest, s", 0), "periodic_percent": ("periodic, %", 0), "breaths_per_min": ("breaths/min", 1),
    "odi3": ("ODI3", 1), "odi4": ("ODI4", 1), "t90_percent": ("T90, %", 1), "mean_saturation": ("mean SpO2", 1),
    "lowest_saturation": ("lowest", 0), "hypoxic_burden": ("burden, %min/h", 1), "lost_percent": ("signal lost, %", 1),
    "sleep_hours": ("hours asleep", 2), "sleep_ahi": ("AHI asleep", 1), "rem_ahi": ("AHI in REM", 1),
    "nrem_ahi": ("AHI in NREM", 1),
}  # fmt: skip


def night_rows(nights: Sequence[NightSummary]) -> Table:
    """Return the nights in numbers, a row a night, without columns that no night has a number for."""
    titles, decimals = zip(*NIGHT_NUMBERS.values(), strict=True)
    numbers = np.array([[getattr(night, name) for name in NIGHT_NUMBERS] for night in nights], float)
    kept = [k for k in range(len(NIGHT_NUMBERS)) if np.isfinite(numbers[:, k]).any()]
    rows = [
        [night.recording, *("-" if math.isnan(row[k]) else f"{row[k]:.{decimals[k]}f}" for k in kept)]
        for night, row in zip(nights, numbers, strict=True)
    ]
    return [["night (indices an hour of breathing)", *(titles[k] for k in kept)], *rows]


def _by_detector(results: Sequence[RunMetrics]) -> dict[str, list[DetectorMetrics]]:
    """Return detector -> its metrics, one a seed."""
    return {name: [result.detectors[name] for result in results] for name in results[0].detectors}


def forecast_rows(results: Mapping[str, Sequence[RunMetrics]]) -> Table:
    """Return the best validation losses beside those of forecasts that learn nothing, a row a dataset."""
    table = [["validation loss", "LSTM", "best epoch", "last value", "mean"]]
    for name, seeds in results.items():
        losses = [one.forecast for one in seeds]
        cells = [_number([one.lstm for one in losses], 3), _number([one.best_epoch for one in losses], 0)]
        table.append([name, *cells, f"{losses[0].last_value:.3f}", f"{losses[0].mean:.3f}"])
    return table


SERIES_NUMBERS = ("point P", "R", "F1", "event P", "R", "F1", "average precision", "VUS-PR", "NAB score", "delay, rows")


def series_rows(results: Mapping[str, Sequence[RunMetrics]]) -> Table:
    """Return the results of several series, a row a series and detector, means last."""
    table = [["series", "detector", *SERIES_NUMBERS]]
    everything: dict[str, list[list[list[float]]]] = {}                  # detector -> series -> seed -> number
    for name, results_of_seeds in results.items():
        for detector, seeds in _by_detector(results_of_seeds).items():
            numbers = [_series_numbers(one, results_of_seeds[0].rate_hz) for one in seeds]
            everything.setdefault(detector, []).append(numbers)
            table.append([name, detector, *_cells(numbers)])
    if len(results) > 1:
        for detector, series in everything.items():
            means = [pd.DataFrame(seed).mean().tolist() for seed in zip(*series, strict=True)]
            table.append([f"**mean of {len(series)}**", detector, *_cells(means)])
    return table


def _series_numbers(one: DetectorMetrics, rate_hz: float) -> list[float]:
    rates = [getattr(part, name) for part in (one.point, one.events) for name in ("precision", "recall", "f1")]
    areas = one.threshold_free
    return [*rates, areas.auc_pr, areas.vus_pr, one.nab["standard"], one.events.delay_median_s * rate_hz]


def _cells(numbers: Sequence[Sequence[float]]) -> list[str]:
    columns = list(zip(*numbers, strict=True))
    digits = [2] * (len(columns) - 2) + [0, 0]
    return [_number(column, places) for column, places in zip(columns, digits, strict=True)]


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values):.0f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.0f}{spread} %"


def _number(values: Sequence[float], places: int = 2) -> str:
    spread = f" ± {np.std(values):.{places}f}" if np.ptp(values) > 1e-9 else ""    # a rule has none over seeds
    return "-" if np.isnan(values).any() else f"{np.mean(values):.{places}f}{spread}"
