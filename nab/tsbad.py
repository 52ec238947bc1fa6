"""TSB-AD, the whole of it, where it is on this machine: every file scored with one setting, VUS-PR of each.

    python -m nab.tsbad --data Datasets --out experiments/tsbad              # folders TSB-AD-U and TSB-AD-M
    python -m nab.tsbad --data Datasets/TSB-AD-U --jobs 8                    # one of them; eight files at once

The last column of a file is `Label`, the others are channels. Its name, ..._tr_1007_1st_2014.csv, says that the first
1007 rows are those to learn from. Two detectors come of one network: LSTM_causal, whose scores depend on the rows up to
theirs, and LSTM_offline. A run that was stopped resumes with the same command. In --out, as their own scripts have it:
score/{uni,multi}/DETECTOR/FILE.npy has the scores, 0..1, and metrics/{uni,multi}/DETECTOR.csv a row for each file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from config import read_json
from evaluation.metrics import suggest_buffer
from nab.frozen_lstm import LEAST_BLOCKS, learn, level_and_spread, rows_of_block, run
from nab.fusion import FUSED, fused_score, parts_of
from nab.tsbad_measures import measures
from reports.tables import markdown
from utils import (
    ROOT,
    ArgumentParser,
    DataError,
    atomic_path,
    counted,
    only_run_here,
    run_cli,
    setup_logging,
    versions,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)

FOLDERS = {"TSB-AD-U": "uni", "TSB-AD-M": "multi"}
DETECTORS = {"causal": "LSTM_causal", "offline": "LSTM_offline"}
NAME = re.compile(r".+_tr_(\d+)_1st_\d+")
LEAST_ROWS = 4 * LEAST_BLOCKS           # to learn from, so that blocks of any size are enough


class Series(NamedTuple):
    """values (n, C), label (n,) 0 or 1; the first `learned_rows` are those to learn from."""

    values: np.ndarray
    label: np.ndarray
    learned_rows: int


# ---- one file -------------------------------------------------------------------------------


def read_series(path: Path) -> Series:
    """Return a file of TSB-AD; rows without a value are left out, as in its own scripts.

    Raises: DataError naming file and column if it is not of that format, has no anomaly or too little to learn from.
    """
    named = NAME.fullmatch(path.stem)
    if named is None:
        raise DataError(f"{path.name}: no training rows in the name; expected ..._tr_ROWS_1st_ROW.csv")
    try:
        table = pd.read_csv(path).dropna()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({' '.join(str(error).split())})") from None
    if len(table.columns) < 2 or table.columns[-1] != "Label":
        raise DataError(f"{path}: columns {', '.join(map(str, table.columns[-3:]))}; expected channels, then Label")
    for name, column in table.items():
        if not (pd.api.types.is_numeric_dtype(column) and np.isfinite(column.to_numpy(float)).all()):
            raise DataError(f"{path}: column {name} is not all finite numbers")
    label, learned_rows = table["Label"].to_numpy(), int(named[1])
    if not np.isin(label, (0, 1)).all() or not label.any():
        found = ", ".join(f"{value:g}" for value in np.unique(label)[:4])
        raise DataError(f"{path}: Label is {found or 'empty'}; expected 0, and 1 at anomalies")
    if not LEAST_ROWS <= learned_rows <= len(table):
        raise DataError(f"{path}: {counted(len(table), 'row')}, {learned_rows} to learn from; "
                        f"expected at least {LEAST_ROWS} of these, and no more than there are rows")  # fmt: skip
    return Series(table.iloc[:, :-1].to_numpy(float), label.astype(int), learned_rows)


def scores_of(series: Series, seed: int) -> dict[str, np.ndarray]:
    """Return the scores (n,) of each of DETECTORS."""
    learned_rows = series.learned_rows
    blocks = level_and_spread(series.values, learned_rows)
    outputs = run(learn(blocks[: learned_rows // rows_of_block(learned_rows)], seed), blocks)
    parts = parts_of(series.values, outputs, learned_rows)
    return {kind: fused_score(parts, kind, fusion, learned_rows) for kind, fusion in FUSED.items()}


def score_file(task: Mapping[str, Any]) -> dict[str, Any]:
    """Score one file, write its scores, return its rows.

    Args:
        task: file; out; group, "uni" or "multi"; seed.
    Returns: rows, the measures by detector, and seconds.
    """
    path, began = Path(task["file"]), time.perf_counter()
    series = read_series(path)
    scores = scores_of(series, task["seed"])
    seconds, buffer, rows = time.perf_counter() - began, suggest_buffer(series.values[:, 0]), {}
    for kind, detector in DETECTORS.items():
        scaled = (scores[kind] - scores[kind].min()) / max(np.ptp(scores[kind]), 1e-12)
        place = score_path(Path(task["out"]), task["group"], detector, path)
        with atomic_path(place) as temporary, temporary.open("wb") as file:
            np.save(file, scaled)
        row = {"file": path.name, "Time": round(seconds, 3)}
        rows[detector] = row | measures(series.label, scaled, buffer)
    record = {"status": "finished", "rows": rows, "rows_scored": len(series.label)}
    write_json(record_path(Path(task["out"]), task["group"], path), record)
    return record


def score_path(out: Path, group: str, detector: str, file: Path) -> Path:
    """Return where the scores of a file are."""
    return out / "score" / group / detector / f"{file.stem}.npy"


def record_path(out: Path, group: str, file: Path) -> Path:
    """Return where the measures of a file are, which is written last."""
    return out / "files" / group / f"{file.stem}.json"


# ---- all files ------------------------------------------------------------------------------


def files_in(data: Path) -> list[tuple[str, Path]]:
    """Return group and path of every file of a folder that has TSB-AD-U, TSB-AD-M or both, or is one of them."""
    folders = {data / name: group for name, group in FOLDERS.items()}
    if data.name in FOLDERS:
        folders[data] = FOLDERS[data.name]
    found = [(group, path) for folder, group in folders.items() for path in sorted(folder.glob("*.csv"))]
    if not found:
        raise DataError(f"{data}: no {' or '.join(FOLDERS)} with CSV files in it; expected TSB-AD's Datasets")
    return found


def task_of(group: str, path: Path, out: Path, seed: int) -> dict[str, Any]:
    """Return what a worker is given; `folder` is none, so that a failed file leaves nothing behind."""
    place = {"file": str(path.absolute()), "out": str(out.absolute()), "folder": str(out / "files" / path.stem)}
    return {"key": f"{group}/{path.name}", "group": group, "seed": seed, **place}


def run_tsbad(data: Path, out: Path, seed: int, jobs: int, scheduler: str | None) -> str:
    """Score every file that is not scored yet; write tables, return the mean of each.

    Raises: DataError if `out` was begun with another seed; at the end, if files could not be scored.
    """
    from grid.engines import engine_for, jobs_with_dask

    files, failed, begun = files_in(data), {}, out / "setting.json"
    jobs = jobs_with_dask("--scheduler" if scheduler else "--jobs", jobs)
    with only_run_here(out):
        if begun.is_file() and read_json(begun)["seed"] != seed:
            raise DataError(f"{out}: begun with --seed {read_json(begun)['seed']}; name another --out, or that seed")
        write_json(begun, {"seed": seed, "versions": versions()})
        tasks = [task_of(*file, out, seed) for file in files if not record_path(out, *file).is_file()]
        with engine_for(score_file, out, max(min(jobs, len(tasks)), 1), scheduler) as engine:
            for record in tqdm(engine(tasks), total=len(tasks), desc="files", disable=None):
                if record["status"] == "failed":
                    failed[record["key"]] = record["error"]
                    log.error("not scored: %s", record["error"])
        tables = write_tables(files, out)
    if failed:
        raise DataError(f"{len(failed)} of {counted(len(files), 'file')} not scored, the first: "
                        f"{next(iter(failed.values()))}; the others are in {out}")  # fmt: skip
    return tables


def write_tables(files: Sequence[tuple[str, Path]], out: Path) -> str:
    """Write the measures of the files that are scored, a CSV for each detector; return the means as Markdown."""
    table = [["folder, detector", "files", "rows", "seconds", "VUS-PR", "AUC-PR"]]
    for folder, group in FOLDERS.items():
        paths = [record_path(out, group, path) for of_group, path in files if of_group == group]
        records = [read_json(path) for path in paths if path.is_file()]
        n_rows = sum(record["rows_scored"] for record in records)
        for detector in DETECTORS.values() if records else ():
            found = pd.DataFrame([record["rows"][detector] for record in records])
            with atomic_path(out / "metrics" / group / f"{detector}.csv") as temporary:
                found.to_csv(temporary, index=False)
            means = (f"{found[name].mean():.3f}" for name in ("VUS-PR", "AUC-PR"))
            row = [f"{folder}, {detector}", str(len(found)), str(n_rows), f"{found['Time'].sum():.0f}", *means]
            table.append(row)
    text = markdown(table) + "\n"
    write_text(out / "tables.md", text)
    return text


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="TSB-AD's Datasets, or one of its two folders")
    add(
        "--out", type=Path, default=ROOT / "experiments" / "tsbad", metavar="DIR",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the networks (default: %(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="files at once (default: %(default)s)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers score the files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        for option, least in (("seed", 0), ("jobs", 1)):
            if getattr(args, option) < least:
                raise DataError(f"--{option} {getattr(args, option)}: expected at least {least}")
        print(run_tsbad(args.data, args.out, args.seed, args.jobs, args.scheduler), end="")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
