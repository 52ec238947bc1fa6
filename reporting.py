"""The run folder: the one place that knows its layout, creates it and fills it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils import DataError, atomic_path, git_commit, versions, write_json, write_text

BEAT_S, SILENT_S = 5.0, 60.0                # a lock is touched so often; one of another machine is dead after
HISTORY = ("epoch", "train_loss", "val_loss", "learning_rate", "seconds")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, `experiments/<name>/`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"


def new_run(root: Path) -> RunFolder:
    """Create an empty run folder.

    Raises: DataError if there is a run already, or the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise DataError(f"{root}: not empty; go on with --resume {root}, or name another --out")
    except OSError as error:
        raise DataError(f"{root}: cannot be used as a run folder ({error.strerror})") from None
    return RunFolder(root)


def default_root(parent: Path, dataset: str) -> Path:
    """Return a new folder name for a run of a dataset, by date and time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    root, count = parent / f"{dataset}-{stamp}", 1
    while root.exists():
        count += 1
        root = parent / f"{dataset}-{stamp}-{count}"
    return root


class FolderInUse(DataError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def only_run_here(root: Path) -> Iterator[None]:
    """Hold a run folder for this process; a second run in it is an error.

    A lock left by a process that is gone is taken over. Whether one of another machine is gone shows in
    its time: whoever holds a lock touches it every few seconds.

    Raises: FolderInUse naming the process.
    """
    lock, mine = root / ".lock", f"{os.getpid()}@{socket.gethostname()}"
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(mine)
    except FileExistsError:
        process, _, host = _owner(lock)
        if _at_work(lock, process, host):
            place = f" on {host}" if host not in ("", socket.gethostname()) else ""
            raise FolderInUse(f"{root}: another run, process {process}{place}, is at work in it") from None
        write_text(lock, mine)
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(lock, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        lock.unlink(missing_ok=True)


def _owner(lock: Path) -> tuple[str, str, str]:
    try:
        return lock.read_text(encoding="utf-8").strip().partition("@")
    except (FileNotFoundError, UnicodeDecodeError):
        return "", "", ""


def _at_work(lock: Path, process: str, host: str) -> bool:
    if not process.isdigit():
        return False
    if host in ("", socket.gethostname()):
        return int(process) != os.getpid() and _is_alive(int(process))
    clock = lock.with_name(f".clock.{os.getpid()}")              # both times from the shared disk's clock
    try:
        clock.touch()
        return clock.stat().st_mtime - lock.stat().st_mtime < SILENT_S
    except FileNotFoundError:
        return False
    finally:
        clock.unlink(missing_ok=True)


def _touch(lock: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
    write_json(run.root / "run.json", content)


def write_history(run: RunFolder, history: Sequence[Mapping[str, float]]) -> None:
    """Write `history.csv`, one row an epoch."""
    frame = pd.DataFrame(list(history), columns=list(HISTORY))
    with atomic_path(run.root / "history.csv") as temporary:
        frame.to_csv(temporary, index=False, float_format="%.8g")


def write_scores(run: RunFolder, parts: Sequence[Mapping[str, Any]]) -> None:
    """Write `scores.csv`: one row a step.

    Args:
        parts: one mapping a segment: recording, t_s, score, threshold, alarm, label (T,) and a
            residual_<channel> column each.
    """
    with atomic_path(run.root / "scores.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for k, part in enumerate(parts):
            rounded = {
                name: np.round(column, 6) if isinstance(column, np.ndarray) and column.dtype.kind == "f" else column
                for name, column in part.items()
            }
            pd.DataFrame(rounded).to_csv(file, index=False, header=k == 0, lineterminator="\n")


def write_events(run: RunFolder, rows: Sequence[Mapping[str, Any]], timestamps: bool = False) -> None:
    """Write `events.csv`, one row a found event.

    Args:
        rows: event (FoundEvent), matched_label ("" = none), found_by, and, of a series, its two timestamps.
    """
    columns = ["recording", "start_s", "end_s", "peak_score", "peak_t_s", "channel", "matched_label", "found_by"]
    if timestamps:
        columns += ["start_timestamp", "end_timestamp"]
    digits = {"start_s": 3, "end_s": 3, "peak_score": 4, "peak_t_s": 3}
    frame = pd.DataFrame([vars(row["event"]) | dict(row) for row in rows], columns=columns).round(digits)
    with atomic_path(run.root / "events.csv") as temporary:
        frame.to_csv(temporary, index=False)


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of one or more seeds as a Markdown table, a row an event kind.

    Args:
        results: contents of `metrics.json`, one a seed.
    """
    detectors = list(results[0]["detectors"])
    lines = [
        "| at the deployed threshold | events | " + " | ".join(detectors) + " |",
        "|---|---|" + "---|" * len(detectors),
    ]
    kinds = results[0]["detectors"][detectors[0]]["deployed"]["kinds"]
    for kind, row in kinds.items():
        cells = [_percent([r["detectors"][d]["deployed"]["kinds"][kind]["recall"] for r in results]) for d in detectors]
        if kind in results[0]["fault_kinds"]:
            cells = [f"{cells[0]} (mask)"] + ["(mask)"] * (len(detectors) - 1)
        lines.append(f"| {kind}: found | {row['labelled']} | " + " | ".join(cells) + " |")
    for title, key in (("false events an hour", "false_events_per_hour"), ("median delay, s", "delay_median_s")):
        cells = [_number([r["detectors"][d]["deployed"]["events"][key] for r in results]) for d in detectors]
        lines.append(f"| {title} | | " + " | ".join(cells) + " |")
    for title, key in (("average precision", "auc_pr"), ("VUS-PR", "vus_pr")):
        cells = [_number([r["detectors"][d]["deployed"]["threshold_free"][key] for r in results]) for d in detectors]
        lines.append(f"| {title} | | " + " | ".join(cells) + " |")
    oracle = results[0]["detectors"][detectors[0]]["oracle"]["oracle_one_percent"]["kinds"]
    for kind, row in oracle.items():
        cells = [
            _percent([r["detectors"][d]["oracle"]["oracle_one_percent"]["kinds"][kind]["recall"] for r in results])
            for d in detectors
        ]
        lines.append(f"| oracle, 1 % of normal time above: {kind} | {row['labelled']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def forecast_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the best validation losses beside those of forecasts that learn nothing, as a Markdown table."""
    lines = ["| validation loss | LSTM | best epoch | last value | mean |", "|---|---|---|---|---|"]
    for name, seeds in results.items():
        columns = {key: [one["forecast"][key] for one in seeds] for key in seeds[0]["forecast"]}
        cells = [_number(columns["lstm"], 3), _number(columns["best_epoch"], 0)]
        cells += [f"{columns[key][0]:.3f}" for key in ("last_value", "mean")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def series_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the results of several series as a Markdown table, a row a series and detector, means last.

    Args:
        results: series -> contents of `metrics.json`, one a seed.
    """
    lines = ["| series | detector | " + " | ".join(SERIES_NUMBERS) + " |", "|---|---|" + "---|" * len(SERIES_NUMBERS)]
    everything: dict[str, list[list[list[float]]]] = {}                  # detector -> series -> seed -> number
    for name, seeds in results.items():
        for detector in seeds[0]["detectors"]:
            numbers = [_series_numbers(one["detectors"][detector]["deployed"], one["rate_hz"]) for one in seeds]
            everything.setdefault(detector, []).append(numbers)
            lines.append(f"| {name} | {detector} | {_cells(numbers)} |")
    if len(results) > 1:
        for detector, series in everything.items():
            means = [pd.DataFrame(seed, dtype=float).mean().tolist() for seed in zip(*series, strict=True)]
            lines.append(f"| **mean of {len(series)}** | {detector} | {_cells(means)} |")
    return "\n".join(lines)


SERIES_NUMBERS = ("point P", "R", "F1", "event P", "R", "F1", "average precision", "VUS-PR", "NAB score", "delay, rows")


def _series_numbers(deployed: Mapping[str, Any], rate_hz: float) -> list[float]:
    point, events, free = deployed["point"], deployed["events"], deployed["threshold_free"]
    numbers = [
        *(point[key] for key in ("precision", "recall", "f1")),
        *(events[key] for key in ("precision", "recall", "f1")),
        free["auc_pr"],
        free["vus_pr"],
        deployed["nab"]["standard"],
    ]
    delay_s = events["delay_median_s"]
    delay = None if delay_s is None else delay_s * rate_hz
    return [np.nan if number is None else number for number in (*numbers, delay)]       # None: NaN of a file


def _cells(numbers: Sequence[Sequence[float]]) -> str:
    columns = list(zip(*numbers, strict=True))
    digits = [2] * (len(columns) - 2) + [0, 0]
    return " | ".join(_number(column, places) for column, places in zip(columns, digits, strict=True))


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values):.0f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.0f}{spread} %"


def _number(values: Sequence[float | None], places: int = 2) -> str:
    known = [np.nan if value is None else value for value in values]
    spread = f" ± {np.std(known):.{places}f}" if np.ptp(known) > 1e-9 else ""      # a rule has none over seeds
    return "-" if np.isnan(known).any() else f"{np.mean(known):.{places}f}{spread}"
