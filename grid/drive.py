"""Runs all of a planned grid that its journal does not hold; with halving, rung by rung.

Successive halving: at a rung, 1/9 and 1/3 of the epochs, configs are ranked by their validation results so
far and one of three goes on, from its checkpoint. The learning rate's schedule spans all epochs from the
start, so a rung is a pause of the training that would have been run without it.
Source: Jamieson and Talwalkar 2016, with the mean over seeds in place of a single run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grid.journal import append_record, read_journal
from grid.plan import ETA, GridPlan, PlannedRun, until_of
from grid.progress import SETTLED, ProgressDisplay
from grid.results import BETTER, NAMES, criterion_of, run_folder

Engine = Callable[[Iterable[Mapping[str, Any]], Callable[[int], None]], Iterator[dict[str, Any]]]


def drive(
    grid: GridPlan, out: Path, engine: Engine, board: ProgressDisplay, retry_failed: bool
) -> list[dict[str, Any]]:
    """Do all runs that the journal does not hold, rung by rung; return its records."""
    records = read_journal(out / "journal.jsonl")
    last = {record["key"]: record for record in records}
    if retry_failed:
        last = {key: record for key, record in last.items() if record["status"] != "failed"}
    board.start(grid, last)
    for place, fraction in enumerate([*grid.fractions, None]):
        done = {(record["key"], record["until"]) for record in records}
        due = [
            run
            for run in grid.runs
            if last.get(run.key, {}).get("status") not in SETTLED
            and (fraction is None or (run.key, until_of(run, fraction)) not in done or run.key not in last)
        ]
        board.rung(due, place)
        for record in engine((task_of(grid, run, out, fraction) for run in due), board.show):
            append_record(out / "journal.jsonl", record)
            records.append(record)
            last[record["key"]] = record
            board.count(record)
        if fraction is not None:
            for record in stops_at(grid, records, last, fraction):
                append_record(out / "journal.jsonl", record)
                records.append(record)
                last[record["key"]] = record
    return records


def task_of(grid: GridPlan, run: PlannedRun, out: Path, fraction: float | None) -> dict[str, Any]:
    """Return a run as plain values for a worker."""
    return {
        "key": run.key,
        "folder": str(run_folder(out, run.key)),
        "config": run.config.model_dump(),
        "data": str(grid.data),
        "fingerprint": grid.fingerprint,
        "device": grid.device,
        "until": until_of(run, fraction),
        "shared_validation": grid.shared_validation,
    }


def stops_at(
    grid: GridPlan, records: Sequence[Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]], fraction: float
) -> list[dict[str, Any]]:
    """Return a record for each run that is stopped at a rung: its config is not in the best third.

    Configs are ranked by the mean over seeds of their best validation result so far; one without a result
    for each seed comes last. A run that has finished or gone further is left alone.
    """
    criterion = criterion_of(grid.runs)
    at_rung = first_records(grid, records, fraction)
    entered: dict[int, list[PlannedRun]] = {}
    for run in grid.runs:
        stopped_before = last[run.key]["status"] == "stopped" and last[run.key]["until"] < until_of(run, fraction)
        if not stopped_before:
            entered.setdefault(run.number, []).append(run)

    def worth(number: int) -> float:
        known = [at_rung.get(run.key, {}).get(criterion) for run in entered[number]]
        complete = len(known) == len(grid.seeds) and None not in known
        return BETTER[criterion] * sum(known) / len(known) if complete else -math.inf

    ranked = sorted(entered, key=lambda number: (-worth(number), number))
    keep = math.ceil(len(ranked) / ETA)
    return [
        {
            "key": run.key,
            "until": until_of(run, fraction),
            "status": "stopped",
            "rule": f"halving: {rank} of {len(ranked)} by {NAMES[criterion]} after "
            f"{until_of(run, fraction)} of {run.config.training.epochs} epochs, {keep} go on",
            "seconds": 0.0,
        }
        for rank, number in enumerate(ranked[keep:], keep + 1)
        for run in entered[number]
        if last[run.key]["status"] == "paused" and last[run.key]["until"] == until_of(run, fraction)
    ]


def first_records(
    grid: GridPlan, records: Sequence[Mapping[str, Any]], fraction: float
) -> dict[str, Mapping[str, Any]]:
    """Return each run's record at a rung: paused there, or finished before it."""
    found: dict[str, Mapping[str, Any]] = {}
    untils = {run.key: until_of(run, fraction) for run in grid.runs}
    for record in records:
        here = record["until"] == untils.get(record["key"]) and record["status"] in ("paused", "finished")
        if here or (record["status"] == "finished" and record["key"] not in found):
            found[record["key"]] = record
    return found
