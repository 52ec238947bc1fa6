"""Carries out a planned grid: all runs that its journal does not hold; with --halving, rung by rung.

The journal has one JSON line a run, appended and forced to disk before the run counts. A process that is killed
while it appends leaves a torn last line; it is recognised and cut off.

Successive halving: at a rung, 1/9 and 1/3 of the epochs, configs are ranked by their validation results so
far and the best third continues from its checkpoints. The learning rate's schedule spans all epochs from the
start, so a rung is a pause of the training that would have been run without it.
Source: Jamieson and Talwalkar 2016, with the mean over seeds in place of a single run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError
from tqdm import tqdm

from config import Section
from grid.engines import Engine, Record, sync
from grid.plan import REDUCTION, GridPlan, PlannedRun, write_plan
from grid.results import BETTER, NAMES, GridResults, records_at, write_results, write_tables
from reports.run_folder import at_work_in
from utils import DataError, jsonable

SETTLED = ("finished", "stopped", "failed")
LOG_EVERY_S, DRAW_EVERY_S = 60.0, 0.2                # progress: in a log, and on a terminal

log = logging.getLogger(__name__)


def search(
    grid: GridPlan, out: Path, engine: contextlib.AbstractContextManager[Engine], new: bool, retry_failed: bool
) -> GridResults:
    """Do the runs of a grid that are missing in its folder; return the results, which are also written there.

    Args:
        engine: entered when the folder is held by this process.
        new: the folder has to be empty; else it is that of the grid, to be resumed.
    """
    try:
        with at_work_in(out, new):
            if new:
                write_plan(grid, out)
            journal = Journal(out / "journal.jsonl")
            print(grid, file=sys.stderr)
            try:
                with engine as engine_started:
                    do_runs(grid, out, journal, engine_started, retry_failed)
            except (KeyboardInterrupt, DataError, OSError):
                if (out / "runs").exists():
                    write_tables(GridResults(grid, journal.records), out)
                    print(f"\nresume with: python grid_search.py --resume {out}", file=sys.stderr)
                elif new:                                        # nothing was begun: nothing stays
                    (out / "grid.json").unlink()
                raise
            results = GridResults(grid, journal.records)
            write_results(results, out)
            return results
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()                                          # if nothing is in it


def do_runs(grid: GridPlan, out: Path, journal: Journal, engine: Engine, retry_failed: bool = False) -> None:
    """Do all runs that the journal does not hold, rung by rung."""
    if retry_failed:
        journal.last = {key: record for key, record in journal.last.items() if record["status"] != "failed"}
    with tqdm(total=len(grid.runs), unit="run", disable=None) as bar:
        shown = show_progress(bar, journal)
        for rung in [*grid.rungs, None]:
            done = {(record["key"], record["until"]) for record in journal.records}
            due = [
                run
                for run in grid.runs
                if journal.last.get(run.key, {}).get("status") not in SETTLED
                and (rung is None or (run.key, run.pause_after(rung)) not in done or run.key not in journal.last)
            ]
            for record in engine(task_of(grid, run, out, rung) for run in due):
                journal.add(record)
                shown = show_progress(bar, journal, shown)
            for record in stopped_at(grid, journal, rung) if rung else ():
                journal.add(record)
        show_progress(bar, journal)


def show_progress(bar: tqdm, journal: Journal, shown: float = -math.inf) -> float:
    """Draw how many runs are done, or log it where stderr is no terminal; return when it was last shown.

    Args:
        shown: when that was before; too short ago, and nothing happens.
    """
    now = time.monotonic()
    if now - shown < (LOG_EVERY_S if bar.disable else DRAW_EVERY_S):
        return shown
    counts = Counter(record["status"] for record in journal.last.values())
    bar.n = sum(counts[status] for status in SETTLED)
    bar.set_postfix({status: counts[status] for status in SETTLED})
    if bar.disable:
        log.info("runs done: %d of %d; %s", bar.n, bar.total, bar.postfix.replace("=", " "))
    return now


def task_of(grid: GridPlan, run: PlannedRun, out: Path, rung: float | None) -> dict[str, Any]:
    """Return a run as plain values for `engines.one_run`."""
    return {
        "key": run.key,
        "folder": str(out / "runs" / run.key[:12]),
        "config": run.config.model_dump(),
        "data": str(grid.data),
        "fingerprint": grid.fingerprint,
        "device": grid.device,
        "until": run.pause_after(rung),
        "shared_validation": grid.shared_validation,
    }


def stopped_at(grid: GridPlan, journal: Journal, rung: float) -> list[Record]:
    """Return a record for each run that is stopped at a rung: its config is not in the best third.

    Configs are ranked by the mean over seeds of their best validation result so far; one without a result
    for each seed comes last. A run that has finished or gone further is left alone.
    """
    last, reached = journal.last, records_at(grid, journal.records, rung)
    entered: dict[int, list[PlannedRun]] = {}
    for run in grid.runs:
        if not (last[run.key]["status"] == "stopped" and last[run.key]["until"] < run.pause_after(rung)):
            entered.setdefault(run.number, []).append(run)

    def mean_result(number: int) -> float:
        known = [reached.get(run.key, {}).get(grid.criterion) for run in entered[number]]
        complete = len(known) == len(grid.seeds) and None not in known
        return BETTER[grid.criterion] * sum(known) / len(known) if complete else -math.inf

    ranked = sorted(entered, key=lambda number: (-mean_result(number), number))
    kept = math.ceil(len(ranked) / REDUCTION)
    return [
        {
            "key": run.key,
            "until": run.pause_after(rung),
            "status": "stopped",
            "rule": f"halving: rank {rank} of {len(ranked)} by {NAMES[grid.criterion]} after "
            f"{run.pause_after(rung)} of {run.config.training.epochs} epochs; kept: {kept}",
            "seconds": 0.0,
        }
        for rank, number in enumerate(ranked[kept:], kept + 1)
        for run in entered[number]
        if last[run.key]["status"] == "paused" and last[run.key]["until"] == run.pause_after(rung)
    ]


# ---- the journal ----------------------------------------------------------------------------


class JournalLine(Section):
    """What a grid is resumed from; beside it stand plain numbers."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    __pydantic_extra__: dict[str, int | float | None]

    key: str
    until: int | None
    status: Literal["finished", "paused", "stopped", "failed"]
    error: str = ""
    rule: str = ""


class Journal:
    """The records of a grid, oldest first; `last` has the newest one of each run by its key.

    A torn last line is cut off the file.

    Raises: DataError naming the line if one before the last is no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        lines, good = path.read_bytes().splitlines(keepends=True) if path.is_file() else [], 0
        for number, line in enumerate(lines, 1):
            try:
                record = JournalLine.model_validate_json(line if line.endswith(b"\n") else b"")
            except ValidationError:
                if number < len(lines):
                    told = f"{path}: line {number} is no record; restore the file, or start a new grid"
                    raise DataError(told) from None
                log.warning("%s: its last line was cut off by a crash; that run counts as not done", path.name)
                os.truncate(path, good)
                break
            self.records.append(record.model_dump(exclude_unset=True))
            good += len(line)
        self.last = {record["key"]: record for record in self.records}

    def add(self, record: Record) -> None:
        """Append a record; when this returns, it is on disk."""
        line = json.dumps(jsonable(dict(record)), allow_nan=False) + "\n"
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(self.path.parent)
        self.records.append(record)
        self.last[record["key"]] = record
