"""Preprocessing, raw CSV read to windowed CSV written, and windowed CSVs read back.

    python -m benchmarks.bench_preprocessing --quick

Rows a second of one core: the clock counts the processor time of this process and all its threads.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.long_data import write_raw
from benchmarks.measure import Options, Row, paired, run_part, seconds_of
from config import load_dataset_config
from recordings import preprocessing
from recordings.windowing import SPLITS, read_meta, read_windows

PART = "preprocessing"


def rows_of(options: Options) -> list[Row]:
    rows = 50_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = load_dataset_config(write_raw(root, rows), "long")
        out = root / "out"

        def make() -> None:
            shutil.rmtree(out, ignore_errors=True)
            preprocessing.preprocess_recordings("long", config, root, out, force=True)

        def rate(job, count: int) -> float:
            return count / seconds_of(job, time.process_time)

        make()
        made, raw_read = paired(
            [lambda: rate(make, rows), lambda: rate(lambda: pd.read_csv(root / "recording.csv"), rows)],
            options.repeats,
        )
        meta = read_meta(out / "long")
        files, steps = [out / "long" / f"{split}.csv" for split in SPLITS], sum(meta.rows.values())
        plain = {file: _numbers_only(file, root) for file in files}

        def read_ours() -> None:
            for file in files:
                read_windows(file, meta, list(meta.channels))

        def read_pandas() -> None:
            for file in files:
                pd.read_csv(file)

        def read_numpy() -> None:
            for file in files:
                np.loadtxt(plain[file], delimiter=",", skiprows=1)

        jobs = [lambda: rate(read_ours, steps), lambda: rate(read_pandas, steps), lambda: rate(read_numpy, steps)]
        ours, by_pandas, by_numpy = paired(jobs, max(options.repeats, 5))
    note = f"{rows} rows of 4 channels, 25 Hz to 5 Hz"
    back = partial(Row, PART, "windowed CSVs read and checked", "rows/s a core", ours)
    return [
        Row(
            PART, "raw CSV read to windowed CSV written", "input rows/s a core", made,
            "pandas.read_csv of the raw file", raw_read, ("value", ">=", 150_000), note,
        ),
        back("pandas.read_csv, nothing checked", by_pandas, ("ratio", ">=", 0.95), f"{steps} rows"),
        back("numpy.loadtxt, numbers only", by_numpy),
    ]  # fmt: skip


def _numbers_only(file: Path, root: Path) -> Path:
    path = root / f"numbers_{file.name}"
    pd.read_csv(file).drop(columns="recording").to_csv(path, index=False)
    return path


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
