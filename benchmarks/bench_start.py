"""Start-up: --help of every script, and the main script to its first training step, files in the system's cache.

    python -m benchmarks.bench_start
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Options, Row, child, paired, run_part, seconds_of
from benchmarks.small_data import make_small
from utils import ROOT

PART = "start"


def scripts() -> list[str]:
    """Return the names of the files that take a command line."""
    return [path.name for path in sorted(ROOT.glob("*.py")) if "ArgumentParser(__doc__)" in path.read_text()]


def rows_of(options: Options) -> list[Row]:
    names = scripts()

    def start(*arguments: str) -> float:
        return seconds_of(lambda: child(arguments, options.threads))

    jobs = [lambda: start("-c", "pass"), *(lambda name=name: start(name, "--help") for name in names)]
    start("-c", "pass")
    _, (bare, *helped) = paired(jobs, 1), paired(jobs, max(options.repeats, 5))      # the first round warms the cache
    rows = [
        Row(PART, f"{name} --help", "s", seconds, "python -c pass", bare, ("value", "<", 0.3))
        for name, seconds in zip(names, helped, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        datasets = make_small(root)

        def first_step(k: int) -> float:
            began = time.clock_gettime(time.CLOCK_MONOTONIC)
            out = ["--datasets", str(datasets), "--out", str(root / f"run{k}")]
            done = child(["-m", "benchmarks.first_step", *out], options.threads)
            return float(done.stdout) - began

        first_step(0)
        seconds = [first_step(k) for k in range(1, options.repeats + 1)]
        torch_alone = [start("-c", "import torch") for _ in range(options.repeats)]
    rows.append(
        Row(PART, "main script to its first training step", "s", seconds, "python -c 'import torch'", torch_alone,
            ("value", "<", 6.0), f"{statistics.median(seconds) - statistics.median(torch_alone):.1f} s besides torch")
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
