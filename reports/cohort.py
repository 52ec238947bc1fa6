"""Many recordings, each scored by itself by whoever is free; tables over all of them, growing as they finish.

The folder of a cohort holds `nights/NAME/`, the run folder of each recording; `nights.csv`, `events.csv`, `labels.csv`
and `failed.csv` over all of them; `metrics.json` and `report.html`. Scored again into the same folder, only recordings
that are missing are done, so that a scoring that was cut off resumes, and a cohort can grow.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from config import read_json
from detection.breathing_events import RESPIRATORY, BreathingEvent
from evaluation.detector_metrics import fault_measures
from evaluation.nights import ScoredNight
from evaluation.results import FoundCounts, NightSummary, RunMetrics, read_metrics, write_metrics
from evaluation.scored_recording import ScoredRecording
from recordings.file_names import FileNames
from recordings.signals import NoSamples
from recordings.windowing import EventMeta
from reports.exports import export_run
from reports.nights import draw_agreement, with_nights
from reports.page import write_report
from reports.run_folder import COHORT, FAILED, RunFolder, at_work_in, night_folder, write_table
from reports.scoring import NotAllScored, score_files
from utils import DataError, atomic_path, resolve_device, sha256_of, write_json

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0                       # progress, where stderr is no terminal
Engine = Callable[[Iterable[Mapping[str, Any]]], Iterator[Mapping[str, Any]]]


@dataclass(frozen=True)
class Scoring:
    """What recordings are scored with; `export`: formats of files for other programs."""

    checkpoint: Path
    device: str
    names: FileNames
    profile: str | None = None
    export: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        """Return what has to be the same for all recordings of a cohort."""
        names = asdict(self.names)
        names["channels"] = {name: list(column) for name, column in names["channels"].items()}
        return {"checkpoint": sha256_of(self.checkpoint), "names": names, "profile": self.profile}


def score_one(task: Mapping[str, Any]) -> dict[str, Any]:
    """Score one recording into its run folder, unless that is finished.

    Args:
        task: folder, file, and what `Scoring` has, as plain values.
    Returns: status: finished, or empty for a file without samples.
    Raises: DataError if the recording cannot be scored.
    """
    run = RunFolder(Path(task["folder"]))
    if not run.report.is_file():
        how = resolve_device(task["device"]), FileNames(**task["names"]), task["profile"], task["export"]
        try:                                                     # a viewer shows more than pictures, and costs less
            score_files(Path(task["checkpoint"]), [Path(task["file"])], run.root, *how, pictures=False)
        except NoSamples:
            return {"status": "empty"}
        (run.root / "error.txt").unlink(missing_ok=True)         # of an earlier try
    elif task["export"]:                                         # it may have been scored without
        export_run(run, task["export"])
    return {"status": "finished"}


def score_cohort(
    scoring: Scoring, files: Mapping[str, Path], root: Path, engine: contextlib.AbstractContextManager[Engine]
) -> RunMetrics:
    """Score the recordings that the folder of a cohort lacks; write its tables and its page, return its metrics.

    Args:
        files: by the names of their recordings.
        engine: does tasks by `score_one`; entered when the folder is held by this process.
    Raises: DataError if the folder holds recordings that were scored otherwise, or none can be scored; NotAllScored,
        when all others are, if some cannot be.
    """
    begun = (root / COHORT).is_file()
    with at_work_in(root, new=not begun):
        facts = scoring.facts()
        if begun and read_json(root / COHORT) != facts:
            raise DataError(f"{root}: scored with another model or other options; name another --out")
        write_json(root / COHORT, facts)
        try:
            with engine as engine_started:
                failed = _score_missing(scoring, files, root, engine_started)
        except KeyboardInterrupt:
            print(f"\nresume with the same command and --out {root}", file=sys.stderr)
            raise
        names = [name for name in files if RunFolder(night_folder(root, name)).report.is_file()]
        _write_failed(root, files, failed)
        if not names:
            raise DataError(f"no recording could be scored: {next(iter(failed.values()), 'none has samples')}")
        metrics = _summarize(root, names)
        write_report(root)
    if failed:
        raise NotAllScored(root, [*failed.values()], len(names) + len(failed), str(root / FAILED))
    return metrics


def _score_missing(scoring: Scoring, files: Mapping[str, Path], root: Path, engine: Engine) -> dict[str, str]:
    """Do the recordings that are missing; `nights.csv` gets a row as each finishes. Return why others failed."""
    done = [name for name in files if RunFolder(night_folder(root, name)).report.is_file()]
    _write_nights(root, done)
    about = asdict(scoring) | {"checkpoint": str(scoring.checkpoint.absolute())}
    tasks = (
        {"key": name, "folder": str(night_folder(root.absolute(), name)), "file": str(file.absolute()), **about}
        for name, file in files.items()
        if name not in set(done)
    )
    failed, shown = {}, time.monotonic()
    with tqdm(total=len(files), initial=len(done), desc="recordings", unit="recording", disable=None) as bar:
        for record in engine(tasks):
            name, status = record["key"], record["status"]
            if status == "failed":
                failed[name] = record["error"]
                log.error("not scored: %s: %s", name, record["error"])
            elif status == "finished":
                done.append(name)
                _add_night(root, name)
            bar.update()
            if bar.disable and time.monotonic() - shown > LOG_EVERY_S:
                log.info("%d of %d recordings scored, %d failed", len(done), len(files), len(failed))
                shown = time.monotonic()
    return failed


# ---- tables over all recordings -------------------------------------------------------------


def _write_nights(root: Path, names: Sequence[str]) -> None:
    """Write `nights.csv` of the recordings that are finished."""
    with atomic_path(root / "nights.csv") as temporary:
        temporary.touch()
        for name in names:
            _add_night(root, name, temporary)


def _add_night(root: Path, name: str, path: Path | None = None) -> None:
    """Append the row of one recording to `nights.csv`, after the header if that is missing."""
    night, path = RunFolder(night_folder(root, name)).nights, path or root / "nights.csv"
    if not night.is_file():                                      # of a series, or without a channel of breathing
        return
    header, *rows = night.read_text(encoding="utf-8").splitlines(keepends=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(rows if file.tell() else [header, *rows])


def _write_failed(root: Path, files: Mapping[str, Path], failed: Mapping[str, str]) -> None:
    """Write `failed.csv`, a row a recording that could not be scored; none if all could."""
    (root / FAILED).unlink(missing_ok=True)
    if failed:
        rows = [{"recording": name, "file": files[name], "reason": reason} for name, reason in failed.items()]
        write_table(root / FAILED, rows, ("recording", "file", "reason"))


def _join_tables(tables: Sequence[Path], path: Path) -> None:
    """Write the rows of several CSVs into one, which has all their columns, a table at a time."""
    columns: dict[str, None] = {}
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            columns |= dict.fromkeys(next(csv.reader(file), []))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as joined:
        writer = csv.DictWriter(joined, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for table in tables:
            with table.open(encoding="utf-8", newline="") as file:
                writer.writerows(csv.DictReader(file))


def _summarize(root: Path, names: Sequence[str]) -> RunMetrics:
    """Write the tables over recordings, `data.json` and `metrics.json`; return the latter."""
    runs, whole = [RunFolder(night_folder(root, name)) for name in names], RunFolder(root)
    _write_nights(root, names)
    _join_tables([run.events for run in runs], whole.events)
    _join_tables([run.labels for run in runs], whole.labels)
    about, nights, labelled, counts = [], {}, [], dict.fromkeys(FoundCounts.model_fields, 0)
    for name, run in zip(names, runs, strict=True):
        metrics, [facts] = read_metrics(run.metrics), read_json(run.data)["recordings"]
        about.append(facts)
        counts = {key: counts[key] + getattr(metrics.found, key) for key in counts}
        for summary in metrics.nights or []:
            nights[name] = _night_of(run, summary)
            labelled += [_labelled(run, name)] * facts["is_labelled"]
    write_json(whole.data, read_json(runs[0].data) | {"recordings": about, "sources": {}, "filled": [], "splits": {}})
    first = read_metrics(runs[0].metrics)
    faults = fault_measures([], first.fault_kinds, first.events.tolerance_s)     # of scores, as detectors: by recording
    several = {"found": FoundCounts(**counts), "detectors": {}, "faults": faults, "respiratory": None}
    metrics = with_nights(first.model_copy(update=several), labelled, nights)
    write_metrics(whole.metrics, metrics)
    whole.plots.mkdir(exist_ok=True)
    draw_agreement(whole, metrics)
    return metrics


def _night_of(run: RunFolder, summary: NightSummary) -> ScoredNight:
    """Return a night, with the respiratory events of its `events.csv`."""
    with run.events.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in RESPIRATORY and row["found_by"] == "respiratory"]
    texts, columns = ("kind", "channel"), [field.name for field in fields(BreathingEvent) if field.name != "reason"]
    events = [
        BreathingEvent(**{name: row[name] if name in texts else float(row[name] or "nan") for name in columns})
        for row in rows
    ]
    return ScoredNight(events, [], [], summary)


def _labelled(run: RunFolder, name: str) -> ScoredRecording:
    """Return a recording with the labelled events of its `labels.csv`, without its steps."""
    with run.labels.open(encoding="utf-8", newline="") as file:
        labelled = [
            EventMeta(start_s=float(row["start_s"]), end_s=float(row["end_s"]), kind=row["kind"])
            for row in csv.DictReader(file)
        ]
    none = np.empty(0)
    return ScoredRecording(name, none, none, none.astype(bool), [], [], labelled)
